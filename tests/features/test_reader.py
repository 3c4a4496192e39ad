"""Reading a harvest: columns, pages of latents, examples, windows and documents."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

import assay
from assay import features
from assay.errors import BadInput, DamagedFile, MissingFile, NewerSchema, UnknownName
from assay.features import Where
from assay.features.layout import FURTHER, GROUP, SCALARS
from assay.store import Store, write_atomic
from tests.features.made import entry


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return entry(Store(tmp_path_factory.mktemp("reader") / "store"), "mine")


def test_columns_and_rows_agree(found):
    assert set(found.columns) == set(SCALARS) and all(len(c) == found.d_sae for c in found.columns.values())
    for i in (0, GROUP - 1, GROUP, found.d_sae - 1):
        latent = found.latent(i)
        for name, column in found.columns.items():
            value = getattr(latent, name)
            assert value == column[i] if value is not None else np.isnan(column[i])
        assert all(getattr(latent, name) is None for name in FURTHER)
        assert [e.latent for e in found.examples(i)] == [i] * len(found.examples(i))


def test_examples_by_group_and_interval(found):
    i = int(found.select("count")[0][0])
    all_ = found.examples(i)
    groups = {g: found.examples(i, g) for g in ("top", "interval", "random", "near_miss")}
    assert sum(map(len, groups.values())) == len(all_) and groups["top"] and groups["interval"]
    peaks = [e.values[list(e.at).index(e.position - e.start)] for e in groups["top"]]
    assert peaks == sorted(peaks, reverse=True) and peaks[0] == np.float16(found.latent(i).max)
    assert {e.interval for e in found.examples(i, "interval", 3)} <= {3} and {e.interval for e in groups["top"]} == {None}
    with pytest.raises(UnknownName, match="near_miss"):
        found.examples(i, "near_mis")
    with pytest.raises(BadInput, match="latents 0 to 299"):
        found.examples(300)


def test_a_page_of_latents(found):
    ids, n = found.select("density", limit=7)
    density = found.columns["density"]
    assert n == found.d_sae and len(ids) == 7 and density[ids].tolist() == sorted(density, reverse=True)[:7]
    rest, _ = found.select("density", offset=7, limit=1000)
    assert sorted([*ids, *rest]) == list(range(found.d_sae))
    up, n = found.select("max", descending=False, where=[Where("count", 5, 40), Where("dead", high=0)], limit=1000)
    inside = (found.columns["count"] >= 5) & (found.columns["count"] <= 40)
    assert n == inside.sum() and (np.diff(found.columns["max"][up]) >= 0).all() and inside[up].all()
    with pytest.raises(UnknownName, match="Did you mean 'density'"):
        found.select("densty")


def test_missing_values_come_last(found, monkeypatch):
    holes = dict(found.columns) | {"purity": np.where(np.arange(300) % 3, found.columns["purity"], np.nan)}
    monkeypatch.setitem(found.__dict__, "columns", holes)
    monkeypatch.setattr(found, "_sorted", {})
    for descending in (True, False):
        ids, _ = found.select("purity", descending, limit=1000)
        assert np.isnan(holes["purity"][ids[-100:]]).all() and not np.isnan(holes["purity"][ids[:200]]).any()
    assert found.select("purity", where=[Where("purity", low=0)])[1] == 200


def test_windows_and_documents(found):
    text, context = found.text, found.text.tokens.shape[1]
    flat, document = np.asarray(text.tokens).reshape(-1), np.asarray(text.document).reshape(-1)
    for e in found.examples(int(found.select("count")[0][0])):
        window = found.window(e.start, e.stop)
        assert window.ids.tolist() == flat[e.start : e.stop].tolist() and window.mask.all() and window.position == e.start
        start, stop = found.document(e.position)
        own = np.flatnonzero(document == document[e.position])
        assert (start, stop) == (own[0], own[-1] + 1) and start <= e.start and stop >= e.stop
    wide = found.window(context - 3, context + 10)
    assert len(wide.ids) == 3, "cut to the row"
    special = int(np.flatnonzero(document < 0)[0])
    assert found.document(special) == (special, special + 1)
    for bad in (-1, flat.size):
        with pytest.raises(BadInput, match="positions 0 to"):
            found.window(bad, bad + 1)


def test_which_harvest_is_opened(found, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    first = entry(store, "a", tokens=600)
    manifest = first.path / "manifest.json"
    write_atomic(manifest, manifest.read_text(encoding="utf-8").replace('"at": "2', '"at": "1'))
    entry(store, "b", tokens=600)
    second = entry(store, "a", tokens=900)
    assert features.names(store, "a") == [second.path.name, first.path.name] and len(features.names(store)) == 3
    assert features.open(store, "a").n_tokens > features.open(store, "a", first.text.fingerprint[:6]).n_tokens
    with pytest.raises(UnknownName, match="text that a was harvested on"):
        features.open(store, "a", "nothing")
    with pytest.raises(UnknownName, match="No coder in"):
        features.open(store, "nobody")
    store.remove("features", features.names(store, "b")[0])
    with pytest.raises(MissingFile, match="assay harvest b"):
        features.open(store, "b")
    assert assay.features("a", store=store.root).path == second.path
    monkeypatch.setenv("ASSAY_STORE", str(store.root))
    assert assay.features("a").n_tokens == second.n_tokens


def test_damage_is_named(tmp_path):
    store = Store(tmp_path / "store")
    one = entry(store, "a", tokens=600)
    (one.path / "examples.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DamagedFile, match=r"examples\.parquet"):
        features.open(store, "a")
    (one.path / "examples.parquet").unlink()
    with pytest.raises(MissingFile, match=r"examples\.parquet"):
        features.open(store, "a")
    text = (one.path / "manifest.json").read_text(encoding="utf-8")
    write_atomic(one.path / "manifest.json", text.replace('"about": {\n    "schema": 1', '"about": {\n    "schema": 9'))
    with pytest.raises(NewerSchema, match="features file of schema 9"):
        features.open(store, "a")


def test_reading_needs_no_torch():
    code = "import assay.features, sys; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_in_memory_is_quick(found):
    """A second look at a latent reads nothing: at the very least ten times as quick as the first."""
    fresh = features.Features(found._store, found.path.name)
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        fresh.latent(3), fresh.examples(3), fresh.select("max")
        times.append(time.perf_counter() - begun)
    assert times[1] < times[0]
