"""Opening what commands name: the store, a model, text, and sources of activations."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from assay.cli.flags import Common, Machine, config, short
from assay.cli.output import note
from assay.errors import BadInput, MissingFile
from assay.progress import Progress

if TYPE_CHECKING:
    from assay.activations.base import ActivationSource
    from assay.corpora.pack import PackConfig, Tokens
    from assay.models.base import Site
    from assay.models.hf import HFModel
    from assay.store import Store

HERE = Path("assay-store")
SOURCE = config("cli/source.py", "Source", group="Source")
TEXT = config(
    "corpora/pack.py", "PackConfig", group="Text",
    drop=("layout",), rename={"max_tokens": "corpus_tokens"}, defaults={"split": "train"},
)  # fmt: skip
"""Options of commands that open a source: which one, and how its text is cut."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where vectors to learn from come from: a file, gathered activations, planted features, or a model at work."""

    data: str | None = None
    """A file of vectors [n, d]: .npy, .npz, .safetensors, .parquet, .pt, .pth; FILE:NAME is one array of several in it."""
    predict_data: str | None = None
    """With --data: a file of what is to be predicted from each vector (transcoders)."""
    activations: str | None = None
    """Instead: activations that `assay gather` kept: their key in the store, or their directory."""
    side_by_side: tuple[str, ...] = ()
    """With --activations: what another model made of the same tokens, laid beside it (crosscoders over models)."""
    mix: str | None = None
    """With --activations: others, at a site as wide, some of which are mixed into each batch (fine-tuning without forgetting)."""
    mix_share: float = 0.3
    """Their share."""
    planted: str | None = None
    """Instead: vectors of known features: superposition, tree, toy_model, compiled, circles, composed, synthetic, synthetic-small."""
    model: str | None = None
    """Instead: a model that runs while coders learn: smollm2, a directory, or a hub id such as org/name."""
    model_dtype: str | None = None
    """Number type of the model: bfloat16, float32. Left out: what runs clearly fastest here, else its checkpoint's."""
    corpus: str | None = None
    """With --model: text it reads: demo, a file or folder, hub:org/name. `assay list corpora` names the embedded ones."""
    site: tuple[str, ...] = ()
    """Where to read, e.g. resid_post.10. Several, each with --site before it, are laid side by side (crosscoders)."""
    predict: str | None = None
    """Site to predict from what is read (transcoders). Left out: what is read."""
    end_to_end: Literal["kl", "ce"] | None = None
    """With --model: learn what the model makes of reconstructions: KL from its own predictions, or cross-entropy of the text."""
    buffer_rows: int = 512
    """Rows of text whose vectors are shuffled together, in memory."""
    held_out_share: float = 0.02
    """Share of the vectors, the last ones, that is kept for held-out looks (at most 16,384); 0 is none."""

    def __post_init__(self) -> None:
        given = {f.name for f in fields(self) if getattr(self, f.name) != f.default}
        kinds = [kind for kind in GOES_WITH if kind in given]
        if len(kinds) != 1:
            found = f"; got {' and '.join(map(_flag, kinds))}" if kinds else ""
            raise BadInput(f"Say where vectors come from, by one of --data, --activations, --planted and --model{found}.")
        for name in sorted(given - {kinds[0], *GOES_WITH[kinds[0]]}):
            others = " or ".join(_flag(kind) for kind, names in GOES_WITH.items() if name in names)
            raise BadInput(f"{_flag(name)} goes with {others}, not with {_flag(kinds[0])}. Leave it out.")
        if not 0 < self.mix_share < 1 or (self.mix is None and "mix_share" in given) or (self.mix and self.side_by_side):
            raise BadInput(
                f"--mix-share is a share between 0 and 1 of what --mix names, without --side-by-side; got {self.mix_share:g}."
            )
        if self.model is not None and (self.corpus is None or not self.site):
            raise BadInput("--model also needs --corpus and --site, e.g. --corpus demo --site resid_post.10.")
        if self.end_to_end and (len(self.site) > 1 or self.predict or "buffer_rows" in given):
            raise BadInput(
                "--end-to-end reads one site and gives text in its order: leave out --predict, --buffer-rows, other sites."
            )


GOES_WITH = {
    "data": ("predict_data", "held_out_share"), "planted": (),
    "activations": ("side_by_side", "mix", "mix_share", "site", "predict", "buffer_rows", "held_out_share"),
    "model": ("model_dtype", "corpus", "site", "predict", "end_to_end", "buffer_rows", "held_out_share"),
}  # fmt: skip
"""Kinds of source, and what may be said beside each."""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def open_store(common: Common, *, create: bool = True) -> Store:
    """--store, else ASSAY_STORE (which fills --store), else ./assay-store."""
    from assay.store import Store

    return Store(common.store or HERE, create=create)


def apart(ref: str) -> str:
    """A name as it is; an error where it is several with commas between them."""
    if "," in ref and not Path(ref).exists():
        raise BadInput(f"{ref!r}: several are separated by spaces: {' '.join(ref.split(','))}")
    return ref


