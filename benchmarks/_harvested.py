"""A store with one coder, its text and its harvest, of any size and made up: only the shapes are those of a real one."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pyarrow as pa

from assay import codec, coders, models, provenance
from assay.corpora.pack import PackConfig, Packing, Tokens
from assay.features import layout
from assay.formats import native
from assay.randomness import numpy_generator
from assay.splice import coder_hash
from assay.store import Store, write_atomic

NAME, TEXT = "synthetic", "5e5e5e5e5e5e5e5e"
CONTEXT, DOCUMENT, BEFORE, AFTER = 128, 600, 20, 10
D_IN = 128
"""The tiny model's width; the model itself lies in the package."""


def make(store: Store, d_sae: int, n_tokens: int, examples: int = 40) -> str:
    """Put them there; the coder's name. `examples`: of each latent."""
    model = models.load("tiny")
    facts = {"model": {"name": "tiny", "fingerprint": model.fingerprint}, "site": "resid_post.2"}
    coder = coders.new("topk", d_in=D_IN, d_sae=d_sae, k=32).eval()
    with store.draft("coders", NAME) as draft:
        native.write(coder, draft.path, facts)
        about = facts | {"kind": "trained", "architecture": "topk", "config": asdict(coder.config)}
        draft.finish(inputs={}, about=about, made=provenance.made())
    shape = text(store, n_tokens)
    harvested(store, d_sae, shape, facts, coder_hash(coder), examples)
    return NAME


def text(store: Store, n_tokens: int) -> tuple[int, int]:
    """Rows of random tokens, each row one with BOS; documents of DOCUMENT tokens."""
    r, rows = numpy_generator("web benchmark", 0), -(-n_tokens // (CONTEXT - 1))
    tokens = (r.zipf(1.3, (rows, CONTEXT)) % 1023 + 1).astype(np.int32)
    mask = np.ones(tokens.shape, np.bool_)
    tokens[:, 0], mask[:, 0] = 0, False
    place = np.arange(rows)[:, None] * (CONTEXT - 1) + np.arange(CONTEXT) - 1
    document = np.where(mask, place // DOCUMENT, -1).astype(np.int32)
    packing = Packing(
        config=PackConfig(context=CONTEXT), fingerprint=TEXT, corpus="random tokens", tokenizer=None, rows=rows, n_tokens=int(mask.sum()),
        documents=int(document.max()) + 1, bos=0,
    )  # fmt: skip
    with store.draft("tokens", TEXT) as draft:
        for name, array in (("tokens", tokens), ("mask", mask), ("document", document)):
            array.tofile(draft.path / f"{name}.bin")
        write_atomic(draft.path / "pack.json", codec.to_json(packing))
        draft.finish(inputs={}, about={}, made=provenance.made())
    assert len(Tokens.open(store.path("tokens", TEXT))) == rows
    return tokens.shape


def harvested(store: Store, d_sae: int, shape: tuple[int, int], facts: dict, hash_: str, examples: int) -> None:
    """The entry itself: columns of plausible sizes, densities over six powers of ten, one latent in twenty dead."""
    n = shape[0] * (shape[1] - 1)
    with store.draft("features", f"{NAME}.{TEXT}") as draft:
        columns = _columns(d_sae, n)
        layout.write_features(draft.path, columns)
        layout.write_examples(draft.path, _examples(np.flatnonzero(~columns["dead"]), shape, examples), d_sae)
        about = {
            "schema": 1,
            "coder": NAME,
            "d_sae": d_sae,
            "tokens": n,
            "histogram_edges": list(2.0 ** np.arange(-12, 13)),
        } | facts
        draft.finish(
            inputs={"coder": hash_, "tokens": TEXT, "model": facts["model"]["fingerprint"]}, about=about, made=provenance.made()
        )


def _columns(d: int, n: int) -> dict[str, np.ndarray]:
    r = numpy_generator("web benchmark", 1)
    count = np.clip(10 ** r.normal(np.log10(n) - 3.2, 0.8, d), 1, n).astype(np.int64)
    count[r.random(d) < 0.05] = 0
    dead, largest = count == 0, r.gamma(2.0, 4.0, d).astype(np.float32) + 0.1

    def there(values: np.ndarray) -> np.ndarray:
        return np.ma.array(values, mask=dead)

    def ids(high: int) -> np.ndarray:
        return r.integers(0, high, (d, 10))

    def falling() -> np.ndarray:
        return -np.sort(-r.random((d, 10), np.float32), axis=1)

    near, cosines = ids(d), falling()
    return {
        "latent": np.arange(d), "count": count, "density": count / n, "mean": there(largest / 3), "max": there(largest), "dead": dead,
        "dense": count / n > 0.1, "decoder_norm": np.ones(d), "encoder_norm": r.gamma(9, 0.1, d), "cosine": r.uniform(0.2, 1, d),
        "nearest": near[:, 0], "nearest_cosine": cosines[:, 0], "top_token": there(ids(1024)[:, 0]), "purity": there(r.random(d)),
        "x": r.normal(size=d), "y": r.normal(size=d), "histogram": r.integers(0, 50, (d, 24)),
        "interval_edges": np.linspace(0, largest, 11, axis=1), "interval_counts": np.maximum(count[:, None] >> np.arange(1, 11), 0),
        "top_logits": ids(1024), "top_logit_values": falling(), "bottom_logits": ids(1024), "bottom_logit_values": -falling(),
        "logit_histogram": r.integers(0, 100, (d, 40)), "logit_range": np.tile([-1.0, 1.0], (d, 1)), "neighbours": near,
        "neighbour_cosines": cosines, "correlated": ids(d), "correlations": falling(), "coactive": ids(d), "coactive_shares": falling(),
    }  # fmt: skip


def _examples(alive: np.ndarray, shape: tuple[int, int], each: int) -> dict[str, pa.Array | np.ndarray]:
    r, n = numpy_generator("web benchmark", 2), len(alive) * each
    group = np.resize(np.sort(np.resize([0, 0, 1, 1, 1, 2, 3], each)), n)
    interval = np.ma.array(r.integers(0, 10, n), mask=group != 1)
    column = r.integers(1, shape[1], n)
    before, after = np.minimum(BEFORE, column - 1), np.minimum(AFTER, shape[1] - 1 - column)
    active = np.where(group < 2, r.integers(1, 5, n), 0)  # tokens of the window that are not 0; the peak is the last
    offsets = np.concatenate([[0], np.cumsum(active)])
    peak = np.repeat(before, active)
    back = np.repeat(offsets[1:], active) - 1 - np.arange(offsets[-1])  # 0 at the last
    at, values = np.maximum(peak - back, 0), r.gamma(2.0, 2.0, offsets[-1])
    return {
        "latent": np.repeat(alive, each), "group": group, "interval": interval, "position": r.integers(0, shape[0], n) * shape[1] + column,
        "before": before, "after": after, "at": layout.ragged(at.astype(np.uint8), offsets, pa.uint8()),
        "values": layout.ragged(values.astype(np.float16), offsets, pa.float16()), "weight": np.ma.array(np.full(n, 3.0), mask=group != 1),
    }  # fmt: skip
