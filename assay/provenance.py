"""Who made a thing, when, from what source tree, with which versions of what."""

from __future__ import annotations

import datetime
import functools
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSIONS = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Made:
    """The circumstances under which a file came into being. Never part of a key: two runs of one job differ only here."""

    package: str
    """Version of Assay."""
    git: str | None
    """Commit of Assay's source tree, with "+" when it was changed; None outside a checkout."""
    at: str
    """UTC time, ISO 8601."""
    device: str
    python: str
    versions: dict[str, str]
    """Installed versions of the packages that decide numbers."""
    seconds: float | None = None
    """Wall time of the work, in seconds."""
    peak_memory: int | None = None
    """Highest resident size of the process so far, in bytes."""
    notes: dict[str, Any] = field(default_factory=dict)


@functools.cache
def package_version() -> str:
    """Version of the installed Assay."""
    from importlib.metadata import PackageNotFoundError, version  # the slowest import of `assay --help`

    try:
        return version("assay-sae")
    except PackageNotFoundError:
        return "0+source"


@functools.cache
def git_commit() -> str | None:
    """Commit of the checkout this source runs from, "+" appended when it has local changes; None outside one."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    try:

        def git(*words: str) -> str:
            return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10).stdout.strip()

        return (git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")) or None
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def versions() -> dict[str, str]:
    """Installed versions of the packages in `VERSIONS`."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory() -> int:
    """Highest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def made(*, device: str = "cpu", seconds: float | None = None, **notes: Any) -> Made:
    """The circumstances of this moment."""
    return Made(
        package=package_version(),
        git=git_commit(),
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=device,
        python=platform.python_version(),
        versions=versions(),
        seconds=None if seconds is None else round(seconds, 3),
        peak_memory=peak_memory(),
        notes=notes,
    )


@contextmanager
def stopwatch() -> Iterator[Any]:
    """`with stopwatch() as seconds: …; seconds()` is the wall time so far, in seconds."""
    start = time.perf_counter()
    yield lambda: time.perf_counter() - start
