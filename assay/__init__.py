"""Assay: train, measure and use sparse autoencoders on language models.

Everything below is imported when it is first used; `import assay` takes a moment and needs no torch.

    model = assay.model("smollm2")
    tokens = assay.tokenise(assay.corpus("demo"), model.tokenizer, assay.PackConfig(split="train"), store)
    source = assay.Live(model, tokens, "resid_post.10")
    coder = assay.new("topk", d_in=source.d_in, d_sae=4096, k=32)
    for row in assay.train({"mine": coder}, source, assay.TrainConfig(tokens=1_000_000)): ...
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

# torch asks for this at its first large tensor: pages of 2 MB, where Linux has them, make training some 8 % faster on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from assay.activations import Live, Planted, Stored, Tensors, gather
    from assay.baselines import matched as baselines
    from assay.coders import new
    from assay.coders.base import SparseCoder
    from assay.corpora import load as corpus
    from assay.corpora.pack import PackConfig, tokenise
    from assay.evaluate import evaluate
    from assay.features import of as features
    from assay.models import load as model
    from assay.models.base import Site
    from assay.results import load as results
    from assay.splice import splice
    from assay.store import Store
    from assay.sweep import sweep
    from assay.train import TrainConfig, train
    from assay.web.page import page

__all__ = [
    "Live", "PackConfig", "Planted", "Site", "Store", "Stored", "Tensors", "TrainConfig", "baselines", "corpus", "evaluate", "features",
    "gather", "load", "model", "new", "page", "results", "save", "splice", "sweep", "tokenise", "train",
]  # fmt: skip

_PLACES = {
    "new": "coders:new", "model": "models:load", "corpus": "corpora:load", "tokenise": "corpora.pack:tokenise",
    "PackConfig": "corpora.pack:PackConfig", "Site": "models.base:Site", "Store": "store:Store", "TrainConfig": "train:TrainConfig",
    "page": "web.page:page",
} | {name: f"activations:{name}" for name in ("Live", "Planted", "Stored", "Tensors", "gather")}  # fmt: skip
_CALLED = {
    "train": "train",
    "sweep": "sweep",
    "evaluate": "evaluate",
    "features": "of",
    "splice": "splice",
    "results": "load",
    "baselines": "matched",
}
"""Modules that are also functions of the face: `assay.train(…)` calls `assay.train.train`, whoever imported the module before."""


def load(
    ref: str | Path, *, store: str | Path | None = None, device: str | torch.device = "cpu", dialect: str | None = None,
    scale: float | Sequence[float] | None = None, k: int | None = None, layer: int | None = None,
    mirror: str | Path | None = None,
) -> SparseCoder[Any]:  # fmt: skip
    """A saved coder: by its files, of any format; by its name in a store (`store`, else `ASSAY_STORE`, else ./assay-store); or of a
    release on the Hugging Face hub, RELEASE/ID or hf:owner/name/path[@revision].

    The format is found out from the files; `dialect` says it where they leave it open. `scale`: what activations were multiplied by
    in training, `k`: latents kept a token, and `layer`: which one of several in the files, where they leave that open. `mirror` (else
    `ASSAY_MIRROR`): a directory that holds owner/name/…, instead of the hub.
    """
    from assay import formats
    from assay.releases import references

    path = Path(ref)
    if path.exists() and formats.known(path):
        found = references.locate(path)
    else:
        found = references.find(str(ref), store or os.environ.get("ASSAY_STORE") or "assay-store", mirror)
    return formats.load(found.path, dialect, **references.hints(found, dialect, scale=scale, k=k, layer=layer)).to(device)


def save(coder: SparseCoder[Any], path: str | Path) -> Path:
    """Write a coder's config.json and weights.safetensors into a directory."""
    from assay.formats import native

    native.write(coder, Path(path))
    return Path(path)


class _Called(ModuleType):
    """A module that can be called, as the function it is named after."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return getattr(self, _CALLED[self.__name__.rpartition(".")[2]])(*args, **settings)


class _Face(ModuleType):
    """This package: names appear when they are asked for."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CALLED and isinstance(value, ModuleType):  # the import system sets a module when it is imported
            value.__class__ = _Called
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name in _CALLED:
            return importlib.import_module(f"assay.{name}")
        if name not in _PLACES:
            raise AttributeError(f"module 'assay' has no attribute {name!r}")
        place, _, attribute = _PLACES[name].partition(":")
        value = getattr(importlib.import_module(f"assay.{place}"), attribute)
        super().__setattr__(name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*__all__, *vars(self)})


sys.modules[__name__].__class__ = _Face
