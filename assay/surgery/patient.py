"""Patient: what every operation needs: the linear coder inside, vectors that fit it, a coder rebuilt around another, a look at it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from assay.coders.base import Batch, SparseCoder
from assay.coders.composed import Composed, architecture, written
from assay.coders.linear import LinearCoder
from assay.errors import BadInput, NotFinite, WidthMismatch
from assay.shapes import Float, Tensor
from assay.splice import home
from assay.training.trainee import held_out_look

Report = dict[str, Any]
"""`before` and `after`: latents, l0, fvu, gamma; and what was done. `kept`: whose place among the old latents each new one has."""

PIECE = 2048  # vectors encoded at a time


def ready(coder: SparseCoder[Any]) -> tuple[SparseCoder[Any], LinearCoder[Any]]:
    """A copy in eval mode, and the linear coder that it is or holds."""
    if not isinstance(coder, LinearCoder | Composed):
        raise BadInput(
            f"{type(coder).__name__} has no linear encoder of its own and cannot be operated on. "
            "Linear architectures can (relu, gated, topk, …), and transcoders and crosscoders of them."
        )
    copy = coder.clone().eval()
    inner = copy.inner if isinstance(copy, Composed) else copy
    assert isinstance(inner, LinearCoder)
    return copy, inner


def vectors(coder: SparseCoder[Any], x: Tensor, y: Tensor | None, *, predicts: bool = True) -> Batch:
    """x and what is to be predicted (x itself when left out), checked, on the coder's device."""
    coder.check_width(x)
    if y is None and predicts and coder.d_out != coder.d_in:
        raise BadInput(f"This coder predicts something else than it reads: give y, vectors of width {coder.d_out}.")
    y = y if y is not None else x if coder.d_in == coder.d_out else x.new_zeros(len(x), coder.d_out)
    if x.ndim != 2 or len(x) < 2 or y.shape != (len(x), coder.d_out):
        raise WidthMismatch(
            f"Vectors must be [n, {coder.d_in}], and [n, {coder.d_out}] what is predicted, with n ≥ 2; "
            f"got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    for name, part in {"x": x, "y": y}.items():
        finite = torch.isfinite(part).all(1)
        if not finite.all():
            raise NotFinite(f"{name} holds NaN or infinity in row {int((~finite).nonzero()[0])}. Clean the data first.")
    if predicts and not bool((y != y[0]).any()):
        raise BadInput(f"All {len(y)} vectors are the same: there is nothing to explain. Give a sample of real ones.")
    return Batch(x.to(home(coder), torch.float32), y.to(home(coder), torch.float32))


def inside(coder: SparseCoder[Any], batch: Batch) -> Batch:
    """The vectors as the linear coder inside sees them."""
    return coder.inside(batch) if isinstance(coder, Composed) else batch


def around(coder: SparseCoder[Any], inner: LinearCoder[Any]) -> SparseCoder[Any]:
    """A coder like `coder` with another linear coder inside."""
    if not isinstance(coder, Composed):
        return inner
    config = replace(coder.config, d_sae=inner.d_sae, of=architecture(inner), settings=written(inner.config))
    twin = type(coder)(config, seed=coder.seed).to(home(coder))
    own = {name: t for name, t in coder.state_dict().items() if not name.startswith("inner.")}
    twin.load_state_dict(own | {f"inner.{name}": t for name, t in inner.state_dict().items()})
    return twin.eval()


def twin_of(coder: LinearCoder[Any], **changes: Any) -> LinearCoder[Any]:
    """The same weights under another configuration; fresh ones where d_sae is another."""
    twin = type(coder)(replace(coder.config, **changes), seed=coder.seed).to(home(coder)).eval()
    twin.centred = bool(coder.centred)  # a transcoder's inner coder is not, whatever its widths
    if twin.d_sae == coder.d_sae:
        twin.load_state_dict(coder.state_dict())
    return twin


def with_k(coder: LinearCoder[Any], k: int) -> dict[str, Any]:
    """Settings of another k, where there is one."""
    if not hasattr(coder.config, "k"):
        return {}
    start = coder.config.k_start
    return {"k": k, "k_start": None if start is None else max(start, k)}


def look(coder: SparseCoder[Any], batch: Batch) -> dict[str, Any]:
    """latents, l0, fvu and gamma (None where reconstructions are the vectors' mean)."""
    found = held_out_look(coder, batch)
    return {"latents": coder.d_sae, "l0": found["held_out_l0"], "fvu": found["held_out_fvu"], "gamma": found.get("gamma")}


def mean(parts: list[Tensor], n: int) -> Float[Tensor, "*d"]:
    """Of sums over pieces, the mean over all n."""
    return torch.stack(parts).sum(0) / n
