"""How fast the collector of `assay harvest` takes in sparse codes: tokens a second of one core, by part, and bytes a latent on disk.

python -m benchmarks harvest                         16k latents, L0 32, a million tokens; a minute or so
python -m benchmarks harvest --latents 65536 --tokens 3000000
python -m benchmarks harvest --beside ENVIRONMENT    beside SAEDashboard, in an environment that has it, SAELens and what Assay needs
"""

from __future__ import annotations

import argparse
import cProfile
import io
import os
import pstats
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from assay.corpora.pack import Tokens
from assay.features import bins, layout, summary
from assay.features.collector import Collector, Shape
from assay.features.stretch import Codes, Stretch
from assay.randomness import numpy_generator

CONTEXT, VOCABULARY = 128, 50_000


def text_of(tokens: int) -> Tokens:
    """Rows of Zipf-like ids in documents of some 400 tokens."""
    random = numpy_generator("harvest benchmark", "text")
    rows = tokens // (CONTEXT - 1)
    ids = np.minimum(random.zipf(1.2, (rows, CONTEXT)), VOCABULARY - 1).astype(np.int32)
    mask = np.ones(ids.shape, np.bool_)
    mask[:, 0] = False
    document = np.cumsum(random.random(ids.size) < 1 / 400).reshape(ids.shape)
    return Tokens.from_arrays(ids, mask, document)


def codes_of(count: int, latents: int, l0: int, weights: np.ndarray, part: int) -> Codes:
    """Codes of some tokens: latents as frequent as Zipf's law says; half of the tokens keep half of the latents of the one before."""
    random = numpy_generator("harvest benchmark", "codes", part)
    chosen = np.searchsorted(np.cumsum(weights), random.random((count, l0 + l0 // 16)))
    goes_on = random.random(count) < 0.5
    before = np.maximum.accumulate(np.where(goes_on, 0, np.arange(count)))
    chosen[:, : l0 // 2] = chosen[before, : l0 // 2]
    chosen = np.sort(np.minimum(chosen, latents - 1), axis=1)
    once = np.ones(chosen.shape, np.bool_)
    once[:, 1:] = chosen[:, 1:] != chosen[:, :-1]
    values = random.exponential(1.0, int(once.sum())).astype(np.float32) + np.float32(0.01)
    return Codes.of(values, chosen[once], np.r_[0, np.cumsum(once.sum(1))], latents)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latents", type=int, default=2**14)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--beside")
    asked = parser.parse_args(arguments or [])
    if asked.beside:
        root = Path(__file__).parents[1]
        where = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
        subprocess.run([f"{asked.beside}/bin/python", "-m", "benchmarks._sae_dashboard"], check=True, env=where, cwd=root)
        return
    text = text_of(asked.tokens)
    weights = 1 / np.arange(1, asked.latents + 1) ** 0.7
    weights = numpy_generator("harvest benchmark", "order").permutation(weights / weights.sum())
    collector, spent, profiler = Collector(asked.latents, Shape()), 0.0, cProfile.Profile()
    step = 2**16 // CONTEXT
    for part, start in enumerate(range(0, len(text), step)):
        stretch = Stretch.of(text, np.arange(start, min(start + step, len(text))))
        codes = codes_of(len(stretch), asked.latents, asked.l0, weights, part)
        if asked.profile:
            profiler.enable()
        begun = time.process_time()
        collector.add(stretch, codes)
        took = time.process_time() - begun
        profiler.disable()
        spent += took
        if part % 4 == 0:
            print(f"{collector.tokens:>10,} tokens, {len(stretch) / took:>9,.0f} a second just now", flush=True)
    print(
        f"\n{collector.tokens / spent:,.0f} tokens a second, {collector.histogram.sum() / collector.tokens:.1f} latents a token"
    )
    if asked.profile:
        out = io.StringIO()
        pstats.Stats(profiler, stream=out).sort_stats("tottime").print_stats(14)
        print(out.getvalue())
    finish(collector, text)


def finish(collector: Collector, text: Tokens) -> None:
    """Time of the end, and size on disk; the columns of the weights are random here, and as long as they ever are."""
    begun = time.process_time()
    d_sae, random = collector.d_sae, numpy_generator("harvest benchmark", "weights")
    columns, examples = summary.of(collector, np.asarray(text.tokens).reshape(-1), random.integers(0, d_sae, d_sae))
    print(f"{time.process_time() - begun:.1f} s to finish")
    ten, long = lambda high: random.integers(0, high, (d_sae, 10)), random.integers(0, 5000, (d_sae, 40))
    down = lambda: -np.sort(-random.normal(size=(d_sae, 10)), axis=1)  # noqa: E731
    for name in layout.SCALARS:
        columns.setdefault(name, random.normal(size=d_sae))
    columns |= {
        "top_logits": ten(VOCABULARY),
        "bottom_logits": ten(VOCABULARY),
        "neighbours": ten(d_sae),
        "logit_histogram": long,
    }
    columns |= {
        "top_logit_values": down(),
        "bottom_logit_values": down(),
        "neighbour_cosines": down(),
        "logit_range": down()[:, :2],
    }
    columns["nearest"] = columns["neighbours"][:, 0]
    with tempfile.TemporaryDirectory() as folder:
        layout.write_features(Path(folder), columns)
        layout.write_examples(Path(folder), examples, d_sae)
        for file in sorted(Path(folder).iterdir()):
            print(f"{file.name}: {file.stat().st_size / d_sae:,.0f} bytes a latent")
    print(f"{len(examples['latent']) / d_sae:.0f} examples a latent; {bins.BINS} bins")


if __name__ == "__main__":
    main()
