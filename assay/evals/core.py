"""core: how well a coder reconstructs, at what sparsity, and what that costs the model: SAEBench's core fields, from pooled sums.

Two departures from SAEBench 0.6 (Karvonen et al. 2025, arXiv 2503.09532): every ratio is a ratio of sums over all tokens, never a
mean over batches, and variance is centred. Its own explained variances stay under their own names, for comparison with old figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from assay import statistics
from assay.coders.base import SparseCoder
from assay.coders.latents import Latents
from assay.evals.base import Eval, EvalConfig, Metric, score
from assay.evals.needs import Need, Passes, PassesInput
from assay.randomness import numpy_generator
from assay.results import Score
from assay.shapes import Float, Tensor
from assay.splice import home
from assay.statistics import Interval

BLOCKS = 64
TINY = 1e-12
RESAMPLES = 200  # enough for a standard error
ENTRIES = 2**22  # resampled frequencies held at once

LOSS = {
    "ce_loss_clean": (lambda s: s["clean"] / s["predicted"], {}),
    "ce_loss_spliced": (lambda s: s["spliced"] / s["predicted"], {}),
    "ce_loss_increase": (lambda s: (s["spliced"] - s["clean"]) / s["predicted"], {}),
    "kl": (lambda s: s["kl_spliced"] / s["predicted"], {}),
}
VECTORS = {
    "fvu": lambda s: s["se"] / s["variance"],
    "explained_variance": lambda s: 1 - s["se"] / s["variance"],
    "explained_variance_legacy": lambda s: s["legacy"] / s["vectors"],
    "explained_variance_saebench_0_6": lambda s: 1 - s["se"] / (s["xx"] - (s["xx"] / s["entries"]) ** 2 * s["vectors"]),
    "mse": lambda s: s["se"] / s["entries"],
    "cosine_similarity": lambda s: s["cosine"] / s["vectors"],
    "l2_norm_in": lambda s: s["norm_in"] / s["vectors"],
    "l2_norm_out": lambda s: s["norm_out"] / s["vectors"],
    "l2_ratio": lambda s: s["norm_out"] / s["norm_in"],
    "relative_reconstruction_bias": lambda s: s["yy"] / s["xy"],
    "l0": lambda s: s["l0"] / s["vectors"],
    "l1": lambda s: s["l1"] / s["vectors"],
}
DENSITY = {
    "frac_alive": lambda p: (p > 0).mean(-1),
    "freq_over_1_percent": lambda p: (p > 0.01).mean(-1),
    "freq_over_10_percent": lambda p: (p > 0.1).mean(-1),
    "normalized_freq_over_1_percent": lambda p: (p * (p > 0.01)).sum(-1) / p.sum(-1),
    "normalized_freq_over_10_percent": lambda p: (p * (p > 0.1)).sum(-1) / p.sum(-1),
}
"""Functions of the latents' firing frequencies p [..., d_sae]."""

PRESETS = {"fast": {"tokens": 20_000}, "paper": {"tokens": 409_600, "special": True}}
"""For a CPU, and as many as SAEBench's published losses rest on (its published frequencies: see `density`)."""


@dataclass(frozen=True, kw_only=True)
class CoreConfig(EvalConfig):
    tokens: int = 100_000
    """Held-out tokens to run the model on, at least (all of the text when it is shorter)."""
    weights: bool = True
    """Compare every pair of encoder and decoder directions; costs d_sae² · d operations."""
    special: bool = False
    """Also ablate all positions to zero, BOS and padding too (`ablation=zero_everywhere`), as SAEBench does: one more pass for all coders."""


