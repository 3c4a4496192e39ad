"""Frozen decoder: decoder rows stay at random directions, only encoder and biases learn (Korznikov et al. 2026, arXiv 2602.14111).

What a score owes to learnt directions is what a trained coder has above this. Any linear architecture can be inside: `of` and
`settings` name it. The rows are those that a coder of that architecture and seed begins with. In the paper such coders come close to
trained ones: auto-interpretation .87 against .90, sparse probing .69 against .72, causal editing .73 against .72.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from assay.coders.base import Code, CoderConfig, SparseCoder
from assay.coders.composed import Composed
from assay.shapes import Float, Tensor

TAG = "baseline"


@dataclass(frozen=True, kw_only=True)
class FrozenDecoderConfig(CoderConfig):
    of: str = "topk"
    """Architecture inside: relu, gated, topk, batch_topk, jumprelu, matryoshka, p_anneal."""
    settings: str = ""
    """Its settings, e.g. "k=32,aux_weight=0". Those left out have its defaults."""


class FrozenDecoder(Composed[FrozenDecoderConfig]):
    Config = FrozenDecoderConfig
    baseline = True  # type: ignore[assignment]

    def __init__(self, config: FrozenDecoderConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        rows = self.inner.W_dec.detach()
        del self.inner.W_dec
        self.inner.register_buffer("W_dec", rows)  # no parameter: no gradient, no optimiser and no revival moves it
        self.centred = self.inner.centred

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        return self.inner.encode(x)

    def constrain(self) -> None:
        """Nothing: of linear coders only decoder rows are constrained, and these are as they were, to the bit."""

    def folded(self) -> SparseCoder[Any]:
        return self.form()
