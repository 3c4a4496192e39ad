"""Opening a coder takes at most twice the memory that it then has, whatever number type its file is of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from assay import codec, coders
from assay.formats import native

D, S = 1024, 6144  # two matrices of 24 MB in float32
RESET = Path("/proc/self/clear_refs")
MEASURED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from assay import formats

def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

formats.read(Path(sys.argv[1]))  # whatever is imported, is
for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory is the present one
    before = memory("VmRSS")
    coder, about = formats.read(Path(path))
    print((memory("VmHWM") - before) * 2**20 / sum(v.numel() * v.element_size() for v in coder.state_dict().values()))
    del coder
"""


def files(place: Path) -> list[Path]:
    """Coders in files that are read in different ways: an archive, safetensors in bfloat16 to be scaled, a program, our own."""
    W = torch.randn(S, D, generator=torch.Generator().manual_seed(0)) * 0.03
    b_enc, b_dec = torch.zeros(S), torch.zeros(D)
    (place / "scope").mkdir()
    arrays = {"W_enc": W.T.contiguous(), "W_dec": W, "b_enc": b_enc, "b_dec": b_dec, "threshold": b_enc + 1}
    np.savez(place / "scope/params.npz", **{name: value.numpy() for name, value in arrays.items()})
    linear = {"encoder.weight": W, "encoder.bias": b_enc, "decoder.weight": W.T.contiguous()}
    (place / "llama/checkpoints").mkdir(parents=True)
    halves = {name: value.bfloat16() for name, value in (linear | {"decoder.bias": b_dec}).items()}
    save_file(halves, place / "llama/checkpoints/final.safetensors")
    said = {
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.7,
        "d_model": D,
        "d_sae": S,
        "dataset_average_activation_norm": {"in": 9.3},
    }
    (place / "llama/hyperparams.json").write_text(json.dumps(said))
    (place / "trainer").mkdir()
    torch.save(linear | {"bias": b_dec}, place / "trainer/ae.pt")
    (place / "trainer/config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    with torch.device("meta"):
        shapes = coders.new("topk", d_in=D, d_sae=S, k=8)
    (place / "own").mkdir()
    given = {"W_enc": W.T.contiguous(), "W_dec": W.clone(), "b_enc": b_enc, "b_dec": b_dec}
    save_file(given, place / "own" / native.WEIGHTS)
    config = {"schema": codec.SCHEMAS["coder"], "architecture": "topk", "config": vars(shapes.config), "seed": 0, "about": {}}
    (place / "own" / native.CONFIG).write_text(codec.to_json(config))
    return [place / name for name in ("scope", "llama", "trainer", "own")]


@pytest.mark.slow
@pytest.mark.skipif(not RESET.exists(), reason="Linux counts the memory")
def test_opening_takes_at_most_twice_the_memory(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, files(tmp_path))], capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    peaks = [float(line) for line in ran.stdout.split()]
    assert len(peaks) == 4 and max(peaks) < 2.2, f"peaks in units of what is kept: {peaks}"
    assert min(peaks) > 1, f"it does not measure: {peaks}"
