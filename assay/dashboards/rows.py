"""Rows: files of gzipped JSON lines that others made, read a line at a time. Every fault is named with its file and line."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from assay.errors import BadInput, DamagedFile, MissingFile

BATCH = re.compile(r"batch-(\d{1,9})\.jsonl(?:\.gz)?")
HALF = re.compile("[\ud800-\udfff]")
LINE = 2**24
"""Bytes of a line, at most."""
LINES = 2**22
"""Lines of a file, at most."""
ITEMS = 2**16
"""Items of a list, at most."""


@dataclass(frozen=True)
class Row:
    """A line, and where it stands."""

    values: Mapping[str, Any]
    where: str

    def text(self, key: str, default: str | None = None) -> str:
        found = self.values.get(key)
        if found is None and default is not None:
            return default
        return _encodable(found) if isinstance(found, str) else self._wrong(key, "text")

    def whole(self, key: str, below: int, default: int | None = None) -> int:
        """A whole number from 0, also as text."""
        found = self.values.get(key)
        if found is None and default is not None:
            return default
        if isinstance(found, str) and re.fullmatch(r"\d{1,9}", found):
            found = int(found)
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < below:
            self._wrong(key, f"a whole number from 0 to {below - 1}")
        return found

    def number(self, key: str) -> float | None:
        found = self.values.get(key)
        if found is not None and (isinstance(found, bool) or not isinstance(found, int | float) or not _small(found)):
            self._wrong(key, "a number or null")
        return None if found is None else float(found)

    def numbers(self, key: str) -> list[float]:
        found = self._list(key, "numbers")
        if not all(isinstance(v, int | float) and not isinstance(v, bool) and _small(v) for v in found):
            self._wrong(key, "a list of numbers")
        return [float(v) for v in found]

    def strings(self, key: str) -> list[str]:
        found = self._list(key, "strings")
        if not all(isinstance(v, str) for v in found):
            self._wrong(key, "a list of strings")
        return [_encodable(v) for v in found]

    def _list(self, key: str, what: str) -> list[Any]:
        found = self.values.get(key)
        found = [] if found is None else found
        return found if isinstance(found, list) and len(found) <= ITEMS else self._wrong(key, f"a list of {what}")

    def _wrong(self, key: str, expected: str) -> NoReturn:
        said = json.dumps(self.values.get(key), ensure_ascii=True)
        raise DamagedFile(f"{self.where}: {key} is {said if len(said) < 60 else said[:57] + '…'}, expected {expected}.")


def _encodable(text: str) -> str:
    """Halves of characters (tokens of others are cut inside them) become �."""
    return HALF.sub("�", text)


def _small(value: float) -> bool:
    """Whether float32 holds it."""
    return abs(value) < 3e38 and math.isfinite(value)


def sources(directory: Path) -> list[Path]:
    """Directories of an export that hold a source's features: the directory itself, or those up to three below."""
    if not directory.is_dir():
        raise MissingFile(f"{directory} is no directory. Give one with features/batch-0.jsonl.gz in it, or above such.")
    for depth in range(4):
        if found := sorted(p.parent for p in directory.glob("*/" * depth + "features") if batches(p)):
            return found
    raise BadInput(f"{directory} holds no export of Neuronpedia: there is no features/batch-0.jsonl.gz in it or below.")


def batches(directory: Path) -> list[Path]:
    """Files of a table in the order of their numbers."""
    found = [(int(m[1]), p) for p in directory.glob("batch-*") if (m := BATCH.fullmatch(p.name)) and p.is_file()]
    return [path for _, path in sorted(found)]


def read(path: Path) -> Iterator[Row]:
    """Lines of a file, gzipped or not; empty ones are passed over."""
    n = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            while line := file.readline(LINE + 1):
                n += 1
                if len(line) > LINE or n > LINES:
                    raise DamagedFile(
                        f"{path}, line {n}: too long; at most {LINE:,} bytes a line and {LINES:,} lines are read."
                    )
                if line.strip():
                    yield _row(line, f"{path}, line {n}")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedFile(f"{path}, after line {n}: not gzip, or cut short ({error}). Fetch it again.") from None


def _row(line: bytes, where: str) -> Row:
    try:
        found = json.loads(line, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{where} is no JSON ({str(error)[:100]}). Fetch the file again.") from None
    if not isinstance(found, dict):
        raise DamagedFile(f"{where} is no JSON object.")
    return Row(found, where)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def one(path: Path) -> Row:
    """The first line of a file, which may be gzipped (NAME.gz); an empty one where it is missing."""
    there = [p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()]
    return next(read(there[0]), Row({}, str(path))) if there else Row({}, str(path))
