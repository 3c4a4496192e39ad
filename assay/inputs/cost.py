"""What an evaluation will take before it begins: time of the model's passes, as measured here, and disk."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from assay.models.base import Model, Site

ROWS, CONTEXT, TIMED = 16, 64, 3  # of the passes that are timed
FLOAT = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Cost:
    """What meeting one need takes at most: what lies in the store already is not taken off."""

    once: float = 0.0
    """Tokens through the whole model, for all coders together."""
    each: float = 0.0
    """Tokens through the whole model, for every coder."""
    disk: int = 0
    """Bytes."""


@dataclass(frozen=True)
class Estimate:
    """What an evaluation will take, as far as is known: what lies in the store already is not taken off."""

    gathering: Mapping[str, float]
    """Seconds of the model's passes, by kind of need."""
    scoring: Mapping[str, float | None]
    """Seconds of each eval's own work over all coders, by what it took before; None where it never ran here."""
    disk: int
    """Bytes."""

    @property
    def seconds(self) -> float:
        """All that is known."""
        return sum(self.gathering.values()) + sum(s or 0.0 for s in self.scoring.values())

    def __str__(self) -> str:
        known = {**self.gathering, **{name: s for name, s in self.scoring.items() if s is not None}}
        parts = ", ".join(f"{name} {_duration(s)}" for name, s in sorted(known.items(), key=lambda p: -p[1]) if s >= 1)
        new = [name for name, s in self.scoring.items() if s is None]
        return (
            f"About {_duration(self.seconds)}" + (f" ({parts})" if parts else "")
            + (f", and longer: the work of {', '.join(new)} itself, which has not run here before, is not in it" if new else "")
            + f"; {self.disk / 1e9:.1f} GB of disk."
        )  # fmt: skip


def depth(model: Model, site: Site) -> float:
    """Share of the model that a pass which stops at the site runs through."""
    return (site.layer + 1) / model.n_layers


def tokens_per_second(model: Model) -> float:
    """Of whole passes on this machine, from a few."""
    tokens = torch.arange(ROWS * CONTEXT, device=model.device).reshape(ROWS, CONTEXT) % 50
    times = []
    for _ in range(TIMED):
        begun = time.perf_counter()
        found = model.run(tokens).logits
        assert found is not None and float(found[0, -1, 0]) is not None  # waits for a GPU
        times.append(time.perf_counter() - begun)
    return ROWS * CONTEXT / median(times)


def characters_to_tokens(lengths: Iterable[int], context: int) -> float:
    """Tokens that texts of these lengths make, about four characters to one, each cut to the context."""
    return sum(min(length / 4 + 1, context) for length in lengths)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