class Core(Eval[CoreConfig]):
    """Reconstruction, sparsity, and what splicing does to the model."""

    Config = CoreConfig
    version = 2
    metrics: ClassVar[Mapping[str, Metric]] = {
        "ce_loss_clean": Metric(doc="Cross-entropy of the untouched model.", better="neither", unit="nats"),
        "ce_loss_spliced": Metric(doc="Cross-entropy with the coder spliced in.", better="lower", unit="nats"),
        "ce_loss_increase": Metric(doc="What splicing adds to the cross-entropy (delta LM loss).", better="lower", unit="nats", ceiling=0.0),
        "ce_loss_ablated": Metric(doc="Cross-entropy with the site ablated; `ablation` says to what.", better="neither", unit="nats"),
        "loss_recovered": Metric(doc="(ablated − spliced) / (ablated − clean) cross-entropy.", better="higher", floor=0.0, ceiling=1.0),
        "kl": Metric(doc="KL(clean ‖ spliced) of the next-token distribution.", better="lower", unit="nats", ceiling=0.0),
        "kl_ablated": Metric(doc="KL(clean ‖ ablated).", better="neither", unit="nats"),
        "kl_div_score": Metric(doc="(KL ablated − KL spliced) / KL ablated.", better="higher", floor=0.0, ceiling=1.0),
        "fvu": Metric(doc="Fraction of variance unexplained, Σ|x − x̂|² / Σ|x − mean|².", better="lower", floor=1.0, ceiling=0.0),
        "explained_variance": Metric(doc="1 − FVU, centred and pooled over all vectors.", better="higher", floor=0.0, ceiling=1.0),
        "explained_variance_legacy": Metric(
            doc="Mean over tokens of 1 − |x − x̂|² / |x − mean|², as published with SAEBench in January 2025.",
            better="higher", floor=0.0, ceiling=1.0,
        ),
        "explained_variance_saebench_0_6": Metric(
            doc="1 − E|x − x̂|² / (E|x|² − (E|x|²/d)²), SAEBench 0.6's uncentred, scale-dependent formula; may exceed 1.", better="neither"
        ),
        "mse": Metric(doc="Squared error per entry.", better="lower", ceiling=0.0),
        "cosine_similarity": Metric(doc="Mean cosine of x and x̂.", better="higher", floor=0.0, ceiling=1.0),
        "l2_norm_in": Metric(doc="Mean norm of x.", better="neither"),
        "l2_norm_out": Metric(doc="Mean norm of x̂.", better="neither"),
        "l2_ratio": Metric(doc="Σ|x̂| / Σ|x|; below 1 is shrinkage.", better="neither", ceiling=1.0),
        "relative_reconstruction_bias": Metric(doc="γ = Σ|x̂|² / Σ x·x̂; below 1 is shrinkage.", better="neither", ceiling=1.0),
        "l0": Metric(doc="Latents that are not zero, a token.", better="lower", unit="latents"),
        "l1": Metric(doc="Sum of the latents' absolute values, a token.", better="neither"),
        "frac_alive": Metric(doc="Share of latents that fired at all.", better="higher", floor=0.0, ceiling=1.0),
        "freq_over_1_percent": Metric(doc="Share of latents that fire on over 1 % of tokens.", better="neither"),
        "freq_over_10_percent": Metric(doc="Share of latents that fire on over 10 % of tokens.", better="lower"),
        "normalized_freq_over_1_percent": Metric(doc="Share of all firing due to latents over 1 %.", better="neither"),
        "normalized_freq_over_10_percent": Metric(doc="Share of all firing due to latents over 10 %.", better="lower"),
        "average_max_encoder_cosine_sim": Metric(doc="Mean over latents of the closest other encoder direction's cosine.", better="neither"),
        "average_max_decoder_cosine_sim": Metric(doc="Mean over latents of the closest other decoder direction's cosine.", better="neither"),
    }  # fmt: skip

    def needs(self) -> Mapping[str, Need]:
        return {"text": Passes(self.config.tokens, self.config.special)}

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        text: PassesInput = inputs["text"]
        sums, blocks, firing = measure(coder, text)
        sums |= losses(text)
        drawn = statistics.resampled(sums, numpy_generator("core", "bootstrap", self.config.seed))
        scores = [
            score(name, statistics.estimate(formula, sums, drawn), **where)
            for name, formula, where in formulas()
            if where.get("ablation", "mean") in sums
        ]
        scores += densities(firing, blocks, numpy_generator("core", "blocks", self.config.seed))
        angles, per_latent = directions(coder) if self.config.weights else (_skipped("weights are switched off"), {})
        density = firing.sum(0) / max(blocks.sum(), 1)
        details = {
            "tokens": int(sums["vectors"].sum()), "predicted": int(sums["predicted"].sum()), "documents": text.documents,
            "blocks": {name: rounded(by_block(column, text.documents)) for name, column in sums.items() if name in KEPT},
            "latents": {"density": rounded(density)} | {name: rounded(v) for name, v in per_latent.items()},
        }  # fmt: skip
        return scores + angles, details


