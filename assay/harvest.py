"""harvest: one pass over a text that collects, for all latents of all coders at once, what people look at: see `features`.

The model runs once a row, up to the deepest site; codes are counted as they come and never kept. Every half minute the collectors'
state is saved, so that a killed harvest goes on from there and ends in the same bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from assay import codec, provenance
from assay.activations.forward import read_rows, row_counts
from assay.coders.base import SparseCoder
from assay.corpora.pack import Tokens
from assay.errors import BadInput, MissingFile, WidthMismatch
from assay.features import directions, layout, summary
from assay.features.collector import Collector, Shape
from assay.features.stretch import Codes, Stretch
from assay.formats import native
from assay.models.base import Model, Site
from assay.progress import Progress, silent
from assay.shapes import Float, Tensor
from assay.splice import coder_hash, home, inference
from assay.store import Draft, Store, sync, weights_hash, write_atomic

VERSION = 1  # counts the meaning of the numbers
BLOCK = 2**13  # tokens of one run of the model
PIECE = 1024  # vectors encoded at once
WAITING = 2**16  # tokens whose codes are collected at once
CODES = 2**22  # and so many activations, in whole rows
WRITES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""Kinds of site in the space that the model's head reads."""
Again = Literal["never", "missing", "always"]


@dataclass(frozen=True)
class Place:
    """Where a coder belongs."""

    read: tuple[Site, ...]
    """Sites that it reads, side by side."""
    write: Site | None
    """The site that it stands for or predicts; None where it predicts several."""

    @classmethod
    def at(cls, site: Site | str) -> Place:
        """Of a coder that reads and predicts one site."""
        return cls((Site.parse(site),), Site.parse(site))

    @classmethod
    def of(cls, name: str, about: Mapping[str, Any]) -> Place:
        """As the manifest of the coder `name` says."""
        source = about.get("source") or {}
        if site := about.get("site"):
            return cls.at(site)
        if read := source.get("read"):
            sites, predicted = tuple(Site.parse(s) for s in read), source.get("predict")
            alone = sites[0] if len(sites) == 1 else None
            return cls(sites, alone if predicted is None else Site.parse(predicted))
        raise BadInput(f"{name}: its manifest does not say which site it is for. Say --site.")


@dataclass
class _Job:
    """One coder's part of the work."""

    name: str
    coder: SparseCoder[Any]
    place: Place
    inputs: dict[str, Any]
    draft: Draft
    collector: Collector
    done: int = 0
    """Rows that are in the collector or wait for it."""

    def __post_init__(self) -> None:
        self.waiting: list[tuple[Stretch, Codes]] = []

    @property
    def state(self) -> Path:
        return self.draft.path / ".state.npz"

    def resume(self) -> None:
        """Go on from a state that was saved under the same plan, else from nothing."""
        plan, mark = codec.to_json({"inputs": self.inputs, "versions": provenance.versions()}), self.draft.path / ".plan.json"
        if not mark.exists() or mark.read_text(encoding="utf-8") != plan:
            for file in self.draft.path.iterdir():
                file.unlink()
            write_atomic(mark, plan)
        if self.state.exists():
            with np.load(self.state, allow_pickle=False) as kept:
                self.collector.restore(kept)
                self.done = int(kept["rows done"])

    def add(self, stretch: Stretch, codes: Codes, upto: int) -> None:
        self.waiting.append((stretch, codes))
        self.done = upto
        if sum(len(s) for s, _ in self.waiting) >= WAITING or sum(len(c.values) for _, c in self.waiting) >= CODES:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            stretches, codes = zip(*self.waiting)
            whole, all_ = Stretch.joined(list(stretches)), Codes.joined(list(codes))
            starts = np.flatnonzero(np.diff(whole.row, prepend=-1))  # of rows
            share = all_.offsets[starts] // CODES
            cuts = [*starts[np.flatnonzero(np.diff(share, prepend=-1))].tolist(), len(whole)]
            for start, stop in pairwise(cuts):
                places = np.arange(start, stop)
                self.collector.add(whole.take(places), all_.take(places))
            self.waiting = []

    def save(self) -> None:
        """The state, whole or not at all."""
        self.flush()
        part = self.state.with_name(".state.part.npz")
        state: dict[str, Any] = self.collector.state() | {"rows done": np.array(self.done)}
        np.savez(part, **state)
        sync(part)
        os.replace(part, self.state)


