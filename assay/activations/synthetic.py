"""Synthetic: the generator of SynthSAEBench, large and close to what is thought of real features, with the truth known.

Chanin & Garriga-Alonso 2026 (arXiv 2602.14687): firing follows Zipf's law; features correlate through a few shared factors; trees of
features in which a child fires only with its parent and siblings exclude each other; directions pushed apart; magnitudes that differ
from feature to feature; a bias. 16,384 features in 768 dimensions, about 34 of them active; 4,096 latents is the usual width of a coder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Self

import torch
from torch.nn.functional import normalize

from assay.activations.truth import PlantedSource, Stream
from assay.errors import BadInput
from assay.kernels import sparse
from assay.randomness import generator, seed_of
from assay.shapes import Bool, Float, Int, Tensor

Active = tuple[Int[Tensor, " nnz"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]
"""(row, feature, value) of what is active in some vectors."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What the published benchmark is made with; `SMALL` is a sixteenth of it."""

    d: int = 768
    """Width of the vectors."""
    latents: int = 16_384
    """True features, the most frequent first."""
    exponent: float = 0.5
    """Feature i fires with probability affine in i^−exponent, from `most` to `least`."""
    most: float = 0.4
    """Probability of the most frequent feature."""
    least: float = 5e-4
    """Probability of the rarest."""
    roots: int = 128
    """Trees. They take the first features, level by level; the features that remain stand alone."""
    branching: int = 4
    """Children of each feature that has any."""
    depth: int = 3
    """Levels below the roots; 0 is no hierarchy."""
    exclusive: bool = True
    """At most one child of a feature is active at a time."""
    scale_children_by_parent: bool = False
    """A child's magnitude is multiplied by its parent's relative to the parent's mean. The paper says so, but the released model, on
    which the published scores were measured, does not: left out, scores can be compared with those."""
    rank: int = 25
    """Shared factors through which firing correlates (a Gaussian copula)."""
    correlation: float = 0.1
    """Standard deviation of the loadings on those factors; 0 is independence."""
    first_magnitude: float = 5.0
    """Mean magnitude of the first feature."""
    last_magnitude: float = 4.0
    """Mean magnitude of the last; between them it is linear in the number of the feature."""
    deviation: float = 0.5
    """A feature's magnitude has standard deviation |N(deviation, deviation_spread)|, drawn once a feature."""
    deviation_spread: float = 0.5
    """See `deviation`."""
    bias: float = 0.5
    """Length of a vector in a random direction that is added to all."""
    orthogonal_steps: int = 100
    """Adam steps that push directions apart, down the sum of squared cosines."""
    orthogonal_lr: float = 3e-4
    """Their learning rate."""

    def __post_init__(self) -> None:
        if not (0 < self.least < self.most <= 1 and self.exponent > 0):
            raise BadInput(
                f"Firing needs 0 < least < most ≤ 1 and exponent > 0; got {self.least}, {self.most}, {self.exponent}."
            )
        if min(self.roots, self.depth) < 0 or self.branching < 1 or self.rank < 1 or self.correlation < 0 or self.deviation < 0:
            raise BadInput("roots, depth, correlation and deviation must be ≥ 0, branching and rank ≥ 1.")
        if self.levels[-1] > self.latents:
            raise BadInput(
                f"The trees need {self.levels[-1]} features; there are {self.latents}. Take fewer roots, or less depth."
            )

    @property
    def levels(self) -> list[int]:
        """Where each level of the trees starts, and where the last one ends."""
        ends = [0]
        for level in range(self.depth + 1):
            ends.append(ends[-1] + self.roots * self.branching**level)
        return ends


SMALL = SyntheticConfig(d=128, latents=1024, roots=8, orthogonal_lr=7e-4)
"""A sixteenth of the features, in 128 dimensions, about 7 of them active; 256 latents, 5 active, correspond to the usual coder."""


