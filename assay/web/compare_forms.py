"""compare_forms: what the server answers of two coders."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from assay.web.overview import CoderLine


class Half(BaseModel):
    """What became of one coder's latents. Shares are of those compared."""

    coder: CoderLine
    harvested: bool
    """Whether its latents can be looked at; only then are dead ones known, and left out."""
    compared: int
    dead: int
    mmcs: float | None
    """Mean largest cosine with any latent of the other."""
    mmcs_random: float | None
    """The same between random directions, as many as there are here and there."""
    mmcs_permuted: float | None
    """The same with the coordinates of the other's directions permuted."""
    one_to_one: float | None
    """Mean cosine of the one-to-one assignment; a latent without partner counts 0."""
    correlation: float | None
    """Mean correlation of activations with the latent of the nearest direction."""
    shared: int
    """Latents with a counterpart: a cosine of at least the threshold."""
    shared_random: float | None
    """Share of random directions that would have one."""
    unique: int
    """Latents without."""
    single: int
    split: int
    """Latents that several of the other have as their nearest, above the threshold."""
    merged: int
    """Latents whose nearest others of this coder share, above the threshold."""
    mutual: int
    """Latents that are the nearest of their nearest."""
    counts: list[int]
    """Latents by their largest cosine, in equal bins from 0 to 1 (below 0: the first)."""
    random: list[float]
    """Shares of random directions in the same bins."""
    permuted: list[float]


class Member(BaseModel):
    """One latent of a group."""

    latent: int
    token: str | None
    cosine: float


class GroupLine(BaseModel):
    """One latent, and those of the other coder that have it as their nearest."""

    latent: int
    token: str | None
    n: int
    members: list[Member]
    """The closest first; of large groups only some."""


class Pairs(BaseModel):
    """Two coders' latents side by side."""

    a: Half
    b: Half
    at: float
    """Cosine from which two latents are taken for the same."""
    width: int
    """Of the space that both write to."""
    vectors: int
    """On which correlations of activations were seen; 0 where there are none."""
    reason: str | None
    """Why there are none."""
    splits: list[GroupLine]
    """Latents of a that are split in b; the largest."""
    n_splits: int
    merges: list[GroupLine]
    """Latents of b that stand for several of a."""
    n_merges: int


class Compared(BaseModel):
    """A comparison, or how far it is. Ask again until `found` is there."""

    done: int
    total: int | None
    doing: str
    found: Pairs | None


class PairLine(BaseModel):
    """A latent of a, and its counterparts in b."""

    latent: int
    token: str | None
    """The token that most of its top examples peak on."""
    label: str | None
    density: float | None
    kinds: list[Literal["unique", "split", "merged", "single", "mutual"]]
    nearest: int
    nearest_token: str | None
    nearest_label: str | None
    cosine: float
    correlation: float | None
    """Of activations, with the nearest."""
    partner: int | None
    """In the one-to-one assignment."""
    partner_token: str | None
    paired: float | None
    """Cosine with the partner."""
    together: int | None
    """The latent of b whose activations correlate most."""
    together_token: str | None
    together_correlation: float | None


class PairsPage(BaseModel):
    """Some latents of a, in the order that was asked for."""

    total: int
    offset: int
    latents: list[PairLine]


class ScoreRow(BaseModel):
    """One score of both coders, and their difference."""

    spec: str
    doc: str | None
    better: Literal["higher", "lower", "neither"] | None
    a: float | None
    a_low: float | None
    a_high: float | None
    b: float | None
    b_low: float | None
    b_high: float | None
    difference: float | None
    """a − b over the same documents, examples or datasets; null where they have none in common."""
    low: float | None
    """Ends of its 95 % interval."""
    high: float | None
    p: float | None
    """Of a permutation test of "a and b are alike"; null with fewer than six units."""
    n: int | None


class EvalScores(BaseModel):
    """What an eval says of both under one setting."""

    eval: str
    setting: str
    rows: list[ScoreRow]


class SideBySide(BaseModel):
    """Scores of two coders. Ask again until `evals` is there."""

    evals: list[EvalScores] | None
