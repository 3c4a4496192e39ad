"""Labels become class numbers with names; copies and contradictions do not leak."""

from __future__ import annotations

import pytest

from assay.corpora import load
from assay.errors import BadInput, UnknownName

ANIMALS = [
    ("a cat", "cat"),
    ("a dog", "dog"),
    ("a cat", "cat"),
    ("a puma", "cat"),
    ("a fox", "dog"),
    ("a fox", "fox"),
    ("an owl", "owl"),
]


def rows(pairs, column="text", label="label"):
    return [{column: text, label: value} for text, value in pairs]


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".csv.zst"])
def test_labels_are_numbers_with_names(tmp_path, kind, written):
    corpus = load(f"labelled:{written(tmp_path / f'a{kind}', rows(ANIMALS))}", unique=False)
    assert corpus.classes == ("cat", "dog", "fox", "owl")
    assert [(d.text, corpus.classes[d.label]) for d in corpus.documents()] == ANIMALS
    assert corpus.dropped == {"copies": 0, "contradicting": 0}


def test_copies_and_contradictions_are_left_out(tmp_path, read, written):
    corpus = load(written(tmp_path / "a.csv", rows(ANIMALS, label="kind")), label="kind")
    assert read(corpus) == ["a cat", "a dog", "a puma", "an owl"]
    assert corpus.dropped == {"copies": 1, "contradicting": 2}
    assert corpus.fingerprint != load(tmp_path / "a.csv", label="kind", unique=False).fingerprint


@pytest.mark.parametrize("values", [[0, 1, 10, 2], ["0", "1", "10", "2"]])
def test_numeric_classes_are_in_numeric_order(tmp_path, values, written):
    path = written(tmp_path / "a.jsonl", rows([(f"t{v}", v) for v in values]))
    corpus = load(f"labelled:{path}")
    assert corpus.classes == ("0", "1", "2", "10")
    assert [d.label for d in corpus.documents()] == [0, 1, 3, 2]


def test_columns_can_be_named_in_the_reference(tmp_path, read, written):
    path = written(tmp_path / "a.csv", rows([("x", "p"), ("y", "q")], "body", "stars"))
    assert read(load(f"labelled:{path}::stars")) == read(load(f"labelled:{path}:body:stars")) == ["x", "y"]
    with pytest.raises(BadInput, match=r"no column 'label'.*body, stars"):
        read(load(f"labelled:{path}"))


def test_what_is_no_class_is_refused(tmp_path, read, written):
    with pytest.raises(BadInput, match="measurements"):
        read(load(f"labelled:{written(tmp_path / 'a.csv', rows([('x', '0.5'), ('y', '1')]))}"))
    with pytest.raises(BadInput, match="over 1000"):
        read(load(f"labelled:{written(tmp_path / 'b.csv', rows([(f't{i}', f'c{i}') for i in range(1001)]))}"))
    with pytest.raises(BadInput, match="without a value in 'label'"):
        read(load(f"labelled:{written(tmp_path / 'c.csv', rows([('x', 'a'), ('y', '')]))}"))
    (tmp_path / "d.txt").write_text("x")
    with pytest.raises(BadInput, match="plain text"):
        read(load(f"labelled:{tmp_path / 'd.txt'}"))


@pytest.fixture
def carrier(tmp_path, monkeypatch, written):
    """A small sae-probes in place of the real one."""
    from assay import assets

    data = tmp_path / "carrier" / "sae_probes" / "data"
    (data / "cleaned_data").mkdir(parents=True)
    (data / "OOD data").mkdir()
    written(data / "OOD data" / "92_glue_sst2_OOD.csv.zst", rows([("x", 0), ("y", 1)], "prompt", "target"))
    kinds = {
        "92_glue_sst2": "Binary Classification",
        "97_news_class": "Multiclass Classification",
        "4_hist_fig_age": "Continuous Data",
    }
    index = [{"Dataset save name": f"cleaned_data/{stem}.csv", "Data type": kind} for stem, kind in kinds.items()]
    written(data / "probing_datasets_MASTER.csv.zst", index)
    for stem in kinds:
        values = [(f"{stem} {i}", ["b", "a", "c"][i % 3] if stem.startswith("97") else i % 2) for i in range(6)]
        written(data / "cleaned_data" / f"{stem}.csv.zst", rows(values, "prompt", "target"))
    monkeypatch.setattr(assets, "fetch", lambda name: {"sae-probes": tmp_path / "carrier"}[name])


@pytest.mark.usefixtures("carrier")
def test_probing_sets_by_number_tag_and_both():
    for name in ("92", "glue_sst2", "92_glue_sst2"):
        corpus = load(f"probe:{name}")
        assert (corpus.name, corpus.classes) == ("probe:92_glue_sst2", ("0", "1"))
        assert [d.label for d in corpus.documents()] == [0, 1, 0, 1, 0, 1]
    news = load("probe:97")
    assert news.classes == ("a", "b", "c")
    assert [d.label for d in news.documents()] == [1, 0, 2, 1, 0, 2]
    with pytest.raises(UnknownName, match=r"'92_sst2'.*Did you mean '92_glue_sst2'"):
        load("probe:92_sst2")
    with pytest.raises(BadInput, match="numbers to predict"):
        load("probe:4")


@pytest.mark.usefixtures("carrier")
def test_examples_from_elsewhere():
    """sae-probes 0.4.2 itself looks for .csv where it ships .csv.zst."""
    for name in ("92_OOD", "glue_sst2_OOD", "92_glue_sst2_OOD"):
        corpus = load(f"probe:{name}")
        assert corpus.name == "probe:92_glue_sst2_OOD"
        assert [(d.text, d.label) for d in corpus.documents()] == [("x", 0), ("y", 1)]
    with pytest.raises(UnknownName, match="Known: 92_glue_sst2_OOD"):
        load("probe:97_OOD")


def test_published_rows(tmp_path, written):
    corpus = load(f"labelled:{written(tmp_path / 'a.csv', rows([('x', 'a'), ('y', 'b'), ('x', 'a'), ('y', 'a')]))}")
    assert [d.text for d in corpus.documents()] == ["x"]
    published = corpus.published()
    assert [d.text for d in published.documents()] == ["x", "y", "x", "y"]
    assert published.name == corpus.name
    assert published.fingerprint != corpus.fingerprint


@pytest.mark.slow
def test_the_real_collection():
    from assay.corpora.labelled import LabelledCorpus, probe_files

    found = probe_files()
    assert len(found) == 155
    corpus = load("probe:92")
    documents = list(corpus.documents())
    assert (len(documents), corpus.classes, corpus.dropped["copies"]) == (4828, ("0", "1"), 172)
    assert len({d.text for d in documents}) == len(documents)
    with pytest.raises(BadInput, match="numbers to predict"):
        LabelledCorpus.probe("2_hist_fig_birthyear")
    shifted = [load(f"probe:{number}_OOD") for number in (5, 6, 7, 66, 67, 73, 87, 90)]
    assert [sum(1 for _ in s.documents()) for s in shifted] == [299, 300, 296, 294, 292, 295, 296, 145]
    assert shifted[-1].dropped == {"copies": 77, "contradicting": 78}
