"""Saving: an operated coder in the store, with what was done to which coder, on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assay import codec, provenance
from assay.coders.base import SparseCoder
from assay.formats import native
from assay.splice import coder_hash
from assay.store import Store, write_atomic
from assay.surgery.patient import Report

LONG = ("kept", "groups")
"""Parts of reports that stand in surgery.json alone: numbers of latents."""


def save(
    name: str,
    coder: SparseCoder[Any],
    report: Report,
    store: Store,
    *,
    parent: SparseCoder[Any],
    about: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    key: str = "",
) -> Path:
    """Keep an operated coder as `coders/NAME`; surgery.json beside it says what was done, and which old latents the new ones are.

    `about` is what the parent's manifest says: where its weights were learnt stays true. `data`: the fingerprint of the vectors that
    it was operated on, and what else is known of them. `key`: identity of the operation.
    """
    done = {"coder": coder_hash(parent)} | {k: v for k, v in report.items() if k not in LONG} | {"data": dict(data or {})}
    facts = {"kind": "trained"} | {k: v for k, v in about.items() if k not in ("run", "identity")}
    facts |= {"architecture": native.architecture_of(coder), "config": asdict(coder.config)}
    facts |= {"run": key, "surgery": [*about.get("surgery", ()), done]}
    inputs = {"coder": done["coder"]} | ({"activations": data["fingerprint"]} if data else {})
    with store.draft("coders", name) as draft:
        native.write(coder, draft.path, {k: facts[k] for k in ("model", "site") if k in facts})
        write_atomic(draft.path / "surgery.json", codec.to_json(done | report))
        return draft.finish(inputs=inputs, about=facts, made=provenance.made(device=str(coder.W_dec.device)))
