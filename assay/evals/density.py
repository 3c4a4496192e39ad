"""density: how often latents fire and which do (almost) always or never, how even their contributions are, and γ, the shrinkage.

**Firing frequency** ω is the share of tokens on which a latent is not zero. The table of Anthropic's Circuits Updates (June
2024) counts latents above ω = .01 and .001; `latents_over` is its second column, and the first is `freq_over_1_percent` of
[core](core.md) times the width. Between them and below stand disjoint bands, a decade each, by share of the latents and of all
their activations. The two ends are in core: `freq_over_10_percent` and its normalised form (dense latents), and 1 −
`frac_alive` (never seen). The details hold it all at once: the table, a histogram of log₁₀ ω, every dense latent (ω > .1; with
its frequency and mean activation) and the numbers of those never seen.

**γ** is the factor that minimises E|x − x̂/γ|² (Rajamanoharan et al. 2024, arXiv 2404.16014), about the mean activation as in
training's rows. Core's `relative_reconstruction_bias` is SAEBench's, about 0: where activations share a large mean that number
is near 1 for any coder.

**Uniformity** is exp(entropy of p) / L0 of a token, p the shares of its active latents in the whole, as in Gemma Scope
(Lieberum et al. 2024, arXiv 2408.05147): 1 when all count alike, 1/L0 when one does everything. What counts here is the length
of what a latent adds, |z|·‖W_dec‖; there it is |z · W_dec ∇loss|, its effect on the model's loss. The two are not comparable,
hence `length_uniformity`.

Direction: none of the numbers is a goal but γ = 1. Dense latents are often hard to interpret, and many latents never seen are
wasted, but a rare concept deserves a rare latent. Cost: one encoding and decoding of the text. Intervals: documents are
resampled, blocks of them for numbers that count latents. These take only the spread from the resamples, for resampling sees
fewer rare latents than the text has. They say how much another text of this length would differ, not what lies below its
resolution.

What it cannot tell: whether a latent means anything. A coder whose decoder rows are permuted has the same frequencies, and γ is
near 1 for any coder whose scale is fitted by least squares, as that of the baselines random and pca. n tokens tell nothing of
frequencies below 1/n: a latent never seen is rare rather than dead until millions of tokens were read, and a band wholly below
1/n has no score. Frequencies depend on the text and on the L0: compare coders at one L0 on one text.

Published, a model of 18 layers, latents above ω = .01 and .001: TopK (L0 50) 261 and 8,076; TopK (20, 256k latents) 54 and
2,855; gated (37) 8 and 4,998; ReLU (38) 13 and 360. γ is about 1 for gated, TopK and JumpReLU coders, and below 1 for ReLU with
an L1 penalty. Gemma Scope's uniformity falls as L0 grows, most at the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch

from assay import statistics
from assay.coders.base import SparseCoder
from assay.coders.latents import Latents
from assay.evals.base import Eval, EvalConfig, Metric, score
from assay.evals.core import BLOCKS, by_block, fired, frequencies, rounded
from assay.evals.needs import Need, Passes, PassesInput
from assay.randomness import numpy_generator
from assay.results import Score
from assay.shapes import Float, Tensor
from assay.splice import home

DENSE = 0.1
COLUMN = 0.001
"""Of Anthropic's table, beside .01."""
EDGES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, DENSE)
"""Of the bands: a frequency on the border belongs to the lower one."""
BINS = np.linspace(-7.0, 0.0, 15)
"""Edges of the histogram, in log₁₀ ω: half decades, as in the rows of a training."""
NEGLIGIBLE = 1e-4
"""Cosine of reconstructions and activations below which γ would be noise."""

PRESETS: dict[str, dict[str, Any]] = {"paper": {"tokens": 4_096_000}, "fast": {"tokens": 20_000}}
"""Settings: of SAEBench's published frequencies (its core eval), and for a CPU."""

MEANS: dict[str, tuple[statistics.Statistic, str]] = {
    "gamma": (
        lambda s: np.where(s["along"] > NEGLIGIBLE * np.sqrt(s["lengths"] * s["variance"]), s["lengths"] / s["along"], np.nan),
        "reconstructions do not follow the activations",
    ),
    "length_uniformity": (lambda s: s["uniformity"] / s["active"], "no latent fired"),
    "effective_l0": (lambda s: s["effective"] / s["vectors"], ""),
}
"""Function of sums over documents, and why it may have no value."""


