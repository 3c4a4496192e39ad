"""native: Assay's own coders: config.json beside weights.safetensors. Never executes what it reads.

They come from strangers too, so nothing is taken on trust: settings are checked by type, the coder is built without memory, and only
where the weights file has tensors of just its shapes is any taken.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from assay import codec, registry, store
from assay.coders.base import SparseCoder
from assay.errors import BadInput, DamagedFile, MissingFile, NotFinite, UnknownName
from assay.formats.files import Facts, damage, finite, json_of, opened
from assay.shapes import Tensor

CONFIG, WEIGHTS, MANIFEST = "config.json", "weights.safetensors", "manifest.json"
LONG = 600  # characters of a message that may repeat what a stranger wrote
ABOUT = {"model": dict, "site": str, "text": dict, "packing": dict, "said": dict, "source": dict, "imported": dict}
"""What facts of a coder must be where they are there."""


def architecture_of(coder: SparseCoder[Any]) -> str:
    """The registry key of a coder's class."""
    key = type(coder).__module__.rsplit(".", 1)[-1]
    if key in registry.CODERS and registry.CODERS.load(key) is type(coder):
        return key
    for other in registry.CODERS:
        if registry.CODERS.load(other) is type(coder):
            return other
    raise BadInput(f"{type(coder).__name__} is in no registry; add it to assay.coders or an entry point of that name.")


def write(coder: SparseCoder[Any], directory: Path, about: dict[str, Any] | None = None) -> None:
    """Write config.json and weights.safetensors into `directory`. `about` says model, site, … and is given back by `describe`."""
    config = {
        "schema": codec.SCHEMAS["coder"], "architecture": architecture_of(coder),
        "config": asdict(coder.config), "seed": coder.seed, "about": about or {},
    }  # fmt: skip
    weights = {k: v.detach().cpu().contiguous() for k, v in coder.state_dict().items()}
    store.write_atomic(directory / WEIGHTS, save(weights))
    store.write_atomic(directory / CONFIG, codec.to_json(config))


def describe(directory: Path) -> dict[str, Any]:
    """config.json of a saved coder, in today's schema."""
    path = directory / CONFIG
    if not path.exists():
        raise MissingFile(f"{directory} holds no coder: {CONFIG} is missing.")
    with damage(path):
        said = Facts(path, codec.migrate("coder", json_of(path), path))
    said.word("architecture")
    said.whole("seed")
    if not isinstance(said.data.get("config"), dict):
        raise DamagedFile(f"{path} says no config; an object was expected.")
    return said.data | {"about": _checked(said.data.get("about", {}), path)}


def about(directory: Path) -> dict[str, Any]:
    """What is known of a saved coder: model, site, …, from its manifest where there is one."""
    path = directory / MANIFEST
    if not path.exists():
        return describe(directory)["about"]
    with damage(path):
        return _checked(codec.migrate("manifest", json_of(path), path)["about"], path)


def _checked(facts: Any, path: Path) -> dict[str, Any]:
    if not isinstance(facts, dict):
        raise DamagedFile(f"{path}: about must be an object, got a {type(facts).__name__}.")
    for name, kind in ABOUT.items():
        if not isinstance(facts.get(name), kind | None):
            raise DamagedFile(f"{path}: {name} of about must be a {kind.__name__}, got a {type(facts[name]).__name__}.")
    return facts


def read(directory: Path, *, device: str | torch.device = "cpu") -> SparseCoder[Any]:
    """The coder saved in `directory`, in eval mode. Its hashes are checked where a manifest says them."""
    coder, path = _unfilled(directory), directory / WEIGHTS
    if not path.exists():
        raise MissingFile(f"{path} is missing.")
    with damage(directory / MANIFEST):
        for name in (CONFIG, WEIGHTS) if (directory / MANIFEST).exists() else ():
            store.verify(directory, only=name)
    with damage(path), opened(path) as weights:
        there = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        _compare({name: tuple(value.shape) for name, value in coder.state_dict().items()}, there, path)
        coder.to_empty(device=device)
        for name, place in coder.state_dict().items():
            _put(weights.get_tensor(name), place, f"{path}: {name}")
    return coder.eval()


def _unfilled(directory: Path) -> SparseCoder[Any]:
    """The coder that config.json asks for, without memory: its tensors have shapes alone."""
    config, path = describe(directory), directory / CONFIG
    try:
        cls = registry.CODERS.load(config["architecture"])
        with damage(path), torch.device("meta"):
            return cls(codec.from_data(cls.Config, config["config"], "config"), seed=int(config["seed"]))
    except (BadInput, UnknownName) as error:
        if isinstance(error, UnknownName) and len(str(error)) < LONG:
            raise  # it names the closest
        raise DamagedFile(f"{path}: {str(error)[:LONG]}") from None


def _compare(here: dict[str, tuple[int, ...]], there: dict[str, tuple[int, ...]], path: Path) -> None:
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise DamagedFile(f"{path}: {name[:60]} has shape {there.get(name)}, {CONFIG} asks for {here.get(name)}.")


def _put(value: Tensor, place: Tensor, what: str) -> None:
    if not finite(value):
        raise NotFinite(f"{what} holds NaN or infinity. The coder cannot be used.")
    place.copy_(value)
