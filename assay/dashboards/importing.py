"""importing: a bulk export of Neuronpedia into a store: the latents' numbers, examples and explanations, as `assay serve` shows them.

The weights are not in such an export. It is laid beside a coder of the store, or stands alone under a name of its own, which can be looked at
but not run. Where a coder was harvested here, that harvest stands, and only what was said of its latents is taken.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay import codec, features, provenance
from assay.coders.base import SparseCoder
from assay.corpora.pack import Tokens
from assay.dashboards import rows
from assay.dashboards.gathered import LATENTS, Examples, Latents
from assay.dashboards.texts import Speller, Texts
from assay.errors import BadInput, MissingFile, Unavailable
from assay.features import bins, explanations, layout
from assay.features.explanations import Explanation
from assay.models.base import Site
from assay.models.pieces import Pieces, named
from assay.progress import Progress, silent
from assay.splice import coder_hash
from assay.store import Draft, Store, digest, file_hash, weights_hash

KIND = "dashboards"
"""Kind of a coder's entry that holds no coder."""
TABLES = ("features", "activations")
SAYS = 20_000
"""Characters of an explanation, at most."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an export says of itself."""

    path: Path
    model: str
    models: tuple[str, ...]
    """Names that the model's tokenizer may be found under."""
    id: str
    layer: int | None
    site: str | None
    dataset: str
    tokens: int | None
    """Tokens of the text that was read, special ones too, where it says so."""
    hash: str
    """Over all files that are read."""

    @classmethod
    def of(cls, directory: Path) -> Source:
        """The one source in a directory."""
        found = rows.sources(directory)
        if len(found) > 1:
            raise BadInput(f"{directory} holds several sources; give one of: {', '.join(str(p) for p in found[:8])}.")
        path = found[0]
        source, model, first = (
            rows.one(p) for p in (path / "source.jsonl", path / "model.jsonl", rows.batches(path / "features")[0])
        )
        id, files = first.text("layer"), [p for folder in _folders(path) for p in rows.batches(folder)]
        layer = re.match(r"(\d{1,3})-", id)
        hook, site = first.text("hookName", ""), None
        for name in (hook, f"blocks.{layer[1]}.{hook}" if layer else ""):
            with contextlib.suppress(BadInput, LookupError):
                site = site or str(Site.parse(name))
        names = [
            n for n in (model.text("tlensId", ""), first.text("modelId")) if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", n)
        ]
        size = [source.whole(n, 2**31, 0) for n in ("num_prompts", "num_tokens_in_prompt")]
        return cls(
            path=path, model=first.text("modelId"), models=tuple(dict.fromkeys(names)), id=id, layer=int(layer[1]) if layer else None, site=site,
            dataset=source.text("dataset", ""), tokens=size[0] * size[1] or None,
            hash=digest({p.relative_to(path).as_posix(): file_hash(p) for p in files}),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """What the source is called here."""
        return re.sub(r"[^A-Za-z0-9._+=-]+", "-", f"{self.model}.{self.id}").strip(".-_")[:120]


@dataclass
class Taken:
    """What was taken, and what was not."""

    coder: str
    alone: bool
    latents: int = 0
    left_out: int = 0
    """Latents that the export has no row of: they count as dead."""
    examples: int = 0
    explanations: int = 0
    entry: str | None = None
    """Of the features; None where the coder's own harvest stands."""
    surplus: int = 0
    """Rows of examples that were too many for one latent."""
    unspelt: int = 0
    """Tokens of the lists of logits that the tokenizer does not have."""


def take(
    directory: Path, store: Store, coder: SparseCoder[Any] | None = None, *, name: str | None = None, model: str | None = None,
    progress: Progress = silent,
) -> Taken:  # fmt: skip
    """Take an export in: to `coder`, which is `name` in the store; without one under a new name. `model`: whose tokenizer to use."""
    source = Source.of(directory)
    alone, called = coder is None, name or source.name
    if alone and store.has("coders", called) and store.manifest("coders", called)["about"].get("kind") != KIND:
        raise BadInput(
            f"{store.root} has a coder named {called!r}. Say --coder {called} if these are its latents, else another --name."
        )
    hash_, d_sae = (source.hash, None) if coder is None else (coder_hash(coder), coder.d_sae)
    if not alone:
        _check_fit(store, called, source)
    said = _said(source, hash_, LATENTS if d_sae is None else d_sae)
    latents = d_sae or 1 + max((one.latent for one in said), default=-1)
    taken = Taken(coder=called, alone=alone, latents=latents, explanations=len(said))
    own = [n for n in features.names(store, called) if "imported" not in store.manifest("features", n)["about"]]
    if not own:
        _lay_down(source, store, taken, hash_, d_sae or LATENTS, model, progress)
    if said:
        explanations.write(store, called, f"neuronpedia.{source.name}", said, hash_)
    return taken


def _folders(path: Path) -> list[Path]:
    return [path / "features", path / "activations", *sorted(path.glob("explanations*"))]


def _check_fit(store: Store, coder: str, source: Source) -> None:
    """Refuse what cannot be a coder's latents, as far as names tell."""
    site = store.manifest("coders", coder)["about"].get("site")
    if site and source.layer is not None and Site.parse(site).layer != source.layer:
        raise BadInput(
            f"{coder} is for {site}, but {source.path} for layer {source.layer}. Is it the same coder? Leave --coder out otherwise."
        )


def _said(source: Source, hash_: str, d_sae: int) -> list[Explanation]:
    """All explanations of the export."""
    found = []
    for row in (r for folder in _folders(source.path)[2:] for path in rows.batches(folder) for r in rows.read(path)):
        text = row.text("description", "").strip()[:SAYS]
        if text:
            method, model = row.text("typeName", ""), row.text("explanationModelName", "")
            found.append(Explanation(latent=row.whole("index", d_sae), text=text, method=method, model=model, coder_hash=hash_))
    return found


def _lay_down(
    source: Source, store: Store, taken: Taken, hash_: str, most: int, model: str | None, progress: Progress
) -> None:  # fmt: skip
    """Numbers and examples, as an entry of features and one of tokens. `most`: latents that there can be."""
    if not taken.alone and model is None:
        said = store.manifest("coders", taken.coder)["about"].get("model") or {}
        model = said.get("name") if isinstance(said, dict) else str(said)
    model, pieces = _spelling(source, model)
    latents, examples, text = _read(source, store, pieces, most, progress)
    taken.latents = max(taken.latents, 1 + max(latents.rows), examples.latents)
    taken.left_out, taken.surplus, taken.unspelt = taken.latents - len(latents.rows), examples.surplus, latents.unspelt
    counted = latents.tokens()
    columns = latents.columns(taken.latents, n_tokens := counted or source.tokens or text.n_tokens, examples.strongest)
    columns |= examples.intervals(columns["count"])
    used = np.flatnonzero(columns["histogram"].any(0))
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    columns["histogram"] = columns["histogram"][:, first:last]
    found = examples.columns(taken.latents, text.config.context, columns["interval_edges"], columns["interval_counts"])
    taken.examples, taken.entry = len(found["latent"]), f"{taken.coder}.{text.fingerprint}"
    about = {
        "schema": codec.SCHEMAS["features"], "coder": taken.coder, "architecture": _architecture(store, taken), "d_sae": taken.latents,
        "tokens": n_tokens, "sampled_tokens": 0, "model": {"name": model}, "site": source.site,
        "text": {"corpus": text.packing.corpus, "rows": len(text)}, "histogram_edges": bins.edges()[first : last + 1].tolist(),
        "logits": any(columns["top_logits"]), "weights": None if taken.alone else weights_hash(store.find("coders", taken.coder)),
        "imported": {"format": "neuronpedia", "source": f"{source.model}/{source.id}", "tokens": "counted" if counted else "said", "left_out": taken.left_out},
    }  # fmt: skip
    with store.draft("features", taken.entry) as draft:
        _clear(draft)
        layout.write_features(draft.path, columns)
        layout.write_examples(draft.path, found, taken.latents)
        inputs = {
            "coder": hash_,
            "tokens": text.fingerprint,
            "model": None,
            "export": source.hash,
            "read": [source.site],
            "write": source.site,
        }
        draft.finish(inputs=inputs, about=about, made=provenance.made())
    if taken.alone:
        _stand_alone(store, taken, source, model)


def _read(source: Source, store: Store, pieces: Pieces, most: int, progress: Progress) -> tuple[Latents, Examples, Tokens]:
    """All rows of the export, and the entry of its texts."""
    key, speller = digest({"export": source.hash, "pieces": pieces.all})[:16], Speller(pieces)
    paths = [(table, path) for table in TABLES for path in rows.batches(source.path / table)]
    with store.draft("tokens", key) as draft:
        _clear(draft)
        latents, texts = Latents(speller), Texts(draft)
        examples = Examples(speller, texts)
        for n, (table, path) in enumerate(paths):
            for row in rows.read(path):
                row.whole("index", most)
                (latents if table == "features" else examples).add(row)
            progress(n + 1, len(paths), "files")
        if not latents.rows:
            raise MissingFile(f"{source.path} has no latents in features/.")
        return latents, examples, texts.finish(key, source.dataset or source.name, {"export": source.hash})


def _spelling(source: Source, model: str | None) -> tuple[str, Pieces]:
    """(the model's name, its tokens): the first name whose tokenizer is on this machine."""
    for name in (model,) if model else source.models:
        if len(pieces := named(name)):
            return name, pieces
    raise Unavailable(
        f"The texts of {source.path} are strings, and the tokenizer that they are laid down with is not on this machine. "
        f"Say --model: a directory with its tokenizer.json, or a hub id in the cache; the export says {model or source.model}."
    )


def _architecture(store: Store, taken: Taken) -> str:
    return "unknown" if taken.alone else str(store.manifest("coders", taken.coder)["about"].get("architecture"))


def _stand_alone(store: Store, taken: Taken, source: Source, model: str) -> None:
    """An entry among the coders that says what is looked at, and holds no weights."""
    about = {
        "kind": KIND, "architecture": "unknown", "model": {"name": model}, "site": source.site, "config": {"d_sae": taken.latents},
        "imported": {"format": "neuronpedia", "path": str(source.path), "source": f"{source.model}/{source.id}"},
    }  # fmt: skip
    with store.draft("coders", taken.coder) as draft:
        _clear(draft)
        draft.finish(inputs={"export": source.hash}, about=about, made=provenance.made())


def _clear(draft: Draft) -> None:
    """Take away what an interrupted attempt left."""
    for file in draft.path.iterdir():
        file.unlink()
