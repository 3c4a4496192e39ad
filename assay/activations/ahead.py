"""Ahead: what the rest of a model makes of reconstructions, as differentiable loss terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch.nn import functional as F

from assay.errors import BadInput, WidthMismatch
from assay.models.base import Model, Run, Site, Where
from assay.shapes import Bool, Float, Int, Tensor

TINY = 1e-12


@dataclass(frozen=True)
class Weights:
    """What counts, and how much."""

    loss: Literal["kl", "ce"]
    weight: float | Literal["balanced"]
    mse: float
    mse_later: float

    def __post_init__(self) -> None:
        if self.loss not in ("kl", "ce"):
            raise BadInput(
                f'loss={self.loss!r} is neither "kl" (divergence from the model\'s own predictions) nor "ce" (text).'
            )
        numbers = {k: v for k, v in asdict(self).items() if k != "loss" and v != "balanced"}
        for name, value in numbers.items():
            if isinstance(value, str) or not 0 <= value < float("inf"):
                raise BadInput(f"{name} must be 0 or more and finite, got {value!r}.")
        if self.weight == "balanced" and not self.mse:
            raise BadInput('weight="balanced" makes the loss as large as the mse term: set mse above 0, e.g. 0.5.')
        if not any(numbers.values()):
            raise BadInput("weight, mse and mse_later are all 0: there is nothing to learn from.")


@dataclass
class _Part:
    """Some rows, which one pass takes."""

    ids: Int[Tensor, "b s"]
    own: Bool[Tensor, "b s"]
    """Positions of the batch's vectors."""
    follows: Bool[Tensor, "b s"]
    """Those of them whose next token is text of the same document."""
    start: tuple[Site, Float[Tensor, "b s d"]] | None
    """From where a pass can begin."""
    clean: Run | None = None


class Ahead:
    """Called with reconstructions [n, d] of `x`, gives named, weighted loss terms: "kl" or "ce", "mse_later", "mse".

    Gradients flow to the reconstructions, and none to the model. Each part of the batch is run, differentiated and forgotten, so
    that memory is that of one part. The model's own predictions are computed at the first call and kept as long as the batch.
    """

    def __init__(
        self,
        model: Model,
        site: Site,
        later: Sequence[Site],
        weights: Weights,
        ids: Int[Tensor, "b s"],
        own: Bool[Tensor, "b s"],
        follows: Bool[Tensor, "b s"],
        *,
        batch_rows: int,
    ):
        self.model, self.site, self.later, self.weights = model, site, list(later), weights
        begin = site if site.kind == "resid_post" else Site("resid_post", site.layer - 1) if site.layer else None
        self.parts: list[_Part] = []
        found = []
        cut = (tensor.to(model.device).split(batch_rows) for tensor in (ids, own, follows))
        for some, mine, next_counts in zip(*cut, strict=True):
            run = model.run(some, read=[s for s in dict.fromkeys((begin, site)) if s], stop_after=site)
            found.append(run[site][mine].float())
            self.parts.append(_Part(some, mine, next_counts, None if begin is None else (begin, run[begin])))
        self.x: Float[Tensor, "n d"] = torch.cat(found)

    def __call__(self, y_hat: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, ""]]:
        if y_hat.shape != self.x.shape:
            raise WidthMismatch(f"Reconstructions have shape {tuple(y_hat.shape)}, the batch has {tuple(self.x.shape)}.")
        w, x = self.weights, self.x.to(y_hat)
        mse = w.mse * (y_hat - x).square().sum() / x.square().sum()
        terms = {"mse": mse} if w.mse else {}
        if w.weight or w.mse_later:
            downstream = self._downstream(y_hat)
            weight = (mse / downstream[w.loss].clamp_min(TINY)).detach() if w.weight == "balanced" else w.weight
            terms |= {name: value * (w.mse_later if name == "mse_later" else weight) for name, value in downstream.items()}
        return terms

    def _downstream(self, y_hat: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, ""]]:
        """Terms without their weights."""
        grad = torch.is_grad_enabled() and y_hat.requires_grad
        counts = {"kl": len(y_hat), "ce": max(1, sum(int(part.follows.sum()) for part in self.parts)), "mse_later": len(y_hat)}
        totals: dict[str, list[Tensor]] = {}
        gradients: dict[str, list[Tensor]] = {}
        pieces = y_hat.detach().to(self.model.device).split([int(part.own.sum()) for part in self.parts])
        for part, piece in zip(self.parts, pieces, strict=True):
            y = piece.clone().requires_grad_(grad)
            with torch.set_grad_enabled(grad):
                sums = self._sums(part, y)
            for left, (name, value) in zip(range(len(sums) - 1, -1, -1), sums.items()):
                totals.setdefault(name, []).append(value.detach() / counts[name])
                if grad:
                    slope = torch.autograd.grad(value, y, retain_graph=left > 0)[0]
                    gradients.setdefault(name, []).append(slope / counts[name])
        values = {name: torch.stack(some).sum().to(y_hat) for name, some in totals.items()}
        if not grad:
            return values
        return {name: _Given.apply(y_hat, value, torch.cat(gradients[name]).to(y_hat)) for name, value in values.items()}  # pyright: ignore[reportReturnType]

    def _sums(self, part: _Part, y: Float[Tensor, "m d"]) -> dict[str, Float[Tensor, ""]]:
        """What the vectors of a part add to each term. Sums, whose gradients do not vanish in half precision."""

        def put(x: Tensor, where: Where) -> Tensor:
            return x.detach().index_put(part.own.nonzero(as_tuple=True), y.to(x.dtype))

        run = self.model.run(part.ids, self.later, {self.site: put}, grad=y.requires_grad, start=part.start)
        assert run.logits is not None
        if self.weights.loss == "kl":
            clean = self._clean(part).logits
            assert clean is not None
            log, truth = (_wide(logits).log_softmax(-1) for logits in (run.logits[part.own], clean))
            sums = {"kl": F.kl_div(log, truth, reduction="sum", log_target=True)}
        else:
            targets = part.ids[:, 1:][part.follows[:, :-1]]
            sums = {"ce": F.cross_entropy(_wide(run.logits[part.follows]), targets, reduction="sum")}
        if self.later and self.weights.mse_later:
            errors = [(_wide(run[s][part.own]) - self._clean(part)[s]).square().sum() / self._square[s] for s in self.later]
            sums["mse_later"] = torch.stack(errors).mean()
        return sums

    def _clean(self, part: _Part) -> Run:
        """What the model itself does: logits, and fp32 activations at the later sites, of the batch's vectors."""
        if part.clean is None:
            run = self.model.run(part.ids, self.later, start=part.start)
            assert run.logits is not None
            part.clean = Run({s: _wide(run[s][part.own]) for s in self.later}, run.logits[part.own])
        return part.clean

    @cached_property
    def _square(self) -> dict[Site, Float[Tensor, ""]]:
        """Mean squared norm at the later sites."""
        sums = {s: torch.stack([self._clean(part)[s].square().sum() for part in self.parts]).sum() for s in self.later}
        return {s: total / len(self.x) for s, total in sums.items()}


class _Given(torch.autograd.Function):
    """A value whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, None, None]:
        return along * ctx.saved_tensors[0], None, None


def _wide(x: Tensor) -> Tensor:
    """In fp32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
