"""Origin: what coders' manifests say of where they are from, and so what they are to be measured on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.activations.truth import PlantedSource
    from assay.coders.base import SparseCoder
    from assay.corpora.pack import PackConfig
    from assay.store import Store

About = Mapping[str, Mapping[str, Any]]
"""By coder: `about` of its manifest."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What a person may say instead. What is left out is as the coders' manifests say."""

    model: str | None = None
    """The model to splice them into: smollm2, a directory, a hub id."""
    model_dtype: str | None = None
    """Its number type: bfloat16, float32."""
    site: str | None = None
    """The site they stand for, e.g. resid_post.10."""
    corpus: str | None = None
    """Text to measure on."""
    context: int | None = None
    """Tokens in a row, BOS included."""
    bos: Literal["auto", "always", "never"] | None = None
    """Whether each row starts with BOS."""
    held_out: float | None = None
    """Share of the documents that is held out. Another share than in training mixes the two sides."""
    chat: bool | None = None
    """Pass each document through the tokenizer's chat template."""


@dataclass(frozen=True)
class Origin:
    """What coders are measured on, resolved."""

    model: str
    model_dtype: str | None
    site: str
    corpus: str | None
    packing: Mapping[str, Any]
    """Settings of the text that the coders were trained on."""

    @classmethod
    def of(cls, about: About, flags: Flags, *, reads: bool) -> Origin:
        """From flags, and from manifests where flags are left out. `reads`: whether text is needed at all."""
        said = {n: a for n, a in about.items() if a.get("text") and flags.corpus in (None, a["text"]["corpus"])}
        plain = {n: {"text": {k: v for k, v in a["text"].items() if k not in ("split", "max_tokens")}} for n, a in said.items()}
        _ask(about, flags, reads)
        for name, text in ((n, a["text"]) for n, a in said.items() if reads):
            if text.get("split") != "train" or flags.held_out not in (None, text.get("held_out")):
                raise BadInput(
                    f"{name} was trained on the {text.get('split')!r} part of {text['corpus']} with held_out={text.get('held_out')}: "
                    "what would be measured on is not held out. Give another --corpus, or train with --split train and keep --held-out."
                )
        packing = dict(_agreed(plain, "text", "--corpus") or _cut(about, flags) or {})
        sizes = [a["text"].get("max_tokens") for a in said.values()]
        packing["max_tokens"] = None if None in sizes else max(sizes, default=None)
        packing |= {k: v for k in ("context", "bos", "held_out", "chat") if (v := getattr(flags, k)) is not None}
        corpus = flags.corpus or packing.get("corpus")
        dtype = flags.model_dtype or (None if flags.model else _agreed(about, "model_dtype", "--model-dtype"))
        models = {n: {"model": m["name"]} for n, a in about.items() if (m := a.get("model"))}
        model, site = flags.model or _agreed(models, "model", "--model"), flags.site or _agreed(about, "site", "--site")
        return cls(model, dtype, site, corpus, packing)

    def text(self, split: Literal["train", "held_out"], max_tokens: int | None) -> PackConfig:
        """How to cut one part of the text."""
        from assay.corpora.pack import PackConfig

        known = {f.name for f in fields(PackConfig)}
        kept = {k: v for k, v in self.packing.items() if k in known}
        return PackConfig(**(kept | {"split": split, "max_tokens": max_tokens, "layout": "packed"}))

    def flags(self) -> dict[str, Any]:
        """Itself as flags: what a resolved configuration holds."""
        found = {"model": self.model, "model-dtype": self.model_dtype, "site": self.site, "corpus": self.corpus}
        return found | {k.replace("_", "-"): self.packing.get(k) for k in ("context", "bos", "held_out", "chat")}


def _cut(about: About, flags: Flags) -> Any:
    """How rows were cut for coders of other libraries, whose own text is not ours to hold out of."""
    return None if flags.context is not None else _agreed(about, "packing", "--context")