def harvest(
    coders: Mapping[str, SparseCoder[Any]],
    model: Model,
    text: Tokens,
    places: Mapping[str, Place],
    *,
    store: Store,
    hashes: Mapping[str, str] | None = None,
    again: Again = "missing",
    umap: bool = False,
    shape: Shape | None = None,
    save_seconds: float = 30.0,
    progress: Progress = silent,
) -> dict[str, Path]:
    """The entry of each coder in the store (`features/NAME.KEY-OF-THE-TEXT`), made where it is missing.

    `text`: token rows that lie in this store; all of them are read. `places`: sites of each coder. `again`: "missing" makes what was not
    made from this very coder, model and text; "always" makes everything anew; "never" is content with any entry of that name. Latents are
    the coder's own, in eval mode. An interrupted call goes on where its state was last saved. Raises `WidthMismatch` before anything runs.
    """
    if not store.has("tokens", text.fingerprint):
        raise MissingFile(
            f"The text {text.fingerprint} does not lie in {store.root}, and examples point into it. Use `tokenise`."
        )
    for name, coder in coders.items():
        _check_fit(name, coder, model, places[name])
    shape, found = shape or Shape(), {name: store.path("features", f"{name}.{text.fingerprint}") for name in coders}
    with provenance.stopwatch() as seconds, ExitStack() as locks:
        jobs = []
        for name, coder in coders.items():
            inputs = _inputs(coder, (hashes or {}).get(name), model, text, places[name], shape, umap)
            if again != "always" and store.has("features", found[name].name):
                if again == "never" or store.manifest("features", found[name].name)["inputs"] == inputs:
                    continue
            draft = locks.enter_context(store.draft("features", found[name].name))
            jobs.append(_Job(name, coder, places[name], inputs, draft, Collector(coder.d_sae, shape)))
            jobs[-1].resume()
        _collect(jobs, model, text, save_seconds, progress)
        for job in jobs:
            _finish(job, model, text, store, umap, seconds, progress)
    return found


def _check_fit(name: str, coder: SparseCoder[Any], model: Model, place: Place) -> None:
    width = sum(model.d(site) for site in place.read)
    if coder.d_in != width:
        sites = ", ".join(map(str, place.read))
        raise WidthMismatch(
            f"{name} reads vectors of width {coder.d_in}, but {sites} of {model.name} has width {width}. "
            "Is it the site and model the coder was trained on?"
        )
    if coder.layout != "token":
        raise BadInput(f"{name} reads whole sequences; only coders of single tokens can be harvested.")


def _inputs(
    coder: SparseCoder[Any], hash_: str | None, model: Model, text: Tokens, place: Place, shape: Shape, umap: bool
) -> dict[str, Any]:
    """All that decides the entry's contents."""
    return {
        "coder": hash_ or coder_hash(coder), "tokens": text.fingerprint, "model": model.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."), "read": [str(site) for site in place.read],
        "write": None if place.write is None else str(place.write), "shape": asdict(shape), "umap": umap, "version": VERSION,
    }  # fmt: skip


