"""torch_zip: PyTorch's files (.pt, .pth), read as data. No pickle is executed and nothing that one names is imported.

torch.save writes a zip: `data.pkl`, a program that builds the objects, and one member of raw numbers a storage. Here that program is
followed over a closed set of instructions: containers, numbers, text, and the two calls that make a tensor or an ordered dict. All else
that it names (functions, classes) stays a name. Every tensor must lie inside its storage, every storage inside the file. A program can
point at what it made before, so a short one could ask for endless work: its steps are counted, and none costs more than its own bytes.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from assay.errors import DamagedFile
from assay.formats.files import damage, filled, open_zip
from assay.shapes import Tensor

PROGRAM = 4 << 20  # bytes of the longest data.pkl
STEPS = 400_000  # of a program: some thirty a tensor
NAMED = 200  # characters of the longest name of a function or class
STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8,
    "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
FRESH = {
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "NONE": lambda: None, "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}  # fmt: skip
MARK = object()


@dataclass(frozen=True)
class Name:
    """Something that a program names and that is not looked up: a function, a class, an object of one."""

    text: str


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    count: int


def read(path: Path, *, data: bool = True) -> Any:
    """What torch.save was given: dicts, lists, tuples, numbers, text and tensors. Without `data` these have shapes alone."""
    with damage(path):
        if not zipfile.is_zipfile(path):
            raise DamagedFile(
                f"{path} is no zip archive. It is damaged, or was saved by PyTorch before 1.6: save it anew there."
            )
        with open_zip(path, (zipfile.ZIP_STORED,)) as archive:
            return _Reader(archive, data).run()


def state_of(path: Path, *, data: bool = True) -> dict[str, Any]:
    """The state dict in a file, or an error that says what is there instead."""
    state = read(path, data=data)
    if not isinstance(state, dict):
        raise DamagedFile(f"{path} holds a {type(state).__name__}; a state dict was expected.")
    return state


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, data: bool):
        self.archive = archive
        self.data = data
        (program,) = (m for m in archive.infolist() if m.filename.rpartition("/")[2] == "data.pkl")
        if program.file_size > PROGRAM:
            raise ValueError(f"its program has {program.file_size:,} bytes")
        self.root = program.filename.removesuffix("data.pkl")
        order = f"{self.root}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its numbers are not little-endian")
        self.program = archive.read(program)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.loaded: dict[str, Tensor] = {}

    def run(self) -> Any:
        for step, (code, argument, _) in enumerate(pickletools.genops(self.program)):
            if step == STEPS:
                raise ValueError(f"its program has more than {STEPS:,} steps, which no saved state dict needs")
            if code.name == "STOP":
                return self.stack.pop()
            self._step(code.name, argument)
        raise ValueError("its program has no end")

    def _step(self, code: str, argument: Any) -> None:
        stack = self.stack
        if code in VALUES:
            stack.append(argument)
        elif code in FRESH:
            stack.append(FRESH[code]())
        elif code in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if code == "MEMOIZE" else argument] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif code == "MARK":
            stack.append(MARK)
        elif code == "TUPLE":
            stack.append(tuple(self._marked()))
        elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(code[-1])
            parts = tuple(stack[-count:])
            del stack[-count:]
            stack.append(parts)
        elif code in ("SETITEM", "SETITEMS"):
            parts = self._marked() if code == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            _dict(stack[-1]).update(zip(map(_key, parts[::2]), parts[1::2], strict=True))
        elif code in ("APPEND", "APPENDS"):
            parts = self._marked() if code == "APPENDS" else [stack.pop()]
            _list(stack[-1]).extend(parts)
        elif code == "GLOBAL":
            stack.append(Name(argument))
        elif code == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(Name(f"{_text(module)} {_text(name)}"))
        elif code == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif code in ("REDUCE", "NEWOBJ"):
            arguments, name = stack.pop(), stack.pop()
            stack.append(self._call(name, arguments))
        elif code == "BUILD":
            stack.pop()  # attributes of an object: of dicts its metadata, of others nothing that is wanted
        elif code not in ("PROTO", "FRAME"):
            raise ValueError(f"its program uses {code}, which no saved state dict needs")

    def _marked(self) -> list[Any]:
        """What lies above the last mark."""
        found: list[Any] = []
        while (top := self.stack.pop()) is not MARK:
            found.append(top)
        return found[::-1]

    def _call(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise ValueError("its program calls what is no name")
        if name.text == "collections OrderedDict":
            if arguments:  # its items come after it; copies of one dict, made again and again, would fill the memory
                raise ValueError("its program makes an ordered dict from what is already there")
            return {}
        if name.text in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
            return self._tensor(*arguments[:4])
        if name.text == "torch._utils _rebuild_parameter":
            return arguments[0]
        if name.text == "torch Size":
            return arguments[0]
        return Name(name.text)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        """A view of a storage, if it lies within."""
        if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride) or len(size) > 8:
            raise ValueError("a tensor's size and strides do not fit together")
        numbers = (offset, *size, *stride)
        if not isinstance(storage, _Storage) or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
            raise ValueError("its program builds a tensor of what is none")
        end = offset + (1 + sum((n - 1) * s for n, s in zip(size, stride)) if prod(size) else 0)
        if end > storage.count or prod(size) > storage.count:
            raise ValueError(f"a tensor of shape {size} does not lie within its {storage.count} numbers")
        return self._data(storage).as_strided(size, stride, offset)

    def _data(self, storage: _Storage) -> Tensor:
        if storage.key not in self.loaded:
            member = self.archive.getinfo(f"{self.root}data/{storage.key}")
            if member.file_size != storage.count * storage.dtype.itemsize:
                raise ValueError(f"{member.filename} has {member.file_size} bytes for {storage.count} numbers")
            self.loaded[storage.key] = self._numbers(member, storage)
        found = self.loaded[storage.key]
        if found.dtype != storage.dtype:
            raise ValueError(f"storage {storage.key} is of two number types")
        return found

    def _numbers(self, member: zipfile.ZipInfo, storage: _Storage) -> Tensor:
        if not self.data or not storage.count:
            return torch.empty(storage.count, dtype=storage.dtype, device="cpu" if self.data else "meta")
        with self.archive.open(member) as handle:
            return torch.frombuffer(filled(handle, member.file_size, member.filename), dtype=storage.dtype)


def _storage(said: Any) -> _Storage:
    """From ("storage", torch.FloatStorage, key, device, count)."""
    kind, of, key, _, count = said
    if kind != "storage" or not isinstance(of, Name) or type(count) is not int or not isinstance(key, str):
        raise ValueError("its program refers to what is no storage")
    dtype = STORAGES.get(of.text.removeprefix("torch "))
    if dtype is None:
        raise ValueError(f"its numbers are of an unknown type ({of.text[:60]})")
    return _Storage(dtype, key, count)


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}  # items of objects that stay names go nowhere


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _key(value: Any) -> str | int:
    """A key of a dict. Others could be tuples of tuples, whose hash takes time without end."""
    if type(value) is not str and not (type(value) is int and abs(value) < 1 << 63):
        raise ValueError(f"a dict in it has a {type(value).__name__} as a key; text or a whole number was expected")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > NAMED:
        raise ValueError("its program names something that is no text")
    return value
