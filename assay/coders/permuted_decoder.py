"""Permuted decoder: a trained coder whose decoder rows are shuffled. Same latents, same L0, no meaning: what structure is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from assay import coders
from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, SparseCoder, Step
from assay.randomness import generator
from assay.shapes import Float, Tensor

TAG = "baseline"


@dataclass(frozen=True, kw_only=True)
class PermutedDecoderConfig(CoderConfig):
    twin_of: str = "topk"
    """Architecture of the coder whose decoder is shuffled."""
    settings: str = "{}"
    """That coder's configuration, as JSON."""


class PermutedDecoder(SparseCoder[PermutedDecoderConfig]):
    Config = PermutedDecoderConfig
    trained = False
    order: Tensor

    def __init__(self, config: PermutedDecoderConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        widths = {"d_in": config.d_in, "d_sae": config.d_sae, "d_out": config.d_out}
        self.inner = coders.new(config.twin_of, seed=seed, **(widths | json.loads(config.settings)))
        self.inner.requires_grad_(False)
        random = generator("coder", type(self).__name__, seed)
        self.register_buffer("order", torch.randperm(config.d_sae, generator=random))

    @classmethod
    def of(cls, coder: SparseCoder[Any], architecture: str, *, seed: int = 0) -> PermutedDecoder:
        """The permuted twin of a coder."""
        settings = asdict(coder.config)
        widths = {name: settings.pop(name) for name in ("d_in", "d_sae", "d_out")}
        twin = cls(PermutedDecoderConfig(**widths, twin_of=architecture, settings=json.dumps(settings)), seed=seed)
        twin.inner.load_state_dict(coder.state_dict())
        return twin.to(coder.W_dec.device).train(coder.training)

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_out"]:  # type: ignore[override]
        return self.inner.W_dec[self.order]

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        return self.inner.W_enc  # type: ignore[return-value]

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        return self.inner.encode(x)

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        return {"mse": losses.mse(batch.y, self.decode(code))}

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        self.inner.initialise(batch)

    def rescale(self, x_scale: float, y_scale: float) -> None:
        self.inner.rescale(x_scale, y_scale)
