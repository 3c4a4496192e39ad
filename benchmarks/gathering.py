"""Gathering and feeding: against a bare Hugging Face forward pass, and against vectors that are in memory already. Ratios only.

    python -m benchmarks gathering                         all of it, on smollm2
    python -m benchmarks gathering --parts feed --gigabytes 1 --threads 2 --json out.json

What is compared takes turns in one process; a ratio is the median over turns. `wall` is by the clock, `cpu` processor time of the
main thread: on a machine that others use, the latter is the one to read (with one thread).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from assay import coders, corpora, models, provenance
from assay.activations import GatherConfig, Live, Stored, Tensors, gather
from assay.activations.forward import passes, read_rows
from assay.activations.shards import DTYPES, shard_name
from assay.corpora.pack import PackConfig, Tokens, tokenise
from assay.models.base import Run, Site
from assay.store import Store
from assay.train import TrainConfig, train
from benchmarks._clock import cpu

SITE = Site("resid_post", 10)
Ratio = dict[str, float]


def ratios(ours: Callable[[], Any], other: Callable[[], Any], turns: int) -> Ratio:
    """How many times as fast as the other we are: median over turns, after one to warm up; and the quartiles by processor time."""
    wall, own = [], []
    for turn in range(turns + 1):
        times = [_timed(work) for work in ((other, ours) if turn % 2 else (ours, other))]
        a, b = times if turn % 2 == 0 else times[::-1]
        wall.append(b[0] / a[0])
        own.append(b[1] / a[1])
    low, _, high = statistics.quantiles(own[1:], n=4)
    return {"wall": statistics.median(wall[1:]), "cpu": statistics.median(own[1:]), "cpu_low": low, "cpu_high": high}


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, own = time.perf_counter(), cpu()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, cpu() - own


# ---- the model ---------------------------------------------------------------------------------------------------------------


def forward(args: argparse.Namespace, store: Store) -> dict[str, Ratio]:
    """Reading activations against nothing but the blocks up to the site; stopping there against going on; writing against all."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        model = models.load(args.model, dtype=dtype, device=args.device)
        tokens = _text(model, store, PackConfig(max_tokens=16 * 128))
        rows, ids = np.arange(16), torch.from_numpy(tokens.tokens[:16].astype(np.int64)).to(model.device)

        def ours(model: Any = model, tokens: Tokens = tokens, rows: np.ndarray = rows) -> None:
            read_rows(model, tokens, rows, [SITE], batch_rows=16, dtype=torch.bfloat16, device="cpu")

        @torch.no_grad()
        def bare(model: Any = model, ids: torch.Tensor = ids) -> None:
            model.module.base_model(input_ids=ids, use_cache=False)

        with truncated(model, SITE.layer + 1):
            found[f"{dtype}: reading / bare truncated forward"] = ratios(ours, bare, args.turns)
        found[f"{dtype}: stopping after block {SITE.layer} / all {model.n_layers}"] = ratios(ours, bare, args.turns)
        seconds = min(_timed(ours)[1] for _ in range(3)) / tokens.mask[:16].sum()
        rest = _beside(model, store)
        found[f"{dtype}: gathering, written and hashed / reading alone"] = {"cpu": float(seconds / (seconds + rest))}
        found[f"{dtype}: tokens / second of a core"] = {"cpu": float(1 / seconds)}
    names = list(found)
    speed = [found[n]["cpu"] for n in names if "tokens / second" in n]
    found["bfloat16 / float32"] = {"cpu": speed[1] / speed[0]}
    return found


@contextmanager
def truncated(model: Any, blocks: int) -> Iterator[None]:
    """Within, the Hugging Face model has only its first blocks."""
    home = next(m for m in model.module.modules() if isinstance(getattr(m, "layers", None), torch.nn.ModuleList))
    whole, home.layers = home.layers, home.layers[:blocks]
    before, home.config.num_hidden_layers = home.config.num_hidden_layers, blocks
    try:
        yield
    finally:
        home.layers, home.config.num_hidden_layers = whole, before


class _Instant:
    """A model that has its activations ready: what gathering takes beside the forward pass."""

    name, fingerprint, tokenizer, dtype = "instant", "0" * 16, None, torch.bfloat16
    device = torch.device("cpu")

    def __init__(self, d: int):
        self.x = torch.randn(16, 128, d).bfloat16()

    def d(self, site: Any) -> int:
        return self.x.shape[2]

    def run(self, tokens: torch.Tensor, read: Sequence[Site] = (), **_: Any) -> Run:
        return Run({site: self.x[: len(tokens), : tokens.shape[1]] for site in read})


def _beside(model: Any, store: Store) -> float:
    """Seconds of the main thread a token, of all that gathering does beside the forward pass: rounding, sums, hashes, files."""
    found = []
    for seed in range(3):
        ids = np.random.default_rng([seed, time.time_ns()]).integers(0, 1000, (1024, 128))
        instant: Any = _Instant(model.d(SITE))
        found.append(
            _timed(lambda ids=ids, m=instant: gather(m, Tokens.from_arrays(ids), SITE, GatherConfig(), store))[1] / ids.size
        )
    return min(found)


def _text(model: Any, store: Store, packing: PackConfig) -> Tokens:
    return tokenise(corpora.load("austen"), model.tokenizer, packing, store)


