"""What Assay and sae-bench are both told: model, site, coders, texts, sizes. Needs neither of the two; lies as files in a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks._clock import cpu, memory

ROWS, TEXTS, POOLS, WORDS, ANSWER = "rows.pt", "texts.json", "pools.json", "words.json", "{side}-{eval}.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One comparison."""

    model: str
    """Directory with config.json, weights and tokenizer."""
    width: int
    """Of its residual stream."""
    layer: int
    """The site is resid_post of this block: blocks.N.hook_resid_post."""
    coders: tuple[str, ...]
    """TopK coders, each in a folder of its own below the job's; the first one is timed alone."""
    dtype: str = "float32"
    threads: int = 2
    context: int = 128
    rows: int = 64
    """Rows of `context` tokens for core: real text of one document each, no special tokens."""
    batch_rows: int = 16
    """sae-bench's batch_size_prompts."""
    corpus: str = "probe:97"
    """Labelled corpus for the probing evals."""
    train: int = 400
    """Texts to train probes on, over all classes."""
    test: int = 400
    k: tuple[int, ...] = (1, 2, 5)
    """How many latents the sparse probes use."""
    joint: str = "joint:probe:61+probe:56"
    """Corpus with two labels, for scr."""
    binary: str = "139_news_class_Politics"
    """Data set of sae-probes, for its own probing."""
    longest: int = 1024
    """Tokens read of each of its texts, as sae-probes does (it keeps the last ones, we the first)."""
    n: tuple[int, ...] = (2, 5, 10, 20, 50, 100, 500)
    """How many latents scr and tpp ablate."""
    words: int = 1500
    """Words for absorption."""
    letters: int = 10
    """Letters that absorption needs: sae-bench asks for 20 of larger models."""

    @property
    def site(self) -> str:
        return f"resid_post.{self.layer}"

    @property
    def hook(self) -> str:
        """The site's name in TransformerLens."""
        return f"blocks.{self.layer}.hook_resid_post"

    def write(self, home: Path) -> None:
        (home / "job.json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, home: Path) -> Job:
        return cls.of(json.loads((home / "job.json").read_text(encoding="utf-8")))

    @classmethod
    def of(cls, found: dict[str, Any]) -> Job:
        """From JSON."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


Values = dict[str, dict[str, Any]]
"""Coder → metric → value (sae-bench) or [value, low, high] (Assay)."""


def timed(work: Callable[[], Values]) -> tuple[Values, dict[str, float]]:
    """What `work` finds, and what it took: seconds by the clock and of the main thread's processor time."""
    wall, own = time.perf_counter(), cpu()
    found = work()
    return found, {"wall": time.perf_counter() - wall, "cpu": cpu() - own}


def answer(home: Path, side: str, eval_: str, **found: Any) -> None:
    """Leave what was found, with versions and memory, for the process that asked."""
    found |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "memory": memory()[1]}
    (home / ANSWER.format(side=side, eval=eval_)).write_text(json.dumps(found) + "\n", encoding="utf-8")
