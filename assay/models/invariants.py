"""Invariants: sums that hold between the sites of a model if, and only if, the sites are what their names say.

Measured on a few random tokens when a model is loaded. A site whose sums do not hold is refused rather than guessed at: a place of
the right shape and the wrong meaning is the commonest way to train a coder on the wrong thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from assay.models.base import Site
from assay.models.families import PARALLEL

if TYPE_CHECKING:
    from assay.models.hf import HFModel

ROWS, POSITIONS = 2, 6  # more than one row, so that an axis mistaken for another shows


class Check(NamedTuple):
    """One relation and whether it held in every block."""

    name: str
    ok: bool
    detail: str


@dataclass
class Found:
    """What a model's sites turned out to be."""

    widths: dict[Site, int] = field(default_factory=dict)
    refused: dict[Site, str] = field(default_factory=dict)
    """Sites with a place but without a certain meaning, and why."""
    checks: list[Check] = field(default_factory=list)

    def note(self, name: str, layers: Mapping[int, bool], *, without: str = "no block has these sites") -> None:
        """Add one relation's outcome over the blocks."""
        bad = [str(i) for i, ok in layers.items() if not ok]
        good = f"holds in {len(layers)} of {len(layers)} blocks" if layers else without
        self.checks.append(Check(name, not bad, f"fails in blocks {', '.join(bad)}" if bad else good))


def inspect(model: HFModel, *, thorough: bool = False) -> Found:
    """Measure widths and relations. `thorough` adds what costs more passes and refuses no site."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocabulary, (ROWS, POSITIONS), generator=generator)
    taps = model.structure.taps
    ordered = sorted(taps, key=lambda site: site.depth)
    entering: list[Tensor] = []  # what enters the head
    head = model.structure.head
    handle = head.register_forward_pre_hook(lambda module, args: entering.append(args[0])) if head is not None else None
    try:
        read, logits = model.probe(tokens, ordered)
    finally:
        if handle is not None:
            handle.remove()
    found = Found()
    _widths(read, ordered, found)
    read = {site: x for site, x in read.items() if site not in found.refused}
    _stream(read, model.n_layers, found)
    _blocks(read, model.n_layers, found)
    _projections(model, read, found)
    _tail(model, read, entering, logits, found)
    _mid_edits(model, tokens, read, found)
    if thorough:
        _identity(model, tokens, [site for site in ordered if site not in found.refused], logits, found)
    return found


def agree(whole: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether `whole` is the sum of `parts`, every element, up to the rounding of the number format they are in."""
    dtype = max((p.dtype for p in (whole, *parts)), key=lambda d: torch.finfo(d).eps)
    exact = [p.double() for p in parts]
    size = torch.stack([p.abs() for p in exact]).sum(0)
    return bool(((whole.double() - torch.stack(exact).sum(0)).abs() <= 2 * torch.finfo(dtype).eps * size).all())


def _near(a: Tensor, b: Tensor) -> bool:
    """Whether two ways of computing the same product agree, relative to its largest element."""
    eps = torch.finfo(a.dtype).eps
    return a.shape == b.shape and bool((a.double() - b.double()).abs().max() <= 16 * eps * b.double().abs().max())


def _widths(read: Mapping[Site, Tensor], ordered: Sequence[Site], found: Found) -> None:
    for site in ordered:
        if site not in read:
            found.refused[site] = "the forward pass does not reach it"
        elif read[site].shape[:-1] != (ROWS, POSITIONS):
            found.refused[site] = (
                f"it holds {tuple(read[site].shape)} instead of one vector for each of {ROWS} × {POSITIONS} tokens"
            )
        elif not bool(torch.isfinite(read[site]).all()):
            found.refused[site] = f"it holds NaN or infinity in {read[site].dtype}; load the model in bfloat16 or float32"
        else:
            found.widths[site] = read[site].shape[-1]


def _stream(read: Mapping[Site, Tensor], n_layers: int, found: Found) -> None:
    """A block starts from what the one before it left."""
    outcome = {}
    for i in range(1, n_layers):
        before, here = read.get(Site("resid_post", i - 1)), read.get(Site("resid_pre", i))
        if before is None or here is None:
            continue
        outcome[i] = torch.equal(before, here)
        if not outcome[i]:
            found.refused[Site("resid_pre", i)] = f"block {i} does not start from what block {i - 1} leaves"
    found.note("resid_pre[i+1] = resid_post[i]", outcome, without="there is one block")


