"""seed_stability: do two trainings that differ in the seed alone find the same latents? One coder against the others of its kind.

A coder's siblings are the coders evaluated in the same call that have its architecture, widths and settings, and another seed. (That they
learnt from the same data is for the caller to see to.) Latents of two siblings are matched one to one so that the sum of the cosines of
their decoder rows is largest (Hungarian algorithm), and in the same way by their encoder columns. Cosines have their sign: opposite
directions are different latents.

- `mcc`: mean cosine of matched decoder rows, PW-MCC (Song et al. 2025, arXiv 2505.20254; there without sign). A latent that is left over,
  because the sibling has fewer that are alive, counts 0.
- `shared[by=both]`: share of latents whose partner is the same by decoder and by encoder, both cosines above .7 (Paulo & Belrose 2025,
  arXiv 2501.16615). `by=decoder`: by the decoder alone, above .7.
- `nearest`: mean largest cosine with any of the sibling's decoder rows; several latents may have the same.

Each is a mean over the coder's living latents and over its siblings. With `weight=firing` latents count as often as they fire: frequent ones
are found more often than rare ones. Dead latents of either side are left out: they are where they began, and only dilute the figure. Alive is
what fires on the held-out text, or on new vectors of the planted source (`firing`); with `firing=none` nothing is read, and all are counted.

`of=chance` is the same between random dictionaries of as many rows. It is far from 0: in d dimensions the nearest of N random rows has a cosine
of about √(2 ln N / d).

Above `one_to_one` latents, matching takes too long (its time grows with N³, its memory is 12 N² bytes: .8 GB at 8,192, 13 GB at 32,768). Then pairs are latents that
are each other's nearest, `shared` says `matching=mutual`, and `mcc` has no value.

Intervals resample latents: they say what other latents of these trainings would give, not what further seeds would. With many seeds, look at
`assay results table --seeds`, too.

What it cannot tell: whether shared latents mean anything. A bias that all seeds share, such as absorption, is stable too; and what only one seed
finds may be as real as what all do.

Cost: per pair of siblings two matchings, and one encoding of the text per coder.

Figures of others, `shared[by=both]`: .53 for TopK coders of 32,768 latents on an MLP of Pythia-160m, .30 for 131,072 on Llama 3 8B, more for
ReLU with an L1 penalty, less the wider. PW-MCC: .80 for TopK coders on the activations of a language model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from assay import statistics
from assay.coders.base import SparseCoder
from assay.coders.linear import unit_rows
from assay.errors import BadInput
from assay.evals.base import Eval, EvalConfig, Metric, score
from assay.evals.core import rounded
from assay.evals.needs import Need, Passes, PassesInput, Siblings, SiblingsInput, Truth, TruthInput
from assay.randomness import generator, numpy_generator
from assay.results import Score
from assay.shapes import Float, Tensor
from assay.splice import home, inference

SHARED = 0.7
"""A matched latent counts as the same one above this cosine: Paulo & Belrose's threshold."""
BLOCK = 2**26  # cosines held at once

PRESETS: dict[str, dict[str, Any]] = {"paper": {"tokens": 409_600, "one_to_one": 32_768}, "fast": {"tokens": 20_000}}
"""Settings: matching as wide as Paulo & Belrose's smaller coders (they count firing on 10M tokens), and for a CPU."""


@dataclass(frozen=True, kw_only=True)
class SeedStabilityConfig(EvalConfig):
    firing: Literal["text", "planted", "none"] = "text"
    """Where latents are seen to fire: held-out text, new vectors of the planted source, or nowhere: then all count as alive."""
    tokens: int = 100_000
    """Held-out tokens, or planted vectors, that are read for it. As many as core reads cost no further pass of the model."""
    one_to_one: int = 8192
    """Up to so many living latents are matched one to one; above, mutual nearest neighbours are the pairs."""


@dataclass(frozen=True)
class Matched:
    """Partners of some latents among those of another coder, by one kind of direction."""

    partner: np.ndarray
    """[n], −1 for none."""
    cosine: np.ndarray
    """[n], 0 without a partner."""
    nearest: np.ndarray
    """[n]: the largest cosine with any of them."""


