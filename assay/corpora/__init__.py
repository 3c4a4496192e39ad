"""Corpora: where text comes from. `load(ref)` finds the right one; `pack.tokenise` turns it into rows of token ids.

    demo, movie-reviews, bbc-news, austen      embedded texts (`names()` says what they are)
    essays.jsonl   texts/   a.csv.zst          a local file or folder; a folder written by `datasets`' save_to_disk
    hub:org/name[:config[:split[:column[:label]]]]   a Hugging Face dataset (or hub:./folder); an empty part means the default
    probe:92   probe:glue_sst2                 a labelled set of the sae-probes collection
    labelled:FILE[:column[:label]]             a labelled file of your own
    REF[A/B/…]                                 some classes of a labelled corpus
    joint:REF+REF                              texts with a class in each of two labelled corpora

An embedded name wins over a folder of that name; write ./demo for the folder. Importing this imports no torch, datasets or pyarrow.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.corpora.base import Corpus, Document
from assay.errors import UnknownName

__all__ = ["Corpus", "Document", "load", "names"]


def names() -> dict[str, str]:
    """The embedded corpora, with one line about each."""
    from assay.corpora.embedded import SUMMARIES

    return dict(SUMMARIES)


def load(ref: str | os.PathLike[str], **settings: Any) -> Corpus:
    """The corpus that `ref` names (see the module for the forms); `settings` are those of its class, e.g. `column="body"`.

    Files: `column`, `separator`, `encoding`, or `label` for a labelled one. Hub: `config`, `split`, `column`, `label`,
    `streaming`, `revision`. Labelled: `unique`. Raises UnknownName, MissingFile, BadInput, Unavailable.
    """
    ref = os.fspath(ref)
    kind, _, rest = ref.partition(":")
    if kind == "joint":
        from assay.corpora.joint import JointCorpus

        return JointCorpus.parse(rest, lambda part: load(part, **settings))
    if ref.endswith("]") and not Path(ref).exists():
        from assay.corpora.joint import some

        inner, _, classes = ref[:-1].rpartition("[")
        return some(load(inner, **settings), classes)
    if kind == "hub":
        from assay.corpora.hub import HubCorpus

        return _make(HubCorpus.parse, rest, settings)
    if kind in ("probe", "labelled"):
        from assay.corpora.labelled import LabelledCorpus

        return _make(LabelledCorpus.probe if kind == "probe" else LabelledCorpus.parse, rest, settings)
    if ref in names():
        from assay.corpora.embedded import EmbeddedCorpus

        return _make(EmbeddedCorpus, ref, settings)
    return _local(ref, settings)


def _local(ref: str, settings: dict[str, Any]) -> Corpus:
    from assay.corpora import documents

    path = Path(ref).expanduser()
    if not path.exists() and os.sep not in ref and documents.kind(path) is None:
        more = "Or give a file, a folder, hub:ORG/NAME, probe:NUMBER or labelled:FILE."
        raise UnknownName.among("corpus", ref, names(), more=more)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():  # what save_to_disk writes
        from assay.corpora.hub import HubCorpus

        return _make(HubCorpus, ref, settings)
    if settings.get("label") is not None:
        from assay.corpora.labelled import LabelledCorpus

        return _make(LabelledCorpus, path, settings)
    from assay.corpora.text import TextCorpus

    return _make(TextCorpus, path, settings)


def _make(make: Callable[..., Any], ref: str | Path, settings: dict[str, Any]) -> Corpus:
    """`make(ref, **settings)`, but a setting it does not have is named before it is called."""
    known = [p.name for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in settings:
        if name not in known:
            raise UnknownName.among(f"setting of {os.fspath(ref)!r}", name, known)
    return make(ref, **settings)