@torch.no_grad()
def _collect(jobs: Sequence[_Job], model: Model, text: Tokens, save_seconds: float, progress: Progress) -> None:
    """Run the model over the rows that some job has not seen yet."""
    counts = row_counts(text)
    step = max(1, BLOCK // text.tokens.shape[1])
    sites = list(dict.fromkeys(site for job in jobs for site in job.place.read))
    begin, total, saved, took = min((job.done for job in jobs), default=len(counts)), int(counts.sum()), time.monotonic(), 0.0
    for start in range(begin, len(counts), step):
        rows = np.arange(start, min(start + step, len(counts)))
        stop = int(rows[-1]) + 1
        stretch = Stretch.of(text, rows)
        if len(stretch):
            vectors = dict(zip(sites, read_rows(model, text, rows, sites, batch_rows=16, dtype=torch.float32)))
            for job in jobs:
                if job.done <= start:
                    x = torch.cat([vectors[site] for site in job.place.read], dim=1)
                    job.add(stretch, _codes(job.coder, x), stop)
        if time.monotonic() - saved > max(save_seconds, 10 * took) and stop < len(counts):
            begun = time.monotonic()
            for job in jobs:
                job.save()
            saved = time.monotonic()
            took = saved - begun
        progress(int(counts[:stop].sum()), total, "tokens")
    for job in jobs:
        job.flush()


def _codes(coder: SparseCoder[Any], x: Float[Tensor, "n d_in"]) -> Codes:
    """What is not 0 of the codes of some vectors."""
    with inference(coder):
        parts = [_sparse(coder, part) for part in x.to(home(coder, x.device)).split(PIECE)]
    return Codes.joined(parts)


def _sparse(coder: SparseCoder[Any], x: Tensor) -> Codes:
    latents = coder.encode(x).latents
    if latents.indices is not None and latents.offsets is not None:
        found = latents.values, latents.indices, latents.offsets
    else:
        rows, columns = latents.values.nonzero(as_tuple=True)
        sizes = torch.bincount(rows, minlength=len(x))
        found = latents.values[rows, columns], columns, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    values, indices, offsets = (part.detach().cpu() for part in found)
    return Codes.of(values.float().numpy(), indices.numpy(), offsets.numpy(), coder.d_sae)


def _finish(job: _Job, model: Model, text: Tokens, store: Store, umap: bool, seconds: Any, progress: Progress) -> None:
    """From the collector's state to a finished entry."""

    def stage(done: int, total: int | None, unit: str) -> None:
        progress(done, total, f"{unit}, {job.name}")

    head = getattr(model, "unembed", None) if _reads_head(job, model) else None
    columns = directions.of(job.coder, head, getattr(model, "vocabulary", 0), umap=umap, progress=stage)
    nearest = np.ma.filled(np.ma.asarray(columns["nearest"]), -1).astype(np.int64)
    own, examples = summary.of(job.collector, np.asarray(text.tokens).reshape(-1), nearest, stage)
    layout.write_features(job.draft.path, columns | own)
    layout.write_examples(job.draft.path, examples, job.coder.d_sae)
    sampled, _ = job.collector.sample.whole()
    about = {
        "schema": codec.SCHEMAS["features"], "coder": job.name, "architecture": native.architecture_of(job.coder),
        "d_sae": job.coder.d_sae, "tokens": job.collector.tokens, "sampled_tokens": len(sampled),
        "model": {"name": model.name, "fingerprint": model.fingerprint}, "site": job.inputs["write"],
        "text": {"corpus": text.packing.corpus, "rows": len(text), "tokenizer": text.packing.tokenizer} | asdict(text.config),
        "shape": job.inputs["shape"], "histogram_edges": summary.histogram_edges(job.collector), "logits": head is not None,
        "weights": _stored(job, store),
    }  # fmt: skip
    device = str(home(job.coder))
    job.draft.finish(inputs=job.inputs, about=about, made=provenance.made(device=device, seconds=seconds()))


def _stored(job: _Job, store: Store) -> str | None:
    """Identity of the store's coder of this name, where it is the one that was harvested: a later one of the name is told apart by it."""
    if not store.has("coders", job.name):
        return None
    there = store.find("coders", job.name)
    return weights_hash(there) if coder_hash(native.read(there)) == job.inputs["coder"] else None


def _reads_head(job: _Job, model: Model) -> bool:
    """Whether decoder rows lie in the space that the model's head reads."""
    write = job.place.write
    return write is not None and write.kind in WRITES and job.coder.d_out == model.d(write) and hasattr(model, "unembed")
