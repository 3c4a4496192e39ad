"""Coders as SAELens 6.54.12, dictionary_learning 0.1.0, sparsify 1.3.3, llamascopium 2.0.0b34, circuit-tracer 0.5.0 and e2e_sae 2.1.1 write
them open here, with their codes; ours open there.

frozen_formats.json is made by freeze_formats.py. With ASSAY_PEERS = a Python that has these libraries, they open what is written here.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from assay import formats
from tests.formats.dialects import OURS, REFUSED
from tests.formats.dialects import ours as trained

HERE = Path(__file__).parent
FROZEN = json.loads((HERE / "frozen_formats.json").read_text(encoding="utf-8"))
X = torch.tensor(FROZEN.pop("x"))
LAYERED = {case: FROZEN.pop(case) for case in list(FROZEN) if "_clt/" in case}
WRITTEN = {case.partition("/")[0] for case in FROZEN}
PEERS = os.environ.get("ASSAY_PEERS")
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def thawed(case: str, directory: Path) -> Path:
    """The files of a frozen case."""
    directory.mkdir(parents=True)
    for name, held in (FROZEN | LAYERED)[case]["files"].items():
        if not name.endswith((".pt", ".safetensors")):
            (directory / name).write_text(held if isinstance(held, str) else json.dumps(held))
            continue
        tensors = {k: torch.tensor(v["values"], dtype=getattr(torch, v["dtype"])) for k, v in held.items()}
        if name.endswith(".pt"):
            torch.save(tensors, directory / name)
        else:
            save_file(tensors, directory / name)
    return directory


@torch.no_grad()
def codes(coder):
    code = coder.encode(X)
    return code.z, coder.decode(code)


@pytest.mark.parametrize("case", FROZEN)
def test_codes_are_the_librarys(case, tmp_path):
    coder, about = formats.read(thawed(case, tmp_path / "layers.3.mlp"))
    z, x_hat = codes(coder)
    if "abstopk" in case:  # latents of either sign are two here
        z = z[:, : coder.d_sae // 2] - z[:, coder.d_sae // 2 :]
    torch.testing.assert_close(z, torch.tensor(FROZEN[case]["z"]), **CLOSE)
    torch.testing.assert_close(x_hat, torch.tensor(FROZEN[case]["x_hat"]), **CLOSE)
    assert about["imported"]["format"] == case.partition("/")[0]
    assert about["imported"]["dtype"] == ("bfloat16" if "bfloat16" in case else "float32")
    assert (z != 0).sum(1).float().mean() > 1, "too few latents to tell"


@pytest.mark.parametrize("case", LAYERED)
def test_layers_of_a_cross_layer_transcoder_are_the_librarys(case, tmp_path):
    """Latents of each layer, and what all layers say of each, added up."""
    path = thawed(case, tmp_path / "files")
    want, total = torch.tensor(LAYERED[case]["x_hat"]), torch.zeros_like(torch.tensor(LAYERED[case]["x_hat"]))
    for layer in range(len(want)):
        file = path / f"params_layer_{layer}.safetensors"
        coder, about = formats.read(file if file.exists() else path, layer=layer)
        z, y = codes(coder)
        torch.testing.assert_close(z, torch.tensor(LAYERED[case]["z"][layer]), **CLOSE)
        total[layer:] += torch.stack(y.split(X.shape[1], dim=1))
        assert about["imported"]["format"] == case.partition("/")[0].removesuffix("" if "tracer" in case else "_clt")
    torch.testing.assert_close(total, want, **CLOSE)


def again(coder, name, tmp_path, about):
    """Written in its own dialect and read anew."""
    formats.write(coder, tmp_path, name, about)
    return formats.read(tmp_path)


@pytest.mark.parametrize("case", FROZEN)
def test_import_fold_export_import_changes_the_last_bit_at_most(case, tmp_path):
    name = case.partition("/")[0]
    first, about = formats.read(thawed(case, tmp_path / "layers.3.mlp"))
    second, said = again(first, name, tmp_path / "second", about)
    kept = ("W_enc", "b_enc", "W_dec", "b_dec")
    inner = getattr(first, "inner", first)
    if (
        case.partition("/")[2] in EXACT and name != "e2e_sae"
    ):  # nothing had to be moved: the same bits in the file and in the coder
        for key, value in inner.state_dict().items():
            other = getattr(second, "inner", second).state_dict()[key]
            if key in kept:
                assert torch.equal(value, other), key
    torch.testing.assert_close(codes(second), codes(first), rtol=2e-6, atol=1e-6)
    assert said["imported"]["dtype"] == about["imported"]["dtype"]
    if about["imported"]["dtype"] != "float32":
        return  # folding rounds to bfloat16
    third, _ = again(first.folded(), "saelens" if can_fold(first) else name, tmp_path / "third", about)
    torch.testing.assert_close(codes(third)[1], codes(first)[1], rtol=5e-6, atol=2e-6)
    folded = third.folded()
    fourth, _ = again(folded, "saelens" if can_fold(first) else name, tmp_path / "fourth", about)
    torch.testing.assert_close(codes(fourth), codes(folded), rtol=2e-6, atol=1e-6)


EXACT = {
    "standard", "topk", "topk_before_6", "jumprelu", "jumprelu_bfloat16", "gated", "transcoder", "skip_transcoder",
    "standard_layer_norm", "jumprelu_transcoder", "jumprelu_skip_transcoder", "AutoEncoder", "AutoEncoder_p_anneal",
    "GatedAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder", "topk_bfloat16",
    "matching_pursuit", "relu", "crosscoder", "jumprelu_skip",
}  # fmt: skip


def can_fold(coder) -> bool:
    """Whether SAELens has the folded form: it knows no TopK transcoders."""
    return "transcoder" not in type(coder).__name__.lower() or coder.config.of != "topk"


@pytest.mark.skipif(not PEERS, reason="ASSAY_PEERS names no Python with the libraries")
def test_ours_open_there(tmp_path):
    ours = {}
    for case in FROZEN:
        name, _, kind = case.partition("/")
        coder, about = formats.read(thawed(case, tmp_path / "theirs" / name / kind))
        formats.write(coder, tmp_path / "ours" / case, name, about)
        ours[case] = codes(formats.load(tmp_path / "ours" / case, name))
    for name, refused in REFUSED.items():
        for kind in OURS if name in WRITTEN else ():
            if kind not in refused:
                formats.write(made := trained(kind), tmp_path / "ours" / name / kind, name, {"site": "resid_post.3"})
                ours[f"{name}/{kind}"] = codes(formats.load(tmp_path / "ours" / name / kind, name))
                torch.testing.assert_close(ours[f"{name}/{kind}"][1], codes(made)[1], **CLOSE)
    words = [str(PEERS), str(HERE / "freeze_formats.py"), str(tmp_path / "ours")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert set(theirs) == set(ours)
    for case, (z, x_hat) in ours.items():
        torch.testing.assert_close(torch.tensor(theirs[case]["z"]), z, **CLOSE, msg=lambda m, case=case: f"{case}: {m}")
        torch.testing.assert_close(torch.tensor(theirs[case]["x_hat"]), x_hat, **CLOSE, msg=lambda m, case=case: f"{case}: {m}")
