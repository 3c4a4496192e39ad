"""Thresholds: the same directions at another L0, and TopK or any other choice of latents as thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from assay.coders.base import SparseCoder
from assay.coders.batch_topk import BatchTopK
from assay.coders.jumprelu import JumpReLU
from assay.coders.latents import Latents
from assay.coders.linear import LinearCoder
from assay.coders.p_anneal import PAnneal
from assay.coders.relu import ReLU
from assay.coders.topk import TopK
from assay.errors import BadInput
from assay.shapes import Float, Tensor
from assay.surgery.patient import PIECE, Report, around, inside, look, ready, twin_of, vectors, with_k
from assay.surgery.pruning import firing

ROOM = 1_000_000  # scores beyond those needed that are held
COLUMNS = 256  # latents whose pre-activations on all vectors are held at once
LANDED = 0.01  # relative error of L0 that counts as met
Score = Callable[[Float[Tensor, "n d_in"]], Float[Tensor, " able"]]
"""From vectors to one number for each latent that may fire on them: it fires where the number exceeds a bound common to all."""


@torch.no_grad()
def recalibrate(
    coder: SparseCoder[Any], x: Float[Tensor, "n d_in"], l0: float, y: Float[Tensor, "n d_out"] | None = None
) -> tuple[SparseCoder[Any], Report]:
    """The coder with thresholds at which `x` has the mean L0 `l0`; `BadInput` where none gives it.

    TopK gets another k; BatchTopK and Matryoshka another threshold, and k. JumpReLU keeps the relations of its thresholds: all are
    multiplied by one factor or shifted by one amount, whichever explains more. ReLU, p-anneal and gated coders become the JumpReLU
    that they are at inference, and are treated as one.
    """
    coder, inner = ready(coder)
    batch = vectors(coder, x, y)
    if not 0 < l0 < coder.d_sae:
        raise BadInput(f"A mean L0 lies between 0 and the number of latents, {coder.d_sae}; got {l0:g}.")
    if isinstance(inner, TopK) and l0 != int(l0):
        raise BadInput(f"A TopK coder keeps a whole number of latents, not {l0:g}. Make it a JumpReLU first (convert).")
    choices = {rule: around(coder, form) for rule, form in _recalibrated(inner, inside(coder, batch).x, l0)}
    looks = {rule: look(form, batch) for rule, form in choices.items()}
    rule = min(looks, key=lambda rule: looks[rule]["fvu"])
    if abs(looks[rule]["l0"] - l0) > LANDED * l0:
        raise BadInput(
            f"A mean L0 of {l0:g} cannot be had from these {len(x)} vectors; what should give it gives {looks[rule]['l0']:.4g}."
        )
    return choices[rule], {"operation": "recalibrate", "rule": rule, "before": look(coder, batch), "after": looks[rule]}


@torch.no_grad()
def to_jumprelu(
    coder: SparseCoder[Any], x: Float[Tensor, "n d_in"] | None = None, y: Float[Tensor, "n d_out"] | None = None
) -> tuple[SparseCoder[Any], Report]:
    """The coder as a JumpReLU: the same function, but for TopK. Of that, `x` sets the thresholds, at the L0 it has.

    They are one for all latents, or one each at which it fires as often as before, whichever explains more. Transcoders and crosscoders become JumpReLU coders of their widths; a skip transcoder stays one, around a JumpReLU.
    """
    coder, inner = ready(coder)
    batch = None if x is None else vectors(coder, x, y)
    form = _folded(inner)
    choices = {"same": form}
    if isinstance(form, TopK):
        if batch is None:
            raise BadInput("Where the thresholds of a TopK coder lie is seen on vectors: give x.")
        seen, before = inside(coder, batch).x, look(coder, batch)
        bound = _bound(_positive(form), seen, before["l0"])
        each = _as_often(form, seen, firing(coder, batch.x), bound)
        choices = {"threshold": JumpReLU.of(form, bound), "thresholds": JumpReLU.of(form, each)}
    found = {rule: around(coder, form).folded().eval() for rule, form in choices.items()}
    report: Report = {"operation": "convert", "before": {"latents": coder.d_sae}, "after": {"latents": coder.d_sae}}
    if batch is None:
        return found["same"], report
    looks = {rule: look(form, batch) for rule, form in found.items()}
    rule = min(looks, key=lambda rule: looks[rule]["fvu"])
    return found[rule], report | {"rule": rule, "before": look(coder, batch), "after": looks[rule]}


def _folded(coder: LinearCoder[Any]) -> LinearCoder[Any]:
    """The inference form: JumpReLU (of a ReLU with thresholds of 0), or TopK."""
    form = coder.folded().eval()
    assert isinstance(form, LinearCoder)
    form.centred = bool(coder.centred)
    if isinstance(form, ReLU | PAnneal):
        return JumpReLU.of(form, 0.0)
    if not isinstance(form, JumpReLU | TopK):
        raise BadInput(f"No rule says how a {type(coder).__name__} becomes a JumpReLU: its folded() is no JumpReLU either.")
    return form


def _recalibrated(coder: LinearCoder[Any], x: Float[Tensor, "n d_in"], l0: float) -> Iterator[tuple[str, LinearCoder[Any]]]:
    """Candidates, by what is changed."""
    if isinstance(coder, TopK):
        yield "k", twin_of(coder, **with_k(coder, int(l0)))
        return
    if isinstance(coder, BatchTopK):
        twin = twin_of(coder, **with_k(coder, max(1, round(l0))))
        assert isinstance(twin, BatchTopK)
        twin.threshold.fill_(_bound(_positive(coder), x, l0))
        yield "threshold", twin
        return
    form = coder if isinstance(coder, JumpReLU) else _folded(coder)
    assert isinstance(form, JumpReLU)
    theta = form.threshold.double()
    weight = form.weigh(Latents.from_dense(torch.ones_like(form.threshold))).double()

    def above(x: Tensor) -> Tensor:
        pre = form.pre_activations(x).double()
        return ((pre - theta) * weight)[pre > 0]

    def times(x: Tensor) -> Tensor:
        pre = form.pre_activations(x).double()
        return (pre / theta)[pre > 0]

    yield "shift", _with_thresholds(form, theta + _bound(above, x, l0) / weight)
    yield "factor", _with_thresholds(form, theta * _bound(times, x, l0))


def _with_thresholds(coder: JumpReLU, theta: Float[Tensor, " d_sae"]) -> JumpReLU:
    twin = twin_of(coder)
    assert isinstance(twin, JumpReLU)
    twin.log_threshold.copy_(theta.clamp_min(torch.finfo(torch.float32).tiny).log())
    return twin


def _positive(coder: LinearCoder[Any]) -> Score:
    """For a threshold on how much of the reconstruction latents are."""

    def score(x: Tensor) -> Tensor:
        pre = coder.weigh(Latents.from_dense(coder.pre_activations(x))).double()
        return pre[pre > 0]

    return score


def _as_often(
    coder: LinearCoder[Any], x: Float[Tensor, "n d_in"], frequency: Float[Tensor, " d_sae"], otherwise: float
) -> Float[Tensor, " d_sae"]:
    """Thresholds at which each latent fires as often on `x` as it is told; at least `otherwise` for those that never do."""
    found = torch.full((coder.d_sae,), otherwise, dtype=torch.float64)
    for part in torch.arange(coder.d_sae).split(COLUMNS):
        falling = (x @ coder.W_enc[:, part] + coder.bias()[part]).double().cpu().sort(0, descending=True).values
        times = (frequency[part] * len(x)).round().long().clamp_max(len(x) - 1)
        between = torch.stack([falling.gather(0, (times - 1).clamp_min(0)[None])[0], falling.gather(0, times[None])[0]]).mean(0)
        found[part] = torch.where(times > 0, between, falling[0].clamp_min(otherwise))
    return found


def _bound(score: Score, x: Float[Tensor, "n d_in"], l0: float) -> float:
    """The bound that `l0` scores a vector exceed, on average over `x`."""
    count, able, best, least = round(l0 * len(x)), 0, x.new_zeros(0, dtype=torch.float64), -float("inf")
    for part in x.split(PIECE):
        found = score(part)
        able += len(found)
        best = torch.cat([best, found[found >= least]])
        if len(best) > 2 * count + ROOM:  # now and then, since it takes longer than the encoding
            best = best.topk(count + 1, sorted=False).values
            least = float(best.min())
    if not 1 <= count <= able:
        reach = f"{1 / len(x):.2g} to {able / len(x):.4g}"
        raise BadInput(f"A mean L0 of {l0:g} cannot be had: on these {len(x)} vectors it can be from {reach}.")
    last = best.topk(min(count + 1, len(best))).values[
        count - 1 :
    ]  # the last that is to fire, and the next, where there is one
    return float(last.mean() if len(last) > 1 else last[0] - 1e-5 * abs(last[0]))
