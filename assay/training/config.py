"""TrainConfig: how to train; Row: what is known of a coder while it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from assay.errors import BadInput

STREAM = ("tokens", "batch", "normalise", "log_every", "checkpoint_seconds", "held_out_vectors", "seed")
"""Settings that all coders of a run share. The others may differ from coder to coder."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. Some settings are of the stream, and so of all coders of a run; the others are a coder's own."""

    tokens: int = 1_000_000
    """Vectors to learn from; a finite source is gone through again as often as needed."""
    batch: int = 2048
    """Vectors a step."""
    normalise: Literal["unit", "root_d", "none"] = "unit"
    """Scale activations while training so that E‖x‖² = 1, or = d, or not at all; the scale is folded into the weights at the end."""
    l0: float | None = None
    """Mean number of active latents wanted. A controller moves the penalty's weight until it is met; for top-k architectures k is."""
    candidates: Literal["float32", "bfloat16"] = "float32"
    """How top-k families look for the largest latents: exactly, or by a product in bfloat16, whose candidates are then computed exactly.
    The second is faster where the hardware multiplies bfloat16; about one choice in ten thousand differs, values and gradients do not."""
    optimiser: Literal["adam", "muon", "signum"] = "adam"
    """Adam; Muon for matrices, with Adam for vectors; or signum: the sign of averaged gradients."""
    lr: float = 0.001
    """The learning rate at its height."""
    beta1: float = 0.9
    """Momentum; 0 is recommended by some for very long runs."""
    beta2: float = 0.999
    """How slowly Adam's measure of the gradient's size moves."""
    eps: float = 1e-8
    """What Adam adds to the gradient's size."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Shape of the learning rate's fall to 0 at the end."""
    warm_up: float = 0.05
    """Share of the steps over which the learning rate rises from 0."""
    decay: float = 0.2
    """Share of the steps, at the end, over which it falls to 0; 1 with a cosine is the usual cosine schedule."""
    clip: float = 1.0
    """Largest gradient norm of one coder; 0 turns clipping off."""
    ema: float = 0.0
    """The coder that comes out is an average of its weights over steps with this decay, e.g. .999; 0 is the last step's."""
    b_dec: Literal["mean", "median", "zeros"] = "mean"
    """Where b_dec starts: the activations' mean, their geometric median, or 0."""
    tied: bool = True
    """Let W_enc start as the transpose of W_dec, where the architecture's own start does."""
    fine_tune: bool = False
    """Go on from the weights that the coder has, instead of a fresh start from the data."""
    dead_after: int = 1_000_000
    """A latent is dead once it has not fired for this many vectors."""
    revive: Literal["own", "aux_k", "ghost", "resample", "none"] = "own"
    """What is done about dead latents: what the architecture brings itself, AuxK, ghost gradients, resampling, or nothing."""
    resample_at: tuple[float, ...] = (0.2, 0.4, 0.6)
    """With resampling: when, as shares of the training."""
    held_out_vectors: int = 2048
    """Vectors, never trained on, that each row measures the coder on as it would be saved now; 0 turns this off."""
    log_every: int = 50
    """Steps between rows."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints. When they are taken changes no number."""
    seed: int = 0
    """Names the order of the data."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.tokens < self.batch:
            raise BadInput(f"Training needs at least one batch: got tokens={self.tokens}, batch={self.batch}.")
        finite, share = float("inf"), (0.0, 1.0)
        bounds = {
            "lr": (0 < self.lr < finite, "above 0 and finite"), "beta1": (0 <= self.beta1 < 1, "at least 0 and below 1"),
            "beta2": (0 <= self.beta2 < 1, "at least 0 and below 1"), "eps": (0 < self.eps < finite, "above 0 and finite"),
            "warm_up": (share[0] <= self.warm_up <= share[1], "between 0 and 1"), "ema": (0 <= self.ema < 1, "at least 0 and below 1"),
            "decay": (0 <= self.decay <= 1, "between 0 and 1"), "clip": (0 <= self.clip < finite, "0 or more"),
            "dead_after": (self.dead_after >= 1, "at least 1"), "log_every": (self.log_every >= 1, "at least 1"),
            "held_out_vectors": (self.held_out_vectors >= 0, "0 or more"), "checkpoint_seconds": (self.checkpoint_seconds >= 0, "0 or more"),
            "seed": (self.seed >= 0, "0 or more"), "l0": (self.l0 is None or 0 < self.l0 < finite, "above 0 and finite"),
            "resample_at": (all(0 < at < 1 for at in self.resample_at), "shares between 0 and 1"),
        }  # fmt: skip
        if self.revive == "resample" and self.dead_after > max(self.resample_at, default=0) * self.tokens:
            raise BadInput(
                f"No latent can be dead before the last resampling: dead_after is {self.dead_after} vectors, resample_at "
                f"{self.resample_at} of {self.tokens}. Lower dead_after."
            )
        for name, (fine, expected) in bounds.items():
            if not fine:
                raise BadInput(f"{name} must be {expected}, got {getattr(self, name)}.")
        choices = {
            "normalise": ("unit", "root_d", "none"), "candidates": ("float32", "bfloat16"), "optimiser": ("adam", "muon", "signum"), "schedule": ("linear", "cosine"),
            "b_dec": ("mean", "median", "zeros"), "revive": ("own", "aux_k", "ghost", "resample", "none"),
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise BadInput(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")

    @property
    def steps(self) -> int:
        return self.tokens // self.batch

    @property
    def resample_steps(self) -> list[int]:
        """Steps before which dead latents are resampled."""
        return sorted({round(at * self.steps) for at in self.resample_at} - {0}) if self.revive == "resample" else []


@dataclass(frozen=True)
class Row:
    """What is known of one coder at one step."""

    step: int
    tokens: int
    coder: str
    metrics: Mapping[str, float]
    """loss and its terms, fvu (unexplained share of the variance, in training mode), l0, dead (share), lr, grad_norm, pressure;
    held_out_fvu, held_out_l0 and gamma of the coder as it would be saved now, on vectors that are never trained on."""
    density: tuple[int, ...] = ()
    """Latents by firing frequency ω since the last row: never, then half decades of ω from below 10⁻⁶ to above 10^-½."""
    speed: Mapping[str, float] = field(default_factory=dict)
    """tokens_per_second and peak_memory (bytes): true of this machine and this moment alone."""
    stopped: str | None = None
    """Why this coder learns no more, where it diverged."""
