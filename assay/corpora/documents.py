"""Documents out of files: .txt, .md, .jsonl, .json, .csv, .tsv, .parquet, each also as .gz or .zst.

A .txt or .md file is one document, unless a `separator` divides it. In the others a document is a row: the column `text`, else
the first that holds text in the first row. .tsv is read without quoting (a quotation mark is a character), .csv strictly with it.
Blank texts are passed over. Everything but .txt, .md and .json, which are read whole, is streamed.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from assay.errors import AssayError, BadInput, DamagedFile, MissingFile, Unavailable

SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}

Row = tuple[str, Any]
"""A text, and the value of the label column (None where none was asked for)."""


def kind(path: Path) -> str | None:
    """Which of `SUFFIXES` a file is, compressed or not; None when it is none."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower() if name.suffix.lower() in SUFFIXES else None


def files(path: Path) -> list[Path]:
    """The file itself, or all readable files below a folder in the order of their names; hidden ones are left out."""
    if not path.exists():
        hint = f" For a dataset on the Hugging Face hub write hub:{path}." if len(path.parts) == 2 else ""
        raise MissingFile(f"{path} does not exist. Give a text file or a folder of text files.{hint}")
    if path.is_file():
        if kind(path) is None:
            raise BadInput(f"{path} is of no kind that can be read. Known: {', '.join(SUFFIXES)}, each also with .gz or .zst.")
        return [path]
    inside = ((p, p.relative_to(path)) for p in path.rglob("*") if p.is_file() and kind(p))
    found = sorted(((r.as_posix(), p) for p, r in inside if not any(part.startswith(".") for part in r.parts)))
    if not found:
        raise BadInput(f"The folder {path} holds no text files. Known: {', '.join(SUFFIXES)}, each also with .gz or .zst.")
    return [p for _, p in found]


def rows(
    path: Path, column: str | None = None, label: str | None = None, *, separator: str | None = None, encoding: str = "utf-8"
) -> Iterator[Row]:
    """(text, label) of each document of one file, in order. Raises DamagedFile and BadInput with file and line."""
    which = kind(path)
    with _reading(path, encoding):
        if which == ".parquet":
            found = _parquet(path, column, label)
        elif which in (".txt", ".md"):
            found = _plain(path, label, separator, encoding)
        elif which in (".json", ".jsonl"):
            found = _json(path, column, label, encoding, lines=which == ".jsonl")
        else:
            found = _table(path, column, label, encoding, tabs=which == ".tsv")
        for text, value in found:
            if text and not text.isspace():
                yield text, value


# --- opening ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _reading(path: Path, encoding: str) -> Iterator[None]:
    """What goes wrong while reading, said in terms of the file."""
    try:
        yield
    except AssayError:
        raise
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist.") from None
    except PermissionError:
        raise Unavailable(f"{path} may not be read: permission is denied. Change its permissions.") from None
    except UnicodeDecodeError as error:
        raise DamagedFile(_not_decoded(path, encoding) or f"{path}: {error}.") from None
    except (OSError, csv.Error) as error:  # a truncated or damaged compressed file is an OSError without a number
        raise DamagedFile(f"{path} cannot be read: {error}. Get the file again, or leave it out.") from None


def _bytes(path: Path) -> Any:
    import pyarrow

    return pyarrow.input_stream(str(path), compression=COMPRESSED.get(path.suffix.lower()))


def _text(path: Path, encoding: str, newline: str | None = None) -> io.TextIOWrapper:
    encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding  # a byte order mark is no text
    return io.TextIOWrapper(_bytes(path), encoding=encoding, newline=newline)


def _not_decoded(path: Path, encoding: str) -> str | None:
    """Where the file stops being text of its encoding; found by reading it again."""
    decoder = codecs.getincrementaldecoder(encoding)()
    start = 0
    with _bytes(path) as handle:
        while True:
            chunk = handle.read(1 << 20)
            kept = decoder.getstate()[0]
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                at, byte = start - len(kept) + error.start, error.object[error.start]
                after = " (after decompression)" if path.suffix.lower() in COMPRESSED else ""
                return (
                    f"{path} is not {encoding}: byte 0x{byte:02x} at offset {at}{after}. Convert it "
                    f"(iconv -f windows-1252 -t utf-8 is often right), or say its encoding (encoding='windows-1252')."
                )
            if not chunk:
                return None
            start += len(chunk)


# --- formats ---------------------------------------------------------------------------------------------------------------


