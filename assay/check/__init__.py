"""check: whether a coder does on a model's activations what its files or its release say; where not, what is most likely wrong.

A coder of others that opens without an error can still be put to the wrong use: at another site, on rows with or without BOS, on activations
of another scale, with a matrix the wrong way round. L0 and FVU of some thousand tokens show it. Each such fault is then undone in trial
(other sites, rows cut otherwise, scales, norms, transposes, b_dec taken off or not) and what fits best is named, if it fits clearly
better. Then, with that mended, all the others are tried anew, for two faults may hide each other. BOS comes last: whether first tokens fare
better in rows cut otherwise can only be seen where all else is right, since at a wrong site or scale they may do so of a right coder too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from assay.check.bench import Bench
from assay.check.judging import ALIKE, Fit, Report, Said, Trial, bos_is_doubted, bos_is_wrong, certain, clearest, dubious
from assay.check.ways import Use
from assay.coders.base import SparseCoder
from assay.errors import BadInput
from assay.models.base import Model, Site
from assay.progress import Progress, silent
from assay.splice import inference

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

__all__ = ["Fit", "Report", "Said", "Trial", "check"]


def check(
    coder: SparseCoder[Any], model: Model, text: Tokens, site: Site | str, *, predicts: Site | str | None = None,
    said: Said | None = None, vectors: int = 2000, seed: int = 0, progress: Progress = silent,
) -> Report:  # fmt: skip
    """Measure a coder at a site of a model, and each fault undone.

    `text`: rows cut as the coder is said to have read them. `predicts`: the site that a transcoder predicts. `vectors`: tokens to
    measure on, at least. `seed` draws the rows.
    """
    said, reads = said or Said(), Site.parse(site)
    target = reads if predicts is None else Site.parse(predicts)
    if (coder.d_in, coder.d_out) != (model.d(reads), model.d(target)):
        raise BadInput(
            f"The coder reads {coder.d_in} and gives {coder.d_out}, but {reads} of {model.name} has width {model.d(reads)} and {target} "
            f"{model.d(target)}. Sites of width {coder.d_in}: {_some(s for s in model.sites() if model.d(s) == coder.d_in)}."
        )
    bench = Bench.of(model, text, said, vectors, seed, progress)
    with torch.no_grad(), inference(coder):
        return _report(bench, Use(coder=coder, reads=reads, predicts=target))


def _report(bench: Bench, start: Use) -> Report:
    """All but BOS first, as each alone and then together fits best; BOS with that mended."""
    said, given, trials = bench.said, bench.fits([start])[0], bench.everything(start)
    causes = _causes(bench, start, given, trials)
    doubt = None if causes else dubious(said, given, trials)
    best = causes[-1] if causes else min(trials, key=lambda t: t.fit.misfit(said), default=None)
    if best is not None and not causes and best.fit.misfit(said) >= given.misfit(said):
        best = None
    use, fit = (start, given) if best is None else (best.use, best.fit)
    bare, first = bench.bos(start), bench.first(use)
    turned = bare if best is None else bench.bos(use)
    if bare is not None and turned is not None:
        if not certain(said, given) and bos_is_wrong(said, fit, turned.fit):
            causes = [*causes, turned] if causes and _less(said, causes[0], bare) else [bare, *causes]
        elif bos_is_doubted(first):
            doubt = turned if causes else doubt or bare
        trials.append(bare)
    trials.sort(key=lambda t: t.fit.misfit(said))
    return Report(said=said, given=given, trials=trials, causes=causes, doubt=doubt, first=first)


def _causes(bench: Bench, start: Use, given: Fit, trials: list[Trial]) -> list[Trial]:
    """What is clearly wrong but BOS: one thing, and one more that shows once the first is mended."""
    said = bench.said
    one = clearest(said, given, trials)
    if one is None:
        return []
    two = clearest(said, one.fit, bench.everything(one.use, but=one.cause))
    found = [one] if two is None else _settled(bench, start, one, two)
    return found if found[-1].fit.agrees(said, whole=False) else []


def _settled(bench: Bench, start: Use, one: Trial, two: Trial) -> list[Trial]:
    """The first of two faults was judged with the second still there: a site at a wrong scale, say. So it is sought anew."""
    if one.cause not in ("site", "scale"):
        return [one, two]
    anew = dubious(bench.said, two.fit, bench.everything(two.use, only=one.cause))
    if anew is None:
        return [one, two]
    two = replace(two, use=anew.use, fit=anew.fit)
    a = anew.use
    back = 1 / ALIKE < a.scale < ALIKE if one.cause == "scale" else (a.reads, a.predicts) == (start.reads, start.predicts)
    return [two] if back else [replace(one, what=anew.what, mend=anew.mend), two]


def _less(said: Said, one: Trial, other: Trial) -> bool:
    """Whether one leaves less to explain than the other, of all vectors."""
    return one.fit.misfit(said, whole=True) <= other.fit.misfit(said, whole=True)


def _some(sites: Iterator[Site]) -> str:
    found = [str(s) for s in sites]
    return ", ".join(found[:12]) + (" …" if len(found) > 12 else "") if found else "none, so it is of another model"
