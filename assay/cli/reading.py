"""reading: coders that commands name: in the store, files of any format, releases, repositories; and what files may leave open."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.coders.base import SparseCoder
    from assay.releases.references import Located

LOCAL = "A directory that holds owner/name/…, laid out as on the hub, in place of the hub."
MIRROR = Annotated[Path | None, Parameter(env_var="ASSAY_MIRROR", metavar="DIRECTORY", help=LOCAL)]
FORMAT = Annotated[str | None, Parameter(metavar="FORMAT")]
OPEN = {"--scale": "--scale NUMBER", "--k": "--k NUMBER", "layer=": "--layer NUMBER", "--format": "--format FORMAT"}
"""What a message about open questions names, and how `assay import` is told."""


@Parameter(name="*", group=Group("Files of other libraries", sort_key=50))
@dataclass(frozen=True, kw_only=True)
class Reading:
    """What files of other libraries may leave open."""

    scale: float | None = None
    """What activations were multiplied by in training, where the files say that they were but not by what."""
    k: int | None = None
    """Latents kept a token, where neither the files nor their path say it."""
    layer: int | None = None
    """Which one, where the files hold several (cross-layer transcoders)."""
    mirror: MIRROR = None


READING = Reading()
"""The default, to stand in signatures."""


def opened(
    ref: str, home: Path, reading: Reading = READING, format: str | None = None
) -> tuple[Located, SparseCoder[Any], dict[str, Any]]:
    """A coder by its name in the store at `home`, by its files, or of a release: where it is, itself, and what is said of it."""
    from assay.cli.source import apart
    from assay.releases import references

    located = references.find(apart(ref), home, reading.mirror)
    return located, *references.read(located, format, scale=reading.scale, k=reading.k, layer=reading.layer)


def opened_plainly(ref: str, home: Path, mirror: Path | None) -> tuple[Located, SparseCoder[Any], dict[str, Any]]:
    """The same in commands of several coders, which have no flags for what one's files leave open: `assay import` has."""
    try:
        return opened(ref, home, Reading(mirror=mirror))
    except BadInput as error:
        if not (flags := [flag for word, flag in OPEN.items() if word in str(error)]):
            raise
        command = f"assay import {shlex.quote(ref)} --name NAME {' '.join(flags)}"
        raise BadInput(f"{error} Here: {command}, then that name.") from None