def _blocks(read: Mapping[Site, Tensor], n_layers: int, found: Found) -> None:
    """Attention and MLP add to the residual stream what their sites say."""
    lower: dict[int, bool] = {}
    upper: dict[int, bool] = {}
    whole: dict[int, bool] = {}
    for i in range(n_layers):
        at = {kind: read.get(Site(kind, i)) for kind in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")}
        pre, attn, mid, mlp, post = at.values()
        if pre is None or post is None:
            continue
        if mid is not None and not torch.equal(mid, pre):
            if attn is not None:
                lower[i] = agree(mid, [pre, attn])
            if mlp is not None:
                upper[i] = agree(post, [mid, mlp])
        elif attn is not None and mlp is not None:
            whole[i] = agree(post, [pre, attn, mlp])
        _judge(i, at, lower.get(i), upper.get(i), whole.get(i), found)
    found.note("resid_pre + attn_out = resid_mid", lower)
    found.note("resid_mid + mlp_out = resid_post", upper)
    if whole:
        found.note("resid_pre + attn_out + mlp_out = resid_post", whole)


def _judge(
    i: int, at: Mapping[str, Tensor | None], lower: bool | None, upper: bool | None, whole: bool | None, found: Found
) -> None:
    """Refuse what the sums of block `i` leave uncertain. None: a sum could not be formed."""
    if at["resid_mid"] is not None and not (lower and upper):
        found.refused[Site("resid_mid", i)] = (
            PARALLEL
            if whole
            else "what was taken for it is not the sum of the stream and attention, or the MLP does not add to it"
        )
    for kind, held in (("attn_out", lower), ("mlp_out", upper)):
        if at[kind] is not None and not held and not whole:
            found.refused[Site(kind, i)] = f"what was taken for it is not what block {i} adds to its residual stream"


def _projections(model: HFModel, read: Mapping[Site, Tensor], found: Found) -> None:
    """The output projection of attn_z is what attention gives."""
    outcome = {}
    for i, steps in model.structure.projections.items():
        z, out = read.get(Site("attn_z", i)), read.get(Site("attn_out", i))
        if z is None or out is None:
            continue
        with torch.no_grad():
            for step in steps:
                z = step(z)
        outcome[i] = _near(z, out)
        if not outcome[i]:
            found.refused[Site("attn_z", i)] = "projecting what was taken for it does not give the attention's output"
    found.note("projection(attn_z) = attn_out", outcome)


def _tail(model: HFModel, read: Mapping[Site, Tensor], entering: list[Tensor], logits: Tensor, found: Found) -> None:
    """The last residual stream, through final norm and head, gives the logits."""
    last, name = Site("resid_post", model.n_layers - 1), "head(norm(last resid_post)) = logits"
    if model.structure.head is None or not entering or last not in read:
        found.checks.append(Check(name, False, "the model has no head that was called"))
        return
    with torch.no_grad():
        x = read[last]
        for step in model.structure.tail:
            x = step(x)
        reaches = _near(x, entering[-1])
        again = model.structure.head(x)
        cap = getattr(model.config, "final_logit_softcapping", None)
        again = cap * torch.tanh(again / cap) if cap else again
        same = reaches and _near(again.to(logits.dtype), logits)
    if not reaches:
        found.refused[last] = "its final norm does not give what enters the head, so it may not be the last of the stream"
    scaled = "; the head is reached, so the logits are scaled afterwards" if reaches and not same else ""
    found.checks.append(Check(name, same, "holds" if same else f"does not hold{scaled}"))


def _mid_edits(model: HFModel, tokens: Tensor, read: Mapping[Site, Tensor], found: Found) -> None:
    """What is written at resid_mid reaches both the MLP and the end of the block."""
    mids = [Site("resid_mid", i) for i in range(model.n_layers)]
    mids = [site for site in mids if site in read and site not in found.refused]
    if not mids:
        return
    others = [Site(kind, site.layer) for site in mids for kind in ("mlp_out", "resid_post")]
    again, _ = model.probe(tokens, [*mids, *others], {site: lambda x, where: x / 2 for site in mids})
    outcome = {}
    for site in mids:
        mlp, post = again[Site("mlp_out", site.layer)], again[Site("resid_post", site.layer)]
        outcome[site.layer] = agree(post, [again[site] / 2, mlp])
        if not outcome[site.layer]:
            found.refused[site] = "an edit there does not reach the end of the block"
    found.note("edited resid_mid + mlp_out = resid_post", outcome)


def _identity(model: HFModel, tokens: Tensor, sites: Sequence[Site], logits: Tensor, found: Found) -> None:
    """Putting back what was there changes no bit of the logits."""
    _, again = model.probe(tokens, edit={site: lambda x, where: x.clone() for site in sites})
    same = torch.equal(logits, again)
    found.checks.append(Check("identity edits leave the logits bit-equal", same, f"at {len(sites)} sites at once"))