def _plain(path: Path, label: str | None, separator: str | None, encoding: str) -> Iterator[Row]:
    if label is not None:
        raise BadInput(f"{path} is plain text and has no column {label!r}. Labels need .csv, .tsv, .jsonl, .json or .parquet.")
    with _text(path, encoding) as handle:
        if separator is None:
            yield handle.read(), None
            return
        rest = ""
        while chunk := handle.read(1 << 20):
            *whole, rest = (rest + chunk).split(separator)
            yield from ((text.strip("\n"), None) for text in whole)
        yield rest.strip("\n"), None


def _json(path: Path, column: str | None, label: str | None, encoding: str, *, lines: bool) -> Iterator[Row]:
    with _text(path, encoding) as handle:
        for place, record in _json_lines(path, handle) if lines else _json_array(path, handle):
            if isinstance(record, str) and column is None and label is None:
                text, value = record, None
            elif not isinstance(record, dict):
                raise BadInput(f"{place} holds {type(record).__name__}, expected an object with a column of text, or a string.")
            else:
                column = column or _choose(place, record)
                text, value = _pick(place, record, column, label)
            if text is not None and not text.isascii():
                _whole_characters(place, text)
            yield text or "", value


def _json_lines(path: Path, handle: IO[str]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(handle, 1):
        if line.isspace():
            continue
        try:
            yield f"{path}, line {number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise DamagedFile(
                f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno}). Mend or remove it."
            ) from None


def _json_array(path: Path, handle: IO[str]) -> Iterator[tuple[str, Any]]:
    try:
        data = json.load(handle)
    except json.JSONDecodeError as error:
        more = " One object a line is .jsonl: rename it." if error.msg == "Extra data" else ""
        raise DamagedFile(f"{path}, line {error.lineno}: not valid JSON ({error.msg}, column {error.colno}).{more}") from None
    if not isinstance(data, list):
        raise BadInput(f"{path} holds one {type(data).__name__}, expected an array of objects or strings.")
    yield from ((f"{path}, element {number}", record) for number, record in enumerate(data, 1))


def _whole_characters(place: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise DamagedFile(
            f"{place}: the text holds half a character ({half}, a lone surrogate). Mend or remove the line."
        ) from None


def _table(path: Path, column: str | None, label: str | None, encoding: str, *, tabs: bool) -> Iterator[Row]:
    csv.field_size_limit((1 << 31) - 1)  # the default refuses documents of more than 128 kB
    with _text(path, encoding, newline="") as handle:
        reader = csv.DictReader(
            handle, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL, strict=True
        )
        for record in reader:
            place = f"{path}, line {reader.line_num}"
            if None in record or None in record.values():
                raise DamagedFile(
                    f"{place}: the row has not the {len(reader.fieldnames or ())} columns of the header. Mend its quoting."
                )
            column = column or _choose(place, record)
            text, value = _pick(place, record, column, label)
            yield text or "", value


def _parquet(path: Path, column: str | None, label: str | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    with tempfile.TemporaryFile() as spool:
        source: Any = str(path)
        if path.suffix.lower() in COMPRESSED:  # Parquet is read from its end, so it must be unpacked first
            with _bytes(path) as packed:
                shutil.copyfileobj(packed, spool)
            source = spool
        try:
            table = pyarrow.parquet.ParquetFile(source)
            schema = table.schema_arrow
            example = {f.name: "a" if "string" in str(f.type) and not f.type.num_fields else None for f in schema}
            column = column or _choose(str(path), example)
            _pick(str(path), example, column, label)
            for batch in table.iter_batches(batch_size=1024, columns=[column] if label is None else [column, label]):
                for record in batch.to_pylist():
                    text, value = _pick(str(path), record, column, label)
                    yield text or "", value
        except pyarrow.ArrowInvalid as error:
            raise DamagedFile(f"{path} is not a whole Parquet file: {error}. Get the file again, or leave it out.") from None


def _choose(place: str, record: dict[str, Any]) -> str:
    """The text column of a first record: `text`, else the first that holds text and not a number."""
    if "text" in record:
        return "text"
    for name, value in record.items():
        if isinstance(value, str) and not is_number(value):
            return name
    raise BadInput(f"{place} has no column of text. Its columns: {', '.join(record)}. Name one with column=….")


def _pick(place: str, record: dict[str, Any], column: str, label: str | None) -> tuple[str | None, Any]:
    for wanted in (column, label):
        if wanted is not None and wanted not in record:
            raise BadInput(f"{place} has no column {wanted!r}. Its columns: {', '.join(record)}.")
    text = record[column]
    if text is not None and not isinstance(text, str):
        raise BadInput(f"{place}: column {column!r} holds {type(text).__name__}, expected text. Name another with column=….")
    return text, None if label is None else record[label]


def is_number(text: str) -> bool:
    """Whether a string is the decimal form of a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
