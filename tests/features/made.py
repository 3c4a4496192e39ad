"""A harvest of a small coder of the tiny model, in a store, in a second."""

from __future__ import annotations

from dataclasses import asdict

from assay import coders, corpora, models, provenance
from assay.corpora.pack import PackConfig, tokenise
from assay.features import Features, open
from assay.formats import native
from assay.harvest import Place, harvest
from assay.store import Store


def entry(store: Store, name: str = "mine", *, d_sae: int = 300, k: int = 8, seed: int = 0, tokens: int = 4000) -> Features:
    """The coder `name` (topk, random weights, site resid_post.2 of the tiny model) in `store`, its text, and its harvest."""
    model = models.load("tiny")
    text = tokenise(corpora.load("austen"), model.tokenizer, PackConfig(context=64, max_tokens=tokens), store)
    coder = coders.new("topk", d_in=128, d_sae=d_sae, k=k, seed=seed).eval()
    facts = {"model": {"name": "tiny", "fingerprint": model.fingerprint}, "site": "resid_post.2"}
    said = facts | {
        "text": {"corpus": "austen"} | asdict(text.config),
        "kind": "trained",
        "architecture": "topk",
        "config": asdict(coder.config),
    }
    with store.draft("coders", name) as draft:
        native.write(coder, draft.path, facts)
        draft.finish(inputs={}, about=said, made=provenance.made())
    harvest({name: coder}, model, text, {name: Place.at("resid_post.2")}, store=store)
    return open(store, name)
