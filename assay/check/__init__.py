"""check: whether a coder does on a model's activations what its files or its release say; where not, what is most likely wrong.

A coder of others that opens without an error can still be put to the wrong use: at another site, on rows with or without BOS, on activations
of another scale, with a matrix the wrong way round. L0 and FVU of some thousand tokens show it. Each such fault is then undone in trial
(sites near by, rows cut otherwise, scales, norms, transposes, b_dec taken off or not) and what fits best is named, if it fits clearly
better. BOS is judged by the first token of each row: in most models nothing else feels it much, and that one greatly. Faults are tried one
at a time: two at once are noticed, but not named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from assay.check.judging import Fit, Report, Said, Tally, Trial, judged
from assay.check.rows import drawn, firsts, other, pieces
from assay.check.ways import Way, rows_otherwise, ways
from assay.coders.base import SparseCoder
from assay.errors import BadInput
from assay.models.base import Model, Site
from assay.progress import Progress, silent
from assay.splice import home, inference

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

__all__ = ["Fit", "Report", "Said", "Trial", "check"]
SAMPLE = 256  # vectors on which a scale is sought


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
    rows = drawn(text, vectors, seed)
    turned = other(rows, model)
    with torch.no_grad(), inference(coder):
        sample = next(pieces(model, rows, [reads, target]))
        tried = [*ways(coder, model, reads, target, said, sample[reads][:SAMPLE], sample[target][:SAMPLE])]
        tried += [rows_otherwise(coder, reads, target, turned)] if turned else []
        fits = _measured(coder, model, tried, rows, turned, progress)
        first = _first(coder, model, text, reads, target, seed) if turned else None
    trials = [Trial(cause=w.cause, what=w.what, mend=w.mend, fit=fit) for w, fit in zip(tried, fits) if w.cause]
    return judged(said, fits[0], trials, first)


def _some(sites: Iterator[Site]) -> str:
    found = [str(s) for s in sites]
    return ", ".join(found[:12]) + (" …" if len(found) > 12 else "") if found else "none, so it is of another model"


def _measured(
    coder: SparseCoder[Any], model: Model, ways: Sequence[Way], rows: Tokens, other: Tokens | None, progress: Progress
) -> list[Fit]:
    tallies = [Tally(coder.d_out) for _ in ways]
    for text, otherwise in ((rows, False), (other, True)):
        some = [(way, tally) for way, tally in zip(ways, tallies) if way.other_rows is otherwise]
        if text is None or not some:
            continue
        sites, done = [s for way, _ in some for s in (way.reads, way.predicts)], 0
        for piece in pieces(model, text, sites):
            for way, tally in some:
                y_hat, l0 = way.through(piece[way.reads].to(home(coder)))
                tally.add(piece[way.predicts], y_hat, l0)
            done += len(piece[sites[0]])
            progress(done, text.n_tokens, "trials")
    return [tally.fit() for tally in tallies]


def _first(
    coder: SparseCoder[Any], model: Model, text: Tokens, reads: Site, target: Site, seed: int
) -> tuple[float, float] | None:
    """Mean error over square of the first token of rows, as they are and with BOS otherwise."""
    given = firsts(text, seed)
    turned = given and other(given, model)
    if given is None or turned is None:
        return None
    found = []
    for some in (given, turned):
        parts = [(p[target], coder(p[reads].to(home(coder))).to(p[target])) for p in pieces(model, some, [reads, target])]
        errors = torch.cat([(y - y_hat).square().sum(-1) / y.square().sum(-1).clamp_min(1e-12) for y, y_hat in parts])
        found.append(float(errors.mean()))
    return found[0], found[1]