class SeedStability(Eval[SeedStabilityConfig]):
    """Latents found again under another seed."""

    Config = SeedStabilityConfig
    version = 1
    metrics: ClassVar[Mapping[str, Metric]] = {
        "mcc": Metric(doc="Mean cosine of decoder rows matched one to one with those of a sibling.", better="higher", ceiling=1.0),
        "shared": Metric(doc="Share of latents whose partner is the same latent: cosines above .7.", better="higher", floor=0.0, ceiling=1.0),
        "nearest": Metric(doc="Mean largest cosine with any decoder row of a sibling.", better="higher", ceiling=1.0),
        "alive": Metric(doc="Share of the coder's latents that are compared.", better="higher", ceiling=1.0),
    }  # fmt: skip

    def __init__(self, config: SeedStabilityConfig | None = None):
        super().__init__(config)
        if min(self.config.tokens, self.config.one_to_one) < 1 or self.config.firing not in ("text", "planted", "none"):
            c = self.config
            raise BadInput(
                "seed_stability needs tokens and one_to_one of 1 or more, and firing text, planted or none; "
                f"got {c.tokens}, {c.one_to_one} and {c.firing!r}."
            )
        self._read: Any = None
        self._firing: dict[str, np.ndarray] = {}  # by hash, on what `_read` gives
        self._pairs: dict[tuple[str, str], dict[str, tuple[Matched, Matched]]] = {}
        self._by_chance: dict[tuple[int, int, int], Matched] = {}

    def needs(self) -> Mapping[str, Need]:
        c = self.config
        data: dict[str, Need] = {"text": Passes(c.tokens), "planted": Truth(c.tokens, c.seed)}
        return {"siblings": Siblings()} | {name: need for name, need in data.items() if name == c.firing}

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        family: SiblingsInput = inputs["siblings"]
        reason = family.reason if coder.linear else f"{type(coder).__name__} has no decoder directions"
        if reason:
            return _nothing(reason), {}
        stream = _stream(inputs.get(self.config.firing))
        if stream != self._read:
            self._read, self._firing, self._pairs = stream, {}, {}
        everyone = {family.own: coder} | dict(family.others)
        for key, one in everyone.items():
            if key not in self._firing:
                self._firing[key] = np.ones(one.d_sae) if stream is None else fires(one, stream)
        alive = self._firing[family.own] > 0
        if not alive.any():
            return _nothing("no latent fired"), {}
        found = {key: self._against(family.own, key, everyone) for key in sorted(family.others)}
        each = {key: columns(matched, self._exact(everyone)) for key, matched in found.items()}
        means = {name: np.mean([column[name] for column in each.values()], axis=0) for name in next(iter(each.values()))}
        weights = {"latents": np.ones(int(alive.sum()))}
        weights |= {} if stream is None else {"firing": self._firing[family.own][alive]}
        scores = self._scores(means, weights, of="siblings") + self._chance(everyone, family.own)
        if stream is None:
            scores.append(Score(metric="alive", value=None, reason="firing=none: nothing was read, all latents are compared"))
        else:
            scores.append(score("alive", self._mean("alive", alive.astype(np.float64), np.ones(len(alive)))))
        return scores, {
            "siblings": {key: {name: float(column.mean()) for name, column in one.items()} for key, one in each.items()},
            "alive": int(alive.sum()), "dead": np.flatnonzero(~alive).tolist(), "nearest": rounded(means["nearest"]),
        }  # fmt: skip

    def _exact(self, family: Mapping[str, SparseCoder[Any]]) -> bool:
        """Whether the living latents are few enough for one-to-one matchings."""
        return max(int((self._firing[key] > 0).sum()) for key in family) <= self.config.one_to_one

    def _against(self, own: str, other: str, coders: Mapping[str, SparseCoder[Any]]) -> dict[str, Matched]:
        """Partners of the living latents of a coder in another, by "decoder" and, where both have one, "encoder"."""
        pair = (own, other) if own < other else (other, own)  # each pair is matched once, in one order
        if pair not in self._pairs:
            sides = [rows(coders[key], self._firing[key] > 0) for key in pair]
            exact = self._exact(coders)
            self._pairs[pair] = {kind: match(sides[0][kind], sides[1][kind], exact) for kind in sides[0]}
        return {kind: sides[pair.index(own)] for kind, sides in self._pairs[pair].items()}

    def _chance(self, coders: Mapping[str, SparseCoder[Any]], own: str) -> list[Score]:
        """The scores between random directions, as many as are compared here."""
        other = min(key for key in coders if key != own)
        n, m = (int((self._firing[key] > 0).sum()) for key in (own, other))
        shape = n, m, coders[own].d_out
        exact = self._exact(coders)
        if shape not in self._by_chance:
            random = generator("seed_stability", "chance", self.config.seed, shape)
            u, v = (unit_rows(torch.randn(some, shape[2], generator=random)).to(home(coders[own])) for some in (n, m))
            self._by_chance[shape] = match(u, v, exact)[0]
        weights = {"latents": np.ones(n)}
        return self._scores(columns({"decoder": self._by_chance[shape]}, exact), weights, of="chance")

    def _scores(self, found: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], *, of: str) -> list[Score]:
        scores = []
        for weight, each in weights.items():
            for spec, column in found.items():
                name, *more = spec.split(" ")
                where = dict(part.split("=") for part in more) | {"of": of, "weight": weight}
                scores.append(score(name, self._mean(f"{of} {spec} {weight}", column, each), **where))
            if "mcc" not in found:
                reason = f"over {self.config.one_to_one:,} living latents, too many for a one-to-one matching (one_to_one)"
                scores.append(Score(metric="mcc", value=None, where={"of": of, "weight": weight}, reason=reason))
        return scores

    def _mean(self, name: str, values: np.ndarray, weights: np.ndarray) -> statistics.Interval:
        sums = {"value": values * weights, "weight": weights}
        return statistics.bootstrap(
            lambda s: s["value"] / s["weight"], sums, numpy_generator("seed_stability", name, self.config.seed)
        )


