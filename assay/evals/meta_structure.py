"""meta_structure: are decoder directions made of fewer directions? A small SAE of the decoder's rows, beside floor and ceiling.

After Leask et al. 2025 (arXiv 2502.04878), as in Bussmann et al. 2025 (arXiv 2503.17547, App. D) and SAEBench's
`meta_structure_decoder_variance`: a BatchTopK "meta-SAE" with a quarter as many latents as there are rows, 4 of them a row on average,
learns to reconstruct the unit rows of W_dec. The score is the share of the rows' variance about their mean that it explains, with its
inference threshold. Needs nothing but the coder: no model and no text.

The figure alone says little: a quarter as many directions reconstruct part of any cloud, and rows that were learnt from are partly learnt by
heart. So beside it stand, each with meta-SAEs of its own, of the same size, start and training:

- `rows=held_out`: a tenth of the rows, which the meta-SAE has not seen. What only repeats the learnt rows does not help here.
- `of=random`: random directions, as many and as wide. The floor of what no structure gives.
- `of=permuted`: the decoder's own rows, whose principal coordinates are exchanged between rows at random: the same mean and covariance, no
  composition. The floor to beat. (Exchanging whole rows would change nothing.)
- `of=composed`: rows that are sums of k of as many random directions as the meta-SAE has latents. The ceiling: all that this training finds
  where all is there.

`structure` puts the decoder on that scale: 0 is `permuted`, 1 is `composed`. Where rows lie in few dimensions the floor is as high as the ceiling, and
it has no value. `repeats` meta-SAEs differ in start, batches and held-out rows; the
scores are of all of them together, `spread` is the standard deviation between them. Intervals resample rows.

Neither direction is better as such. Where latents are to be atoms, lower is better: Matryoshka coders were introduced by being lower than
BatchTopK. But random directions are the lowest of all. Read it at equal width: more rows, and more meta-latents, explain more.

What it cannot tell: whether meta-latents mean anything, or whether a latent's parts are active when it is. Rows of latents that never fire have
never learnt; they are rows like any other here, and make the decoder look more random.

Cost: 4 · `repeats` small trainings for the first coder of a shape, 2 · `repeats` for each further one.

Figures of others: .243 for a ReLU coder of 16,384 latents at layer 4 of Pythia-70m (SAEBench's own test). Gemma-2-2B, L0 70: ReLU .53,
BatchTopK .49, Matryoshka .35, OrtSAE .34. GPT-2, 49,152 rows, 2,304 meta-latents and a far longer training: .55. SAEBench learns from all
rows (`held_out=0`) and has none of the references.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from assay import statistics
from assay.coders.base import Batch, SparseCoder, Step
from assay.coders.batch_topk import BatchTopK, BatchTopKConfig
from assay.coders.linear import unit_rows
from assay.errors import BadInput
from assay.evals.base import Eval, EvalConfig, Metric, score
from assay.evals.needs import Need
from assay.randomness import generator, numpy_generator, seed_of
from assay.results import Score
from assay.shapes import Float, Tensor

Of = Literal["decoder", "permuted", "random", "composed"]
SHAPED: tuple[Of, ...] = ("random", "composed")
"""References that depend on the number of rows and their width alone: made once for all coders of a shape."""
SCALE: tuple[Of, ...] = ("decoder", "permuted", "composed")
"""What `structure` is made of: the value, its floor and its ceiling."""
PLACES = ("fitted", "held_out")
PIECE = 4096  # rows reconstructed at once
CLIP = 1.0  # largest norm of a gradient
CLOSE = 0.05  # difference of floor and ceiling below which they are no scale
NONE = statistics.Interval(float("nan"), None, None, 0)

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"steps": 1500, "batch": 1024, "lr": 5e-4, "held_out": 0.0, "repeats": 1},
    "fast": {},
}
"""SAEBench's settings; the defaults are for a CPU. As there, nothing revives dead meta-latents."""


@dataclass(frozen=True, kw_only=True)
class MetaStructureConfig(EvalConfig):
    width_ratio: float = 0.25
    """Meta-latents, as a share of the decoder's rows."""
    k: int = 4
    """Meta-latents a row, on average."""
    steps: int = 200
    """Steps of each training."""
    batch: int = 512
    """Rows a step, drawn with replacement."""
    lr: float = 0.003
    """Adam's learning rate, the same at every step."""
    held_out: float = 0.1
    """Share of the rows that a meta-SAE does not learn from; 0 for none."""
    repeats: int = 2
    """Meta-SAEs of each kind, each with another start, other batches and other held-out rows."""


