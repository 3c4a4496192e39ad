"""Every error Assay raises on purpose.

AssayError                 anything a user can cause and mend; the command line prints it without a traceback
├── UnknownName            no such coder, eval, corpus, model, site, setting … (did you mean …?)
├── BadInput               a value that cannot be used: wrong width, empty corpus, impossible setting
│   ├── WidthMismatch      a coder and what it is given do not fit together
│   ├── NotFinite          NaN or infinity in activations or weights
│   └── SiteMissing        the model has no such site, or its meaning there is not certain
├── BadFile                a file or directory that is missing or cannot be trusted
│   ├── MissingFile        it is not there
│   ├── DamagedFile        truncated, altered, not what its manifest says
│   └── NewerSchema        written by a later version of Assay
├── Unavailable            something outside is not to be had: network, extra package, disk space, permission
│   └── OutOfMemory        memory, too; says which tensor and which setting
└── Busy                   another process holds the lock

A message says what was got, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AssayError(Exception):
    """Base of every error that is the user's to mend."""


class UnknownName(AssayError, LookupError):
    """A name that is in no registry."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str], *, more: str = "") -> UnknownName:
        """The error for `name`, with the closest of the `known` names, or all of them when they are few."""
        options = sorted(known)
        folded = {option.casefold(): option for option in options}
        close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
        if close:
            advice = f"Did you mean {folded[close[0]]!r}?"
        elif options and len(options) <= 24:
            advice = "Known: " + ", ".join(options) + "."
        else:
            advice = f"{len(options)} are known." if options else "None are known."
        return cls(" ".join(part for part in (f"No {kind} named {name!r}.", advice, more) if part))


class BadInput(AssayError, ValueError):
    """A value that cannot be used."""


class WidthMismatch(BadInput):
    """A coder and what it is given do not fit together."""


class NotFinite(BadInput):
    """NaN or infinity where numbers were expected."""


class SiteMissing(BadInput):
    """The model has no such site, or its meaning there is not certain."""


class BadFile(AssayError):
    """A file or directory that cannot be used."""


class MissingFile(BadFile, FileNotFoundError):
    """It is not there."""


class DamagedFile(BadFile):
    """Truncated, altered, or not what its manifest says."""


class NewerSchema(BadFile):
    """Written by a later version of Assay."""


class Unavailable(AssayError):
    """Something outside Assay is not to be had."""


class OutOfMemory(Unavailable, MemoryError):
    """Memory ran out."""


class Busy(AssayError):
    """Another process holds the lock."""