KEPT = {
    "predicted",
    "clean",
    "spliced",
    "mean",
    "zero",
    "zero_everywhere",
    "kl_spliced",
    "kl_mean",
    "kl_zero",
    "kl_zero_everywhere",
    "vectors",
    "se",
    "variance",
    "xy",
    "yy",
    "l0",
}
"""Sums kept in the details, by block of documents: enough for paired comparisons of two records."""


def formulas() -> list[tuple[str, statistics.Statistic, dict[str, str]]]:
    """(metric, formula, where) of everything that is a function of sums over documents."""
    found: list[tuple[str, statistics.Statistic, dict[str, str]]] = [(name, f, where) for name, (f, where) in LOSS.items()]
    for kind in ("mean", "zero", "zero_everywhere"):
        found += [
            ("ce_loss_ablated", lambda s, a=kind: s[a] / s["predicted"], {"ablation": kind}),
            ("loss_recovered", lambda s, a=kind: (s[a] - s["spliced"]) / (s[a] - s["clean"]), {"ablation": kind}),
            ("kl_ablated", lambda s, a=kind: s["kl_" + a] / s["predicted"], {"ablation": kind}),
            ("kl_div_score", lambda s, a=kind: 1 - s["kl_spliced"] / s["kl_" + a], {"ablation": kind}),
        ]
    return found + [(name, f, {}) for name, f in VECTORS.items()]


def losses(text: PassesInput) -> dict[str, np.ndarray]:
    """Sums of the per-token losses over each document: each [documents]."""
    passes = {"clean": text.clean, "spliced": text.spliced, "mean": text.mean_ablated, "zero": text.zero_ablated}
    columns = {"predicted": np.ones(len(text.document))}
    if text.zero_everywhere is not None:
        passes["zero_everywhere"] = text.zero_everywhere
    columns |= {name: part.ce for name, part in passes.items()}
    columns |= {f"kl_{name}": part.kl for name, part in passes.items() if name != "clean"}
    return {k: np.bincount(text.document, v.astype(np.float64), minlength=text.documents) for k, v in columns.items()}


def measure(coder: SparseCoder[Any], text: PassesInput) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """(sums over each document, tokens of each block, on how many of a block's tokens each latent fires [blocks, d_sae])."""
    device = home(coder)
    mean = text.mean.to(device)
    count = min(BLOCKS, text.documents)
    sums: dict[str, np.ndarray] = {}
    firing, blocks = np.zeros((count, coder.d_sae)), np.zeros(count)
    for piece, document in text.vectors():
        x = piece.to(device)
        code = coder.encode(x)
        for name, column in columns(x, coder.decode(code), mean, code.latents).items():
            total = np.bincount(document, column.double().cpu().numpy(), minlength=text.documents)
            sums[name] = sums[name] + total if name in sums else total
        block = document % count
        firing += fired(code.latents, torch.from_numpy(block).to(device), count).cpu().numpy()
        blocks += np.bincount(block, minlength=count)
    sums["entries"] = sums["vectors"] * coder.d_out
    return sums, blocks, firing


def columns(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], mean: Float[Tensor, " d"], latents: Latents) -> dict[str, Tensor]:
    """What each vector adds to the sums."""
    se, variance = (x - y).square().sum(-1), (x - mean).square().sum(-1)
    norm_in, norm_out, xy = x.norm(dim=-1), y.norm(dim=-1), (x * y).sum(-1)
    return {
        "vectors": torch.ones_like(se), "se": se, "variance": variance, "legacy": 1 - se / variance.clamp_min(TINY),
        "xx": x.square().sum(-1), "xy": xy, "yy": y.square().sum(-1), "norm_in": norm_in, "norm_out": norm_out,
        "cosine": xy / (norm_in * norm_out).clamp_min(TINY), "l0": latents.l0(), "l1": _l1(latents),
    }  # fmt: skip


def _l1(latents: Latents) -> Float[Tensor, " n"]:
    if not latents.is_sparse:
        return latents.values.abs().sum(-1)
    return latents.values.new_zeros(latents.count).index_add(0, latents.rows(), latents.values.abs())


def fired(latents: Latents, block: Tensor, count: int) -> Float[Tensor, "blocks d_sae"]:
    """On how many tokens of each of `count` blocks each latent is non-zero; `block` says to which each token belongs."""
    if latents.indices is None:
        pick = torch.nn.functional.one_hot(block, count).to(latents.values.dtype)
        return pick.T @ (latents.values != 0).to(latents.values.dtype)
    live = latents.values != 0
    place = block[latents.rows()[live]] * latents.d_sae + latents.indices[live]
    return torch.bincount(place, minlength=count * latents.d_sae).reshape(count, latents.d_sae)


