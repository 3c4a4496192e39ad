"""Run files: TOML that says all of a training run: [source], [text], [train], and a [coder.NAME] table for each coder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import codec, registry
from assay.cli import flags, toml
from assay.cli.source import Source
from assay.corpora.pack import PackConfig
from assay.errors import BadInput, UnknownName
from assay.train import TrainConfig

if TYPE_CHECKING:
    from assay.activations.base import ActivationSource
    from assay.coders.base import SparseCoder

NOT_THEIRS = ("d_in", "d_out")
"""Settings of coders that follow from the source."""


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A training run, resolved: every setting has its value."""

    source: Source
    text: PackConfig = field(default_factory=lambda: PackConfig(split="train"))
    train: TrainConfig
    coder: dict[str, dict[str, Any]]
    """architecture, seed and settings of each coder, by name."""


def read(path: Path) -> RunFile:
    """A run file; what is unknown, missing or of the wrong type is named."""
    data = codec.read_toml(path)
    known = [f.name for f in dataclasses.fields(RunFile)]
    for table, content in data.items():
        if table not in known:
            raise UnknownName.among(f"table in {path}", table, known)
        if not isinstance(content, dict):
            raise BadInput(f"{path}: {table} must be a table, written [{table}].")
    if not data.get("coder"):
        raise BadInput(f"{path} names no coder. Add a table such as [coder.mine] with architecture and d_sae.")
    text = {"split": "train"} | data.get("text", {})
    plain = {"source": {}, "train": {}} | data | {"text": text}
    return codec.from_data(RunFile, _numbers(plain), path)


def write(run: RunFile, name: str) -> str:
    """TOML of what made the coder `name`, for `assay train --config`. None is left out: it is the default wherever allowed."""
    tables = {"source": asdict(run.source), "text": asdict(run.text), "train": asdict(run.train)}
    if run.source.activations is not None:
        del tables["text"]
    tables |= {f"coder.{toml.key(other)}": table for other, table in run.coder.items()}
    return toml.text(tables, f"Made {name}. Again: assay train --config THIS-FILE")


def build(run: RunFile, source: ActivationSource, where: str | Path) -> dict[str, SparseCoder[Any]]:
    """The coders of a run, as wide as the source."""
    widths = {"d_in": source.d_in, "d_out": None if source.d_out == source.d_in else source.d_out}
    return {name: _coder(table, widths, run.train.seed, f"{where}: [coder.{name}]") for name, table in run.coder.items()}


def _coder(table: Mapping[str, Any], widths: dict[str, Any], seed: int, where: str) -> SparseCoder[Any]:
    settings = dict(table)
    architecture, seed = settings.pop("architecture", None), settings.pop("seed", seed)
    if not isinstance(architecture, str):
        raise BadInput(f"{where} needs an architecture: one of {', '.join(registry.CODERS)}.")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise BadInput(f"{where}: seed must be a whole number, got {seed!r}.")
    known = {s.name for s in registry.CODERS.settings(architecture)} - set(NOT_THEIRS)
    for name in settings:
        if name not in known:
            raise UnknownName.among(f"setting of {architecture} in {where}", name, {*known, "architecture", "seed"})
    cls = registry.CODERS.load(architecture)
    return cls(codec.from_data(cls.Config, settings | widths, where), seed=seed)


def _numbers(data: Any) -> Any:
    """Large numbers that are written as text ("500M", "16k") as numbers."""
    return {name: _number(name, value) for name, value in data.items()} if isinstance(data, dict) else data


def _number(name: str, value: Any) -> Any:
    mark = flags.large(name)
    if mark is None or not isinstance(value, str):
        return _numbers(value)
    return flags.width(value) if mark is flags.WIDTH else flags.count(value)
