"""From a repository comes what is read on this machine: all that lies beside and above the weights, and of several weights the same ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from assay import formats
from assay.errors import BadInput
from assay.releases import references
from tests.formats import dialects
from tests.formats.dialects import D, codes, ours

REPO = "owner/theirs"
ABOUT = {"model": {"name": "openai-community/gpt2"}, "site": "resid_post.3"}


def written(name: str, coder: str, under: str = "sae") -> Callable[[Path], str]:
    """Files of a dialect that is written."""

    def make(there: Path) -> str:
        formats.write(ours(coder), there / under, name, ABOUT)
        return under

    return make


def scaled(there: Path) -> str:
    """A checkpoint of SAELens whose activations were scaled, with more of its training around it."""
    formats.write(ours("relu"), there / "run/final", "saelens", ABOUT)
    cfg = json.loads((there / "run/final/cfg.json").read_text())
    (there / "run/final/cfg.json").write_text(json.dumps(cfg | {"normalize_activations": "expected_average_only_in"}))
    (there / "run/final/activation_scaler.json").write_text('{"scaling_factor": 2.0}')
    for name in ("final/sparsity.safetensors", "final/other.safetensors", "100/sae_weights.safetensors"):
        (there / "run" / name).parent.mkdir(exist_ok=True)
        (there / "run" / name).write_bytes(b"none of the coder")
    return "run/final"


def whitened(there: Path) -> str:
    formats.write(ours("relu"), there / "sae", "saelens", ABOUT)
    cfg = json.loads((there / "sae/cfg.json").read_text())
    (there / "sae/cfg.json").write_text(json.dumps(cfg | {"normalize_activations": "covariance_whitening"}))
    parts = {"mean": torch.ones(D), "matrix": 2 * torch.eye(D), "inverse_matrix": torch.eye(D) / 2}
    save_file(parts, there / "sae/activation_whitening.safetensors")
    return "sae"


def with_checkpoints(there: Path) -> str:
    """A trainer's directory of dictionary_learning, with what it saved on the way below."""
    formats.write(ours("topk"), there / "trainer_0", "dictionary_learning", ABOUT)
    for step in (0, 100):
        torch.save({}, _made(there / f"trainer_0/checkpoints/ae_{step}.pt"))
    return "trainer_0"


def several_samples(there: Path) -> str:
    dialects.e2e_sae(there / "e2e")
    for number in (9, 50_000):
        torch.save({}, there / f"e2e/samples_{number}.pt")
    return "e2e"


def of_a_seed(there: Path) -> str:
    formats.write(ours("topk"), there / "run/layers.3/seed0", "sparsify", ABOUT)
    (there / "run/config.json").write_text('{"sae": {}, "model": "EleutherAI/pythia-70m", "ctx_len": 64}')
    return "run/layers.3/seed0"


def of_a_training(there: Path) -> str:
    """A crosscoder as its training leaves it, among others."""
    formats.write(ours("crosscoder"), there / "made", "crosscoder", ABOUT)
    for number in (0, 1):
        (there / "made/cc_weights.pt").rename(there / f"made/{number}.pt") if number else torch.save({}, there / "made/0.pt")
        (there / f"made/{number}_cfg.json").write_text((there / "made/cfg.json").read_text())
    (there / "made/cfg.json").unlink()
    return "made/1.pt"


def one_layer(there: Path) -> str:
    dialects.circuit_tracer_clt(there / "clt")
    return "clt"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def at(make: Callable[[Path], Path], more: str = "") -> Callable[[Path], str]:
    """Files that `dialects` makes; `more` of the path is named."""
    return lambda there: (make(there) / more).relative_to(there).as_posix()


LAYOUTS: dict[str, Callable[[Path], str]] = {
    "saelens": written("saelens", "jumprelu"), "saelens scaled": scaled, "saelens whitened": whitened,
    "dictionary_learning": with_checkpoints, "sparsify": of_a_seed, "gemma_scope": at(dialects.gemma_scope),
    "gemma_scope_2": at(dialects.gemma_scope_2), "openai": at(dialects.openai), "llama_scope": at(dialects.llama_scope),
    "llama_scope weights": at(dialects.llama_scope, "checkpoints/final.safetensors"), "llama_scope_r1": at(dialects.llama_scope_r1),
    "llamascopium": written("llamascopium", "relu"), "circuit_tracer": written("circuit_tracer", "transcoder_relu"),
    "circuit_tracer_clt": one_layer, "bussmann": at(dialects.bussmann), "crosscoder": at(dialects.crosscoder),
    "crosscoder training": of_a_training, "e2e_sae": several_samples,
}  # fmt: skip


@pytest.mark.parametrize("root", [False, True], ids=["below", "root"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_repository_gives_what_is_read_on_this_machine(hub, tmp_path, layout, root):
    there = tmp_path / "there"
    there.mkdir()
    path = LAYOUTS[layout](there)
    if root and (there / path).is_dir() and layout != "sparsify":  # its directories' names count
        there, path = there / path, ""
    for file in there.rglob("*"):
        if file.is_file():
            hub.put(REPO, file.relative_to(there).as_posix(), file.read_bytes())
    coder, about = references.read(references.locate(there / path))
    located = references.locate(f"hf:{REPO}/{path}")
    twin, said = references.read(located)
    assert said["imported"]["files"] == about["imported"]["files"]
    assert set(said["imported"]["files"]) <= {Path(name).name for name in hub.downloads()}
    assert torch.equal(codes(twin)[1], codes(coder)[1])
    shutil.copytree(there, tmp_path / "mirror" / REPO)
    _, mirrored = references.read(references.locate(f"hf:{REPO}/{path}", tmp_path / "mirror"))
    assert mirrored["imported"]["files"] == about["imported"]["files"]
    if path:
        assert (said.get("model"), said.get("site"), said["said"]) == (about.get("model"), about.get("site"), about["said"])
    assert not {"other.safetensors", "sparsity.safetensors", "0.pt", "samples_9.pt"} & {Path(n).name for n in hub.downloads()}


def test_every_name_of_weights_that_a_format_has_is_known():
    """Beside it no other file counts as a coder."""
    for name in formats.dialects():
        weights = getattr(formats.dialect(name), "WEIGHTS", ())
        names = {weights} if isinstance(weights, str) else set(weights)
        assert {n for n in names if "/" not in n} <= set(references.MAIN), name


def test_two_coders_in_one_directory_are_still_two(hub):
    for name in ("a/ae.pt", "b/ae.pt"):
        hub.put(REPO, name, b"x")
    with pytest.raises(BadInput, match="holds 2 files of weights"):
        references.locate(f"hf:{REPO}")