@dataclass(frozen=True, kw_only=True)
class DensityConfig(EvalConfig):
    tokens: int = 100_000
    """Held-out tokens to read, at least (all of the text when it is shorter). As many as core reads cost no further pass of the
    model."""


class Density(Eval[DensityConfig]):
    """Firing frequencies, shrinkage, and how even the active latents' contributions are."""

    Config = DensityConfig
    version = 1
    metrics: ClassVar[Mapping[str, Metric]] = {
        "latents_over": Metric(doc="Latents that fire on over `frequency` of the tokens.", better="neither", unit="latents"),
        "latents_in_band": Metric(doc="Share of latents that fire on over `above` and at most `to` of tokens.", better="neither"),
        "activations_in_band": Metric(doc="Share of all firing due to latents of that band.", better="neither"),
        "gamma": Metric(
            doc="γ = Σ|x̂ − m|² / Σ(x̂ − m)·(x − m), m the mean of x; below 1 is shrinkage.", better="neither", ceiling=1.0
        ),
        "length_uniformity": Metric(
            doc="Evenness, exp(entropy)/L0, of the lengths that a token's active latents add; mean over tokens with any.",
            better="neither",
        ),
        "effective_l0": Metric(
            doc="Mean over tokens of that exp(entropy): as many equal latents would be as even.", better="neither", unit="latents"
        ),
    }  # fmt: skip

    def needs(self) -> Mapping[str, Need]:
        return {"text": Passes(self.config.tokens)}

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        text: PassesInput = inputs["text"]
        seen = _Seen(coder, text)
        drawn = statistics.resampled(seen.sums, numpy_generator("density", "bootstrap", self.config.seed))
        scores = bands(seen.firing, seen.blocks, numpy_generator("density", "blocks", self.config.seed))
        for name, formula, where in formulas():
            if name == "gamma" or coder.linear:
                scores.append(score(name, statistics.estimate(formula, seen.sums, drawn), MEANS[name][1], **where))
            else:
                scores.append(Score(metric=name, value=None, reason=f"{type(coder).__name__} has no decoder directions"))
        details = {
            "tokens": int(seen.blocks.sum()), "documents": text.documents,
            "blocks": {name: rounded(by_block(column, text.documents)) for name, column in seen.sums.items()},
        }  # fmt: skip
        return scores, details | report(seen.firing.sum(0), int(seen.blocks.sum()), seen.strength)


def formulas() -> list[tuple[str, statistics.Statistic, dict[str, str]]]:
    """(metric, formula, where) of everything that is a function of sums over documents."""
    return [(name, formula, {}) for name, (formula, _) in MEANS.items()]


class _Seen:
    """What one pass over the text counts, piece by piece."""

    def __init__(self, coder: SparseCoder[Any], text: PassesInput):
        device, count = home(coder), min(BLOCKS, text.documents)
        mean = text.mean.to(device)
        lengths = coder.W_dec.detach().float().norm(dim=1) if coder.linear else None  # type: ignore[union-attr]
        self.sums: dict[str, np.ndarray] = {}
        """Over each document: each [documents]."""
        self.firing, self.blocks = np.zeros((count, coder.d_sae)), np.zeros(count)
        """On how many of a block's tokens each latent fires [blocks, d_sae]; tokens of each block."""
        self.strength = np.zeros(coder.d_sae)
        """Sum of each latent's absolute activations."""
        for piece, document in text.vectors():
            x = piece.to(device)
            code = coder.encode(x)
            for name, column in columns(x - mean, coder.decode(code) - mean, code.latents, lengths).items():
                total = np.bincount(document, column.double().cpu().numpy(), minlength=text.documents)
                self.sums[name] = self.sums[name] + total if name in self.sums else total
            block = document % count
            self.firing += fired(code.latents, torch.from_numpy(block).to(device), count).cpu().numpy()
            self.blocks += np.bincount(block, minlength=count)
            self.strength += (code.latents.frequency(code.latents.values.abs()) * len(x)).double().cpu().numpy()


