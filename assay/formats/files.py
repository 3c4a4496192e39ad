"""files: JSON, safetensors and npz of strangers, read within bounds. Whatever is wrong with one becomes an error that names it."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite, prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from assay.errors import AssayError, DamagedFile, MissingFile
from assay.shapes import Tensor

JSON = 16 << 20  # bytes of the longest configuration
HEADER = 4 << 20  # bytes of the longest safetensors header: some ten thousand tensors
MEMBERS = 10_000
PIECE = 1 << 20  # bytes read at once
LARGEST, LONGEST = 1 << 60, 1000  # a number's size and a text's length in a configuration
SWOLLEN = 8  # times their packed size that the members of an archive may have, and 16 MB in any case
ARRAYS = {
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "i1": torch.int8, "i2": torch.int16, "i4": torch.int32,
    "i8": torch.int64, "u1": torch.uint8, "b1": torch.bool,
}  # fmt: skip
LINE = re.compile(r"^(\w+): *['\"]?([^'\"#\n]{1,200}?)['\"]? *(?:#.*)?$", re.MULTILINE)
NPY = re.compile(
    rb"\{'descr': '[<|=](\w\d)', 'fortran_order': (True|False), 'shape': \((\d{0,15}(?:, ?\d{1,15}){0,7},?)\),? *\} *\n?"
)


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn whatever reading a file can raise into an error about that file."""
    try:
        yield
    except AssayError:
        raise
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist.") from None
    except (
        zipfile.BadZipFile, zlib.error, SafetensorError, EOFError, OSError, ValueError, TypeError, LookupError, ArithmeticError,
        AttributeError, RuntimeError, MemoryError,
    ) as error:  # fmt: skip
        raise DamagedFile(f"{path} cannot be read: it is damaged, or no such file ({_short(error)}).") from None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def json_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    with damage(path):
        if path.stat().st_size > JSON:
            raise DamagedFile(f"{path} has {path.stat().st_size:,} bytes; a configuration has at most {JSON:,}.")
        data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise DamagedFile(f"{path} holds a JSON {type(data).__name__}; an object was expected.")
    return data


def lines_of(path: Path) -> dict[str, str]:
    """Names and values at the top level of a YAML file. No more of YAML is needed, nor read."""
    with damage(path):
        if path.stat().st_size > JSON:
            raise ValueError("it is too long for a configuration")
        return {name: value for name, value in LINE.findall(path.read_text(encoding="utf-8")) if value.isprintable()}


def safetensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    with damage(path), opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file, whose numbers are left alone."""
    with damage(path), opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def opened(path: Path) -> Any:
    """A safetensors file, whose header is of bounded size and whose tensors lie within it. Numbers are read when they are asked for."""
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
    if length > min(HEADER, path.stat().st_size):
        raise DamagedFile(f"{path} says that its header has {length:,} bytes; it is damaged, or no safetensors file.")
    return safe_open(path, framework="pt")


def open_zip(path: Path, packed: tuple[int, ...]) -> zipfile.ZipFile:
    """A zip archive whose directory is sound: known packing, nothing encrypted, members in all not much larger than the file."""
    archive = zipfile.ZipFile(path)
    members, size = archive.infolist(), path.stat().st_size
    most = size if packed == (zipfile.ZIP_STORED,) else SWOLLEN * size + (16 << 20)
    for member in members:
        if member.flag_bits & 1 or member.compress_type not in packed:
            raise DamagedFile(f"{path}: {member.filename[:80]!r} is encrypted or packed in an unknown way.")
    total = sum(member.file_size for member in members)
    if len(members) > MEMBERS or total > most:
        raise DamagedFile(
            f"{path} of {size:,} bytes claims to hold {len(members):,} members of {total:,} bytes. It is refused."
        )
    return archive


def npz_of(path: Path) -> dict[str, Tensor]:
    """The arrays of a NumPy archive. No object arrays: nothing in it is unpickled."""
    with damage(path), open_zip(path, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)) as archive:
        members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        return {m.filename.removesuffix(".npy"): _array(archive.open(m), m.file_size, m.filename) for m in members}


def _array(handle: Any, size: int, name: str) -> Tensor:
    magic = handle.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2):
        raise ValueError(f"{name} is no array of NumPy's format 1 or 2")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(handle.read(width), "little")
    found = NPY.fullmatch(handle.read(min(length, 10_000)))
    if found is None or found[1].decode() not in ARRAYS:
        raise ValueError(f"{name} holds no plain little-endian numbers")
    shape = tuple(int(part) for part in found[3].replace(b" ", b"").split(b",") if part)
    dtype = ARRAYS[found[1].decode()]
    wanted = prod(shape) * dtype.itemsize
    if 8 + width + length + wanted != size:
        raise ValueError(f"{name} has {size} bytes, which its header {shape} does not ask for")
    data = filled(handle, wanted, name)
    flat = torch.frombuffer(data, dtype=dtype) if wanted else torch.zeros(0, dtype=dtype)
    return flat.reshape(shape[::-1]).permute(*range(len(shape))[::-1]) if found[2] == b"True" else flat.reshape(shape)


def filled(handle: Any, wanted: int, name: str) -> bytearray:
    """So many bytes of a member of an archive, which are held once."""
    data, at = bytearray(wanted), 0
    while part := handle.read(min(PIECE, wanted - at + 1)):
        if at + len(part) > wanted:
            raise ValueError(f"{name} goes on after {wanted} bytes")
        data[at : at + len(part)] = part
        at += len(part)
    if at != wanted:
        raise ValueError(f"{name} ends after {at} of {wanted} bytes")
    return data


def finite(value: Tensor) -> bool:
    """Whether all numbers are finite, without a copy of them."""
    if not value.is_floating_point() or not value.numel():
        return True
    return all(map(isfinite, torch.stack(torch.aminmax(value)).tolist()))


class Facts:
    """A configuration of strangers, asked for one value after another, each of the type that it must have."""

    def __init__(self, path: Path, data: dict[str, Any]):
        self.path = path
        self.data = data

    @classmethod
    def of(cls, path: Path) -> Facts:
        return cls(path, json_of(path))

    def _get(self, name: str, kinds: tuple[type, ...], default: Any, what: str) -> Any:
        value = self.data.get(name)
        if value is None:
            if default is ...:
                raise DamagedFile(f"{self.path} says no {name}; {what} was expected.")
            return default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise DamagedFile(f"{self.path}: {name} must be {what}, got a {type(value).__name__}.")
        return value

    def whole(self, name: str, default: Any = ...) -> Any:
        """A whole number."""
        value = self._get(name, (int, float), default, "a whole number")
        if value is not default and not (abs(value) < LARGEST and value == value // 1):
            raise DamagedFile(f"{self.path}: {name} must be a whole number of ordinary size.")
        return value if value is default else int(value)

    def word(self, name: str, default: Any = ...) -> Any:
        """Text."""
        value = self._get(name, (str,), default, "text")
        if value is not default and not (len(value) < LONGEST and value.isprintable()):
            raise DamagedFile(f"{self.path}: {name} must be one line of text, of fewer than {LONGEST} characters.")
        return value

    def number(self, name: str, default: Any = ...) -> Any:
        """A number."""
        return self._get(name, (int, float), default, "a number")

    def items(self, name: str) -> list[Any]:
        """A list; an empty one where there is none."""
        return self._get(name, (list,), [], "a list")

    def flag(self, name: str, default: Any = ...) -> Any:
        """True or false."""
        return self._get(name, (bool,), default, "true or false")

    def part(self, name: str) -> Facts:
        """An object inside; an empty one where there is none."""
        return Facts(self.path, self._get(name, (dict,), {}, "an object"))

    def check(self, name: str, found: int) -> None:
        """Compare a width that the configuration says with that of the tensors."""
        said = self.whole(name, None)
        if said is not None and said != found:
            raise DamagedFile(f"{self.path}: {name} is {said}, but the tensors have {found}.")


def taken(tensors: dict[str, Tensor], path: Path, *names: str) -> list[Tensor]:
    """Tensors of a file by name, or an error that says which are missing and which are there."""
    missing = [name for name in names if not isinstance(tensors.get(name), Tensor)]
    if missing:
        there = ", ".join(sorted(str(name)[:60] for name in tensors)[:20]) or "nothing"
        raise DamagedFile(f"{path} lacks {', '.join(missing)}; it holds {there}.")
    return [tensors[name] for name in names]
