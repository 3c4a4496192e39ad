"""Run files: TOML that says all of a training run: [source], [text], [train], and a [coder.NAME] table for each coder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import codec, coders, recipes, registry
from assay.budget import check_size
from assay.cli import flags, toml
from assay.cli.source import Source, entry
from assay.corpora.pack import PackConfig
from assay.errors import BadInput, UnknownName
from assay.training.config import STREAM, TrainConfig

if TYPE_CHECKING:
    from assay.activations.base import ActivationSource
    from assay.coders.base import SparseCoder
    from assay.store import Store

NOT_THEIRS = ("d_in", "d_out")
"""Settings of coders that follow from the source."""


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A training run, resolved: every setting has its value."""

    source: Source
    text: PackConfig = field(default_factory=lambda: PackConfig(split="train"))
    train: TrainConfig
    coder: dict[str, dict[str, Any]]
    """By name: architecture, seed, settings; `recipe` (a published trainer's settings where none are given), `init` (a coder of
    the store to go on from), and a table `train` of training settings that are this coder's own."""


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
    if run.source.model is None:
        del tables["text"]
    for other, table in run.coder.items():
        tables[f"coder.{toml.key(other)}"] = {k: v for k, v in table.items() if k != "train"}
        tables |= {f"coder.{toml.key(other)}.train": table["train"]} if table.get("train") else {}
    return toml.text(tables, f"Made {name}. Again: assay train --config THIS-FILE")


@dataclass(frozen=True)
class Plan:
    """A run file with everything filled in: coders, what their training shares, and what some have for themselves."""

    coders: dict[str, SparseCoder[Any]]
    train: TrainConfig
    each: dict[str, TrainConfig]


def build(run: RunFile, source: ActivationSource, store: Store, where: str | Path) -> Plan:
    """The coders of a run, as wide as the source, and their training."""
    made = {name: _made(table, source, run.train, store, f"{where}: [coder.{name}]") for name, table in run.coder.items()}
    own = {name: cfg for name, (_, cfg) in made.items()}
    shared = [{field: getattr(cfg, field) for field in STREAM} for cfg in own.values()]
    train = dataclasses.replace(run.train, **shared[0]) if all(s == shared[0] for s in shared) else run.train
    return Plan({n: coder for n, (coder, _) in made.items()}, train, {n: cfg for n, cfg in own.items() if cfg != train})


def _made(
    table: Mapping[str, Any], source: ActivationSource, train: TrainConfig, store: Store, where: str
) -> tuple[SparseCoder[Any], TrainConfig]:
    """A coder and its training: by what the table says, else by its recipe, else by the run."""
    settings = dict(table)
    said = {name: settings.pop(name, None) for name in ("architecture", "seed", "recipe", "init", "train")}
    known = [f.name for f in dataclasses.fields(TrainConfig)]
    for name, kind in (("train", dict), ("recipe", str), ("init", str)):
        if not isinstance(said[name], kind | None):
            raise BadInput(f"{where}: {name} must be a {'table' if kind is dict else 'name'}, got {said[name]!r}.")
    for name in said["train"] or {}:
        if name not in known:
            raise UnknownName.among(f"training setting in {where}", name, known)
    if said["init"] is not None:
        return _begun(said, settings, train, store, where)
    architecture, seed = said["architecture"], train.seed if said["seed"] is None else said["seed"]
    if not isinstance(architecture, str):
        raise BadInput(f"{where} needs an architecture: one of {', '.join(registry.CODERS)}.")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise BadInput(f"{where}: seed must be a whole number, got {seed!r}.")
    names = {s.name for s in registry.CODERS.settings(architecture)} - set(NOT_THEIRS)
    for name in settings:
        if name not in names:
            raise UnknownName.among(f"setting of {architecture} in {where}", name, {*names, *said})
    settings |= {"d_in": source.d_in, "d_out": None if source.d_out == source.d_in else source.d_out}
    how = asdict(train) | (said["train"] or {})
    if said["recipe"] is not None:
        if "d_sae" not in settings:
            raise BadInput(f"{where} needs d_sae, the number of latents.")
        sizes = {"tokens": train.tokens, "batch": train.batch}
        by, of_train = recipes.recipe(said["recipe"], architecture, **(sizes | settings | (said["train"] or {})))
        decided = coders.EXACT if how["l0"] is not None else ()
        settings, how = {k: v for k, v in by.items() if k not in decided} | settings, asdict(train) | of_train
    cfg = codec.from_data(TrainConfig, how, f"{where}: train")
    settings = coders.with_l0(architecture, settings, cfg.l0) if cfg.l0 is not None else settings
    cls = registry.CODERS.load(architecture)
    config = codec.from_data(cls.Config, settings, where)
    check_size((config.d_in + (config.d_out or config.d_in)) * config.d_sae, cfg.batch, config.d_sae)
    try:
        return cls(config, seed=seed), cfg
    except BadInput as error:
        by = f" (recipe {said['recipe']})" if said["recipe"] else ""
        raise type(error)(f"{where}{by}: {error}") from None


def _begun(
    said: Mapping[str, Any], settings: Mapping[str, Any], train: TrainConfig, store: Store, where: str
) -> tuple[SparseCoder[Any], TrainConfig]:
    """Fine-tuning: a coder that is there already."""
    from assay.formats import native

    coder = native.read(entry(store, "coders", str(said["init"])))
    there = {"architecture": native.architecture_of(coder), **asdict(coder.config)}
    for name, value in ({"architecture": said["architecture"]} | dict(settings)).items():
        if value is not None and there.get(name) != (tuple(value) if isinstance(value, list) else value):
            raise BadInput(f"{where}: init={said['init']} has {name}={there.get(name)!r}; leave {name} out, or start afresh.")
    if said["recipe"] is not None:
        raise BadInput(f"{where}: a recipe is for a fresh start; leave it out, or leave init out.")
    how = asdict(train) | (said["train"] or {}) | {"fine_tune": True}
    return coder, codec.from_data(TrainConfig, how, f"{where}: train")


def _numbers(data: Any) -> Any:
    """Large numbers that are written as text ("500M", "16k") as numbers."""
    return {name: _number(name, value) for name, value in data.items()} if isinstance(data, dict) else data


def _number(name: str, value: Any) -> Any:
    mark = flags.large(name)
    if mark is None or not isinstance(value, str):
        return _numbers(value)
    return flags.width(value) if mark is flags.WIDTH else flags.count(value)