def _agreed(about: About, what: str, flag: str) -> Any:
    """What all manifests say alike; None where none says it."""
    said = {name: facts[what] for name, facts in about.items() if facts.get(what) is not None}
    values = list({repr(value): value for value in said.values()}.values())
    if len(values) > 1:
        raise BadInput(
            f"The coders were trained with different {what}: {', '.join(f'{n} {v}' for n, v in said.items())}. Say {flag}."
        )
    return values[0] if values else None


def _ask(about: About, flags: Flags, reads: bool) -> None:
    """Refuse where neither flags nor manifests say model, site or, where it `reads`, text. Names all that is missing at once."""
    needed = {"model": "model", "site": "site"} | ({"corpus": "text"} if reads else {})
    missing = {
        flag: fact
        for flag, fact in needed.items()
        if getattr(flags, flag) is None and not any(a.get(fact) for a in about.values())
    }
    if not missing:
        return
    kinds, names = {(a.get("source") or {}).get("kind") for a in about.values()}, ", ".join(about)
    source = "vectors of a file" if kinds == {"tensors"} else "planted vectors" if is_planted(about) else None
    widths = " and ".join(str(d) for d in sorted({a["config"]["d_in"] for a in about.values()})) if source else ""
    why = f"{names} learnt from {source}, {widths} wide: no manifest says" if source else f"{names}: no manifest says"
    raise BadInput(f"{why} which {_and(missing.values())} to use. Say {_and(f'--{flag}' for flag in missing)}.")


def _and(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def elsewhere(about: About, site: str | None) -> list[str]:
    """A note for each coder that was trained at another site than the one that a person says."""
    from assay.models.base import Site

    if site is None:
        return []
    own = {n: a.get("site") or ", ".join((a.get("source") or {}).get("read") or ()) for n, a in about.items()}
    return [
        f"note: {n} was trained at {there}, not at {site}."
        for n, there in own.items()
        if there and there != str(Site.parse(site))
    ]


def truth_of(about: About) -> PlantedSource:
    """The planted source that all of the coders learnt from: the very same features."""
    from assay.activations.ground import KINDS, rebuilt

    said = {name: facts.get("source") or {} for name, facts in about.items()}
    for name, source in said.items():
        if source.get("kind") not in KINDS:
            what = f"{source['kind']!r} data" if source else "data that its manifest does not name"
            raise BadInput(
                f"{name} was trained on {what}: which features are true there is not known, so it cannot be compared with them. "
                "Train on a planted source, e.g. assay train topk --planted superposition --d-sae 256, and evaluate that."
            )
    if len({repr(source) for source in said.values()}) > 1:
        each = ", ".join(f"{n} on {s['kind']} (d {s['d']}, {s['latents']} features, seed {s['seed']})" for n, s in said.items())
        raise BadInput(f"The coders were trained on different planted sources: {each}. Evaluate those of one source at a time.")
    return rebuilt(next(iter(said.values())))


def is_planted(about: About) -> bool:
    """Whether all coders learnt from vectors whose truth is known, and so from no language model."""
    from assay.activations.ground import KINDS

    return all((facts.get("source") or {}).get("kind") in KINDS for facts in about.values())


def places_of(about: About) -> dict[str, dict[str, str]]:
    """Model and site of each coder, as records name them."""
    found = {}
    for name, facts in about.items():
        source, model = facts.get("source") or {}, facts.get("model") or {}
        place = {"model": model.get("name"), "site": facts.get("site")}
        if is_planted({name: facts}):
            place = {"model": source["kind"], "site": f"seed {source.get('seed')}"}
        found[name] = {what: str(value) for what, value in place.items() if value is not None}
    return found


def read_coders(
    refs: Sequence[str], store: Store, mirror: Path | None = None
) -> tuple[dict[str, SparseCoder[Any]], dict[str, dict[str, Any]]]:
    """Coders by name, and what their manifests or files say. `refs`: names in the store, files of any format, RELEASE/ID, hf:…"""
    from assay.cli.reading import opened_plainly

    found, about = {}, {}
    for ref in refs:
        located, coder, said = opened_plainly(ref, store.root, mirror)
        if located.name in found:
            raise BadInput(
                f"Two coders are called {located.name!r}. Results go by name: rename one, or `assay import` it under another."
            )
        found[located.name], about[located.name] = coder, said
    return found, about
