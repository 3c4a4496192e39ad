"""The store: one directory, atomic sub-directories with manifests, content hashes and locks. See docs/store.md for the layout.

A directory appears under its name only when it is complete: work happens in `.NAME.part` (kept after a crash, so that work can
resume), is hashed, fsynced and renamed. Two processes may share a store: each piece of work holds a lock file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from assay import codec, provenance
from assay.errors import AssayError, BadInput, Busy, DamagedFile, MissingFile, Unavailable, UnknownName

KINDS = ("tokens", "activations", "passes", "coders", "features", "results", "runs")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,199}")


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON: sorted keys, no spaces. Full hex; shorten with `[:16]` for keys."""
    text = json.dumps(codec.to_data(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=codec.to_data)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what an operating system says of a full or read-only disk into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, AssayError):
            raise
        reasons = {
            errno.ENOSPC: "the disk is full. Free some space and run the same command again; finished parts are kept",
            errno.EDQUOT: "the disk quota is used up. Free some space and run the same command again; finished parts are kept",
            errno.EROFS: "the file system is read-only. Choose another place with --store",
            errno.EACCES: "permission is denied. Choose another place with --store, or change the permissions",
            errno.EPERM: "permission is denied. Choose another place with --store, or change the permissions",
            errno.ENOTDIR: "a part of the path is a file, not a directory. Choose another place with --store",
        }
        if error.errno not in reasons:
            raise
        raise Unavailable(f"Cannot write {error.filename or path}: {reasons[error.errno]}.") from error


def sync(path: Path) -> None:
    """Make a file or directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing: a neighbour is written, synced, then renamed into place."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as handle:
                handle.write(data.encode() if isinstance(data, str) else data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        sync(path.parent)


def require_space(path: Path, needed: int, what: str) -> None:
    """Refuse work whose output cannot fit, before it starts. `needed` in bytes."""
    place = next(p for p in [path, *path.parents] if p.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise Unavailable(
            f"{what} needs {needed / 1e9:.2f} GB at {path}, but only {free / 1e9:.2f} GB are free. "
            "Free some space, ask for fewer tokens, or choose another place with --store."
        )


@dataclass
class Draft:
    """A directory in the making. Write into `path`; what an earlier, interrupted attempt left is still there."""

    path: Path
    _final: Path
    _kind: str

    def finish(self, *, inputs: Mapping[str, Any], about: Mapping[str, Any], made: provenance.Made) -> Path:
        """Hash the files, write the manifest, and make the directory appear under its name, replacing an older one."""
        with disk_errors(self.path):
            files = {}
            for file in sorted(p for p in self.path.rglob("*") if p.is_file() and p.name != "manifest.json"):
                if file.name.startswith("."):
                    file.unlink()  # leftovers of an interrupted atomic write
                    continue
                sync(file)
                files[file.relative_to(self.path).as_posix()] = {"sha256": file_hash(file), "bytes": file.stat().st_size}
            manifest = {
                "schema": codec.SCHEMAS["manifest"], "kind": self._kind, "name": self._final.name,
                "inputs": dict(inputs), "about": dict(about), "files": files, "made": codec.to_data(made),
            }  # fmt: skip
            write_atomic(self.path / "manifest.json", codec.to_json(manifest))
            old = self._final.with_name(f".{self._final.name}.old")
            if self._final.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(self._final, old)
            os.rename(self.path, self._final)
            sync(self._final.parent)
            shutil.rmtree(old, ignore_errors=True)
        return self._final


class Store:
    """A directory that holds everything Assay makes. `Store(path)` opens it, creating it where nothing is."""

    def __init__(self, root: str | os.PathLike[str], *, create: bool = True):
        self.root = Path(root).expanduser()
        mark = self.root / "store.toml"
        if not mark.exists():
            if not create:
                raise MissingFile(f"{self.root} is not a store (no store.toml). Check --store, or make one with `assay demo`.")
            if self.root.exists() and (not self.root.is_dir() or not all(map(_ours, self.root.iterdir()))):
                raise BadInput(f"{self.root} is not a store and not empty. Give --store an empty or new directory.")
            write_atomic(mark, f"schema = {codec.SCHEMAS['store']}\n")
        codec.migrate("store", codec.read_toml(mark), mark)

    def path(self, kind: str, name: str) -> Path:
        """Where `name` of `kind` is or would be."""
        if kind not in KINDS:
            raise UnknownName.among("kind of store entry", kind, KINDS)
        if not NAME.fullmatch(name):
            raise BadInput(f"{name!r} cannot name a directory. Use letters, digits and . _ + = -, at most 200, no leading dot.")
        return self.root / kind / name

    def has(self, kind: str, name: str) -> bool:
        """Whether a complete `name` of `kind` is there."""
        return (self.path(kind, name) / "manifest.json").exists()

    def names(self, kind: str) -> list[str]:
        """Complete entries of a kind, sorted."""
        here = self.root / kind
        return sorted(p.name for p in here.iterdir() if NAME.fullmatch(p.name)) if here.exists() else []

    def find(self, kind: str, name: str) -> Path:
        """Directory of a complete entry, or an error that names the closest."""
        if not self.has(kind, name):
            raise UnknownName.among(f"{kind} entry in {self.root}", name, self.names(kind))
        return self.path(kind, name)

    def manifest(self, kind: str, name: str) -> dict[str, Any]:
        """The manifest of a complete entry, in today's schema."""
        return read_manifest(self.find(kind, name))

    @contextmanager
    def draft(self, kind: str, name: str) -> Iterator[Draft]:
        """Lock `name` and yield its unfinished directory. After an error or a kill it stays, for the next attempt to resume."""
        final = self.path(kind, name)
        part = final.with_name(f".{name}.part")
        with self.lock(f"{kind}-{name}"), disk_errors(part):
            part.mkdir(parents=True, exist_ok=True)
            yield Draft(part, final, kind)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock `name` of this store, or say at once that somebody else does. The system frees it when a process dies."""
        path = self.root / ".locks" / f"{name}.lock"
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path, timeout=0)
            try:
                lock.acquire()
            except filelock.Timeout:
                raise Busy(f"Another process is working on {name} in {self.root}. Wait for it to end, or stop it.") from None
        try:
            yield
        finally:
            lock.release()

    def remove(self, kind: str, name: str) -> None:
        """Delete an entry."""
        with self.lock(f"{kind}-{name}"), disk_errors(self.root):
            shutil.rmtree(self.find(kind, name))


def _ours(path: Path) -> bool:
    """Whether a file in a directory without store.toml is what a store killed at birth leaves."""
    return path.name == ".locks" or path.name.startswith(".store.toml.")


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest in a directory, in today's schema."""
    path = directory / "manifest.json"
    return codec.migrate("manifest", codec.read_json(path), path)


