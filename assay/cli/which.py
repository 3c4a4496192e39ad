"""which: options that say of which results a command speaks: model, site, architecture, width, L0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from assay.cli.flags import width
from assay.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from assay.results import Record

RANGE = re.compile(r"(\d+(?:\.\d+)?)?\.\.(\d+(?:\.\d+)?)?")


@Parameter(name="*", group=Group("Which results", sort_key=50))
@dataclass(frozen=True, kw_only=True)
class Which:
    """Filters of records; all that are given must hold."""

    setting: Annotated[str | None, Parameter(metavar="HEX")] = None
    """Only records of this setting (or the first digits of it)."""
    model: Annotated[str | None, Parameter(metavar="NAME")] = None
    """Only coders of this language model."""
    site: Annotated[str | None, Parameter(metavar="SITE")] = None
    """Only coders of this site, e.g. resid_post.12."""
    architecture: Annotated[str | None, Parameter(metavar="NAME,NAME")] = None
    """Only these architectures, separated by commas."""
    width: Annotated[str | None, Parameter(metavar="N,N")] = None
    """Only coders of these numbers of latents, e.g. 4k,16k; k is 1024."""
    l0: Annotated[str | None, Parameter(metavar="FROM..TO")] = None
    """Only coders whose L0, as the core eval measured it, lies here: 20..100, 20.. or ..100."""

    def of(self, records: Sequence[Record], everything: Iterable[Record]) -> list[Record]:
        """The records that are meant. L0 is looked up in `everything`. `BadInput` says which option leaves none."""
        found = list(records)
        if self.setting is not None:
            kept = [r for r in found if r.setting.startswith(self.setting)]
            if found and not kept:
                there = ", ".join(sorted({r.setting for r in found}))
                raise BadInput(f"No record has the setting {self.setting!r}. There are: {there}.")
            found = kept
        found = _among(found, "model", self.model and [self.model])
        found = _among(found, "site", self.site and [self.site])
        found = _among(found, "architecture", self.architecture and self.architecture.split(","))
        found = _among(found, "d_sae", self.width and [str(width(w)) for w in self.width.split(",")], "width")
        return found if self.l0 is None else _between(found, self.l0, everything)


def _among(records: list[Record], fact: str, wanted: Sequence[str] | str | None, noun: str | None = None) -> list[Record]:
    if not wanted or not records:
        return records
    known = {str(r.about.get(fact)) for r in records}
    for one in wanted:
        if one not in known:
            raise UnknownName.among(f"{noun or fact} with results", one, known)
    return [r for r in records if str(r.about.get(fact)) in wanted]


def span(text: str) -> tuple[float, float]:
    """A range of L0 from `20..100`, `20..` or `..100`."""
    ends = RANGE.fullmatch(text.strip())
    if ends is None or not (ends[1] or ends[2]):
        raise BadInput(f"--l0 {text!r} is no range of L0. Write e.g. 20..100, 20.. or ..100.")
    return float(ends[1] or 0), float(ends[2] or "inf")


def _between(records: list[Record], text: str, everything: Iterable[Record]) -> list[Record]:
    from assay.results import sparsities

    low, high = span(text)
    l0 = sparsities(everything)
    found = [r for r in records if low <= l0.get(r.coder_hash, -1.0) <= high]
    if records and not found:
        known = sorted({l0[r.coder_hash] for r in records if r.coder_hash in l0})
        there = f"They go from {known[0]:.3g} to {known[-1]:.3g}." if known else "None is known: run `assay eval core` first."
        raise BadInput(f"No coder has an L0 in the range {text!r}. {there}")
    return found


WHICH = Which()
"""The defaults, to stand in signatures."""