class MetaStructure(Eval[MetaStructureConfig]):
    """How much of a decoder a smaller sparse dictionary explains."""

    Config = MetaStructureConfig
    version = 1
    metrics: ClassVar[Mapping[str, Metric]] = {
        "decoder_fraction_variance_explained": Metric(
            doc="1 − Σ|row − reconstruction|² / Σ|row − mean|², of the decoder or of a reference.", better="neither", ceiling=1.0
        ),
        "mse": Metric(doc="Squared error of an entry of a row of norm 1.", better="neither"),
        "structure": Metric(
            doc="(decoder − permuted) / (composed − permuted), of the variances explained.", better="neither", floor=0.0, ceiling=1.0
        ),
        "spread": Metric(doc="Standard deviation of the decoder's variance explained over `repeats`.", better="lower"),
        "l0": Metric(doc="Meta-latents active on a row, on average.", better="neither", unit="meta-latents"),
        "dead": Metric(doc="Share of the meta-latents that no row activates.", better="lower", floor=1.0, ceiling=0.0),
    }  # fmt: skip

    def __init__(self, config: MetaStructureConfig | None = None):
        super().__init__(config)
        c = self.config
        if not (0 < c.width_ratio <= 1 and min(c.k, c.steps, c.batch, c.repeats) >= 1 and 0 <= c.held_out <= 0.5 and c.lr > 0):
            raise BadInput(
                "meta_structure needs width_ratio above 0 and at most 1, held_out from 0 to 0.5, lr above 0, and k, steps, batch and repeats "
                f"of 1 or more; got {c.width_ratio}, {c.held_out}, {c.lr}, {c.k}, {c.steps}, {c.batch} and {c.repeats}."
            )
        self._shaped: dict[tuple[str, int, int, torch.device], _Explained] = {}

    def needs(self) -> Mapping[str, Need]:
        return {}

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        if not coder.linear:
            return _nothing(f"{type(coder).__name__} has no decoder directions")
        rows, least = directions(coder), 4 * self.config.k
        if len(rows) < least:
            return _nothing(f"{len(rows)} rows are too few for {self.config.k} meta-latents a row: {least} or more are needed")
        found: dict[Of, _Explained] = {
            "decoder": self._explained(rows),
            "permuted": self._explained(self._reference("permuted", rows)),
        }
        for of in SHAPED:
            key = of, len(rows), rows.shape[1], rows.device
            if key not in self._shaped:
                self._shaped[key] = self._explained(self._reference(of, rows))
            found[of] = self._shaped[key]
        details = {
            "rows": len(rows), "left_out": coder.d_sae - len(rows), "meta_latents": self._width(rows),
            "repeats": {of: one.values for of, one in found.items()},
        }  # fmt: skip
        return self._scores(found, rows.shape[1]), details

    def _width(self, rows: Tensor) -> int:
        return max(math.ceil(len(rows) * self.config.width_ratio), self.config.k)

    def _reference(self, of: Of, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """As many rows of another kind, in the same place."""
        (n, d), random = rows.shape, generator("meta_structure", of, self.config.seed)
        if of == "permuted":
            return exchanged(rows, random)
        some = unit_rows(torch.randn(n if of == "random" else self._width(rows), d, generator=random))
        if of == "composed":
            chosen = torch.randint(len(some), (n, self.config.k), generator=random)
            some = unit_rows(torch.stack([some[column] for column in chosen.T]).sum(0))
        return some.to(rows.device)

    @torch.enable_grad()
    def _fit(self, rows: Float[Tensor, "n d"], width: int, repeat: int) -> BatchTopK:
        """A meta-SAE of some unit rows, in eval mode."""
        cfg, name = self.config, ("meta_structure", self.config.seed, repeat)
        config = BatchTopKConfig(d_in=rows.shape[1], d_sae=width, k=cfg.k, aux_weight=0.0, decoder="free")
        meta = BatchTopK(config, seed=seed_of(*name)).to(rows.device).train()
        adam = torch.optim.Adam(meta.parameters(), cfg.lr)
        random = generator(*name, "batches")
        for _ in range(cfg.steps):
            batch = Batch.of(rows[torch.randint(len(rows), (cfg.batch,), generator=random).to(rows.device)])
            loss = meta.loss(batch, meta.encode(batch.x), Step())["mse"]
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(meta.parameters(), CLIP)
            adam.step()
        return meta.eval()

    def _explained(self, rows: Float[Tensor, "n d"]) -> _Explained:
        """What `repeats` meta-SAEs make of unit rows."""
        found = _Explained(len(rows))
        for repeat in range(self.config.repeats):
            order = torch.randperm(len(rows), generator=generator("meta_structure", self.config.seed, repeat, "held out"))
            held = torch.zeros(len(rows), dtype=torch.bool)
            held[order[: round(self.config.held_out * len(rows))]] = True
            fitted = rows[~held.to(rows.device)]
            found.add(self._fit(fitted, self._width(rows), repeat), rows, fitted.mean(0), held.numpy())
        return found

    def _scores(self, found: Mapping[Of, _Explained], d: int) -> list[Score]:
        scores = []
        for place in PLACES:
            if place == "held_out" and not self.config.held_out:
                for name in ("decoder_fraction_variance_explained", "mse", "structure"):
                    where = {"rows": place} | ({"of": "decoder"} if name.startswith("decoder") else {})
                    scores.append(Score(metric=name, value=None, where=where, reason="no rows were held out"))
                continue
            share: dict[Of, tuple[float, np.ndarray]] = {
                of: _share(one.sums[place], numpy_generator("meta_structure", place, of, self.config.seed))
                for of, one in found.items()
            }
            for of, (value, replicates) in share.items():
                at = statistics.percentile(value, replicates, found[of].n)
                scores.append(score("decoder_fraction_variance_explained", at, "the rows do not vary", rows=place, of=of))
            own = found["decoder"].sums[place]
            mse = statistics.bootstrap(
                lambda s: s["error"] / s["entries"], {"error": own["error"], "entries": own["times"] * d},
                numpy_generator("meta_structure", place, "mse", self.config.seed),
            )  # fmt: skip
            scores.append(score("mse", mse, rows=place))
            value, replicates = (_placed(*(share[of][i] for of in SCALE)) for i in (0, 1))
            at = statistics.percentile(float(value), np.asarray(replicates), found["decoder"].n)
            apart = share["composed"][0] - share["permuted"][0] > CLOSE
            why = "floor and ceiling are hardly apart: the rows lie in few dimensions"
            scores.append(score("structure", at if apart else NONE, why, rows=place))
        values = found["decoder"].values["fitted"]
        scores.append(score("spread", statistics.spread(values).sd, "a spread needs two repeats or more"))
        for name in ("l0", "dead"):
            over = statistics.spread(found["decoder"].values[name]).mean
            scores.append(score(name, over))
        return scores


class _Explained:
    """What meta-SAEs make of rows: errors and variances of each row, summed over those that learnt from it and those that did not."""

    def __init__(self, n: int):
        self.n = n
        self.sums = {place: {name: np.zeros(n) for name in ("error", "variance", "times")} for place in PLACES}
        self.values: dict[str, list[float]] = {"fitted": [], "held_out": [], "l0": [], "dead": []}
        """Of each repeat: variance explained of the rows learnt from and of the others, meta-latents active on a row, share dead."""

    @torch.no_grad()
    def add(self, meta: BatchTopK, rows: Float[Tensor, "n d"], mean: Float[Tensor, " d"], held: np.ndarray) -> None:
        """One repeat: which rows it did not learn from, and the mean of the others."""
        error, firing = [], torch.zeros(meta.d_sae, device=rows.device)
        for piece in rows.split(PIECE):
            code = meta.encode(piece)
            error.append((piece - meta.decode(code)).double().square().sum(1))
            firing += code.latents.firing()
        errors, variances = torch.cat(error).cpu().numpy(), (rows - mean).double().square().sum(1).cpu().numpy()
        for place, here in zip(PLACES, (~held, held), strict=True):
            for name, column in (("error", errors), ("variance", variances), ("times", np.ones(self.n))):
                self.sums[place][name] += np.where(here, column, 0.0)
            if here.any():
                self.values[place].append(float(1 - errors[here].sum() / variances[here].sum()))
        self.values["l0"].append(float(firing.sum()) / self.n)
        self.values["dead"].append(float((firing == 0).double().mean()))


def directions(coder: SparseCoder[Any]) -> Float[Tensor, "n d"]:
    """Unit decoder rows; those of length 0 are left out."""
    rows = coder.W_dec.detach().float()
    return unit_rows(rows[rows.norm(dim=1) > 0])


def exchanged(rows: Float[Tensor, "n d"], random: torch.Generator) -> Float[Tensor, "n d"]:
    """Unit rows with the mean and (up to their lengths) the covariance of `rows`, whose principal coordinates come from different rows."""
    mean = rows.mean(0)
    places, sizes, axes = torch.linalg.svd((rows - mean).double(), full_matrices=False)
    some = sizes > 1e-6 * sizes[0].clamp_min(1e-12)
    order = torch.stack([torch.randperm(len(rows), generator=random) for _ in sizes], dim=1).to(rows.device)
    u, _, v = torch.linalg.svd(places.gather(0, order)[:, some], full_matrices=False)
    return unit_rows(((u @ v) * sizes[some] @ axes[some]).float() + mean)  # u @ v: uncorrelated again, also in a small sample


def _share(sums: Mapping[str, np.ndarray], rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """(share of variance explained, its value under each resampling of rows)."""
    drawn = statistics.resampled(sums, rng)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(1 - sums["error"].sum() / sums["variance"].sum()), 1 - drawn["error"] / drawn["variance"]


def _placed(value: Any, floor: Any, ceiling: Any) -> Any:
    """Where a value lies between floor (0) and ceiling (1)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (np.asarray(value) - floor) / (np.asarray(ceiling) - floor)


def _nothing(reason: str) -> tuple[list[Score], dict[str, Any]]:
    return [Score(metric=name, value=None, reason=reason) for name in MetaStructure.metrics], {}
