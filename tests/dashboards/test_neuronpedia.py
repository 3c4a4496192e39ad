"""Neuronpedia's bulk export: its keys, there and back, dashboards as others write them, and damaged files."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

import assay
from assay import features
from assay.dashboards import importing, neuronpedia, rows, shown
from assay.errors import AssayError, BadInput, DamagedFile, MissingFile, Unavailable
from assay.features import explanations
from assay.features.explanations import Explanation
from assay.formats import native
from assay.models.pieces import Pieces, named
from assay.notes import Notes
from assay.randomness import numpy_generator
from assay.store import Store
from assay.web.app import create
from assay.web.shelf import Shelf
from tests.features.made import entry

D_SAE = 40
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
# What Neuronpedia's own exporter selects (utils/neuronpedia-utils/neuronpedia_utils/export-data.py).
FEATURE = """modelId layer index maxActApprox creatorId frac_nonzero freq_hist_data_bar_heights freq_hist_data_bar_values
    logits_hist_data_bar_heights logits_hist_data_bar_values neuron_alignment_indices neuron_alignment_l1 neuron_alignment_values
    correlated_neurons_indices correlated_neurons_l1 correlated_neurons_pearson decoder_weights_dist neg_str neg_values pos_str pos_values
    sourceSetName topkCosSimIndices topkCosSimValues vector vectorLabel hookName vectorDefaultSteerStrength hasVector"""
ACTIVATION = """id modelId layer index creatorId dataSource tokens maxValue minValue values maxValueTokenIndex dfaValues dfaMaxValue
    dfaTargetIndex binContains binMin binMax"""
EXPLANATION = """id modelId layer index authorId description embedding typeName explanationModelName umap_x umap_y umap_cluster
    umap_log_feature_sparsity"""
# Further columns of the same tables, which SAEDashboard's exporter writes.
FURTHER = {
    "features": {"correlated_features_indices", "correlated_features_l1", "correlated_features_pearson"},
    "activations": {"dataIndex", "lossValues", "qualifyingTokenIndex"},
    "explanations": set(),
}
KEYS = {"features": FEATURE, "activations": ACTIVATION, "explanations": EXPLANATION}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(store, harvest, export of it)."""
    home = tmp_path_factory.mktemp("neuronpedia")
    store = Store(home / "store")
    found = entry(store, d_sae=D_SAE, k=4, tokens=1200)
    said = [
        Explanation(latent=7, text="verbs “of” motion", method="np_max-act", model="gpt-4o-mini"),
        Explanation(latent=8, text="own", method="commonest token"),
    ]
    explanations.write(store, "mine", "some", said)
    explanations.write(store, "mine", "earlier", [Explanation(latent=9, text="of another coder", method="x")], "0" * 64)
    Notes(store).label("mine", 7, "motion", author="ada")
    path, counts = neuronpedia.write(found, named("tiny"), neuronpedia.Names.of(found), home / "out", shown.said(store, found))
    assert path == home / "out/v1/tiny/2-mine" and counts["features"] == D_SAE and counts["explanations"] == 3
    return store, found, path


def lines(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, table: str, found: list[dict], name: str = "batch-0.jsonl.gz") -> None:
    (path / table).mkdir(parents=True, exist_ok=True)
    with gzip.open(path / table / name, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in found)


@pytest.fixture
def copied(made, tmp_path) -> Path:
    return Path(shutil.copytree(made[2], tmp_path / "copied"))


def test_keys_are_neuronpedias(made):
    _, found, path = made
    for table, keys in KEYS.items():
        for row in lines(path / table / "batch-0.jsonl.gz"):
            assert set(row) == set(keys.split()) | FURTHER[table]
            assert (row["modelId"], row["layer"]) == ("tiny", "2-mine") and isinstance(row["index"], str)
    first = {name: json.loads((path / f"{name}.jsonl").read_text()) for name in ("model", "release", "sourceset", "source")}
    assert first["source"]["setName"] == first["sourceset"]["name"] == first["release"]["defaultSourceSetName"] == "mine"
    assert first["sourceset"]["releaseName"] == first["release"]["name"] and first["source"]["id"] == "2-mine"
    assert first["model"]["id"] == first["source"]["modelId"] == "tiny" and first["source"]["num_prompts"] == len(found.text)
    for row in lines(path / "features/batch-0.jsonl.gz"):
        for kind in ("freq", "logits"):  # its pages take both arrays as one beside the other
            assert len(row[f"{kind}_hist_data_bar_heights"]) == len(row[f"{kind}_hist_data_bar_values"])
        assert sum(row["freq_hist_data_bar_heights"]) == found.columns["count"][int(row["index"])]
    assert [(r["description"], r["typeName"]) for r in lines(path / "explanations/batch-0.jsonl.gz")] == [
        ("verbs “of” motion", "np_max-act"), ("motion", None), ("own", None),
    ]  # fmt: skip


