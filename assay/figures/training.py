"""How coders of a store came to be: the rows of their trainings over tokens, and what they were trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

from assay.charts import thin
from assay.codec import to_data
from assay.errors import BadInput, DamagedFile, UnknownName
from assay.figures.base import MARKERS, Axis, Figure, Line, Point, colour
from assay.figures.scores import TOKENS
from assay.results import Record
from assay.statistics import Interval
from assay.store import Store, digest

WORDS: dict[str, tuple[str, str, str]] = {
    "held_out_fvu": ("FVU on held-out vectors", "lower", "Fraction of variance unexplained of the coder as it would be saved."),
    "held_out_l0": ("L0 on held-out vectors", "neither", "Latents active at once in the coder as it would be saved."),
    "fvu": ("FVU of the training batch", "lower", "Fraction of variance unexplained."),
    "l0": ("L0 of the training batch", "neither", "Latents active at once."),
    "dead": ("dead latents", "lower", "Share of latents that have not fired for a long time."),
    "gamma": ("reconstruction bias γ", "neither", "Length of the reconstruction against the best one: 1 is right, below 1 it shrinks."),
    "loss": ("loss", "lower", "What is minimised; not to be compared between architectures."),
    "lr": ("learning rate", "neither", "As scheduled."),
    "grad_norm": ("gradient norm", "neither", "Before clipping."),
    "pressure": ("pressure on sparsity", "neither", "What the controller multiplied the sparsity penalty by."),
}  # fmt: skip
"""Columns of train.jsonl: what they are called, which direction is better, what they mean. Terms of losses are added as they come."""


@dataclass(frozen=True)
class Trained:
    """A coder of the store that was trained there. Filters of results take it for a record."""

    store: Store
    coder: str
    coder_hash: str
    """As its records have it; "" where there are none of these very weights."""
    manifest: Mapping[str, Any]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What a record says of a coder, as far as its manifest knows."""
        own, source = self.manifest["about"], self.manifest["about"].get("source") or {}
        config, model = own.get("config") or {}, own.get("model") or source.get("model") or {}
        return {
            "architecture": own.get("architecture"), "config": config, "d_sae": config.get("d_sae"),
            "model": model.get("name", source.get("kind")), "site": own.get("site"),
        }  # fmt: skip

    @property
    def setting(self) -> str:
        """The same where coders learnt from the same vectors: 16 hex digits."""
        return digest(self.manifest.get("inputs"))[:16]

    @property
    def tokens(self) -> int:
        """What it learnt from."""
        return int(self.manifest["about"]["train"]["tokens"])

    def rows(self) -> list[dict[str, Any]]:
        """Its train.jsonl."""
        path = self.store.path("coders", self.coder) / "train.jsonl"
        try:
            found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [row | {"tokens": float(row["tokens"]), "step": int(row["step"])} for row in found]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedFile(f"{path} holds no rows of a training ({error}). Train the coder again.") from None


def trained(store: Store, records: Iterable[Record] = ()) -> list[Trained]:
    """All coders of a store that were trained there. Those of `records` are known again by name and configuration, where the store's
    coder was there before they were scored.
    """
    found = []
    for name in (n for n in store.names("coders") if store.has("coders", n)):
        manifest = store.manifest("coders", name)
        if not manifest["about"].get("train"):
            continue
        own = [r for r in records if r.coder == name and r.made.at >= manifest["made"]["at"]]
        same = [r.coder_hash for r in own if to_data(r.about.get("config")) == manifest["about"].get("config")]
        found.append(Trained(store, name, same[-1] if same else "", manifest))
    return found


def curves(coders: Sequence[Trained], metrics: Sequence[str] | None = None) -> Figure:
    """Columns of train.jsonl over tokens, a line a coder (left out: FVU and L0, on held-out vectors where there are any, and
    dead latents). Of long trainings some 300 rows, with the highest and lowest of each column shown.
    """
    if not coders:
        raise BadInput("There are no trainings to plot. Make one with `assay train`.")
    if len({c.setting for c in coders}) > 1:
        each = "; ".join(sorted({f"{c.about['model']}, {c.about['site']}: {c.coder}, …" for c in coders}))
        raise BadInput(
            f"These coders learnt from several sets of vectors ({each}). Choose one by --setting, --model or --site."
        )
    rows = {c.coder: c.rows() for c in coders}
    columns = dict.fromkeys(
        k for found in rows.values() for row in found for k in row if k not in ("step", "tokens") and _number(row[k])
    )
    held = [k if k in columns else k.removeprefix("held_out_") for k in ("held_out_fvu", "held_out_l0")]
    asked = [k for k in [*held, "dead"] if k in columns] if metrics is None else list(metrics)
    for name in asked:
        if name not in columns:
            raise UnknownName.among("column of a training", name, columns)
    architectures = sorted({str(c.about["architecture"]) for c in coders})
    legend, points = [], []
    for i, c in enumerate(coders):
        own = colour(str(c.about["architecture"]), architectures)
        legend.append(Line(label=c.coder, colour=own, marker=i % MARKERS))
        points += _points(c, rows[c.coder], i, asked)
    axes = {"tokens": TOKENS_LINEAR} | {k: _axis(k, points) for k in columns}
    notes = [f"Rows of {len(coders)} trainings (vectors {coders[0].setting[:6]}); single measurements, without intervals."]
    title = f"{coders[0].about['model']}, {coders[0].about['site']}"
    return Figure(title=title, axes=axes, lines=legend, points=points, panels=[("tokens", k) for k in asked], notes=notes)


TOKENS_LINEAR = Axis(key="tokens", label=TOKENS.label, doc=TOKENS.doc, format="count")


def _points(coder: Trained, rows: Sequence[Mapping[str, Any]], line: int, asked: Sequence[str]) -> list[Point]:
    """Rows that are worth showing."""
    kept: set[int] = set()
    for key in asked:
        there = [i for i, row in enumerate(rows) if _number(row.get(key))]
        kept |= {there[int(i)] for i in thin(range(len(there)), [rows[t][key] for t in there])[0]}
    return [
        Point(
            name=f"{coder.coder}, step {rows[i]['step']:,}", line=line, order=rows[i]["tokens"],
            values={k: Interval(float(v), None, None, 0) for k, v in rows[i].items() if k != "step" and _number(v)},
        )
        for i in sorted(kept)
    ]  # fmt: skip


def _axis(key: str, points: Sequence[Point]) -> Axis:
    name, better, doc = WORDS.get(key, (f"{key} (term of the loss)", "neither", "A weighted term of the loss."))
    values = [p.values[key].value for p in points if key in p.values]
    log = bool(values) and min(values) > 0 and max(values) / min(values) > 20
    return Axis(key=key, label=name, better=better, doc=doc, log=log)  # type: ignore[arg-type]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
