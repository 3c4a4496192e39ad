"""How long library loops tell of their progress, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None, str], None]
"""Called as progress(done, total, unit): `progress(4096, 300_000, "tokens")`. `total` is None when unknown."""


def silent(done: int, total: int | None, unit: str) -> None:
    """The listener that does not listen."""