def test_batches_and_bytes(made, tmp_path, monkeypatch):
    """Latents come 1,024 a file, a batch's examples beside them; the same harvest gives the same bytes; nothing is written over."""
    store, found, path = made
    monkeypatch.setattr(neuronpedia, "BATCH", 15)
    args = found, named("tiny"), neuronpedia.Names.of(found), tmp_path, shown.said(store, found)
    other, _ = neuronpedia.write(*args)
    parts = [lines(other / f"features/batch-{n}.jsonl.gz") for n in range(3)]
    assert [len(p) for p in parts] == [15, 15, 10] and [r for p in parts for r in p] == lines(
        path / "features/batch-0.jsonl.gz"
    )
    assert {int(r["index"]) for r in lines(other / "activations/batch-1.jsonl.gz")} <= set(range(15, 30))
    assert not (other / "explanations/batch-2.jsonl.gz").exists()
    with pytest.raises(BadInput, match="is there already"):
        neuronpedia.write(*args)
    again, _ = neuronpedia.write(*args[:3], tmp_path / "again", args[4])
    assert [p.read_bytes() for p in sorted(again.rglob("*.gz"))] == [p.read_bytes() for p in sorted(other.rglob("*.gz"))]
    monkeypatch.setattr(neuronpedia, "activations", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        neuronpedia.write(*args[:3], tmp_path / "third", args[4])
    assert not [p for p in (tmp_path / "third").rglob("*") if p.is_file()]
    with pytest.raises(BadInput, match="cannot be the set"):
        neuronpedia.Names.of(found, set="../up")


def same_examples(one: features.Features, other: features.Features, i: int) -> None:
    """Top and interval examples show the same strings and activations, to the bit."""
    pieces = named("tiny")
    for group in ("top", "interval"):
        told = []
        for which in (one, other):
            latent = which.latent(i)
            for_each = which.examples(i, group)
            ends = [() if e.interval is None else tuple(latent.interval_edges[e.interval : e.interval + 2]) for e in for_each]
            place = [(e.position - e.start, e.weight) for e in for_each]
            texts = (
                (pieces.row(which.window(e.start, e.stop).ids), dict(zip(e.at.tolist(), e.values.tolist()))) for e in for_each
            )
            told.append(sorted(zip(ends, place, texts), key=repr))
        assert told[0] == told[1] and (told[0] or one.latent(i).dead)


def test_pages_without_weights_are_looked_at_and_not_run(made, tmp_path):
    other = Store(tmp_path / "other")
    importing.take(made[2].parents[2], other)
    with pytest.raises(BadInput, match=r"tiny\.2-mine has no weights here"):
        assay.load(other.find("coders", "tiny.2-mine"))
    (line,) = (
        TestClient(create(Shelf(other, assay.model("tiny"))), base_url="http://127.0.0.1").get("/live.json").json()["coders"]
    )
    assert line["refused"] == "only its pages were imported; it has no weights here"


def test_there_and_back(made, tmp_path):
    _, found, path = made
    other = Store(tmp_path / "other")
    taken = importing.take(path.parents[2], other)
    assert (taken.coder, taken.alone, taken.latents, taken.left_out) == ("tiny.2-mine", True, D_SAE, 0)
    back = features.open(other, "tiny.2-mine")
    assert back.n_tokens == found.n_tokens and back.about["site"] == "resid_post.2" and back.about["imported"]
    for name in ("count", "density", "max", "dead", "dense", "nearest", "top_token", "purity"):
        np.testing.assert_array_equal(back.columns[name], found.columns[name], err_msg=name)
    for name in ("mean", "decoder_norm", "encoder_norm", "cosine", "x", "y"):  # not in the export
        assert np.isnan(back.columns[name]).all()
    for i in range(D_SAE):
        a, b = found.latent(i), back.latent(i)
        assert b.top_logits.tolist() == a.top_logits.tolist() and b.neighbours.tolist() == a.neighbours.tolist()
        assert b.top_logit_values == pytest.approx(a.top_logit_values, rel=1e-3) and b.logit_range == pytest.approx(
            a.logit_range, rel=1e-5
        )
        assert b.logit_histogram.tolist() == a.logit_histogram.tolist() and b.correlations == pytest.approx(
            a.correlations, rel=1e-5
        )
        assert b.histogram.sum() == a.count and b.interval_counts.sum() == a.count
        if not a.dead:  # bars are equal there and not here: quantiles move by a bar at most
            quantile = [
                np.interp(a.count / 2, np.cumsum(h), f.edges[1:]) for f, h in ((found, a.histogram), (back, b.histogram))
            ]
            assert abs(quantile[0] - quantile[1]) < a.max / shown.BARS
        same_examples(found, back, i)
    assert [(e.latent, e.text, e.method, e.model) for e in explanations.read(other, "tiny.2-mine")] == [
        (7, "verbs “of” motion", "np_max-act", "gpt-4o-mini"), (7, "motion", "", ""), (8, "own", "", ""),
    ]  # fmt: skip
    assert importing.take(path, other) == taken  # once more: the same, instead of the former
    assert len(features.names(other)) == 1


def test_pages_show_an_import(made, tmp_path):
    other = Store(tmp_path / "other")
    importing.take(made[2], other, name="theirs")
    client = TestClient(create(Shelf(other)), base_url="http://127.0.0.1")
    i = int(features.open(other, "theirs").columns["count"].argmax())
    for page in (
        "index.json",
        "coders.json",
        "coders/theirs.json",
        "coders/theirs/latents.json?sort=max",
        "coders/theirs/scatter.bin",
    ):
        assert client.get(f"/{page}").status_code == 200, page
    page = client.get(f"/coders/theirs/latents/{i}.json").json()
    assert page["words"] and page["numbers"]["mean"] is None and page["groups"][0]["group"] == "top"
    texts = {"".join(row["tokens"]) for row in lines(made[2] / "activations/batch-0.jsonl.gz")}
    assert {"".join(e["pieces"]) for group in page["groups"] for e in group["examples"]} <= texts


def test_beside_a_coder(made, tmp_path):
    """A coder without a harvest gets all of it; one that was harvested keeps its own and gets the explanations."""
    store, found, path = made
    coder = native.read(store.path("coders", "mine"))
    before = features.names(store)
    taken = importing.take(path, store, coder, name="mine")
    assert (taken.entry, taken.explanations, features.names(store)) == (None, 3, before)
    assert [e.run for e in explanations.read(store, "mine", 7)] == ["neuronpedia.tiny.2-mine"] * 2 + ["some"]
    other = Store(tmp_path / "other")
    shutil.copytree(store.path("coders", "mine"), other.path("coders", "mine"))
    taken = importing.take(path, other, coder, name="mine")
    back = features.open(other, "mine")
    assert back.coder_hash == found.coder_hash and not taken.alone and back.d_sae == D_SAE
    same_examples(found, back, int(found.columns["count"].argmax()))
    found = lines(path / "features/batch-0.jsonl.gz")
    bad = Path(shutil.copytree(path, tmp_path / "bad"))
    write(bad, "features", [*found[1:], found[0] | {"index": D_SAE}])
    with pytest.raises(DamagedFile, match=f"line {D_SAE}: index is {D_SAE}, expected a whole number from 0 to {D_SAE - 1}"):
        importing.take(bad, other, coder, name="mine")
    with pytest.raises(BadInput, match="has a coder named 'mine'"):
        importing.take(path, other, name="mine")


def theirs(tmp_path: Path) -> Path:
    """A source as SAEDashboard's exporter writes it: whole prompts, numbers as index, five intervals, dead latents left out."""
    path, tokens = tmp_path / "theirs/gemma/3-gemmascope-res-16k", ["▁the", "▁cat", "▁", "s", "at", "↵", "<unknown thing>", "."]
    rest = {"modelId": "gemma", "layer": "3-gemmascope-res-16k"}
    write(path, "features", [
        rest | {
            "index": 1, "frac_nonzero": 0.01, "maxActApprox": 9.5, "hookName": "hook_resid_post", "pos_str": ["▁the", "no such token"],
            "pos_values": [2.5, 2.0], "freq_hist_data_bar_heights": [6, 3, 1], "freq_hist_data_bar_values": [1.5, 4.5, 7.5],
        },
        rest | {"index": 4, "frac_nonzero": 0.5, "maxActApprox": 3.0, "freq_hist_data_bar_heights": [0.2, 0.8], "freq_hist_data_bar_values": [1, 2]},
    ])  # fmt: skip
    act = rest | {
        "index": 1,
        "tokens": tokens,
        "maxValue": 9.5,
        "maxValueTokenIndex": 6,
        "values": [0, 0, 1.5, 0, 0, 0, 9.5, 0],
    }
    write(path, "activations", [
        act | {"binMin": -1, "binMax": 9.5, "binContains": -1, "qualifyingTokenIndex": 6},
        act | {"binMin": 0.0, "binMax": 1.9, "binContains": 0.7, "qualifyingTokenIndex": 2},
        act | {"index": 4, "values": [0.0] * 8, "maxValue": 0, "maxValueTokenIndex": 0},
    ])  # fmt: skip
    write(
        path,
        "explanations-gpt-4o",
        [rest | {"id": "c1", "index": "1", "description": "cats", "typeName": "oai_token-act-pair"}],
    )
    return path


def test_what_others_write(tmp_path):
    path, store = theirs(tmp_path), Store(tmp_path / "store")
    with pytest.raises(Unavailable, match="Say --model"):
        importing.take(path, store)
    taken = importing.take(path, store, name="cats", model="tiny")
    assert (taken.latents, taken.left_out, taken.examples, taken.explanations, taken.unspelt) == (5, 3, 3, 1, 1)
    found, pieces = features.open(store, "cats"), named("tiny")
    assert found.n_tokens == 1000 and found.columns["count"].tolist() == [0, 10, 0, 0, 500]
    assert found.columns["dead"].tolist() == [True, False, True, True, False] and found.about["site"] == "resid_post.3"
    top, drawn = found.examples(1)
    words, values = shown.text(found, pieces, top)
    assert "".join(words) == " the cat sat\n<unknown thing>." and top.group == "top"
    assert [w for w, v in zip(words, values) if v] == [" ", "<"] and [v for v in values if v] == [1.5, 9.5]
    assert words[top.position - top.start] == "<" and words[drawn.position - drawn.start] == " "
    assert (drawn.interval, drawn.weight) == (0, 7) and found.latent(1).interval_counts.tolist() == [7]
    assert found.latent(1).histogram.sum() == 10 and found.latent(4).histogram.sum() == 0
    assert [pieces.one(i) for i in found.latent(1).top_logits] == [" the"] and found.examples(4)[0].group == "random"
    assert len(found.text) == 1  # the same text is kept once
    assert [e.text for e in explanations.read(store, "cats", 1)] == ["cats"]


def test_strings_are_spelt_as_they_read():
    """“ is two tokens of a byte-level vocabulary: the first holds the character, the second nothing."""
    from assay.dashboards.texts import Speller

    pieces = named("tiny")
    ids = pieces.encode("He said “yes” — no")
    strings = pieces.row(ids)
    assert "" in strings and Speller(pieces).row(strings) == (ids, list(range(len(ids))))
    found, starts = Speller(pieces).row(["a", "zzyzx", "", "b"])
    assert "".join(pieces.row(found)) == "azzyzxb" and starts[0] == 0 and starts[3] == len(found) - 1
    assert "".join(pieces.row(Speller(pieces).row(["Ġ", "", "Ġof"])[0])) == "Ġ of"
    assert Speller(Pieces()).one("a") is None


@pytest.mark.parametrize(
    ("table", "values", "says"),
    [
        ("features", {"index": -1}, r"features/batch-0.jsonl.gz, line 2: index is -1"),
        ("features", {"index": "0"}, r"line 2: latent 0 stands in the export twice"),
        ("features", {"index": 10**12}, r"line 2: index is 1000000000000"),
        ("features", {"frac_nonzero": "many"}, r"line 2: frac_nonzero is \"many\", expected a number"),
        ("features", {"pos_str": [1]}, r"line 2: pos_str is \[1\], expected a list of strings"),
        ("features", {"freq_hist_data_bar_values": [1e300]}, r"line 2: freq_hist_data_bar_values"),
        ("activations", {"values": [1.0]}, r"activations/batch-0.jsonl.gz, line 2: \d+ tokens and 1 values"),
        ("activations", {"tokens": []}, r"line 2: 0 tokens"),
        ("activations", {"maxValueTokenIndex": 10_000}, r"line 2: maxValueTokenIndex is 10000"),
        ("activations", {"values": None}, r"line 2: \d+ tokens and 0 values"),
        ("explanations", {"description": 3}, r"explanations/batch-0.jsonl.gz, line 2: description is 3, expected text"),
        ("explanations", {"index": 2**20}, r"explanations/batch-0.jsonl.gz, line 2: index is 1048576"),
        ("features", {"frac_nonzero": 2.0}, r"line 2: frac_nonzero is 2, expected a share"),
    ],
)
def test_wrong_values_are_named(copied, tmp_path, table, values, says):
    found = lines(copied / table / "batch-0.jsonl.gz")
    found[1] |= values
    write(copied, table, found)
    with pytest.raises(DamagedFile, match=says):
        importing.take(copied, Store(tmp_path / "store"))
    assert not features.names(Store(tmp_path / "store"))


def test_damaged_files_are_named(copied, tmp_path, monkeypatch):
    store, file = Store(tmp_path / "store"), copied / "features/batch-0.jsonl.gz"
    whole, text = file.read_bytes(), gzip.decompress(file.read_bytes())
    for damaged, says in (
        (whole[: len(whole) // 2], r"batch-0.jsonl.gz, after line \d+: not gzip, or cut short"),
        (b"no gzip at all", "after line 0: not gzip"),
        (gzip.compress(text.replace(b"\n", b"\n{\n", 1)), "line 2 is no JSON"),
        (gzip.compress(b"[1]\n"), "line 1 is no JSON object"),
        (gzip.compress(text.replace(b"0.0", b"NaN", 1) + b'{"index": NaN}\n'), "is no JSON .NaN"),
        (gzip.compress(b'{"a":' + b"[" * 100_000), "line 1 is no JSON"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=says):
            importing.take(copied, store)
    file.write_bytes(whole)
    monkeypatch.setattr(rows, "LINE", 500)
    with pytest.raises(DamagedFile, match="line 1: too long"):
        importing.take(copied, store)
    file.unlink()
    with pytest.raises(BadInput, match="holds no export"):
        importing.take(copied, store)
    with pytest.raises(MissingFile, match="is no directory"):
        importing.take(copied / "nowhere", store)


def test_one_source_at_a_time(made, copied, tmp_path):
    shutil.copytree(copied, copied.parent / "v1/m/2-other")
    shutil.copytree(copied, copied.parent / "v1/m/3-other")
    with pytest.raises(BadInput, match=r"several sources; give one of: .*2-other"):
        importing.take(copied.parent / "v1", Store(tmp_path / "store"))
    found = lines(copied / "features/batch-0.jsonl.gz")
    write(copied, "features", [row | {"layer": "../../../up", "modelId": "tiny"} for row in found])
    taken = importing.take(copied, Store(tmp_path / "store"))
    assert "/" not in taken.coder and (tmp_path / "store/coders" / taken.coder / "manifest.json").exists()


def test_another_layer_is_another_coder(made, copied, tmp_path):
    store = made[0]
    found = lines(copied / "features/batch-0.jsonl.gz")
    write(copied, "features", [row | {"layer": "9-mine"} for row in found])
    with pytest.raises(BadInput, match="for layer 9"):
        importing.take(copied, store, native.read(store.path("coders", "mine")), name="mine")


ODD = [
    None,
    -1,
    0,
    2**31,
    10**30,
    1e300,
    3e38,
    "",
    "x",
    "\ud800",
    "7",
    [],
    [1],
    ["a"] * 8,
    ["\ud800"] * 8,
    {},
    True,
    [-5, 0, 5],
    [2**40] * 3,
]


def test_whatever_stands_there_is_read_or_refused(tmp_path):
    """And what was read, the pages show."""
    path, draw = theirs(tmp_path), numpy_generator("odd exports")
    tables = {folder.name: lines(folder / "batch-0.jsonl.gz") for folder in sorted(path.iterdir())}
    outcomes = []
    for n in range(40):
        table = list(tables)[n % 3]
        for name, found in tables.items():
            write(path, name, found)
        odd = [dict(row) for row in tables[table]]
        row = odd[draw.integers(len(odd))]
        row[sorted(row)[draw.integers(len(row))]] = ODD[draw.integers(len(ODD))]
        write(path, table, odd)
        store = Store(tmp_path / f"store-{n}")
        try:
            importing.take(path, store, name="odd", model="tiny")
            client = TestClient(create(Shelf(store)), base_url="http://127.0.0.1")
            latents = client.get("/coders/odd/latents.json").json()["latents"]
            assert {client.get(f"/coders/odd/latents/{x['latent']}.json").status_code for x in latents[:5]} == {200}
            outcomes.append(True)
        except AssayError:
            outcomes.append(False)
    assert 5 < sum(outcomes) < 35
