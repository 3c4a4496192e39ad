"""PlantedSource: what all sources with known features share. Each file of a subclass holds only its own law."""

from __future__ import annotations

import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import torch

from assay.coders.base import Batch
from assay.errors import BadInput
from assay.shapes import Float, Tensor
from assay.store import digest

Stream = int | str
"""Which vectors: a seed of training, or the name of a stream that training never reads."""
HELD_OUT = "held out"
PIECE = 1024
"""Vectors that are made together where a stream is not cut into batches."""


class PlantedSource(ABC):
    """An endless stream whose law is known: x = offset + z @ directions, with sparse z.

    Subclasses set `directions` [latents, d] and write `codes`, a pure function of its arguments and of what the source was made
    with, and `settings`.
    """

    kind: ClassVar[str]
    """What a manifest calls the source."""
    directions: Float[Tensor, "latents d"]
    """The true features, unit rows."""
    offset: Float[Tensor, " d"] | float = 0.0
    """What is added to every vector."""

    def __init__(self, d: int, latents: int, seed: int):
        if d < 1 or latents < 1 or seed < 0:
            raise BadInput(f"A {self.kind} source needs d ≥ 1, latents ≥ 1 and seed ≥ 0; got {d}, {latents}, {seed}.")
        self.d_in = self.d_out = d
        self.latents, self.seed = latents, seed
        self.tokens: int | None = None

    @abstractmethod
    def codes(self, size: int, seed: Stream, start: int = 0) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n latents"]]:
        """(x, true z) of batch number `start` of a stream: the same vectors that `batches` gives."""

    def vectors(self, size: int, seed: Stream, start: int = 0) -> Float[Tensor, "n d"]:
        """The x of `codes`, for sources that make it without writing out z."""
        return self.codes(size, seed, start)[0]

    def settings(self) -> dict[str, Any]:
        """What `describe` should say beyond kind, d, latents and seed."""
        return {}

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """See ActivationSource. No vector comes twice."""
        if size < 1 or start < 0 or seed < 0:
            raise BadInput(f"A stream needs size ≥ 1, start ≥ 0 and seed ≥ 0; got {size}, {start}, {seed}.")
        return (Batch.of(self.vectors(size, seed, number)) for number in itertools.count(start))

    def held_out(self, size: int) -> Batch:
        """See ActivationSource. The first `size` vectors of a stream of their own."""
        if size < 1:
            raise BadInput(f"Held-out vectors: size must be ≥ 1, got {size}.")
        pieces = [self.vectors(PIECE, HELD_OUT, number) for number in range(-(-size // PIECE))]
        return Batch.of(torch.cat(pieces)[:size])

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the data."""
        about = {"kind": self.kind, "d": self.d_in, "latents": self.latents, "seed": self.seed, "tokens": None}
        return about | self.settings()

    @classmethod
    def described(cls, about: Mapping[str, Any]) -> Self:
        """The source of which `describe` says this."""
        known = inspect.signature(cls.__init__).parameters
        return cls(**{name: value for name, value in about.items() if name in known})

    @property
    def fingerprint(self) -> str:
        """See ActivationSource."""
        return digest(self.describe())[:16]