def padding(args: argparse.Namespace, store: Store) -> dict[str, Ratio]:
    """Share of the positions read that are padding: none in packed rows; one document a row, as they come and by length."""
    model, found = models.load("tiny"), {}
    for layout in ("packed", "documents"):
        mask = np.asarray(_text(model, store, PackConfig(layout=layout)).mask)
        widths = mask.shape[1] - mask[:, ::-1].argmax(1)
        as_they_come = sum(len(some) * some.max() for some in np.split(widths, range(16, len(widths), 16)))
        by_length = sum(len(rows) * width for rows, width in passes(mask, 16))
        for how, read in (
            ("whole rows", mask.size),
            ("16 rows as they come", as_they_come),
            ("rows of like length", by_length),
        ):
            found[f"{layout}, {how}: padding"] = {"share": float(1 - widths.sum() / read)}
    return found


# ---- the trainer's food ------------------------------------------------------------------------------------------------------


def feed(args: argparse.Namespace, store: Store) -> dict[str, Ratio]:
    """Batches of 4096 from disk against the same vectors in memory: bare, and while a TopK learns from them."""
    found, cfg = {}, TrainConfig(tokens=24 * 4096, batch=4096, lr=1e-3, log_every=10**6, held_out_vectors=0)
    for dtype in ("bfloat16", "float32"):
        path, x = planted(store, dtype, int(args.gigabytes * 1e9 / 576 / DTYPES[dtype].itemsize))
        stored, memory = Stored(path), Tensors(x)
        begun = time.perf_counter()
        stored.verify()
        found[f"{dtype}: comparing all with their hashes"] = {"GB_per_second": args.gigabytes / (time.perf_counter() - begun)}
        ours, others, plain = stored.batches(4096, 0), memory.batches(4096, 0), loop(x)
        block = max(1, stored.block // 4096)  # a turn takes at least a block from each
        found[f"{dtype}: batches from disk / from Tensors"] = ratios(_take(ours, block), _take(others, block), args.turns)
        found[f"{dtype}: batches from disk / x[permutation].float()"] = ratios(
            _take(ours, block), _take(plain, block), args.turns
        )
        found[f"{dtype}: TopK of {args.d_sae} learning from disk / from Tensors"] = ratios(
            lambda s=stored: _learn(s, cfg, args.d_sae), lambda s=memory: _learn(s, cfg, args.d_sae), args.turns
        )
    return found


def planted(
    store: Store, dtype: str, vectors: int, d: int = 576, context: int = 128, shard_rows: int = 512
) -> tuple[Path, Any]:
    """A gathered directory of noise, and its vectors in memory."""
    rows = vectors // context
    x = torch.empty(rows * context, d, dtype=DTYPES[dtype])
    for start in range(0, len(x), 65_536):
        x[start : start + 65_536].copy_(torch.randn(min(65_536, len(x) - start), d))
    with store.draft("activations", f"planted-{dtype}") as draft:
        for number, start in enumerate(range(0, rows, shard_rows)):
            row = torch.arange(start, min(start + shard_rows, rows))
            shard = {str(SITE): x[start * context : (start + len(row)) * context].clone()}
            shard |= {"row": row.repeat_interleave(context).int(), "position": torch.arange(context).repeat(len(row)).int()}
            safetensors.torch.save_file(shard, draft.path / shard_name(number))
        counts = torch.full((rows,), context).int()
        stats = {f"mean.{SITE}": torch.zeros(d, dtype=torch.float64), "counts": counts}
        safetensors.torch.save_file(stats, draft.path / "stats.safetensors")
        about = {"sites": {str(SITE): {"d": d}}, "tokens": len(x), "rows": rows, "dtype": dtype, "shard_rows": shard_rows}
        return draft.finish(inputs={}, about=about, made=provenance.made()), x


def loop(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """The five lines that anybody writes first."""
    while True:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - 4096, 4096):
            yield x[order[start : start + 4096]].float()


def _take(stream: Iterator[Any], count: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(count):
            next(stream)

    return work


def _learn(source: Any, cfg: TrainConfig, d_sae: int) -> None:
    for _ in train({"topk": coders.new("topk", d_in=source.d_in, d_sae=d_sae, k=32)}, source, cfg):
        pass


def overlap(args: argparse.Namespace, store: Store) -> dict[str, Ratio]:
    """Learning from a model at work: the next block read in a thread against one after the other. By the clock."""
    model = models.load(args.model, device=args.device)
    tokens = _text(model, store, PackConfig(max_tokens=48 * 128))

    def live(ahead: bool) -> Live:
        source = Live(model, tokens, SITE, buffer_rows=16)
        source.ahead_on = model.device if ahead else None
        return source

    cfg = TrainConfig(tokens=tokens.n_tokens, batch=1024, lr=1e-3, log_every=10**6, held_out_vectors=0)
    found = ratios(lambda: _learn(live(True), cfg, args.d_sae), lambda: _learn(live(False), cfg, args.d_sae), args.turns)
    return {f"{model.device.type}: reading ahead / one after the other": {"wall": found["wall"]}}


PARTS = {"forward": forward, "padding": padding, "feed": feed, "overlap": overlap}


def main(words: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gathering")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(list(words))
    torch.set_num_threads(args.threads)
    found: dict[str, Ratio] = {}
    for part in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            for name, values in PARTS[part](args, Store(folder)).items():
                found[name] = values
                print(f"{name:<62}", "  ".join(f"{k} {v:.3g}" for k, v in values.items()), flush=True)
    if args.json:
        made = {"threads": args.threads, "turns": args.turns, "versions": provenance.versions()}
        args.json.write_text(json.dumps({"made": made, "found": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
