"""The contract of every coder: sparse autoencoders, transcoders, crosscoders and baselines alike.

A coder turns activations into a `Code` and a code back into activations. It knows no model, no corpus, no disk and no clock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import nn

from assay.coders.latents import Latents
from assay.errors import BadInput, WidthMismatch
from assay.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True, kw_only=True)
class CoderConfig:
    """What every architecture is told."""

    d_in: int
    """Width of what the coder reads."""
    d_sae: int
    """Number of latents."""
    d_out: int | None = None
    """Width of what it predicts; the same as d_in when left out."""


C = TypeVar("C", bound=CoderConfig)


@dataclass(frozen=True)
class Code:
    """What a coder says of activations. The law of linear coders: x̂ = base + scale · (z @ W_dec)."""

    latents: Latents
    base: Float[Tensor, "*#n d_out"]
    """What is not the latents': b_dec, a skip path, a mean. Broadcasts over the leading axes."""
    scale: Float[Tensor, ...] | float = 1.0
    """One number, or one a token ([*n, 1])."""
    pre: Float[Tensor, ...] | None = None
    """Pre-activations beside `latents.values`, only where the architecture has them and only in training."""

    @property
    def z(self) -> Float[Tensor, "*n d_sae"]:
        """The latents, dense: what people look at, steer and ablate."""
        return self.latents.dense()

    def with_latents(self, z: Float[Tensor, "*n d_sae"]) -> Code:
        """The same code with other latents."""
        if z.shape != self.latents.shape:
            raise WidthMismatch(f"New latents have shape {tuple(z.shape)}, the code's have {tuple(self.latents.shape)}.")
        return replace(self, latents=Latents.from_dense(z))


@dataclass(frozen=True)
class Batch:
    """Vectors to learn from, already scaled by the trainer."""

    x: Float[Tensor, "n d_in"]
    y: Float[Tensor, "n d_out"]
    """What is to be predicted; the same tensor as x for an autoencoder."""
    tokens: Int[Tensor, " n"] | None = None
    ahead: Callable[[Float[Tensor, "n d_out"]], Mapping[str, Float[Tensor, ""]]] | None = None
    """End-to-end training: loss terms of what the model makes of a reconstruction of y. They take the place of the term "mse"."""

    @classmethod
    def of(cls, x: Tensor, y: Tensor | None = None) -> Batch:
        return cls(x, x if y is None else y)


@dataclass(frozen=True)
class Step:
    """What the trainer, who owns time, tells a loss."""

    fraction: float = 1.0
    """Share of the training done, 0 to 1."""
    dead: Bool[Tensor, " d_sae"] | None = None
    """Latents that have not fired for the configured number of tokens."""
    pressure: float = 1.0
    """What the weight of a sparsity penalty is multiplied by: the controller's means to a wanted L0."""


class SparseCoder(nn.Module, Generic[C]):
    """Base of all coders. One class an architecture; `train()` / `eval()` modes as in BatchNorm."""

    Config: ClassVar[type[CoderConfig]] = CoderConfig
    layout: ClassVar[Literal["token", "sequence"]] = "token"
    linear: ClassVar[bool] = True
    """Decoding is affine in the latents, and W_dec: [d_sae, d_out] exists."""
    trained: ClassVar[bool] = True
    """False where `initialise` is all that is learnt."""
    rewardable: bool = False
    """The penalty may have a negative weight: it only reaches thresholds, so that rewarding activity cannot blow up activations."""
    penalised: bool = False
    """L0 follows from the weight of a penalty, which `Step.pressure` multiplies; otherwise from `k` in the configuration."""
    fraction: float = 1.0
    """Share of the training done, 0 to 1. The trainer sets it before each `encode`; what is annealed there looks at it."""

    rough: bool = False
    """Candidates for the largest latents may be chosen by a product in bfloat16. The trainer sets it; values stay exact."""
    centred: bool = False
    """b_dec is taken off the input: such a coder can only predict what it reads."""
    W_dec: Tensor

    def __init__(self, config: C, *, seed: int = 0):
        super().__init__()
        if config.d_in < 1 or config.d_sae < 1:
            raise BadInput(f"A coder needs d_in ≥ 1 and d_sae ≥ 1, got d_in={config.d_in}, d_sae={config.d_sae}.")
        self.config = config
        self.seed = seed

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def d_out(self) -> int:
        return self.config.d_out or self.config.d_in

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    @property
    def baseline(self) -> bool:
        """Whether learnt coders are held against it: all that learn nothing by gradient, and what is kept from learning in part."""
        return not self.trained

    @property
    def wanted_l0(self) -> float | None:
        """The mean L0 that the configuration fixes, where it does."""
        k = getattr(self.config, "k", None)
        return None if k is None else float(k)

    def check_width(self, x: Tensor) -> None:
        """Refuse input of another width than d_in."""
        if x.shape[-1] != self.d_in:
            raise WidthMismatch(
                f"This {type(self).__name__} reads vectors of width {self.d_in}, got {tuple(x.shape)}. "
                "Is it the site and model the coder was trained on?"
            )

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        """The code of activations. In eval mode it depends on each vector alone, never on its batch."""
        raise NotImplementedError

    def decode(self, code: Code) -> Float[Tensor, "*n d_out"]:
        """The reconstruction (or prediction) a code stands for."""
        found = code.latents.decode(self.W_dec)
        return code.base + (found if isinstance(code.scale, float) and code.scale == 1 else code.scale * found)

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        return self.decode(self.encode(x))

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """Named, weighted terms for `code = encode(batch.x)`; the trainer adds them up."""
        raise NotImplementedError

    def initialise(self, batch: Batch) -> None:
        """Data-dependent start, from a sample of some thousand vectors."""

    def constrain_gradient(self) -> None:
        """Before each optimiser step: e.g. remove the gradient along unit-norm decoder rows."""

    def constrain(self) -> None:
        """After each optimiser step: e.g. renormalise decoder rows."""

    def rescale(self, x_scale: float, y_scale: float) -> None:
        """In place: from a coder of (x · x_scale → y · y_scale) to one of (x → y). Undoes the trainer's scaling."""
        raise NotImplementedError

    def folded(self) -> SparseCoder[Any]:
        """The inference form as plain weights: BatchTopK as JumpReLU, norms folded in. Same reconstructions in eval mode."""
        return self

    @torch.no_grad()
    def clone(self) -> SparseCoder[C]:
        """An independent copy, without gradients."""
        twin = copy.deepcopy(self)
        twin.zero_grad(set_to_none=True)
        return twin