def columns(found: Mapping[str, Matched], exact: bool) -> dict[str, np.ndarray]:
    """What is averaged over the latents of one coder, by the name of its score."""
    decoder, encoder = found["decoder"], found.get("encoder")
    how = "" if exact else " matching=mutual"
    close = decoder.cosine > SHARED
    scores = {"mcc": decoder.cosine} if exact else {}
    scores |= {"nearest": decoder.nearest, f"shared by=decoder{how}": close.astype(np.float64)}
    if encoder is not None:
        same = close & (encoder.cosine > SHARED) & (encoder.partner == decoder.partner)
        scores[f"shared by=both{how}"] = same.astype(np.float64)
    return scores


def rows(coder: SparseCoder[Any], alive: np.ndarray) -> dict[str, Float[Tensor, "n d"]]:
    """Unit directions of the living latents: decoder rows, and encoder columns where there are any."""
    here = torch.from_numpy(alive).to(home(coder))
    found = {"decoder": coder.W_dec.detach()[here]}
    if isinstance(W_enc := getattr(coder, "W_enc", None), Tensor):
        found["encoder"] = W_enc.detach().T[here]
    return {kind: unit_rows(some.float()) for kind, some in found.items()}


def match(u: Float[Tensor, "n d"], v: Float[Tensor, "m d"], exact: bool) -> tuple[Matched, Matched]:
    """Partners of each of `u` in `v`, and of each of `v` in `u`: one to one with the largest sum of cosines, or mutually nearest."""
    if not len(u) or not len(v):
        return _alone(len(u)), _alone(len(v))
    if exact:
        from scipy.optimize import linear_sum_assignment

        cosines = (u @ v.T).cpu().numpy()
        i, j = linear_sum_assignment(cosines, maximize=True)
        return _paired(i, j, cosines[i, j], cosines.max(1), cosines.max(0))
    (near_u, to_v), (near_v, to_u) = nearest(u, v)
    i = np.flatnonzero(to_u[to_v] == np.arange(len(u)))
    return _paired(i, to_v[i], near_u[i], near_u, near_v)


def nearest(
    u: Float[Tensor, "n d"], v: Float[Tensor, "m d"]
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(largest cosine, which) of each of `u` with `v`, and of each of `v` with `u`, some rows at a time."""
    step, parts = max(1, BLOCK // len(v)), []
    best, where = u.new_full((len(v),), -torch.inf), torch.zeros(len(v), dtype=torch.int64, device=v.device)
    for start in range(0, len(u), step):
        cosines = u[start : start + step] @ v.T
        parts.append(cosines.max(1))
        column = cosines.max(0)
        where = torch.where(column.values > best, column.indices + start, where)
        best = torch.maximum(best, column.values)
    values, indices = torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])
    return (values.cpu().numpy(), indices.cpu().numpy()), (best.cpu().numpy(), where.cpu().numpy())


def fires(coder: SparseCoder[Any], stream: Callable[[], Iterator[tuple[Tensor, Any]]]) -> np.ndarray:
    """On how many vectors each latent fires."""
    device, total = home(coder), np.zeros(coder.d_sae)
    with inference(coder):
        for x, _ in stream():
            total += coder.encode(x.to(device)).latents.firing().cpu().numpy()
    return total


def _stream(data: PassesInput | TruthInput | None) -> Any:
    """What gives the vectors; None where nothing is read."""
    return data.vectors if isinstance(data, PassesInput) else data.pieces if data else None


def _paired(
    i: np.ndarray, j: np.ndarray, cosine: np.ndarray, near_u: np.ndarray, near_v: np.ndarray
) -> tuple[Matched, Matched]:
    sides = _alone(len(near_u)), _alone(len(near_v))
    for side, here, there, near in zip(sides, (i, j), (j, i), (near_u, near_v), strict=True):
        side.partner[here], side.cosine[here], side.nearest[:] = there, cosine, near
    return sides


def _alone(n: int) -> Matched:
    """Latents without partners."""
    return Matched(np.full(n, -1), np.zeros(n), np.zeros(n))


def _nothing(reason: str) -> list[Score]:
    return [Score(metric=name, value=None, reason=reason) for name in SeedStability.metrics]
