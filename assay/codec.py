"""Dataclasses to and from JSON and TOML, strictly: unknown keys are refused, old shapes are migrated, newer ones named.

The only place that uses pydantic. `schema` counts the *shape* of a file; each step from one shape to the next is a function
registered with `@migration(kind, from_schema)`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from assay.errors import BadFile, BadInput, DamagedFile, MissingFile, NewerSchema

T = TypeVar("T")
SCHEMAS = {"store": 1, "manifest": 1, "coder": 1, "record": 1, "checkpoint": 2, "features": 1}
_MIGRATIONS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}


def migration(kind: str, from_schema: int) -> Callable[[Callable[[dict], dict]], Callable[[dict], dict]]:
    """Register the step from `from_schema` to the next for files of `kind`."""

    def register(step: Callable[[dict], dict]) -> Callable[[dict], dict]:
        _MIGRATIONS[kind, from_schema] = step
        return step

    return register


def migrate(kind: str, data: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """`data` brought to today's schema of `kind`; a later schema than ours is refused."""
    now, data = SCHEMAS[kind], dict(data)
    found = data.get("schema")
    if not isinstance(found, int):
        raise DamagedFile(f"{where} says no schema number; expected a {kind} file of schema {now} or older.")
    if found > now:
        raise NewerSchema(
            f"{where} is a {kind} file of schema {found}; this Assay reads up to {now}. Upgrade Assay (pip install -U assay-sae)."
        )
    while data["schema"] < now:
        data = _MIGRATIONS[kind, data["schema"]](data) | {"schema": data["schema"] + 1}
    return data


def strict(cls: type[T]) -> type[T]:
    """A dataclass whose unknown fields are refused. A class that others describe too says so itself, not only once it is read here."""
    if "__pydantic_config__" not in vars(cls):
        cls.__pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="null")  # type: ignore[attr-defined]
    return cls


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    for part in _dataclasses_in(cls):
        strict(part)
    return TypeAdapter(cls)


def _dataclasses_in(cls: Any, seen: set[Any] | None = None) -> set[Any]:
    seen = set() if seen is None else seen
    if dataclasses.is_dataclass(cls) and cls not in seen:
        seen.add(cls)
        for hint in typing.get_type_hints(cls).values():
            _dataclasses_in(hint, seen)
    for part in typing.get_args(cls):
        _dataclasses_in(part, seen)
    return seen


def to_data(value: Any) -> Any:
    """Plain JSON-ready data of a dataclass (or a container of them)."""
    return _adapter(type(value)).dump_python(value, mode="json") if dataclasses.is_dataclass(value) else value


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Canonical JSON text: keys in field order, floats in shortest exact form, no NaN."""
    return json.dumps(to_data(value), indent=indent, ensure_ascii=False, allow_nan=False, default=to_data)


def from_data(cls: type[T], data: Any, where: str | Path = "input") -> T:
    """`cls` built from plain data; a wrong or unknown key says where and what."""
    try:
        return _adapter(cls).validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"]) or "(top)"
        names = [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        known = f" Known keys: {', '.join(names)}." if first["type"] == "unexpected_keyword_argument" else ""
        raise BadInput(f"{where}: {place}: {first['msg']} (got {first.get('input')!r}).{known}") from None


def read_json(path: Path) -> Any:
    """Data of a JSON file; missing and damaged files say so."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is not valid JSON ({error}). Delete it and make it again.") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Data of a TOML file; missing and malformed files say so."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} is not valid TOML: {error}.") from None
