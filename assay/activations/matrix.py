"""Matrices of vectors in files of many kinds: .npy, .npz, .safetensors, .parquet, .pt. Opened, never believed: nothing in them runs.

.npy, .safetensors and .pt stay on disk and are mapped into memory; .npz and .parquet are read whole. Where a file holds several
tensors, `FILE:NAME` says which.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open

from assay.errors import AssayError, BadFile, BadInput, DamagedFile, MissingFile, UnknownName
from assay.shapes import Tensor

if TYPE_CHECKING:
    import pyarrow as pa

Matrix = Tensor | np.ndarray


def read(ref: str | Path) -> Matrix:
    """The array in the file `ref`, or of that name in it where `ref` is FILE:NAME; of any shape and type of numbers.

    `MissingFile`, `DamagedFile` for one cut short, `BadFile` for one that wants to run code, `BadInput` for what is no array.
    """
    path, name = _parts(str(ref))
    if path.suffix not in KINDS:
        raise BadInput(f"{path} is of no known kind. Give one of {', '.join(KINDS)}, or FILE:NAME for one array of several.")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise DamagedFile(f"{path} is empty: 0 bytes.")
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist.") from None
    except OSError as error:
        raise BadFile(f"{path} cannot be read ({error.strerror}). Give a file that you may read.") from None
    try:
        return KINDS[path.suffix](path, name)
    except (AssayError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in any way it likes
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise DamagedFile(f"{path} is no whole {path.suffix} file ({reason}). Write it again.") from error


def _parts(ref: str) -> tuple[Path, str | None]:
    """The file and the name in it. Names may have colons and dots, and so may files that are there."""
    if not Path(ref).exists():
        for at in (i for i, letter in enumerate(ref) if letter == ":"):
            if Path(ref[:at]).suffix in KINDS and ref[at + 1 :]:
                return Path(ref[:at]), ref[at + 1 :]
    return Path(ref), None


def _chosen(path: Path, names: Collection[str], name: str | None, what: str = "array") -> str:
    """The name that is meant: the one that was said, or the only one."""
    if name is not None:
        if name not in names:
            raise UnknownName.among(f"{what} in {path}", name, names)
        return name
    if len(names) != 1:
        some = ", ".join(sorted(names)[:12]) + (", …" if len(names) > 12 else "")
        raise BadInput(f"{path} holds {len(names)} {what}s: {some or 'none'}. Say which: {path}:NAME.")
    return next(iter(names))


def _npy(path: Path, name: str | None) -> Matrix:
    if name is not None:
        raise BadInput(f"{path} holds one array and no names: leave out :{name}.")
    with _numbers_only(path):
        return np.lib.format.open_memmap(path, mode="r")


def _npz(path: Path, name: str | None) -> Matrix:
    if not zipfile.is_zipfile(path):  # numpy would offer to unpickle it
        raise DamagedFile(f"{path} is no whole .npz file. Write it again with numpy.savez.")
    with np.load(path, allow_pickle=False) as file, _numbers_only(path):
        return file[_chosen(path, file.files, name)]


@contextmanager
def _numbers_only(path: Path) -> Iterator[None]:
    """numpy advises to allow pickles; we don't."""
    try:
        yield
    except ValueError as error:
        if "Python objects" in str(error) or "Object arrays" in str(error):
            raise BadInput(f"{path} holds Python objects, not numbers. Write an array of floats.") from None
        raise


def _safetensors(path: Path, name: str | None) -> Matrix:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(_chosen(path, list(file.keys()), name, "tensor"))


def _pt(path: Path, name: str | None) -> Matrix:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles: what can be read is read, and checked
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:  # torch's own message tells people to switch the protection off
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks for {asked[1]}, which" if asked else "is no file of torch.save, or holds more than tensors, and"
        raise BadFile(
            f"{path} {what} could run foreign code: not read. Save the tensor alone, best with safetensors."
        ) from None
    if isinstance(found, Mapping):
        tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
        found = tensors[_chosen(path, tensors, name, "tensor")]
    elif name is not None:
        raise BadInput(f"{path} holds one {type(found).__name__} and no names: leave out :{name}.")
    if not isinstance(found, Tensor) or found.layout is not torch.strided or found.is_quantized:
        kind = f"a {found.layout} tensor" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise BadInput(f"{path} holds {kind}; expected one dense tensor, or a dict of them.")
    return found.detach()


def _parquet(path: Path, name: str | None) -> Matrix:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        names = _columns(path, schema, name)
        lists = _is_list(schema.field(names[0]).type)
        return _stacked(path, (_block(path, batch, lists) for batch in file.iter_batches(columns=names)), rows)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow.types as of

    return of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind)


def _columns(path: Path, schema: pa.Schema, name: str | None) -> list[str]:
    """Names of the columns to read: a column of lists (said, or the only one), or all of them where each holds a number."""
    import pyarrow.types as of

    fields = {field.name: field.type for field in schema}
    if not fields:
        raise BadInput(f"{path} has no columns.")
    lists = [column for column, kind in fields.items() if _is_list(kind) and of.is_floating(kind.value_type)]
    if name is not None or lists:
        return [_chosen(path, lists, name, "column with lists of floating-point number")]
    if other := [f"{column} ({kind})" for column, kind in fields.items() if not of.is_floating(kind)]:
        some = ", ".join(other[:6]) + (", …" if len(other) > 6 else "")
        raise BadInput(
            f"{path} has columns that are not floating-point numbers: {some}. Expected one column of lists of them (a vector a row), "
            "or nothing but columns of them (a number a column)."
        )
    return list(fields)


def _block(path: Path, batch: pa.RecordBatch, lists: bool) -> np.ndarray:
    """Some rows as a matrix."""
    import pyarrow.compute as pc

    columns = batch.columns
    values = [pc.call_function("list_flatten", columns[:1])] if lists else columns
    if any(column.null_count for column in (*columns, *values)):
        raise BadInput(f"{path} has missing values (null). Fill them in or drop those rows first.")
    if not lists:
        return np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1)
    sizes = pc.call_function("list_value_length", columns[:1]).to_numpy(zero_copy_only=False)
    if len(set(sizes.tolist())) > 1:
        raise BadInput(f"{path} has lists of {sizes.min()} to {sizes.max()} numbers; vectors must all be as long.")
    return values[0].to_numpy(zero_copy_only=False).reshape(len(sizes), int(sizes[0]))


def _stacked(path: Path, parts: Any, rows: int) -> np.ndarray:
    """All rows in one matrix, which is made once."""
    out, done = np.empty((0, 0), dtype=np.float32), 0
    for part in parts:
        if not done:
            out = np.empty((rows, part.shape[1]), dtype=part.dtype)
        if part.shape[1] != out.shape[1]:
            raise BadInput(f"{path} has lists of {out.shape[1]} and {part.shape[1]} numbers; vectors must all be as long.")
        out[done : done + len(part)] = part
        done += len(part)
    return out


KINDS: dict[str, Callable[[Path, str | None], Matrix]] = {
    ".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet, ".pt": _pt, ".pth": _pt,
}  # fmt: skip