def densities(firing: np.ndarray, blocks: np.ndarray, rng: np.random.Generator) -> list[Score]:
    """Scores that are functions of how often each latent fires, with intervals from resampled blocks of documents.

    Whether a latent fires at all takes another: a resample always sees fewer latents. That one leaves out a block at a time, which
    for shares above a frequency would be two to three times too wide (they move by single latents).
    """
    total, tokens, found = firing.sum(0), blocks.sum(), []
    errors = {name: [] for name in DENSITY}
    for p in frequencies(firing, blocks, rng):
        with np.errstate(divide="ignore", invalid="ignore"):
            for name, formula in DENSITY.items():
                errors[name].append(formula(p))
    for name, formula in DENSITY.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(formula(total / tokens))
            if name == "frac_alive":
                without = np.array([formula((total - f) / (tokens - n)) for f, n in zip(firing, blocks, strict=True)])
                at = statistics.jackknife(value, without, (0.0, 1.0))
            else:
                at = statistics.normal(value, np.concatenate(errors[name]), len(blocks), (0.0, 1.0))
        found.append(score(name, at, "no latent fired"))
    return found


def frequencies(firing: np.ndarray, blocks: np.ndarray, rng: np.random.Generator) -> Iterator[Float[np.ndarray, "b d_sae"]]:
    """Firing frequencies under resampled blocks of documents, some resamples at a time."""
    for drawn in statistics.counts(len(blocks), rng, RESAMPLES):
        step = max(1, ENTRIES // firing.shape[1])
        for start in range(0, len(drawn), step):
            part = drawn[start : start + step]
            yield (part @ firing) / (part @ blocks)[:, None]


def _skipped(reason: str) -> list[Score]:
    names = ("average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim")
    return [Score(metric=name, value=None, reason=reason) for name in names]


def directions(coder: SparseCoder[Any]) -> tuple[list[Score], dict[str, np.ndarray]]:
    """Scores and per-latent numbers from the weights alone. Nothing is sampled, so the intervals have no width."""
    scores, latents = [], {}
    W_enc, W_dec, b_enc = (getattr(coder, name, None) for name in ("W_enc", "W_dec", "b_enc"))
    rows = {"encoder": None if W_enc is None else W_enc.T, "decoder": W_dec if coder.linear else None}
    for name, W in rows.items():
        metric = f"average_max_{name}_cosine_sim"
        if W is None or len(W) < 2:
            scores.append(Score(metric=metric, value=None, reason=f"{type(coder).__name__} has no two {name} directions"))
            continue
        closest = closest_cosine(W.detach().float())
        value = float(closest.mean())
        scores.append(score(metric, Interval(value, value, value, len(W))))
        latents |= {f"max_{name}_cosine": closest, f"{name}_norm": W.detach().float().norm(dim=1).cpu().numpy()}
    if W_enc is not None and W_dec is not None and W_enc.T.shape == W_dec.shape:
        latents["encoder_decoder_cosine"] = (
            torch.cosine_similarity(W_enc.detach().T, W_dec.detach(), dim=1).float().cpu().numpy()
        )
    if b_enc is not None:
        latents["encoder_bias"] = b_enc.detach().float().cpu().numpy()
    return scores, latents


def closest_cosine(W: Float[Tensor, "n d"], chunk: int = 1024) -> np.ndarray:
    """Largest cosine of each row with another row; 0 for rows without length."""
    unit = W / W.norm(dim=1, keepdim=True).clamp_min(TINY)
    found = []
    for start in range(0, len(unit), chunk):
        near = unit[start : start + chunk] @ unit.T
        near[torch.arange(len(near)), torch.arange(len(near)) + start] = -torch.inf
        found.append(near.max(1).values)
    return torch.cat(found).cpu().numpy()


def by_block(column: np.ndarray, documents: int) -> np.ndarray:
    """A column over documents, summed over blocks of them."""
    count = min(BLOCKS, documents)
    return np.bincount(np.arange(documents) % count, column, minlength=count)


def rounded(values: np.ndarray) -> list[float]:
    """Seven digits of each, for the details."""
    return [float(f"{v:.7g}") for v in values.tolist()]
