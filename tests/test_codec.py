from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from assay import codec
from assay.errors import BadFile, BadInput, DamagedFile, MissingFile, NewerSchema


@dataclass(frozen=True)
class Inner:
    k: int = 3
    where: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    low: float | None = None


def test_round_trip():
    value = Outer("a", Inner(5, {"k": "1"}), 0.1)
    import json

    assert codec.from_data(Outer, json.loads(codec.to_json(value))) == value


def test_unknown_and_wrong_keys_say_where():
    with pytest.raises(BadInput, match=r"run.toml: inner.kk: .*"):
        codec.from_data(Outer, {"name": "a", "inner": {"kk": 2}}, "run.toml")
    with pytest.raises(BadInput, match=r"inner.k: .*integer"):
        codec.from_data(Outer, {"name": "a", "inner": {"k": "many"}})


def test_no_nan_is_written():
    with pytest.raises(ValueError, match="JSON compliant"):
        codec.to_json({"value": float("nan")})


def test_migrations_run_in_order(monkeypatch):
    monkeypatch.setitem(codec.SCHEMAS, "record", 3)
    monkeypatch.setattr(codec, "_MIGRATIONS", {})
    codec.migration("record", 1)(lambda d: d | {"b": d["a"] + 1})
    codec.migration("record", 2)(lambda d: d | {"c": d["b"] * 10})
    assert codec.migrate("record", {"schema": 1, "a": 1}, "file") == {"schema": 3, "a": 1, "b": 2, "c": 20}


def test_newer_schema_is_refused():
    with pytest.raises(NewerSchema, match=r"schema 99.*Upgrade Assay"):
        codec.migrate("record", {"schema": 99}, "r.json")
    with pytest.raises(DamagedFile, match="no schema number"):
        codec.migrate("record", {}, "r.json")


def test_bad_files(tmp_path):
    with pytest.raises(MissingFile, match="does not exist"):
        codec.read_json(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(DamagedFile, match="not valid JSON"):
        codec.read_json(tmp_path / "cut.json")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(BadFile, match="not valid TOML"):
        codec.read_toml(tmp_path / "bad.toml")
