"""base: what a dialect is: a module that detects, reads and writes one layout of files.

    detect(path) -> bool                          whether the directory or file is of this layout, by names and a look inside
    read(path, hints) -> Found                    its numbers, and what it says of model, site and text
    write(plain, directory, about, dtype) -> list[str]      files of this layout; what got lost. Where it is missing, the dialect is only read
    TAKES = ("weighed", "sites", "pursuit")       what not every `write` is given: decoder rows that weigh a choice, crosscoders, matching pursuits

Adding one: a file in assay/formats with the first two, or all three.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from assay.errors import AssayError
from assay.formats.plain import Plain
from assay.models.base import Site
from assay.shapes import Float, Tensor

HUB = (
    (r"gpt2-small", "openai-community/gpt2"),
    (r"(gpt2(?:-medium|-large|-xl)?)", r"openai-community/\1"),
    (r"(pythia-.+)", r"EleutherAI/\1"),
    (r"(gemma-.+)", r"google/\1"),
    (r"((?:Llama-|Meta-Llama-).+)", r"meta-llama/\1"),
    (r"(Qwen.+)", r"Qwen/\1"),
    (r"(DeepSeek-.+)", r"deepseek-ai/\1"),
    (r"(Mistral-.+)", r"mistralai/\1"),
)
"""Short names of models, as TransformerLens has them, and their hub ids."""
NO_THRESHOLD = (
    "its file holds no threshold, for its library chooses among a whole batch: all positive pre-activations fire. "
    "`assay surgery recalibrate --l0 {}` finds one"
)
"""A note of BatchTopK coders, with their k."""
HOOKS = {"attn_z": "attn.hook_z", "mlp_in": "mlp.hook_in"}
"""TransformerLens' names of sites that are not hook_KIND."""


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What a file may leave open and a person can say."""

    scale: float | Sequence[float] | None = None
    """Activations times this are what the weights read, where the file says that they were scaled but not by what. A crosscoder may have
    one number a site."""
    k: int | None = None
    """Latents kept a token, where neither file nor path says it."""
    layer: int | None = None
    """Which of the layers that lie in one file."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a dialect's files say."""

    plain: Plain
    scaled: bool = False
    """The scale that a person said is in it already; otherwise whoever called multiplies."""
    files: tuple[Path, ...]
    """All files that were read."""
    dtype: torch.dtype
    """Number type of the weights in the file."""
    version: str | None = None
    """Of the library that wrote it."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Facts for the manifest: see `facts`."""
    notes: tuple[str, ...] = ()
    """What a person should know: what was assumed, what was left out."""


class Dialect(Protocol):
    """The functions of a dialect's module."""

    def detect(self, path: Path) -> bool: ...
    def read(self, path: Path, hints: Hints) -> Found: ...
    def write(self, plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]: ...


def home(path: Path, *names: str) -> Path | None:
    """The directory that holds all of the files `names`, where `path` is it, or one of them."""
    directory = path.parent if path.name in names else path
    return directory if all((directory / name).is_file() for name in names) else None


def hub_id(name: str) -> str:
    """A model's hub id from its short name; other names stay as they are."""
    for pattern, full in HUB:
        if found := re.fullmatch(pattern, name):
            return found.expand(full)
    return name


def site_of(hook: str | None) -> Site | None:
    """The site that a hook or module path of another library is, where it is one of ours."""
    try:
        return Site.parse(hook) if hook else None
    except AssayError:
        return None


def hook_of(site: str) -> str:
    """TransformerLens' name of a site."""
    parsed = Site.parse(site)
    return f"blocks.{parsed.layer}.{HOOKS.get(parsed.kind, f'hook_{parsed.kind}')}"


def resized(norms: Float[Tensor, " d_sae"]) -> list[str]:
    """What gets lost where decoder rows of these lengths are made unit rows: nothing where they are."""
    if torch.allclose(norms, torch.ones_like(norms)):
        return []
    return [
        f"the size of latents: each is multiplied by the length of its decoder row ({float(norms.min()):.3g} to {float(norms.max()):.3g}), which "
        "is 1 then. Reconstructions stay"
    ]


def slice_note(layer: int, layers: int) -> str:
    """What one layer of a cross-layer transcoder is."""
    return (
        f"layer {layer} of a cross-layer transcoder of {layers}: what its latents write to layers {layer} to {layers - 1}, side by side, and the "
        f"bias of layer {layer}. Only with what earlier layers write there is it a prediction"
    )


def facts(
    *,
    model: str | None = None,
    reads: str | None = None,
    predicts: str | None = None,
    context: int | None = None,
    bos: bool | None = None,
    corpus: str | None = None,
) -> dict[str, Any]:
    """Facts for the manifest: model and site as evals look for them, and in the words of the file what these do not hold.

    `reads` and `predicts` are hooks or sites. The text that others trained on is no reference to it here: `said` names it, and evals
    ask for `--corpus`; `packing` tells them how rows were cut.
    """
    site, packing = site_of(reads), {"context": context, "bos": {True: "always", False: "never", None: None}[bos]}
    found: dict[str, Any] = {"model": {"name": hub_id(model)}} if model else {}
    if site and predicts in (None, reads):
        found["site"] = str(site)
    if kept := {name: value for name, value in packing.items() if value is not None}:
        found["packing"] = kept
    said = {"model": model, "reads": reads, "predicts": predicts, "corpus": corpus}
    return found | {"said": {name: value for name, value in said.items() if value is not None}}


def said_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """The converse, for writers, of any manifest's facts: model, site, predicts, corpus, context, and bos: whether rows start with it.

    Each None where not known. bos=auto is what the tokenizer does: training writes down beside it what that was.
    """
    said, text = about.get("said") or {}, about.get("text") or {}
    packing = about.get("packing") or text
    source = about.get("source") or {}
    bos = {"always": True, "never": False}.get(str(packing.get("bos")), about.get("starts_with_bos"))
    reads = about.get("site") or next(iter(source.get("read") or ()), None) or said.get("reads")
    return {
        "model": (about.get("model") or {}).get("name") or said.get("model"),
        "reads": reads, "predicts": source.get("predict") or said.get("predicts"),
        "corpus": said.get("corpus") or text.get("corpus"), "context": packing.get("context"), "bos": bos,
    }  # fmt: skip
