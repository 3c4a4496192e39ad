"""Scores against a known truth: did a coder find the features that a planted source is made of, and does it tell when they are there?

MCC, uniqueness, precision, recall, F1, accuracy and shrinkage as in SynthSAEBench (Chanin & Garriga-Alonso 2026, arXiv 2602.14687);
MCC after O'Neill et al. 2025 (arXiv 2505.20254); γ after Rajamanoharan et al. 2024 (arXiv 2404.16014).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from assay.coders.base import SparseCoder
from assay.errors import BadInput, WidthMismatch
from assay.shapes import Float, Int, Tensor

if TYPE_CHECKING:
    from assay.activations.truth import PlantedSource

TIE = 1e-4
"""Of two features that are opposite, a latent is matched to the one it points along: cosines below 0 count this much less."""


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
    if not coder.linear:
        raise BadInput(f"{type(coder).__name__} has no decoder directions to compare with the true ones.")
    if n < 2 or seed < 0:
        raise BadInput(f"A score needs n ≥ 2 vectors and seed ≥ 0; got {n}, {seed}.")
    was, form = coder.training, coder.folded().eval()
    nearest = match(form.W_dec, source.directions)
    counts = _Counts(form.d_sae, source.d_in)
    for number, size in enumerate(_sizes(n)):
        x, truth = source.codes(size, f"score {seed}", number)
        code = form.encode(x.to(form.W_dec.device))
        counts.add(x.cpu(), form.decode(code).cpu(), code.latents.dense().cpu() != 0, truth.cpu() != 0, nearest)
    coder.train(was)
    cosines = matching(form.W_dec, source.directions)[2]
    return {
        **counts.scores(n),
        "mcc": cosines.mean().item(),
        "uniqueness": len(nearest.unique()) / len(nearest),
        **recovery(form.W_dec, source.directions),
    }


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
    best = _cosines(W_dec, directions).amax(0)
    return {"mmcs": best.mean().item(), "recovered": (best > 0.9).double().mean().item()}


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

    def __init__(self, d_sae: int, d: int):
        self.both, self.fires, self.there = (torch.zeros(d_sae, dtype=torch.float64) for _ in range(3))
        self.x, self.x_hat = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
        self.xx = self.yy = self.xy = self.error = self.l0 = self.true_l0 = self.ratio = 0.0
        self.non_zero = 0

    def add(self, x: Tensor, x_hat: Tensor, fires: Tensor, there: Tensor, nearest: Tensor) -> None:
        """One piece: vectors, reconstructions, which latents fire, which features are there."""
        x, x_hat, wanted = x.double(), x_hat.double(), there[:, nearest]
        self.both += (fires & wanted).sum(0)
        self.fires += fires.sum(0)
        self.there += wanted.sum(0)
        self.l0 += fires.sum().item()
        self.true_l0 += there.sum().item()
        self.x += x.sum(0)
        self.x_hat += x_hat.sum(0)
        self.xx += x.square().sum().item()
        self.yy += x_hat.square().sum().item()
        self.xy += (x * x_hat).sum().item()
        self.error += (x - x_hat).square().sum().item()
        length = x.norm(dim=1)
        some = length > 1e-6  # the ratio of lengths means nothing where x is 0
        self.ratio += (x_hat.norm(dim=1)[some] / length[some]).sum().item()
        self.non_zero += int(some.sum())

    def scores(self, n: int) -> dict[str, float]:
        """Means of what was counted on n vectors."""
        missed, false = self.there - self.both, self.fires - self.both
        mean = self.x / n
        square = (mean @ mean).item()
        variance = self.xx - n * square
        # Sums about the mean vector, from sums about 0.
        lengths = self.yy - 2 * (self.x_hat @ mean).item() + n * square
        along = self.xy - (self.x_hat @ mean).item()
        return {
            "l0": self.l0 / n,
            "true_l0": self.true_l0 / n,
            "explained_variance": 1 - self.error / variance if variance > 0 else float("nan"),
            "precision": _mean_share(self.both, self.fires),
            "recall": _mean_share(self.both, self.there),
            "f1": _mean_share(2 * self.both, self.fires + self.there),
            "accuracy": (1 - (missed + false) / n).mean().item(),
            "dead": (self.fires == 0).double().mean().item(),
            "dense": (self.fires > 0.1 * n).double().mean().item(),
            "shrinkage": self.ratio / self.non_zero if self.non_zero else float("nan"),
            "gamma": lengths / along if along else float("nan"),
        }


def _mean_share(part: Tensor, whole: Tensor) -> float:
    """Mean over latents of part / whole, 0 where there is nothing."""
    return torch.where(whole > 0, part / whole.clamp_min(1), 0.0).mean().item()
