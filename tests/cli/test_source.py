"""Where vectors come from: files, gathered activations, planted features, a model; by flags and by run files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from assay import codec, registry
from assay.activations import Planted
from assay.activations.ground import PLANTED
from assay.cli import run_file
from assay.cli import source as source_module
from assay.cli.source import Source, entry
from assay.errors import BadInput
from assay.formats import native
from assay.store import Store

SETTINGS = registry.settings(Path(source_module.__file__), "Source")
QUICK = "--tokens 2k --batch 256 --threads 1 --log-every 4"


def about(home, name: str = "topk", store: str = "assay-store") -> dict:
    return Store(store).manifest("coders", name)["about"]


def same_by_its_run_file(run, home, name: str) -> bool:
    """Whether the resolved run file makes the same weights again."""
    place = home / f"assay-store/coders/{name}"
    assert run(f"train --config {place}/run.toml --store other").code == 0
    return (place / "weights.safetensors").read_bytes() == (home / f"other/coders/{name}/weights.safetensors").read_bytes()


def test_matrices_of_all_kinds_give_the_same_coder(run, home, vectors):
    x = torch.from_numpy(np.load(vectors))
    torch.save({"acts": x}, "x.pt")
    save_file({"acts": x, "other": x[:9].clone()}, "x.safetensors")
    for name, ref in {"a": vectors, "b": "x.pt", "c": "x.safetensors:acts"}.items():
        assert run(f"train topk --name {name} --data {ref} --d-sae 32 --k 2 {QUICK}").code == 0
    assert len({(home / f"assay-store/coders/{name}/weights.safetensors").read_bytes() for name in "abc"}) == 1
    assert about(home, "c")["source"]["held_out"] == 40
    assert about(home, "c")["source"]["tokens"] == 2008
    assert same_by_its_run_file(run, home, "c")
    rows = [json.loads(line) for line in (home / "assay-store/coders/a/train.jsonl").read_text().splitlines()]
    assert 0 < rows[-1]["held_out_fvu"] < 2


def test_a_transcoder_between_matrices(run, home, vectors):
    np.save("y.npy", np.load(vectors)[:, :3] * 2)
    line = f"train topk --data {vectors} --predict-data y.npy --held-out-share 0 --d-sae 32 --k 2 {QUICK}"
    assert run(line).code == 0
    coder = native.read(home / "assay-store/coders/topk")
    assert (coder.d_in, coder.d_out) == (16, 3)
    assert about(home)["source"]["held_out"] == 0
    assert same_by_its_run_file(run, home, "topk")
    np.save("y.npy", np.load(vectors)[:99])
    assert "2048 vectors, y.npy has 99" in run(f"{line} --again always").err


def test_what_the_data_is_like_is_said(run, home, vectors):
    x = np.load(vectors)
    assert "2008 vectors, 40 held out" in run(f"train topk --data {vectors} --d-sae 32 --k 2 {QUICK}").err
    np.save("contexts.npy", x.reshape(64, 32, 16))
    said = run(f"train topk --name b --data contexts.npy --d-sae 32 --k 2 {QUICK}").err
    assert "64 × 32 × 16, each position a vector" in said
    np.save("few.npy", x[:40])
    said = run(f"train topk --name c --data few.npy --d-sae 8 --k 2 {QUICK}")
    assert said.code == 0
    assert "too few to hold any out" in said.err


def test_planted_features_of_a_seed(run, home):
    for seed in (0, 1):
        assert run(f"train topk --name s{seed} --planted superposition --d-sae 64 --k 2 --seed {seed} {QUICK}").code == 0
    sources = [about(home, f"s{seed}")["source"] for seed in (0, 1)]
    assert sources == [Planted(seed=seed).describe() for seed in (0, 1)]
    assert same_by_its_run_file(run, home, "s1")
    assert "Did you mean 'superposition'?" in run("train topk --planted superpositions --d-sae 64").err


@pytest.mark.parametrize("name", [n for n in PLANTED if n != "synthetic"])
def test_every_planted_source(run, home, name):
    ran = run(f"train topk --planted {name} --d-sae 64 --k 2 --tokens 512 --batch 256 --threads 1")
    assert ran.code == 0, ran.err
    assert name in next(setting.doc for setting in SETTINGS if setting.name == "planted")


@pytest.mark.parametrize("architecture", list(registry.CODERS))
def test_every_architecture_learns_planted_features_from_one_line(run, architecture):
    baseline = architecture in registry.CODERS.names(tag="baseline")
    width = 128 if baseline else 256
    ran = run(f"train {architecture} --planted superposition --d-sae {width} --tokens 2k --batch 1000 --threads 1 --quiet")
    assert ran.code == 0, ran.err


def test_end_to_end(run, home, corpus):
    live = f"--model tiny --corpus {corpus} --site resid_post.1 --context 32"
    ran = run(f"train topk {live} --end-to-end kl --held-out-share 0.5 --d-sae 64 --k 4 --tokens 512 --batch 128 --threads 1")
    assert ran.code == 0, ran.err
    assert about(home)["source"]["kind"] == "end_to_end"
    assert about(home)["source"]["loss"]["loss"] == "kl"
    assert about(home)["site"] == "resid_post.1"
    assert about(home)["text"]["corpus"] == corpus
    assert same_by_its_run_file(run, home, "topk")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "by one of --data, --activations, --planted and --model"),
        ({"data": "x.npy", "planted": "tree"}, "got --data and --planted"),
        ({"data": "x.npy", "site": ("resid_post.1",)}, "--site goes with --activations or --model, not with --data"),
        ({"activations": "key", "predict_data": "y.npy"}, "--predict-data goes with --data, not with --activations"),
        ({"planted": "tree", "held_out_share": 0.1}, "--held-out-share goes with"),
        ({"data": "x.npy", "corpus": "demo"}, "--corpus goes with --model"),
        ({"model": "tiny", "corpus": "demo"}, "also needs --corpus and --site"),
        ({"model": "tiny", "corpus": "demo", "site": ("resid_post.1", "resid_post.2"), "end_to_end": "kl"}, "reads one site"),
        (
            {"model": "tiny", "corpus": "demo", "site": ("resid_post.1",), "predict": "mlp_out.1", "end_to_end": "kl"},
            "one site",
        ),
    ],
)
def test_sources_that_make_no_sense(given, told):
    with pytest.raises(BadInput, match=told):
        Source(**given)


def test_files_are_data_and_not_activations(run, home, vectors):
    assert f"say --data {vectors}" in run(f"train topk --activations {vectors} --d-sae 32").err
    (home / "bad.toml").write_text('[source]\ndata = "x.npy"\nplanted = "tree"\n[coder.a]\narchitecture = "topk"\nd_sae = 8\n')
    assert "got --data and --planted" in run("train --config bad.toml").err


@pytest.mark.parametrize(
    "source",
    [
        Source(data="x.safetensors:a", predict_data="y.parquet", held_out_share=0.1),
        Source(planted="tree"),
        Source(model="tiny", corpus="demo", site=("resid_post.1",), end_to_end="ce"),
        Source(activations="key", site=("resid_post.1",), predict="mlp_out.1", buffer_rows=9),
    ],
)
def test_run_files_hold_all_of_a_source(source, tmp_path):
    from assay.train import TrainConfig

    run = run_file.RunFile(source=source, train=TrainConfig(), coder={"a": {"architecture": "topk", "d_sae": 8}})
    (tmp_path / "run.toml").write_text(run_file.write(run, "a"), encoding="utf-8")
    assert run_file.read(tmp_path / "run.toml").source == source
    assert ("text" in codec.read_toml(tmp_path / "run.toml")) == (source.model is not None)


def test_names_with_commas_between_them_are_told_apart(tmp_path):
    with pytest.raises(BadInput, match=r"'a,b': several are separated by spaces: a b"):
        entry(Store(tmp_path / "store"), "coders", "a,b")