def entry(store: Store, kind: str, ref: str) -> Path:
    """Directory of an entry of the store by its name, or of one anywhere by a path with a slash."""
    apart(ref)
    if os.sep not in ref:
        return store.find(kind, ref)
    if not Path(ref).is_dir():
        from assay.releases import references

        if kind == "coders" and (Path(ref).is_file() or references.named(ref)):
            raise BadInput(
                f"{ref} is no entry of the store. First: assay import {shlex.quote(ref)} --name NAME, then that name."
            )
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
    source: Source, text: PackConfig, store: Store, machine: Machine, progress: Progress, seed: int = 0
) -> tuple[ActivationSource, dict[str, Any]]:
    """The source, and what the manifests of its coders should say: model, site, text."""
    from assay.activations import Tensors
    from assay.activations.ground import planted

    if source.data is not None:
        return Tensors.read(source.data, source.predict_data, held_out_share=source.held_out_share), {}
    if source.activations is not None:
        return _several(source, source.activations, store, machine, progress)
    if source.planted is not None:
        return planted(source.planted, seed), {}
    return _at_work(source, str(source.model), str(source.corpus), text, store, machine, progress)


def _several(
    source: Source, ref: str, store: Store, machine: Machine, progress: Progress
) -> tuple[ActivationSource, dict[str, Any]]:
    """Gathered activations, with others mixed in or laid beside them."""
    from assay.activations import Mixed, SideBySide

    first, facts = _gathered(source, ref, store, machine, progress)
    if source.mix:
        other, _ = _gathered(source, source.mix, store, machine, progress)
        return Mixed([(first, 1 - source.mix_share), (other, source.mix_share)]), facts
    if source.side_by_side:
        others = [_gathered(source, other, store, machine, progress)[0] for other in source.side_by_side]
        return SideBySide([first, *others]), {key: value for key, value in facts.items() if key in ("text", "starts_with_bos")}
    return first, facts


def _gathered(
    source: Source, ref: str, store: Store, machine: Machine, progress: Progress
) -> tuple[ActivationSource, dict[str, Any]]:
    from assay.activations import Stored
    from assay.store import read_manifest

    if Path(ref).is_file():
        raise BadInput(f"{ref} is a file: say --data {ref}. --activations takes what `assay gather` kept.")
    path = entry(store, "activations", ref)
    sites, share = list(source.site) or None, source.held_out_share
    device = machine.torch_device()
    stored = Stored(path, sites, source.predict, buffer_rows=source.buffer_rows, held_out_share=share, device=device)
    stored.verify(progress)
    inputs = read_manifest(path)["inputs"]
    model, tokens = inputs["model"], inputs["tokens"]
    facts: dict[str, Any] = {"model": {k: model[k] for k in ("name", "fingerprint")}, "model_dtype": model["dtype"]}
    if store.has("tokens", tokens):
        packing = store.manifest("tokens", tokens)["about"]
        facts |= {"text": {"corpus": packing["corpus"]} | packing["config"], "starts_with_bos": packing["bos"] is not None}
    return stored, facts | _site(stored.read, stored.predict)


def _at_work(
    source: Source, ref: str, corpus: str, text: PackConfig, store: Store, machine: Machine, progress: Progress
) -> tuple[ActivationSource, dict[str, Any]]:
    from assay.activations import EndToEnd, Live

    model = open_model(ref, source.model_dtype or "fastest", machine, progress)
    tokens = open_tokens(corpus, text, model, store, progress)
    facts = {"model": {"name": ref, "fingerprint": model.fingerprint}, "model_dtype": str(model.dtype).removeprefix("torch.")}
    facts |= {"text": {"corpus": corpus} | asdict(text), "starts_with_bos": tokens.packing.bos is not None}
    sites, share = list(source.site), source.held_out_share
    if source.end_to_end:
        ahead = EndToEnd(model, tokens, sites[0], loss=source.end_to_end, held_out_share=share)
        return ahead, facts | _site([ahead.site], None)
    live = Live(model, tokens, sites, source.predict, buffer_rows=source.buffer_rows, held_out_share=share)
    return live, facts | _site(live.read, live.predict)


def _site(read: Sequence[Site], predict: Site | None) -> dict[str, str]:
    """The site of a coder that reads and predicts one."""
    return {"site": str(read[0])} if len(read) == 1 and predict is None else {}


def said_of(model: HFModel) -> str:
    """The number type that a model runs in, and how it was chosen."""
    chosen = f"; measured here: {model.speeds}" if model.speeds else ""
    return f"model: {model.name} in {str(model.dtype).removeprefix('torch.')}{chosen}"


def announce(source: ActivationSource, common: Common) -> None:
    """One line about the data."""
    about = source.describe()
    read, shape, held = ", ".join(about.get("read", ())), about.get("shape", ()), about.get("held_out")
    size = "endless" if source.tokens is None else f"{short(source.tokens)} vectors"
    more = {None: "", 0: ", too few to hold any out"}.get(held, f", {held} held out")
    flat = f" ({' × '.join(map(str, shape))}, each position a vector)" if len(shape) > 2 else ""
    if (model := getattr(source, "model", None)) is not None:
        note(said_of(model), common)
    note(f"source: {about['kind']}{f' at {read}' if read else ''}, d {source.d_in}, {size}{more}{flat}", common)
