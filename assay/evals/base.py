"""The contract of every eval: declare what you need, then score one coder from it. Pure: no disk, no model loading, no argv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from assay import statistics
from assay.coders.base import SparseCoder
from assay.evals.needs import Need
from assay.results import Score


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What every eval is told."""

    seed: int = 0
    """Names all random choices of this eval."""


C = TypeVar("C", bound=EvalConfig)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a number means, beside the number."""

    doc: str
    better: Literal["higher", "lower", "neither"]
    unit: str = ""
    floor: float | None = None
    """Value of a coder that knows nothing."""
    ceiling: float | None = None
    """Value of a perfect coder."""


def score(metric: str, interval: statistics.Interval, reason: str = "", **where: object) -> Score:
    """A score from an interval; a value that is not finite becomes None with the `reason`."""
    places = {key: str(value) for key, value in where.items()}
    if not np.isfinite(interval.value):
        return Score(metric=metric, value=None, where=places, n=interval.n, reason=reason or "not a finite number")
    return Score(metric=metric, value=interval.value, where=places, n=interval.n, low=interval.low, high=interval.high)


class Eval(Generic[C]):
    """Base of all evals; one class a file."""

    Config: ClassVar[type[EvalConfig]] = EvalConfig
    version: ClassVar[int]
    """Counts the meaning of the numbers: bumping it re-runs; versions are never plotted together."""
    metrics: ClassVar[Mapping[str, Metric]]

    def __init__(self, config: C | None = None):
        self.config: C = config if config is not None else self.Config()  # type: ignore[assignment]

    def needs(self) -> Mapping[str, Need]:
        """What must be gathered, under the names by which `run` will find it. Needs of all coders are gathered together."""
        raise NotImplementedError

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        """(scores, details) of one coder. Every score's metric is declared in `metrics`."""
        raise NotImplementedError
