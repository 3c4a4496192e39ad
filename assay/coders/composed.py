"""Composed: coders that hold another one. Transcoders and crosscoders are any linear architecture, read and taught otherwise.

The inner coder keeps its selection, penalties, thresholds and annealing; the outer one says what it reads and learns from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from assay import codec, registry
from assay.coders.base import Batch, C, Code, CoderConfig, SparseCoder, Step
from assay.coders.linear import LinearCoder
from assay.errors import BadInput, UnknownName
from assay.shapes import Float, Tensor

WIDTHS = [field.name for field in fields(CoderConfig)]


class Composed(SparseCoder[C]):
    """A coder around `inner`, which `of` and `settings` of its configuration name.

    Subclasses say what the inner coder learns from (`inside`) and how it sees their codes (`code_inside`). Who changes weights in
    place, or adds a loss of single latents, does so to `inner` with `inside(batch)`: W_enc, W_dec and b_dec here may be computed.
    """

    inner: LinearCoder[Any]

    def __init__(self, config: C, *, seed: int = 0):
        super().__init__(config, seed=seed)
        self.inner = linear_coder(config, seed=seed)

    def inside(self, batch: Batch) -> Batch:
        """The batch as the inner coder is to see it, without gradients."""
        return batch

    def code_inside(self, code: Code) -> Code:
        """A code of this coder as the inner coder's `decode` is to see it."""
        return code

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        return self.inner.loss(self.inside(batch), self.code_inside(code), step)

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        self.inner.initialise(self.inside(batch))

    def constrain_gradient(self) -> None:
        self.inner.constrain_gradient()

    def constrain(self) -> None:
        self.inner.constrain()

    def rescale(self, x_scale: float, y_scale: float) -> None:
        self.inner.rescale(x_scale, y_scale)

    def form(self) -> LinearCoder[Any]:
        """The inner coder's inference form."""
        form = self.inner.folded()
        assert isinstance(form, LinearCoder), "linear architectures fold into linear ones"
        return form

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        return self.inner.W_enc

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_out"]:  # type: ignore[override]
        return self.inner.W_dec

    @property
    def b_dec(self) -> Float[Tensor, " d_out"]:
        return self.inner.b_dec

    @property
    def penalised(self) -> bool:  # type: ignore[override]
        return self.inner.penalised

    @property
    def rewardable(self) -> bool:  # type: ignore[override]
        return self.inner.rewardable

    @property
    def wanted_l0(self) -> float | None:
        return self.inner.wanted_l0

    @property
    def fraction(self) -> float:  # type: ignore[override]
        return self.inner.fraction

    @fraction.setter
    def fraction(self, share: float) -> None:
        self.inner.fraction = share

    @property
    def rough(self) -> bool:  # type: ignore[override]
        return self.inner.rough

    @rough.setter
    def rough(self, value: bool) -> None:
        self.inner.rough = value


def linear_coder(config: Any, *, seed: int) -> LinearCoder[Any]:
    """The coder that `of` and `settings` of a configuration name, with its widths."""
    cls = registry.CODERS.load(config.of)
    if not issubclass(cls, LinearCoder):
        known = [key for key in registry.CODERS if issubclass(registry.CODERS.load(key), LinearCoder)]
        raise BadInput(f"{config.of} has no linear encoder, so nothing can be composed of it. Choose of: {', '.join(known)}.")
    widths = {name: getattr(config, name) for name in WIDTHS}
    own = {field.name for field in fields(cls.Config)} - set(WIDTHS)
    given = parsed(config.settings)
    for name in given:
        if name not in own:
            raise UnknownName.among(f"setting of {config.of}", name, own)
    return cls(codec.from_data(cls.Config, widths | given, f"settings of {config.of}"), seed=seed)


def parsed(settings: str) -> dict[str, str | None]:
    """Names and values of "k=32,aux_weight=0". A value runs to the next name, so "fractions=1/4,1,k=8" has two; none is None."""
    found: dict[str, str | None] = {}
    for part in re.split(r",(?=\s*\w+\s*=)", settings) if settings.strip() else []:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name.isidentifier() or not value or name in found:
            raise BadInput(f'settings must read like "k=32,aux_weight=0", each name once; got {settings!r}.')
        found[name] = None if value.lower() == "none" else value
    return found


def written(config: CoderConfig) -> str:
    """The settings that `parsed` turns into this configuration: all that differ from the defaults, widths left out."""
    own = (field for field in fields(config) if field.name not in WIDTHS)
    changed = {field.name: value for field in own if (value := getattr(config, field.name)) != field.default}
    return ",".join(f"{name}={'none' if value is None else value}" for name, value in changed.items())


def architecture(coder: SparseCoder[Any]) -> str:
    """The registry's key of a coder."""
    first = type(coder).__module__.rpartition(".")[2]  # nearly always it, and it saves loading the others
    keys = sorted(registry.CODERS, key=lambda key: key != first)
    return next(key for key in keys if registry.CODERS.load(key) is type(coder))


@torch.no_grad()
def plain(
    coder: LinearCoder[Any],
    W_enc: Float[Tensor, "d_in d_sae"],
    bias: Float[Tensor, " d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
    b_dec: Float[Tensor, " d_out"],
) -> LinearCoder[Any]:
    """The coder of `coder`'s kind and thresholds with pre-activations x @ W_enc + bias, whether or not such coders are centred."""
    twin = type(coder)(replace(coder.config, d_out=W_dec.shape[1]), seed=coder.seed).to(W_dec)
    b_enc = bias + b_dec @ W_enc if twin.centred else bias
    twin.load_state_dict(coder.state_dict() | {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec})
    return twin.train(coder.training)