def verify(directory: Path, *, only: str | None = None) -> None:
    """Compare a directory's files (or `only` one of them) with its manifest: missing, truncated and altered ones are named."""
    for name, entry in read_manifest(directory)["files"].items():
        if only is None or name == only:
            compare(directory, name, entry)


def compare(directory: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Compare a file of a directory with what its manifest says of it."""
    file, mend = directory / name, f"Delete {directory} and run the command that made it again."
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise DamagedFile(f"The manifest of {directory} names {name!r}, which lies outside of it. {mend}")
    if not file.exists():
        raise MissingFile(f"{file} is missing though its manifest lists it. {mend}")
    if (size := file.stat().st_size) != entry["bytes"]:
        raise DamagedFile(f"{file} has {size} bytes, its manifest says {entry['bytes']}: truncated or altered. {mend}")
    if file_hash(file) != entry["sha256"]:
        raise DamagedFile(f"{file} does not match the sha256 in its manifest: it was altered. {mend}")


def entry_hash(directory: Path) -> str:
    """Identity of a finished directory: sha256 over its files' names and hashes (not over who made it when)."""
    files = read_manifest(directory)["files"]
    return digest({name: entry["sha256"] for name, entry in files.items()})


def weights_hash(directory: Path) -> str | None:
    """Identity of a finished coder: its configuration and weights, not its training rows nor who made it. None without weights."""
    files = read_manifest(directory)["files"]
    own = {name: files[name]["sha256"] for name in ("config.json", "weights.safetensors") if name in files}
    return digest(own) if len(own) == 2 else None
