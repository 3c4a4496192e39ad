from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from assay import coders, provenance
from assay.errors import DamagedFile, MissingFile, NewerSchema, NotFinite, UnknownName
from assay.formats import native


@pytest.fixture
def saved(tmp_path):
    native.write(coders.new("topk", d_in=8, d_sae=16, k=2), tmp_path, {"site": "resid_post.1"})
    return tmp_path


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_was_said_comes_back(saved):
    assert native.describe(saved)["about"] == {"site": "resid_post.1"}
    assert native.read(saved).config.k == 2


def test_damage_is_named(saved):
    weights = saved / "weights.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k != "b_enc"}, weights)
    with pytest.raises(DamagedFile, match=r"b_enc has shape None, config.json asks for \(16,\)"):
        native.read(saved)
    save_file(tensors | {"W_dec": torch.full((16, 8), float("nan"))}, weights)
    with pytest.raises(NotFinite, match="W_dec holds NaN"):
        native.read(saved)
    save_file(tensors | {"W_dec": torch.zeros(15, 8)}, weights)
    with pytest.raises(DamagedFile, match=r"W_dec has shape \(15, 8\)"):
        native.read(saved)
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(DamagedFile, match="it is damaged"):
        native.read(saved)
    weights.unlink()
    with pytest.raises(MissingFile):
        native.read(saved)


def test_other_versions_and_names(saved, tmp_path):
    edit(saved / "config.json", architecture="topkk")
    with pytest.raises(UnknownName, match="Did you mean 'topk'"):
        native.read(saved)
    edit(saved / "config.json", schema=99)
    with pytest.raises(NewerSchema):
        native.read(saved)
    with pytest.raises(MissingFile, match="holds no coder"):
        native.read(tmp_path / "nowhere")


def test_altered_weights_of_a_stored_coder_are_refused(store):
    with store.draft("coders", "a") as draft:
        native.write(coders.new("topk", d_in=8, d_sae=16, k=2), draft.path)
        path = draft.finish(inputs={}, about={}, made=provenance.made())
    native.read(path)
    weights = load_file(path / "weights.safetensors")
    save_file(weights | {"b_enc": weights["b_enc"] + 1}, path / "weights.safetensors")
    with pytest.raises(DamagedFile, match=r"does not match the sha256|manifest says"):
        native.read(path)
