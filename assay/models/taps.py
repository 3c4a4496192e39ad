"""Tap: one site as a place in a Hugging Face module tree, and the hook that reads and rewrites what passes there.

Modules hand tensors on in several ways (bare, first of a tuple, positional, by keyword, [b·s, d]); only this file knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Visit = Callable[[Tensor], Tensor | None]
"""Is shown a tensor; gives the one that goes on instead, or None for no change."""


@dataclass(frozen=True)
class Tap:
    """The input or output of a module."""

    module: nn.Module
    path: str
    """The module's name in the model, e.g. `model.layers.3.mlp`."""
    side: Literal["in", "out"]
    in_place: bool = False
    """The block also keeps this very tensor as its residual stream, so a new value must be written into it."""

    def attach(self, visit: Visit) -> RemovableHandle:
        """Show `visit` what passes here until the handle is removed. Hooks of one module fire in order of attachment."""
        if self.side == "out":
            return self.module.register_forward_hook(lambda module, args, out: _rewrite_output(out, visit))
        return self.module.register_forward_pre_hook(
            lambda module, args, kwargs: self._input(args, kwargs, visit), with_kwargs=True
        )

    def _input(self, args: tuple[Any, ...], kwargs: dict[str, Any], visit: Visit) -> tuple[Any, Any] | None:
        old = args[0] if args else kwargs["hidden_states"]
        new = visit(old)
        if new is None:
            return None
        if self.in_place:
            old.copy_(new)
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})


def _rewrite_output(out: Any, visit: Visit) -> Any:
    """Blocks and attention modules give a bare tensor or a tuple, depending on family and transformers version."""
    new = visit(out[0] if isinstance(out, tuple) else out)
    if new is None:
        return None
    return (new, *out[1:]) if isinstance(out, tuple) else new


@contextmanager
def skipped(blocks: Sequence[nn.Module], x: Tensor, in_tuple: bool) -> Iterator[None]:
    """Within, the given blocks compute nothing and hand on `x`, in the form the family uses. Their hooks still fire."""
    try:
        for block in blocks:
            block.forward = lambda *args, **kwargs: (x,) if in_tuple else x
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


@contextmanager
def form_of(block: nn.Module) -> Iterator[list[bool]]:
    """Within, notes of each call whether the block's output is a tuple."""
    seen: list[bool] = []
    handle = block.register_forward_hook(lambda module, args, out: seen.append(isinstance(out, tuple)))
    try:
        yield seen
    finally:
        handle.remove()
