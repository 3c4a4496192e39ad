"""JumpReLU: a latent speaks above its own learnt threshold θ, and then in full (Rajamanoharan et al. 2024, arXiv 2407.14435).

z = pre · H(pre − θ), so activations are not shrunk (γ ≈ 1), and the number of active latents itself is what is penalised. A step has
no useful derivative; θ learns from an estimate over a window of width `bandwidth` around it, taken on the pre-activation, so that
latents just below the threshold count as much as those just above. `penalty` chooses what is paid for, with f = z and ω̂ = share of
the batch on which a latent fires:

- `l0`: λ Σ ω̂, the paper's. A latent is worth its price where it is larger than about √λ: θ settles near there.
- `target_l0`: λ (Σ ω̂ / L0* − 1)². Asks for a mean L0 instead of a price.
- `quadratic_frequency`: λ Σ ω̂ (1 + ω̂/ω0). Frequent latents pay more, so that none is dense (Google DeepMind, March 2025).
- `tanh`: λ Σ tanh(c f √d_out ‖d‖), which also teaches the encoder (Anthropic, January 2025, where E‖x‖² = d: hence the √d_out).

Choosing: all weights are for E‖x‖² = 1. A small `bandwidth` follows the truth but few pre-activations fall into it: θ then needs
large batches and long training (the paper: .001 with 4096 vectors and 10⁹ of them). .05 to .1 suits some thousand steps. With too
weak a penalty the latents turn dense: FVU looks excellent and the directions are wrong, so look at L0 with FVU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log
from typing import Any, Literal

import torch
from torch import nn

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, Step
from assay.coders.latents import Latents
from assay.coders.linear import LinearCoder
from assay.errors import BadInput
from assay.shapes import Float, Tensor

WEIGHTS = {"l0": 0.015, "target_l0": 1.0, "quadratic_frequency": 0.01, "tanh": 0.01}
"""λ where none is given."""
WINDOW = 3.0  # what is in the window costs one sparse product of four: so many times more entries are still few


@dataclass(frozen=True, kw_only=True)
class JumpReLUConfig(CoderConfig):
    penalty: Literal["l0", "target_l0", "quadratic_frequency", "tanh"] = "l0"
    """What is paid for: active latents, the distance from a wanted L0, active latents with a surcharge for frequent ones, or a
    saturating function of activations."""
    sparsity: float | None = None
    """Weight λ of the penalty, for activations scaled to E‖x‖² = 1. Left out: .015 for l0, 1 for target_l0, .01 for
    quadratic_frequency and tanh. These suit some hundred latents; language models want about .001 (target_l0: still 1)."""
    target_l0: float = 32.0
    """L0*, the mean number of active latents wanted. For the penalty target_l0."""
    frequent: float = 0.1
    """ω0, the firing frequency at which the surcharge equals the price. For the penalty quadratic_frequency."""
    tanh_slope: float = 4.0
    """c: how fast the price saturates, for activations with E‖x‖² = d_out. For the penalty tanh."""
    pre_activation_weight: float | None = None
    """Weight of Σ relu(θ − pre) ‖d‖, which pulls silent latents back to life, with any penalty. Left out: 3e-6 for tanh, as its
    authors use, 0 for the others."""
    sparsity_warm_up: float = 0.1
    """Share of the training over which λ grows linearly from 0."""
    bandwidth: float = 0.05
    """ε, width of the window around θ from which θ learns, in units of the pre-activation."""
    initial_threshold: float | None = None
    """θ before training. Left out: start_norm/√d_in, the spread of pre-activations at the start. The paper's .001 starts with half of all
    latents active, which takes long training to undo."""
    start_l0: float | None = None
    """Latents active per vector at the start: b_enc is set from a sample so that all fire equally often. Left out: b_enc = 0."""
    decoder: Literal["unit", "free"] = "unit"
    """Decoder rows of norm 1, or of any norm."""
    free_norm: float = 0.1
    """Length of decoder rows at the start, where they are free."""
    start_norm: float | None = None
    """Length of W_enc's columns at the start; that of decoder rows when left out."""
    centred: bool = True
    """Whether b_dec is taken off the input."""


