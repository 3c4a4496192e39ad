"""native: Assay's own coders: config.json beside weights.safetensors. Never executes what it reads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from assay import codec, coders, registry, store
from assay.coders.base import SparseCoder
from assay.errors import BadInput, DamagedFile, MissingFile, NotFinite


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
    store.write_atomic(directory / "weights.safetensors", save(weights))
    store.write_atomic(directory / "config.json", codec.to_json(config))


def describe(directory: Path) -> dict[str, Any]:
    """config.json of a saved coder, in today's schema."""
    path = directory / "config.json"
    if not path.exists():
        raise MissingFile(f"{directory} holds no coder: config.json is missing.")
    return codec.migrate("coder", codec.read_json(path), path)


def read(directory: Path, *, device: str | torch.device = "cpu") -> SparseCoder[Any]:
    """The coder saved in `directory`, in eval mode. Its hashes are checked where a manifest says them."""
    config, path = describe(directory), directory / "weights.safetensors"
    if (directory / "manifest.json").exists():
        store.verify(directory)
    try:
        coder = coders.new(config["architecture"], seed=config["seed"], **config["config"])
    except KeyError as error:
        raise DamagedFile(f"{directory / 'config.json'} lacks {error}.") from None
    if not path.exists():
        raise MissingFile(f"{path} is missing.")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise DamagedFile(f"{path} is truncated or no safetensors file ({error}).") from None
    own = coder.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        here, there = own.get(name), weights.get(name)
        if here is None or there is None or here.shape != there.shape:
            say = [None if t is None else tuple(t.shape) for t in (there, here)]
            raise DamagedFile(f"{path}: {name} has shape {say[0]}, config.json asks for {say[1]}.")
        if there.is_floating_point() and not torch.isfinite(there).all():
            raise NotFinite(f"{path}: {name} holds NaN or infinity. The coder cannot be used.")
    coder.load_state_dict(weights)
    return coder.to(device).eval()
