"""What every contender learns from: planted vectors in memory, the same numbers in every process. Needs torch alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


class NotOffered(Exception):
    """This contender has no such architecture or setting."""


@dataclass(frozen=True)
class Shape:
    """How large a training step is."""

    d_in: int
    d_sae: int
    k: int = 32
    batch: int = 4096


SHAPES = {
    "tiny": Shape(64, 512, 8, 256),
    "small": Shape(512, 4096),
    "large": Shape(768, 12288),
    "gpu": Shape(2304, 65536, 80),
}
ACTIVE = 20


def vectors(d: int, count: int, seed: int = 0) -> torch.Tensor:
    """[count, d], E‖x‖² = 1: each the sum of 20 of 2·d planted directions, some of them frequent, a mean and a little noise."""
    random = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(2 * d, d, generator=random), dim=1)
    chosen = (2 * d * torch.rand(count, ACTIVE, generator=random).square()).long()
    strengths = torch.rand(count, ACTIVE, generator=random) + 0.5
    x = F.embedding_bag(chosen, directions, per_sample_weights=strengths, mode="sum")
    x += 0.3 * torch.randn(d, generator=random) / d**0.5 + 0.1 * torch.randn(count, d, generator=random) / d**0.5
    return x / x.square().sum(1).mean().sqrt()


def batches(shape: Shape, count: int = 8, device: str = "cpu") -> list[torch.Tensor]:
    """Batches that contenders go through again and again."""
    return list(vectors(shape.d_in, count * shape.batch).to(device).split(shape.batch))


def bias_for(pre: torch.Tensor, share: float, bar: float | torch.Tensor = 0.0) -> torch.Tensor:
    """What to add to pre-activations [n, d_sae] so that each latent is above `bar` on `share` of the vectors."""
    rank = max(1, min(len(pre), round((1 - share) * len(pre))))
    below = torch.cat([part.kthvalue(rank, dim=0).values for part in pre.split(1024, dim=1)])
    return bar - below - 1e-7