class JumpReLU(LinearCoder[JumpReLUConfig]):
    Config = JumpReLUConfig

    def __init__(self, config: JumpReLUConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        _check(config)
        self.penalised = config.penalty != "target_l0"  # which seeks its own L0
        self.rewardable = config.penalty in ("l0", "quadratic_frequency")
        self.log_threshold = nn.Parameter(
            torch.full((self.d_sae,), log(config.initial_threshold or self.start_norm * self.d_in**-0.5))
        )

    @classmethod
    @torch.no_grad()
    def of(cls, coder: LinearCoder[Any], threshold: float | Float[Tensor, "*d_sae"]) -> JumpReLU:
        """The weights of any linear coder under a threshold, one or one a latent. In eval mode, on the coder's device."""
        same = {"d_in": coder.d_in, "d_sae": coder.d_sae, "d_out": coder.config.d_out}
        twin = cls(JumpReLUConfig(**same, centred=coder.centred), seed=coder.seed)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(twin, name).copy_(getattr(coder, name))
        theta = torch.as_tensor(threshold, dtype=torch.float64, device="cpu")
        twin.log_threshold.copy_(theta.clamp_min(torch.finfo(torch.float32).tiny).log())
        return twin.to(coder.W_dec).eval()

    @classmethod
    @torch.no_grad()
    def with_l0(cls, coder: LinearCoder[Any], x: Float[Tensor, "n d_in"], l0: float) -> JumpReLU:
        """The weights of any linear coder, e.g. TopK, under the one threshold at which `x` has mean L0 `l0` (or all there is)."""
        count = round(l0 * len(x))
        if not 0 < count < len(x) * coder.d_sae:
            raise BadInput(f"A mean L0 of {l0} cannot be had from {len(x)} vectors and {coder.d_sae} latents.")
        falling = coder.pre_activations(x).reshape(-1).topk(count + 1).values.double()
        between = falling[-2:].mean()
        return cls.of(coder, between.clamp_min(0.0))

    @property
    def wanted_l0(self) -> float | None:
        return None if self.penalised else self.config.target_l0

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """θ of each latent, always positive."""
        return self.log_threshold.exp()

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        if self.training:
            pre = self._heard(x)
            theta = pre.spread(self.threshold)
            return Code(pre.map(lambda v: jump(v, theta, self.config.bandwidth)), self.b_dec, pre=pre.values)
        return self.encode_chosen(x, lambda product: replace(product, weight=None).above(self.threshold))

    def _heard(self, x: Float[Tensor, "*n d_in"]) -> Latents:
        """The pre-activations that anything can be learnt from: above θ − ε/2, or all where silence itself is paid for."""
        if self._silent():
            return Latents.from_dense(self.pre_activations(x))
        return self.above(x, self.threshold - self.config.bandwidth / 2, silent=WINDOW)

    def _silent(self) -> float:
        """Weight of the pre-activation loss."""
        weight = self.config.pre_activation_weight
        return (3e-6 if self.config.penalty == "tanh" else 0.0) if weight is None else weight

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        cfg = self.config
        pre = self._heard(batch.x) if code.pre is None else replace(code.latents, values=code.pre)
        weight = WEIGHTS[cfg.penalty] if cfg.sparsity is None else cfg.sparsity
        warm = losses.warm_up(step, cfg.sparsity_warm_up)
        terms = {"mse": losses.mse(batch.y, self.decode(code)), cfg.penalty: warm * weight * self._penalty(pre, code)}
        if silent := self._silent():
            below = (self.threshold - pre.values).relu() @ self.W_dec.norm(dim=1)
            terms["pre_activation"] = silent * below.mean()  # no part of the sparsity, so neither warm-up nor pressure
        return terms

    def _penalty(self, pre: Latents, code: Code) -> Float[Tensor, ""]:
        """What λ multiplies."""
        cfg = self.config
        if cfg.penalty == "tanh":
            length = code.latents.spread(self.W_dec.norm(dim=1) * self.d_out**0.5)
            return code.latents.total((cfg.tanh_slope * code.latents.values * length).tanh())
        frequency = pre.frequency(active(pre.values, pre.spread(self.threshold), cfg.bandwidth))
        if cfg.penalty == "quadratic_frequency":
            return (frequency * (1 + frequency / cfg.frequent)).sum()
        return (frequency.sum() / cfg.target_l0 - 1).square() if cfg.penalty == "target_l0" else frequency.sum()

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        super().initialise(batch)
        if self.config.start_l0 is not None:
            share = min(1.0, self.config.start_l0 / self.d_sae)
            pre = self.pre_activations(batch.x) - self.b_enc
            rank = max(1, min(len(pre), round((1 - share) * len(pre))))
            self.b_enc.copy_(self.threshold - pre.kthvalue(rank, dim=0).values)

    @torch.no_grad()
    def absorb_norms(self) -> Float[Tensor, " d_sae"]:
        norms = super().absorb_norms()
        self.log_threshold.add_(norms.log())
        return norms

    @torch.no_grad()
    def folded(self) -> JumpReLU:
        """With decoder rows of norm 1."""
        if not self.free:
            return self
        twin = JumpReLU.of(self, self.threshold)
        twin.absorb_norms()
        return twin.train(self.training)

    @torch.no_grad()
    def rescale(self, x_scale: float, y_scale: float) -> None:
        super().rescale(x_scale, y_scale)
        self.log_threshold.sub_(log(x_scale))


def _check(config: JumpReLUConfig) -> None:
    if config.penalty not in WEIGHTS:
        raise BadInput(f"penalty must be one of {', '.join(WEIGHTS)}, got {config.penalty!r}.")
    for name in ("target_l0", "frequent", "tanh_slope", "bandwidth", "initial_threshold", "start_l0"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise BadInput(f"{name} must be positive, got {value}.")
    if (config.sparsity or 0) < 0 or (config.pre_activation_weight or 0) < 0 or not 0 <= config.sparsity_warm_up <= 1:
        raise BadInput(
            "sparsity and pre_activation_weight must be ≥ 0 and sparsity_warm_up between 0 and 1, "
            f"got {config.sparsity}, {config.pre_activation_weight} and {config.sparsity_warm_up}."
        )


def jump(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """pre · H(pre − θ). Gradients: H(pre − θ) to `pre`; −(θ/ε) · [|pre − θ| < ε/2] to θ."""
    return _Jump.apply(pre, threshold, bandwidth)  # type: ignore[no-any-return]


def active(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """H(pre − θ), 0 or 1. Gradients: none to `pre`; −(1/ε) · [|pre − θ| < ε/2] to θ."""
    return _Active.apply(pre, threshold, bandwidth)  # type: ignore[no-any-return]


def _in_window(grad: Tensor, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """−(1/ε) Σ of `grad`, where the pre-activation is within ε/2 of the threshold, on either side; of the threshold's shape."""
    near = (pre - threshold).abs() < bandwidth / 2
    return (grad * near).sum_to_size(threshold.shape) / -bandwidth


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        return grad * (pre > threshold), threshold * _in_window(grad, pre, threshold, ctx.bandwidth), None


class _Active(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        return None, _in_window(grad, pre, threshold, ctx.bandwidth), None
