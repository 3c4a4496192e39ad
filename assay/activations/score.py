"""Scores against a known truth: did a coder find the features that a planted source is made of, and does it tell when they are there?

MCC, uniqueness, precision, recall, F1, accuracy and shrinkage as in SynthSAEBench (Chanin & Garriga-Alonso 2026, arXiv 2602.14687);
MCC after Song et al. 2025 (arXiv 2505.20254); γ after Rajamanoharan et al. 2024 (arXiv 2404.16014).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from assay.coders.base import SparseCoder
from assay.errors import BadInput, WidthMismatch
from assay.shapes import Bool, Float, Int, Tensor

if TYPE_CHECKING:
    from assay.activations.truth import PlantedSource

TIE = 1e-4
"""Of two features that are opposite, a latent is matched to the one it points along: cosines below 0 count this much less."""
RECOVERED = 0.9
"""A feature counts as recovered when a decoder row has a larger cosine with it."""
BLOCK = 64
"""Vectors whose sums are kept together. They are independent, so blocks are the units that intervals resample."""

OVER_VECTORS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "l0": lambda s: s["l0"] / s["vectors"],
    "true_l0": lambda s: s["true_l0"] / s["vectors"],
    "explained_variance": lambda s: 1 - s["error"] / s["variance"],
    "shrinkage": lambda s: s["ratio"] / s["non_zero"],
    "gamma": lambda s: np.where(s["along"] > 1e-6 * s["lengths"], s["lengths"] / s["along"], np.nan),  # else nothing is along x
}
"""Scores that are functions of sums over vectors."""


@dataclass(frozen=True)
class Measured:
    """What a look at a coder finds, before any mean is taken over it: what intervals are made from."""

    sums: dict[str, np.ndarray]
    """Sums over blocks of vectors, [blocks] each: what `OVER_VECTORS` are functions of."""
    latents: dict[str, np.ndarray]
    """[d_sae] each; scores are their means: precision, recall, f1, accuracy, dead, dense."""
    features: dict[str, np.ndarray]
    """[latents] each, over the true features; scores are their means: mmcs, recovered."""
    cosines: np.ndarray
    """Of latents and features matched one to one, without sign; their mean is the MCC."""
    nearest: np.ndarray
    """The nearest feature of each latent, [d_sae]."""
    absorbed: np.ndarray
    """Of each feature that has children, in a hierarchy: on how many of the vectors that have both the feature and one of its children
    the feature's own latent (the one with the nearest decoder row) is silent, as a share. Empty without a hierarchy."""


