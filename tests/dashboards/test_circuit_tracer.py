"""circuit-tracer's feature files: found by offset as its page does, true to the harvest, and damaged ones."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import numpy as np
import pytest

from assay.dashboards import circuit_tracer, shown
from assay.errors import BadInput, DamagedFile, MissingFile
from assay.models.pieces import named
from assay.store import Store
from tests.features.made import entry

KEYS = """transcoder_id index examples_quantiles top_logits bottom_logits act_min act_max quantile_values histogram
    activation_frequency"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("circuit-tracer")
    found = entry(Store(home / "store"), d_sae=40, k=4, tokens=1200)
    assert circuit_tracer.write(found, named("tiny"), home / "files") == home / "files/layer_2.bin"
    return found, home / "files"


def as_its_page_reads(directory, layer: int, latent: int) -> dict:
    """By byte range with both ends in it, one byte too many, as the page asks for it; the size comes first."""
    index = json.loads(gzip.decompress((directory / "index.json.gz").read_bytes()))[str(layer)]
    start, end = index["offsets"][latent : latent + 2]
    raw = (directory / index["filename"]).read_bytes()[start : end + 1]
    (size,) = struct.unpack("<I", raw[:4])
    return json.loads(gzip.decompress(raw[4 : 4 + size]))


def test_files_say_what_was_harvested(made):
    found, directory = made
    pieces = named("tiny")
    for i in range(40):
        said, row = as_its_page_reads(directory, 2, i), found.latent(i)
        assert said == circuit_tracer.read(directory, 2, i) and set(said) == set(KEYS.split())
        assert said["index"] == i and said["activation_frequency"] == row.density
        assert said["top_logits"] == [pieces.one(t) for t in row.top_logits] and sum(said["histogram"]) == row.count
        assert np.float32(said["act_max"]) == np.float32(row.max or 0)
        top = found.examples(i, "top")
        groups = said["examples_quantiles"]
        assert len(groups) == (1 + len({e.interval for e in found.examples(i, "interval")}) if not row.dead else 0)
        for example, shows in zip(top, groups[0]["examples"] if groups else [], strict=True):
            assert (shows["tokens"], shows["tokens_acts_list"]) == shown.text(found, pieces, example)
            assert shows["tokens_acts_list"][shows["train_token_ind"]] == max(shows["tokens_acts_list"])
            assert shows["is_repeated_datapoint"] is False
        if not row.dead:
            quantiles = said["quantile_values"]
            assert quantiles == sorted(quantiles) and quantiles[-1] == pytest.approx(row.max, rel=0.03)


def test_layers_stand_side_by_side(made, tmp_path):
    found, _ = made
    circuit_tracer.write(found, named("tiny"), tmp_path)
    with pytest.raises(BadInput, match="has layer 2 already"):
        circuit_tracer.write(found, named("tiny"), tmp_path)
    index = json.loads(gzip.decompress((tmp_path / "index.json.gz").read_bytes()))
    (tmp_path / "index.json.gz").write_bytes(gzip.compress(json.dumps({"7": index["2"]}).encode()))
    circuit_tracer.write(found, named("tiny"), tmp_path)
    assert circuit_tracer.read(tmp_path, 2, 5) == circuit_tracer.read(tmp_path, 7, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.json.gz", "layer_2.bin"]


def test_damage_is_named(made, tmp_path):
    directory = made[1]
    index = json.loads(gzip.decompress((directory / "index.json.gz").read_bytes()))["2"]
    packed = (directory / "layer_2.bin").read_bytes()

    def read(
        offsets: Any = index["offsets"], filename: Any = "layer_2.bin", data: Any = packed, layer: Any = 2, latent: Any = 5
    ):
        (tmp_path / "layer_2.bin").write_bytes(data)
        said = {"2": {"filename": filename, "offsets": offsets}}
        (tmp_path / "index.json.gz").write_bytes(gzip.compress(json.dumps(said).encode()))
        return circuit_tracer.read(tmp_path, layer, latent)

    assert read() == circuit_tracer.read(directory, 2, 5)
    for error, says, settings in (
        (DamagedFile, "expected a filename NAME.bin", {"filename": "../layer_2.bin"}),
        (MissingFile, "other.bin is missing", {"filename": "other.bin"}),
        (DamagedFile, "no place for it", {"offsets": [0] * 8}),
        (DamagedFile, "no place for it", {"offsets": [0, 1, 2, 3, 4, 5, 2**40]}),
        (DamagedFile, "latent 5 is cut short", {"data": packed[: index["offsets"][5] + 9]}),
        (DamagedFile, "latent 5 is damaged", {"data": packed[: index["offsets"][5] + 4] + b"\0" * 10**5}),
        (BadInput, "has layers 2; got 3", {"layer": 3}),
        (BadInput, "latents 0 to 39, got 40", {"latent": 40}),
    ):
        with pytest.raises(error, match=says):
            read(**settings)
    (tmp_path / "index.json.gz").write_bytes(b"nonsense")
    with pytest.raises(DamagedFile, match=r"index\.json\.gz is damaged"):
        circuit_tracer.read(tmp_path, 2, 0)
    with pytest.raises(MissingFile, match="holds no feature files"):
        circuit_tracer.read(tmp_path / "nowhere", 2, 0)
