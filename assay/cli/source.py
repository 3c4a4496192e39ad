"""Opening what commands name: the store, a model, text, and sources of activations."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.cli.flags import Common, Machine, short
from assay.cli.output import note
from assay.errors import BadInput, MissingFile
from assay.progress import Progress

if TYPE_CHECKING:
    from assay.activations.base import ActivationSource
    from assay.corpora.pack import PackConfig, Tokens
    from assay.models.hf import HFModel
    from assay.store import Store

HERE = Path("assay-store")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where vectors to learn from come from: gathered activations, or a model at work. The [source] table of a run file."""

    activations: str | None = None
    """Gathered activations (their key in the store, or their directory), or a .npy file of vectors [n, d]."""
    model: str | None = None
    """Instead: a model that runs while coders learn: smollm2, a directory, or a hub id such as org/name."""
    model_dtype: str | None = None
    """Number type of the model: bfloat16, float32. Left out: its checkpoint's."""
    corpus: str | None = None
    """With --model: text it reads: demo, a file or folder, hub:org/name. `assay list corpora` names the embedded ones."""
    site: tuple[str, ...] = ()
    """Where to read, e.g. resid_post.10. Several are laid side by side (crosscoders)."""
    predict: str | None = None
    """Site to predict from what is read (transcoders). Left out: what is read."""
    buffer_rows: int = 512
    """Rows of text whose vectors are shuffled together, in memory."""


def open_store(common: Common, *, create: bool = True) -> Store:
    """--store, else ASSAY_STORE (which fills --store), else ./assay-store."""
    from assay.store import Store

    return Store(common.store or HERE, create=create)


def entry(store: Store, kind: str, ref: str) -> Path:
    """Directory of an entry of the store by its name, or of one anywhere by a path with a slash."""
    if os.sep not in ref:
        return store.find(kind, ref)
    if not Path(ref).is_dir():
        raise MissingFile(f"{ref} is no directory. Give a path, or a name without a slash from {store.root}/{kind}.")
    return Path(ref)


def open_model(ref: str, dtype: str | None, machine: Machine, progress: Progress, *, accept_terms: bool = False) -> HFModel:
    """A model on its device; fetched with progress where it is an embedded one."""
    from assay import models
    from assay.models.embedded import EMBEDDED, directory

    device = machine.torch_device()
    if ref in EMBEDDED:
        directory(ref, accept_terms=accept_terms, progress=progress)
    return models.load(ref, dtype=dtype, device=device, accept_terms=accept_terms)


def open_tokens(corpus: str, text: PackConfig, model: HFModel, store: Store, progress: Progress) -> Tokens:
    """Rows of a corpus for a model, cut anew or taken from the store."""
    from assay import corpora
    from assay.corpora.pack import tokenise

    return tokenise(corpora.load(corpus), model.tokenizer, text, store, progress)


def open_source(
    source: Source, text: PackConfig, store: Store, machine: Machine, progress: Progress
) -> tuple[ActivationSource, dict[str, Any]]:
    """The source, and what the manifests of its coders should say: model, site, text."""
    if (source.activations is None) == (source.model is None):
        raise BadInput("Say where vectors come from: either --activations, or --model with --corpus and --site.")
    if source.activations is not None:
        return _gathered(source, source.activations, store)
    if source.corpus is None or not source.site:
        raise BadInput("--model also needs --corpus and --site, e.g. --corpus demo --site resid_post.10.")
    from assay.activations import Live

    model = open_model(str(source.model), source.model_dtype, machine, progress)
    tokens = open_tokens(source.corpus, text, model, store, progress)
    live = Live(model, tokens, list(source.site), source.predict, buffer_rows=source.buffer_rows)
    facts = {"model": {"name": source.model, "fingerprint": model.fingerprint}, "model_dtype": source.model_dtype}
    return live, facts | {"text": {"corpus": source.corpus} | asdict(text)} | _site(live)


def _gathered(source: Source, ref: str, store: Store) -> tuple[ActivationSource, dict[str, Any]]:
    from assay.activations import Stored, Tensors
    from assay.store import read_manifest

    if ref.endswith(".npy"):
        if source.site or source.predict:
            raise BadInput("A .npy file has no sites: leave out --site and --predict.")
        return Tensors(ref), {}
    path = entry(store, "activations", ref)
    stored = Stored(path, list(source.site) or None, source.predict, buffer_rows=source.buffer_rows)
    inputs = read_manifest(path)["inputs"]
    model, tokens = inputs["model"], inputs["tokens"]
    facts: dict[str, Any] = {"model": {k: model[k] for k in ("name", "fingerprint")}, "model_dtype": model["dtype"]}
    if store.has("tokens", tokens):
        packing = store.manifest("tokens", tokens)["about"]
        facts["text"] = {"corpus": packing["corpus"]} | packing["config"]
    return stored, facts | _site(stored)


def _site(source: Any) -> dict[str, str]:
    """The site of a coder that reads and predicts one."""
    alone = len(source.read) == 1 and source.predict is None
    return {"site": str(source.read[0])} if alone else {}


def announce(source: ActivationSource, common: Common) -> None:
    """One line about the data."""
    about = source.describe()
    read = ", ".join(about.get("read", ()))
    size = "endless" if source.tokens is None else f"{short(source.tokens)} vectors"
    note(f"source: {about['kind']}{f' at {read}' if read else ''}, d {source.d_in}, {size}", common)
