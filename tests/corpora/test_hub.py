"""Hugging Face datasets: local copies are read; without a network or the package, the error says what to do."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from assay.corpora import load
from assay.corpora.hub import HubCorpus
from assay.errors import BadInput, MissingFile, Unavailable, UnknownName

ROWS = {"id": ["a", "b", "c"], "text": ["one", " ", "three"], "body": ["x", "y", None], "stars": [1, 0, 1]}


@pytest.fixture
def saved(tmp_path):
    features = datasets.Features(
        {"id": datasets.Value("string"), "text": datasets.Value("string"), "body": datasets.Value("string"),
         "stars": datasets.ClassLabel(names=["bad", "good"])}
    )  # fmt: skip
    made = datasets.Dataset.from_dict(ROWS, features=features)
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(tmp_path / "many")
    return tmp_path


def test_what_save_to_disk_wrote_is_recognised(saved, read):
    for ref in (saved / "one", f"hub:{saved / 'one'}", saved / "many"):
        corpus = load(ref)
        assert isinstance(corpus, HubCorpus)
        assert read(corpus) == ["one", "three"] == read(corpus)
    assert read(load(saved / "many", split="test")) == ["one"] == read(load(f"hub:{saved / 'many'}::test:text"))
    assert read(load(saved / "one", column="body")) == ["x", "y"]


def test_class_labels_keep_their_names(saved, read):
    corpus = load(saved / "one", label="stars")
    assert [(d.text, d.label) for d in corpus.documents()] == [("one", 1), ("three", 1)]
    assert corpus.classes == ("bad", "good")
    assert load(saved / "one").classes == ()
    with pytest.raises(BadInput, match="expected class numbers"):
        read(load(saved / "one", label="id"))


def test_fingerprints_tell_data_and_columns_apart(saved):
    refs = [load(saved / "one"), load(saved / "one", column="body"), load(saved / "many", split="test")]
    assert len({c.fingerprint for c in refs}) == 3
    assert load(saved / "one").fingerprint == load(f"hub:{saved / 'one'}").fingerprint


def test_wrong_columns_and_splits_are_named(saved, read):
    with pytest.raises(BadInput, match=r"no column 'txt'.*id, text, body, stars"):
        read(load(saved / "one", column="txt"))
    with pytest.raises(BadInput, match="holds int, expected text"):
        read(load(saved / "one", column="stars"))
    with pytest.raises(UnknownName, match=r"'tset'.*Did you mean 'test'"):
        read(load(saved / "many", split="tset"))
    with pytest.raises(BadInput, match="single split"):
        read(load(saved / "one", split="test"))


def test_a_local_folder_laid_out_as_on_the_hub(tmp_path, monkeypatch, read, written):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "copy" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows = [{"content": f"{split} {i}"} for i in range(3)]
        written(tmp_path / "copy" / "data" / f"{split}-00000-of-00001.parquet", rows)
    ref = f"hub:{tmp_path / 'copy'}"
    assert read(load(ref)) == ["train 0", "train 1", "train 2"]
    assert read(load(f"{ref}::test")) == ["test 0", "test 1", "test 2"]
    assert load(ref).fingerprint == load(ref).fingerprint != load(f"{ref}::test").fingerprint
    with pytest.raises(BadInput, match="nosuch"):
        read(load(f"{ref}::nosuch"))


def test_without_a_network_a_hub_name_says_so(read):
    corpus = load("hub:someone/something")
    for attempt in (
        lambda: corpus.fingerprint,
        lambda: read(corpus),
        lambda: read(load("hub:someone/something", streaming=False)),
    ):
        with pytest.raises(Unavailable, match=r"someone/something.*HF_HUB_OFFLINE.*local copy"):
            attempt()


def test_streamed_data_are_those_of_the_commit_in_the_fingerprint(monkeypatch, read):
    asked = []
    commits = iter(["c0ffee", "c0ffee", "beef"])
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha=next(commits)))
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or [{"text": "one"}])
    one, same, later = (load("hub:someone/something:en:test") for _ in range(3))
    assert read(one) == ["one"]
    assert asked == [(("someone/something", "en"), {"split": "test", "streaming": True, "revision": "c0ffee"})]
    assert one.fingerprint == same.fingerprint != later.fingerprint


def test_without_the_package_the_error_says_how_to_get_it(saved, monkeypatch, read):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Unavailable, match=r"pip install 'assay-sae\[hub\]'"):
        read(load(saved / "one"))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(MissingFile, match="does not exist"):
        load(f"hub:{tmp_path / 'nothere'}")