def columns(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], latents: Latents, lengths: Float[Tensor, " d_sae"] | None
) -> dict[str, Tensor]:
    """What each vector adds to the sums; `x` and `y` about the mean, `lengths` of the decoder rows."""
    found = {"lengths": y.square().sum(-1), "along": (x * y).sum(-1), "variance": x.square().sum(-1)}
    if lengths is None:
        return found
    l0, effective = latents.l0(), evenness(latents, lengths)
    return found | {
        "vectors": torch.ones_like(l0), "active": (l0 > 0).float(),
        "effective": effective, "uniformity": effective / l0.clamp_min(1),
    }  # fmt: skip


def evenness(latents: Latents, lengths: Float[Tensor, " d_sae"]) -> Float[Tensor, " n"]:
    """exp(entropy) of the shares that each token's active latents have in the sum of |z|·length; 0 for a token without any."""
    added = latents.values.abs() * latents.spread(lengths)
    whole = _summed(added, latents)
    share = added / (whole[:, None] if latents.indices is None else whole[latents.rows()])
    return torch.where(whole > 0, _summed(torch.special.entr(share), latents).exp(), 0.0)


def _summed(beside: Tensor, latents: Latents) -> Float[Tensor, " n"]:
    """Sum over each token's latents of what stands beside `values`."""
    if latents.indices is None:
        return beside.sum(-1)
    return beside.new_zeros(latents.count).index_add(0, latents.rows(), beside)


def bands(firing: np.ndarray, blocks: np.ndarray, rng: np.random.Generator) -> list[Score]:
    """Scores that are functions of how often each latent fires, where core has not got them."""
    tokens, d_sae = blocks.sum(), firing.shape[1]
    value = above(firing.sum(0) / tokens)
    error = np.concatenate([above(p) for p in frequencies(firing, blocks, rng)])  # [resamples, 2, edges]
    i = EDGES.index(COLUMN)
    over = statistics.normal(d_sae * value[0, i], d_sae * error[:, 0, i], len(blocks), (0.0, d_sae))
    found = [score("latents_over", over, frequency=COLUMN)]
    for which, name in enumerate(("latents_in_band", "activations_in_band")):
        for i, (low, high) in enumerate(pairwise(EDGES)):
            where = {"above": f"{low:g}", "to": f"{high:g}"}
            if high * tokens < 1:
                reason = f"{int(tokens):,} tokens tell nothing of latents that fire on fewer than one in {int(tokens):,}"
                found.append(Score(metric=name, value=None, where=where, n=len(blocks), reason=reason))
            else:
                at, errors = value[which, i] - value[which, i + 1], error[:, which, i] - error[:, which, i + 1]
                found.append(score(name, statistics.normal(at, errors, len(blocks), (0.0, 1.0)), "no latent fired", **where))
    return found


def above(p: Float[np.ndarray, "*n d_sae"]) -> Float[np.ndarray, "*n 2 edges"]:
    """Share of the latents, and of all activations, that lies above each of EDGES."""
    latents = np.stack([(p > edge).mean(-1) for edge in EDGES], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        activations = np.stack([np.where(p > edge, p, 0.0).sum(-1) for edge in EDGES], axis=-1) / p.sum(-1)[..., None]
    return np.stack([latents, activations], axis=-2)


def report(firing: np.ndarray, tokens: int, strength: np.ndarray) -> dict[str, Any]:
    """The whole table, the histogram, and the latents to look at; `firing` and `strength` of each latent."""
    p = firing / max(tokens, 1)
    rows = []
    for low, high in pairwise((*EDGES, 1.0)):
        inside = (p > low) & (p <= high)
        share = float(p[inside].sum() / p.sum()) if p.any() else None
        rows.append({"above": low, "to": high, "latents": int(inside.sum()), "share_of_activations": share})
    alive = np.log10(p[p > 0]).clip(BINS[0], BINS[-1])  # what is rarer than the first edge goes into the first bin
    dense = sorted(np.flatnonzero(p > DENSE).tolist(), key=lambda i: (-p[i], i))
    return {
        "table": {
            "bands": rows, "never": int((firing == 0).sum()),
            "over": {f"{at:g}": int((p > at).sum()) for at in (0.1, 0.01, 0.001)},
        },
        "histogram": {"log10_edges": BINS.tolist(), "latents": np.histogram(alive, BINS)[0].tolist()},
        "dense": [
            {"latent": i, "frequency": float(f"{p[i]:.7g}"), "mean_activation": float(f"{strength[i] / firing[i]:.7g}")}
            for i in dense
        ],
        "dead": np.flatnonzero(firing == 0).tolist(),
    }  # fmt: skip
