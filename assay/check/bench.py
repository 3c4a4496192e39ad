"""bench: how well uses of a coder fit, on some rows of a text and on the same with BOS otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from assay.check.judging import Cause, Fit, Said, Tally, Trial
from assay.check.rows import drawn, firsts, other, pieces
from assay.check.ways import Use, Way, rows_otherwise, ways
from assay.models.base import Model, Site
from assay.progress import Progress
from assay.shapes import Float, Tensor

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

SAMPLE = 256  # vectors on which a scale is sought


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What uses are tried on."""

    model: Model
    text: Tokens
    rows: Tokens
    turned: Tokens | None
    """The same with BOS otherwise; None where the model has none."""
    said: Said
    seed: int
    progress: Progress

    @classmethod
    def of(cls, model: Model, text: Tokens, said: Said, vectors: int, seed: int, progress: Progress) -> Bench:
        rows = drawn(text, vectors, seed)
        turned = other(rows, model)
        return cls(model=model, text=text, rows=rows, turned=turned, said=said, seed=seed, progress=progress)

    def everything(self, use: Use, *, but: Cause | None = None, only: Cause | None = None) -> list[Trial]:
        """Each thing otherwise than in a use, BOS aside."""
        tried = ways(use, self.model, self.said, self.sample)
        return self.trials(w for w in tried if w.cause != but and only in (None, w.cause))

    def bos(self, use: Use) -> Trial | None:
        """A use on rows with BOS otherwise."""
        return None if self.turned is None else self.trials([rows_otherwise(use, self.turned)])[0]

    def sample(self, site: Site) -> Float[Tensor, "n d"]:
        return next(pieces(self.model, self.rows, [site]))[site][:SAMPLE]

    def trials(self, tried: Iterable[Way]) -> list[Trial]:
        tried = list(tried)
        fits = self.fits([w.use for w in tried])
        return [Trial(cause=w.cause, what=w.what, mend=w.mend, far=w.far, use=w.use, fit=fit) for w, fit in zip(tried, fits)]

    def fits(self, uses: Sequence[Use]) -> list[Fit]:
        tallies = [Tally(use.coder.d_out) for use in uses]
        for text, otherwise in ((self.rows, False), (self.turned, True)):
            some = [(use, tally) for use, tally in zip(uses, tallies) if use.other_rows is otherwise]
            if text is None or not some:
                continue
            sites, done = [s for use, _ in some for s in (use.reads, use.predicts)], 0
            for piece in pieces(self.model, text, sites):
                for use, tally in some:
                    tally.add(piece[use.predicts], *use.through(piece[use.reads]))
                done += len(piece[sites[0]])
                self.progress(done, text.n_tokens, "trials")
        return [tally.fit() for tally in tallies]

    def first(self, use: Use) -> tuple[float, float] | None:
        """Mean error over square of the first token of rows, as they are and with BOS otherwise."""
        given = firsts(self.text, self.seed)
        turned = given and other(given, self.model)
        if given is None or turned is None:
            return None
        found = []
        for some in (given, turned):
            parts = [
                (p[use.predicts], use.through(p[use.reads])[0].to(p[use.predicts]))
                for p in pieces(self.model, some, [use.reads, use.predicts])
            ]
            errors = torch.cat([(y - y_hat).square().sum(-1) / y.square().sum(-1).clamp_min(1e-12) for y, y_hat in parts])
            found.append(float(errors.mean()))
        return found[0], found[1]
