"""Records of a whole suite over three widths, as evals write them: core with its blocks, probing with datasets, baselines beside."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay import provenance, results
from assay.results import Record, Score

BLOCKS, SETS = 16, 7
TRAINED = {"topk": 0.16, "relu": 0.32, "gated": 0.2}


def make(
    eval: str, name: str, scores: list[Score], details: dict[str, Any] | None = None, *, inputs: dict[str, str] | None = None,
    version: int = 1, **about: Any,
) -> Record:  # fmt: skip
    """A record; `about` beside model and site."""
    inputs = inputs or {"model": "m", "text": eval}
    about = {"model": "tiny", "site": "resid_post.1", "baseline": False, "architecture": "topk", "config": {}} | about
    return Record(
        schema=1, key=results.key(name, eval, version, {}, inputs), coder=name, coder_hash=name, eval=eval, eval_version=version,
        config={}, inputs=inputs, about=about, scores=scores, details=details or {}, made=provenance.made(),
    )  # fmt: skip


def core(name: str, l0: float, lost: float, seed: int, **about: Any) -> Record:
    """Loss recovered is 1 − lost and FVU twice that, both exactly what their blocks give."""
    rng = np.random.default_rng(7)  # the same text for all
    tokens, clean = rng.integers(50, 100, BLOCKS), rng.random(BLOCKS) * 100 + 100
    gap, wobble = rng.random(BLOCKS) * 50 + 50, np.random.default_rng(seed).normal(size=BLOCKS) * 0.02
    spliced = clean + gap * (lost + wobble - (gap * wobble).sum() / gap.sum())
    errors = tokens * (2 * lost + wobble - (tokens * wobble).sum() / tokens.sum())
    columns = {"predicted": tokens, "clean": clean, "spliced": spliced, "mean": clean + gap, "se": errors, "variance": tokens}
    scores = [
        Score(metric="ce_loss_clean", value=3.0, n=BLOCKS, low=2.9, high=3.1),
        Score(metric="l0", value=l0, n=BLOCKS, low=l0 * 0.99, high=l0 * 1.01),
        Score(metric="loss_recovered", value=1 - lost, where={"ablation": "mean"}, n=BLOCKS, low=0.98 - lost, high=1.02 - lost),
        Score(metric="fvu", value=2 * lost, n=BLOCKS, low=1.9 * lost, high=2.2 * lost),
        Score(metric="frac_alive", value=None, reason="not counted"),
    ]
    return make("core", name, scores, {"blocks": {k: v.tolist() for k, v in columns.items()}}, **about)


def probing(name: str, accuracy: float, **about: Any) -> Record:
    """Accuracy with one latent and with five, overall and by dataset, and what the activations themselves reach."""
    scores = []
    for k, more in (("1", 0.0), ("5", 0.06)):
        where, value = {"k": k, "on": "latents"}, accuracy + more
        scores.append(Score(metric="accuracy", value=value, where=where, n=SETS, low=value - 0.03, high=value + 0.04))
        scores.append(
            Score(metric="accuracy", value=0.6 + more, where={"k": k, "on": "activations"}, n=SETS, low=0.55, high=0.68)
        )
        for i in range(SETS):
            part = value + 0.05 * (i / (SETS - 1) - 0.5)
            scores.append(Score(metric="accuracy", value=part, where={"dataset": f"set{i}", "k": k, "on": "latents"}, n=200))
    return make("sparse_probing", name, scores, **about)


def suite() -> list[Record]:
    """Three architectures at three L0 and three widths, PCA at two L0, and a permuted decoder at two."""
    found, seed = [], 0
    for architecture, worst in TRAINED.items():
        for width in (256, 512, 1024):
            for l0 in (10, 20, 40):
                seed += 1
                lost = worst * (256 / width) ** 0.2 * (10 / l0) ** 0.5
                about = {"architecture": architecture, "d_sae": width, "config": {"d_sae": width, "k": l0}}
                name = f"{architecture}-{width}-{l0}"
                near = l0 * (1 if architecture == "topk" else 1 + 0.01 * (seed % 3))
                found += [core(name, near, lost, seed, **about), probing(name, 0.85 - lost / 2 + 0.003 * (seed % 4), **about)]
    for l0, lost in ((8, 0.6), (50, 0.3)):
        about = {"architecture": "pca", "d_sae": 64, "baseline": True}
        found += [core(f"pca-{l0}", l0, lost, 90 + l0, **about), probing(f"pca-{l0}", 0.6, **about)]
        about = {"architecture": "permuted_decoder", "d_sae": 256, "baseline": True}
        found.append(core(f"permuted-{l0}", l0, 1.1, 80 + l0, **about))
    return found
