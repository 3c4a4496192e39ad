"""Reading gathered activations: document order, any rows, and files that cannot be trusted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from assay import store as store_module
from assay.activations import Activations, Stored, shards
from assay.errors import BadInput, DamagedFile, MissingFile, NewerSchema, UnknownName
from assay.models.base import Site

SITE = Site("mlp_out", 1)


def test_document_order(gathered, tokens, truth):
    got = Activations(gathered, "mlp_out.1")
    x, row, position = (torch.cat(parts) for parts in zip(*got))
    assert torch.equal(x, truth[SITE])
    assert x.dtype == torch.float32
    assert np.array_equal(np.stack([row, position]), np.stack(tokens.mask.nonzero()))
    assert (got.d, got.rows, got.tokens, len(got)) == (4, 23, tokens.n_tokens, 6)
    torch.testing.assert_close(got.mean, truth[SITE].mean(0))


@pytest.mark.parametrize("rows", [[22, 0, 5, 13, 12, 1], [5, 17], list(range(23)), []])
def test_any_rows(rows, gathered, tokens, truth):
    number = np.full(tokens.mask.shape, -1)
    number[tokens.mask] = np.arange(tokens.n_tokens)
    want = np.concatenate([number[r][tokens.mask[r]] for r in rows]) if rows else np.zeros(0, int)
    got = Activations(gathered, SITE).read(np.array(rows, dtype=np.int64))
    assert torch.equal(got, truth[SITE][torch.from_numpy(want)])


def read_everything(path):
    for _ in Activations(path, SITE):
        pass


def read_by_rows(path):
    Activations(path, SITE).read(np.arange(23))


def read_batches(path):
    next(Stored(path, SITE).batches(64, seed=0))


@pytest.mark.parametrize("read", [read_everything, read_by_rows, read_batches])
@pytest.mark.parametrize("file", ["00002.safetensors", "stats.safetensors"])
def test_missing_truncated_and_altered_files_are_named(read, file, gathered):
    read(gathered)
    victim = gathered / file
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-4])
    with pytest.raises(DamagedFile, match=rf"{file} has \d+ bytes"):
        read(gathered)
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
    with pytest.raises(DamagedFile, match=rf"{file} does not match the sha256"):
        read(gathered)
    victim.unlink()
    with pytest.raises(MissingFile, match=rf"{file} is missing"):
        read(gathered)


def test_a_shard_is_verified_once(gathered, monkeypatch):
    asked = []
    real = store_module.compare
    monkeypatch.setattr(shards.store, "compare", lambda path, name, entry: asked.append(name) or real(path, name, entry))
    for _ in range(2):
        read_everything(gathered)
        read_batches(gathered)
    assert sorted(asked) == [*(f"{i:05d}.safetensors" for i in range(6)), "stats.safetensors"]


def test_other_things_that_cannot_be_read(gathered, tmp_path):
    with pytest.raises(UnknownName, match=r"mlp_out\.0.*Did you mean 'mlp_out\.1'"):
        Activations(gathered, "mlp_out.0")
    with pytest.raises(MissingFile):
        Activations(tmp_path / "nowhere", SITE)
    with pytest.raises(BadInput, match="3 sites"):
        Stored(gathered)
    manifest = json.loads((gathered / "manifest.json").read_text())
    for change, error in (({"kind": "features"}, BadInput), ({"schema": 99}, NewerSchema)):
        (gathered / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(error):
            Activations(gathered, SITE)
    manifest["files"].pop("00001.safetensors")
    (gathered / "manifest.json").write_text(json.dumps(manifest))
    shards._verified.clear()
    with pytest.raises(DamagedFile, match="not in its manifest"):
        read_everything(gathered)