@torch.no_grad()
def score(coder: SparseCoder[Any], source: PlantedSource, n: int = 16_384, seed: int = 0) -> dict[str, float]:
    """How well a coder, in its inference form, knows a source, on `n` vectors that no training reads (`seed` says which).

    | score | what it is |
    |---|---|
    | `l0`, `true_l0` | active latents, active features of a vector, on average |
    | `explained_variance` | 1 − Σ‖x − x̂‖² / Σ‖x − mean‖² |
    | `mcc` | mean cosine (without sign) of latents and features, matched one to one for the largest sum |
    | `uniqueness` | distinct nearest features of the latents / latents |
    | `precision`, `recall`, `f1`, `accuracy` | of a latent's activity as a sign of its nearest feature's; mean over latents |
    | `mmcs`, `recovered` | see `recovery` |
    | `dead`, `dense` | share of latents that never fire; that fire on more than a tenth of the vectors |
    | `shrinkage` | mean of ‖x̂‖ / ‖x‖ |
    | `gamma` | see `bias`, about the mean vector |

    A dead latent has precision, recall and F1 of 0; its accuracy, as published, is the share of vectors without its feature.
    """
    found = measure(coder, source.directions, truths(source, n, seed))
    sums = {name: column.sum() for name, column in found.sums.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = {name: float(formula(sums)) for name, formula in OVER_VECTORS.items()}
    return {
        **{name: value if np.isfinite(value) else float("nan") for name, value in ratios.items()},
        **{name: float(column.mean()) for name, column in (found.latents | found.features).items()},
        "mcc": float(found.cosines.mean()),
        "uniqueness": len(np.unique(found.nearest)) / len(found.nearest),
    }


def truths(source: PlantedSource, n: int, seed: int = 0) -> Iterator[tuple[Float[Tensor, "b d"], Bool[Tensor, "b latents"]]]:
    """`n` vectors that no training reads, `seed` says which: pieces of (x, which features are there)."""
    if n < 2 or seed < 0:
        raise BadInput(f"A score needs n ≥ 2 vectors and seed ≥ 0; got {n}, {seed}.")
    for number, size in enumerate(_sizes(n)):
        x, truth = source.codes(size, f"score {seed}", number)
        yield x.cpu(), truth.cpu() != 0


@torch.no_grad()
def measure(
    coder: SparseCoder[Any],
    directions: Float[Tensor, "latents d"],
    pieces: Iterable[tuple[Float[Tensor, "b d"], Bool[Tensor, "b latents"]]],
    parents: Int[Tensor, " latents"] | None = None,
) -> Measured:
    """A coder, in its inference form, against the true features and `truths`: numbers of each latent, feature and block of vectors.

    `parents`: the feature above each, −1 for none.
    """
    if not coder.linear:
        raise BadInput(f"{type(coder).__name__} has no decoder directions to compare with the true ones.")
    was, form = coder.training, coder.folded().eval()
    nearest = match(form.W_dec, directions)
    counts, families = _Counts(form.d_sae), _Families(form.W_dec, directions, parents)
    for x, there in pieces:
        code = form.encode(x.to(form.W_dec.device))
        fires = code.latents.dense().cpu() != 0
        counts.add(x, form.decode(code).cpu(), fires, there, nearest)
        families.add(fires, there)
    coder.train(was)
    best = closest(form.W_dec, directions)
    return Measured(
        sums=counts.sums(),
        latents=counts.latents(),
        features={"mmcs": best.numpy(), "recovered": (best > RECOVERED).double().numpy()},
        cosines=matching(form.W_dec, directions)[2].numpy(),
        nearest=nearest.numpy(),
        absorbed=families.absorbed(),
    )


def matching(
    W_dec: Float[Tensor, "d_sae d"], directions: Float[Tensor, "latents d"]
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """(latents, features, their cosines without sign): the one-to-one matching with the largest sum of cosines."""
    cosines = _cosines(W_dec, directions)
    latents, features = linear_sum_assignment((cosines.abs() + TIE * cosines.sign()).numpy(), maximize=True)
    return torch.from_numpy(latents), torch.from_numpy(features), cosines[latents, features].abs()


def match(W_dec: Float[Tensor, "d_sae d"], directions: Float[Tensor, "latents d"]) -> Int[Tensor, " d_sae"]:
    """The nearest feature of each latent, by the cosine without sign. Several latents may have the same."""
    cosines = _cosines(W_dec, directions)
    return (cosines.abs() + TIE * cosines.sign()).argmax(1)


def recovery(W_dec: Float[Tensor, "d_sae d"], directions: Float[Tensor, "latents d"]) -> dict[str, float]:
    """How much of a planted dictionary a decoder holds.

    Over true directions: the mean of the largest cosine with any decoder row ("mmcs"), and the share for which it is above .9
    ("recovered").
    """
    best = closest(W_dec, directions)
    return {"mmcs": best.mean().item(), "recovered": (best > RECOVERED).double().mean().item()}


def closest(W_dec: Float[Tensor, "d_sae d"], directions: Float[Tensor, "latents d"]) -> Float[Tensor, " latents"]:
    """The largest cosine of each true direction with any decoder row."""
    return _cosines(W_dec, directions).amax(0)


def bias(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], centre: Float[Tensor, " d"] | float = 0.0) -> float:
    """Relative reconstruction bias γ = E‖x̂‖² / E[x̂·x], both relative to `centre`, e.g. b_dec (Rajamanoharan et al. 2024).

    The factor that minimises E‖x − x̂/γ‖². Below 1: reconstructions are too short (shrinkage); 1: unbiased. NaN when x̂ is 0.
    """
    truth, guess = (x.detach() - centre).double(), (x_hat.detach() - centre).double()
    along = (guess * truth).sum().item()
    return guess.square().sum().item() / along if along else float("nan")


def _cosines(W_dec: Tensor, directions: Tensor) -> Float[Tensor, "d_sae latents"]:
    if W_dec.shape[-1] != directions.shape[-1]:
        raise WidthMismatch(f"Decoder rows have width {W_dec.shape[-1]}, planted directions {directions.shape[-1]}.")
    rows = normalize(W_dec.detach().cpu().double(), dim=-1)
    return rows @ normalize(directions.cpu().double(), dim=-1).T


def _sizes(n: int, piece: int = 1024) -> list[int]:
    return [piece] * (n // piece) + ([n % piece] if n % piece else [])


class _Counts:
    """Sums over vectors, piece by piece: a wide truth never lies in memory as a whole."""

    def __init__(self, d_sae: int):
        self.both, self.fires, self.there = (torch.zeros(d_sae, dtype=torch.float64) for _ in range(3))
        self.n = 0
        self.blocks: dict[str, list[Tensor]] = {}

    def add(self, x: Tensor, x_hat: Tensor, fires: Tensor, there: Tensor, nearest: Tensor) -> None:
        """One piece: vectors, reconstructions, which latents fire, which features are there."""
        x, x_hat, wanted = x.double(), x_hat.double(), there[:, nearest]
        self.both += (fires & wanted).sum(0)
        self.fires += fires.sum(0)
        self.there += wanted.sum(0)
        self.n += len(x)
        length = x.norm(dim=1)
        some = length > 1e-6  # the ratio of lengths means nothing where x is 0
        columns = {
            "vectors": torch.ones_like(length), "l0": fires.sum(1), "true_l0": there.sum(1), "x": x, "x_hat": x_hat,
            "xx": x.square().sum(1), "yy": x_hat.square().sum(1), "xy": (x * x_hat).sum(1), "error": (x - x_hat).square().sum(1),
            "ratio": torch.where(some, x_hat.norm(dim=1) / length.clamp_min(1e-6), 0.0), "non_zero": some,
        }  # fmt: skip
        for name, column in columns.items():
            self.blocks.setdefault(name, []).extend(part.double().sum(0) for part in column.split(BLOCK))

    def sums(self) -> dict[str, np.ndarray]:
        """What `OVER_VECTORS` need, over each block: [blocks] each."""
        s = {name: torch.stack(parts) for name, parts in self.blocks.items()}
        x, x_hat = s.pop("x"), s.pop("x_hat")
        mean = x.sum(0) / self.n
        square = s["vectors"] * (mean @ mean)
        # Sums about the mean vector, from sums about 0.
        s["variance"] = s["xx"] - 2 * x @ mean + square
        s["lengths"] = s["yy"] - 2 * x_hat @ mean + square
        s["along"] = s["xy"] - (x + x_hat) @ mean + square
        return {name: column.numpy() for name, column in s.items()}

    def latents(self) -> dict[str, np.ndarray]:
        """Of each latent, as a sign of its nearest feature."""
        missed, false = self.there - self.both, self.fires - self.both
        found = {
            "precision": _share(self.both, self.fires),
            "recall": _share(self.both, self.there),
            "f1": _share(2 * self.both, self.fires + self.there),
            "accuracy": 1 - (missed + false) / self.n,
            "dead": (self.fires == 0).double(),
            "dense": (self.fires > 0.1 * self.n).double(),
        }
        return {name: column.numpy() for name, column in found.items()}


class _Families:
    """Features with children, and how often their own latents are silent where a child is there too."""

    def __init__(self, W_dec: Tensor, directions: Tensor, parents: Tensor | None):
        self.parents = torch.full((len(directions),), -1) if parents is None else parents.cpu()
        self.above = self.parents[self.parents >= 0].unique()
        self.own = _cosines(W_dec, directions[self.above.to(directions.device)]).argmax(0)
        self.together, self.silent = (torch.zeros(len(self.above), dtype=torch.float64) for _ in range(2))

    def add(self, fires: Tensor, there: Tensor) -> None:
        """One piece: which latents fire, which features are there."""
        child = self.parents >= 0
        below = torch.zeros(there.shape).index_add(1, self.parents[child], there[:, child].float()) > 0
        both = (there & below)[:, self.above]
        self.together += both.sum(0)
        self.silent += (both & ~fires[:, self.own]).sum(0)

    def absorbed(self) -> np.ndarray:
        """See `Measured`; features that never were together with a child are left out."""
        some = self.together > 0
        return (self.silent / self.together)[some].numpy()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole of each latent, 0 where there is nothing."""
    return torch.where(whole > 0, part / whole.clamp_min(1), 0.0)