class Synthetic(PlantedSource):
    """Vectors of SynthSAEBench. `parents` [latents] is the feature above each, −1 for none; `probabilities` are those aimed at.

    Children are made likelier given their parent, so that exclusion leaves them about their probability; where siblings' add up to
    more than their parent's they stay below it, as in the original (34 active features on average instead of 59). Features are sampled down the trees, and alone where nothing is
    above them: the law is that of sampling all of them and then silencing, the cost is not. `device` is where vectors are made; each
    device has numbers of its own.
    """

    kind = "synthetic"

    def __init__(self, config: SyntheticConfig | None = None, seed: int = 0, device: str = "cpu"):
        self.config = c = config or SyntheticConfig()
        super().__init__(c.d, c.latents, seed)
        self.device = torch.device(device)
        zipf = torch.arange(1, c.latents + 1, dtype=torch.float64) ** -c.exponent
        share = (zipf - zipf[-1]) / (zipf[0] - zipf[-1]).clamp_min(1e-300)
        self.probabilities: Float[Tensor, " latents"] = c.least + (c.most - c.least) * share
        self.parents: Int[Tensor, " latents"] = _parents(c)
        random = generator("synthetic features", seed)
        loadings = torch.randn(c.latents, c.rank, generator=random) * c.correlation
        too_long = loadings.square().sum(1).max().item()
        loadings = loadings * (0.99 / max(too_long, 0.99)) ** 0.5  # what is left for the feature's own noise stays above 0
        self._loadings = loadings.to(self.device)
        self._own = (1 - loadings.square().sum(1)).sqrt().to(self.device)
        self._threshold = -torch.special.ndtri(self._given_parent()).float().to(self.device)
        self._mean = torch.linspace(c.first_magnitude, c.last_magnitude, c.latents).to(self.device)
        self._deviation = (c.deviation + c.deviation_spread * torch.randn(c.latents, generator=random)).abs().to(self.device)
        self.offset: Float[Tensor, " d"] = c.bias * normalize(torch.randn(c.d, generator=random), dim=0)

    @classmethod
    def small(cls, seed: int = 0) -> Synthetic:
        """The size for a CPU: a coder learns it in half a minute."""
        return cls(SMALL, seed)

    @cached_property
    def directions(self) -> Float[Tensor, "latents d"]:  # type: ignore[override]
        """Unit rows. Made when they are first asked for: at full size that takes a minute or two on a CPU."""
        rows = torch.randn(self.latents, self.d_in, generator=generator("synthetic directions", self.seed)).to(self.device)
        return _apart(normalize(rows, dim=1), self.config.orthogonal_steps, self.config.orthogonal_lr)

    def codes(self, size: int, seed: Stream, start: int = 0) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n latents"]]:
        active = rows, features, values = self._active(size, seed, start)
        z = torch.zeros(size, self.latents, device=self.device)
        z[rows, features] = values
        return self._sum(size, active), z

    def vectors(self, size: int, seed: Stream, start: int = 0) -> Float[Tensor, "n d"]:
        return self._sum(size, self._active(size, seed, start))

    def settings(self) -> dict[str, Any]:
        made = {} if self.device.type == "cpu" else {"device": self.device.type}
        return {name: value for name, value in asdict(self.config).items() if name not in ("d", "latents")} | made

    @classmethod
    def described(cls, about: Mapping[str, Any]) -> Self:
        config = SyntheticConfig(**{f.name: about[f.name] for f in fields(SyntheticConfig)})
        return super().described({**about, "config": config})

    def _given_parent(self) -> Float[Tensor, " latents"]:
        """Probability of each feature where its parent is active, raised for what exclusion takes away; at most 1."""
        p, child = self.probabilities, self.parents >= 0
        parent = p[self.parents[child]]
        given = p.clone()
        given[child] = p[child] / parent
        if self.config.exclusive:
            all_siblings = torch.zeros_like(p).index_add(0, self.parents[child], p[child])[self.parents[child]]
            given[child] *= 1 + (all_siblings - p[child]) / parent
        return given.clamp_max(1.0)

    def _active(self, size: int, seed: Stream, start: int) -> Active:
        """What is active, in order of rows."""
        c, random = self.config, torch.Generator(self.device).manual_seed(seed_of("synthetic codes", self.seed, seed, start))
        shared = torch.randn(size, c.rank, generator=random, device=self.device) @ self._loadings.T
        found = [self._alone(shared, c.levels[-1], c.latents, random)]
        level = self._alone(shared, 0, c.roots, random)
        for number in range(c.depth):
            found.append(level)
            level = self._below(level, shared, number, random)
        rows, features, values = (torch.cat(parts) for parts in zip(*found, level))
        order = torch.argsort(rows, stable=True)
        return rows[order], features[order], values[order]

    def _alone(self, shared: Tensor, first: int, end: int, random: torch.Generator) -> Active:
        """Of features with nothing above them, first to end."""
        own = torch.randn(len(shared), end - first, generator=random, device=self.device)
        fires = torch.addcmul(shared[:, first:end], own, self._own[first:end]) > self._threshold[first:end]
        rows, features = fires.nonzero(as_tuple=True)
        features = features + first
        values = self._magnitudes(features, random)
        there = values > 0  # a magnitude that falls below 0 is as if the feature had not fired
        return rows[there], features[there], values[there]

    def _below(self, level: Active, shared: Tensor, number: int, random: torch.Generator) -> Active:
        """What is active on the next level, given what is on level `number`."""
        c, (rows, above, above_values) = self.config, level
        first = c.levels[number + 1] + (above - c.levels[number]) * c.branching
        children = first[:, None] + torch.arange(c.branching, device=self.device)
        own = torch.randn(children.shape, generator=random, device=self.device)
        values = self._magnitudes(children, random)
        if c.scale_children_by_parent:
            values = values * (above_values / self._mean[above])[:, None]
        fires = shared[rows[:, None], children] + self._own[children] * own > self._threshold[children]
        active: Bool[Tensor, "n branching"] = fires & (values > 0)
        if c.exclusive:
            lot = torch.rand(children.shape, generator=random, device=self.device).masked_fill(~active, -1)
            active &= torch.zeros_like(active).scatter(1, lot.argmax(1, keepdim=True), True)
        parent, child = active.nonzero(as_tuple=True)
        return rows[parent], children[parent, child], values[parent, child]

    def _magnitudes(self, features: Tensor, random: torch.Generator) -> Tensor:
        noise = torch.randn(features.shape, generator=random, device=self.device)
        return self._mean[features] + self._deviation[features] * noise

    def _sum(self, size: int, active: Active) -> Float[Tensor, "n d"]:
        rows, features, values = active
        offsets = torch.cat([rows.new_zeros(1), torch.bincount(rows, minlength=size).cumsum(0)])
        return sparse.bag(self.directions, features, offsets, values) + self.offset.to(self.device)


def _parents(c: SyntheticConfig) -> Int[Tensor, " latents"]:
    parents = torch.full((c.latents,), -1)
    for above, here, end in zip(c.levels, c.levels[1:], c.levels[2:]):
        parents[here:end] = above + torch.arange(end - here) // c.branching
    return parents


def _apart(W: Float[Tensor, "n d"], steps: int, lr: float) -> Float[Tensor, "n d"]:
    """Rows pushed apart by Adam on Σ_{i≠j} (wᵢ·wⱼ)² + n Σᵢ (‖wᵢ‖² − 1)².

    Σ_{ij} (wᵢ·wⱼ)² = ‖WᵀW‖², so the gradient costs n d² instead of n² d.
    """
    W = W.clone()
    adam = torch.optim.Adam([W], lr=lr)
    for _ in range(steps):
        squares = W.square().sum(1, keepdim=True)
        W.grad = 4 * (W @ (W.T @ W) - squares * W) + 4 * len(W) * (squares - 1) * W
        adam.step()
    return normalize(W, dim=1)
