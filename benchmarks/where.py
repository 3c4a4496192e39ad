"""Where the time of a training step goes, part by part, as `assay train --profile` says it; into docs/speed.md.

python -m benchmarks where      a minute or two
"""

from __future__ import annotations

import torch

from assay import coders
from assay.activations import Tensors
from assay.profile import PARTS, profile
from assay.train import TrainConfig
from benchmarks._data import SHAPES, vectors
from benchmarks._ours import place
from benchmarks._rounds import machine
from benchmarks.speed import SPARSE, mark

CASES = {
    "topk": ("topk", "float32"), "topk, bfloat16 candidates": ("topk", "bfloat16"), "batch_topk": ("batch_topk", "float32"),
    "matryoshka": ("matryoshka", "float32"), "relu, 2 % active": ("relu", "float32"),
}  # fmt: skip


def main() -> None:
    shape = SHAPES["large"]
    x = vectors(shape.d_in, 5 * shape.batch)
    rows = []
    for name, (architecture, candidates) in CASES.items():
        own = {"k": shape.k} if architecture != "relu" else {"l1": 1e-3}
        coder = coders.new(architecture, d_in=shape.d_in, d_sae=shape.d_sae, **own)
        cfg = TrainConfig(
            tokens=1_000_000 * shape.batch, batch=shape.batch, log_every=10, lr=1e-6, candidates=candidates, fine_tune=True,
            normalise="none", held_out_vectors=1024,
        )  # type: ignore[arg-type]  # fmt: skip
        if architecture == "relu":
            with torch.no_grad():
                place(coder, x[: shape.batch], SPARSE)
        found = profile({name: coder}, Tensors(x), cfg)
        shares = found.shares()
        rows.append(f"| {name} | {1e3 * found.step:.0f} | " + " | ".join(f"{100 * shares[part]:.0f}" for part in PARTS) + " |")
        print(rows[-1], flush=True)
    m = machine()
    mark(
        "profile",
        f"`python -m benchmarks where`: ms a step by the clock, and per cent of it; d_in {shape.d_in}, d_sae {shape.d_sae}, batch {shape.batch}; "
        f"a row every ten steps, with a held-out look. {m['processor']}, {m['date']}.\n\n"
        f"| | ms | {' | '.join(PARTS)} |\n{'| --- ' * (len(PARTS) + 2)}|\n" + "\n".join(rows) + "\n",
    )


if __name__ == "__main__":
    main()
