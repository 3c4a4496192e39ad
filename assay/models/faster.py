"""Faster: which number type a model runs fastest in on this processor, measured on a few of its own blocks.

bfloat16 is two to four times as fast as float32 where the processor multiplies it itself, and several times as slow where it does
not. What is found is kept in the cache, by model and processor: the same command asks for the same numbers tomorrow.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from assay import codec
from assay.assets import cache_dir
from assay.models.base import Site
from assay.shapes import Tensor
from assay.store import digest, write_atomic

if TYPE_CHECKING:
    from assay.models.hf import HFModel

CLEARLY = 1.2  # times as fast: what another type must be to replace the checkpoint's
SMALL = 20_000_000  # parameters: below, nothing is to be gained
BLOCKS, ROWS, POSITIONS, TURNS = 3, 4, 128, 8
LONG = 2.0  # seconds after which no other turn is begun


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """How fast the first blocks of a model run in each number type."""

    tokens_per_second: Mapping[str, float]
    own: str
    """The checkpoint's type."""

    @property
    def best(self) -> str:
        """The checkpoint's type, unless another is clearly faster."""
        best = max(self.tokens_per_second, key=lambda name: self.tokens_per_second[name])
        return best if self.tokens_per_second[best] >= CLEARLY * self.tokens_per_second[self.own] else self.own

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {speed / self.tokens_per_second[self.own]:.2g}×" for name, speed in self.tokens_per_second.items()
        )


def speeds(model: HFModel) -> Speeds | None:
    """What was measured, now or earlier on this processor; None for small models, which are left as they are."""
    own = _name(model.dtype)
    if sum(p.numel() for p in model.module.parameters()) < SMALL or own == "float64":
        return None
    key = digest([model.fingerprint, processor(model.device), torch.__version__, model.device.type])[:16]
    kept = cache_dir() / "speed" / f"{key}.json"
    if kept.exists():
        return codec.from_data(Speeds, codec.read_json(kept), kept)
    found = Speeds(tokens_per_second=measured(model, list(dict.fromkeys([own, "float32", "bfloat16"]))), own=own)
    write_atomic(kept, codec.to_json(found))
    return found


def measured(model: HFModel, names: list[str]) -> dict[str, float]:
    """Tokens a second through the first blocks in each number type: the best of a few turns, for other work only ever slows one down."""
    blocks = list(model.structure.blocks)
    unused = {id(p) for block in blocks[BLOCKS:] for p in block.parameters()}
    used = [p for p in model.module.parameters() if id(p) not in unused and p.is_floating_point()]
    as_loaded = [p.data for p in used]
    weights = {name: [x.to(getattr(torch, name)) for x in as_loaded] for name in names}
    positions = min(POSITIONS, getattr(model.config, "max_position_embeddings", None) or POSITIONS)
    tokens = torch.arange(ROWS * positions, device=model.device).reshape(ROWS, positions) % model.vocabulary
    last, begun = Site("resid_post", min(BLOCKS, len(blocks)) - 1), time.perf_counter()
    seconds = dict.fromkeys(names, float("inf"))
    try:
        for turn in range(TURNS):
            for name in names:
                _use(used, weights[name])
                seconds[name] = min(seconds[name], _pass(model, tokens, last))
            if turn and time.perf_counter() - begun > LONG:
                break
    finally:
        _use(used, as_loaded)
    return {name: round(tokens.numel() / some, 1) for name, some in seconds.items()}


def _use(parameters: list[torch.nn.Parameter], weights: list[Tensor]) -> None:
    for parameter, x in zip(parameters, weights, strict=True):
        parameter.data = x


def _pass(model: HFModel, tokens: Tensor, last: Site) -> float:
    """Seconds of one pass up to a site."""
    begun = time.perf_counter()
    model.run(tokens, stop_after=last)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - begun


def processor(device: torch.device) -> str:
    """What decides how fast number types are: the GPU's name, or the CPU's with its instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    if not told.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = {line.strip() for line in told.read_text(encoding="utf-8").splitlines() if line.startswith(("model name", "flags"))}
    return digest(sorted(lines))[:16]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
