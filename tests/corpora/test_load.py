"""`load` finds the right corpus for a name, and importing the room costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import assay.corpora
from assay.corpora import Corpus, load, names
from assay.corpora.embedded import EmbeddedCorpus
from assay.corpora.hub import HubCorpus
from assay.corpora.labelled import LabelledCorpus
from assay.corpora.text import TextCorpus
from assay.errors import BadInput, UnknownName
from assay.registry import CORPORA, settings


def test_each_form_of_name_finds_its_corpus(tmp_path, written):
    path = written(tmp_path / "a.csv")
    assert isinstance(load("demo"), EmbeddedCorpus)
    assert isinstance(load(str(path)), TextCorpus)
    assert isinstance(load(path, label="n"), LabelledCorpus)
    assert isinstance(load(f"labelled:{path}:text:n"), LabelledCorpus)
    assert isinstance(load("hub:org/name"), HubCorpus)
    assert isinstance(load(path), Corpus)


def test_an_embedded_name_wins_over_a_folder(tmp_path, monkeypatch, written):
    (tmp_path / "demo").mkdir()
    written(tmp_path / "demo" / "a.csv")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load("demo"), EmbeddedCorpus)
    assert isinstance(load("./demo"), TextCorpus)


def test_unknown_names_say_what_is_known(tmp_path, written):
    with pytest.raises(UnknownName, match=r"No corpus named 'dmo'\. Did you mean 'demo'\?.*hub:ORG/NAME"):
        load("dmo")
    with pytest.raises(UnknownName, match=r"setting.*'colum'.*Did you mean 'column'"):
        load(written(tmp_path / "a.csv"), colum="text")
    with pytest.raises(UnknownName, match="column"):
        load("demo", column="text")
    for ref in ("hub:", "hub:a/b:c:d:e:f:g"):
        with pytest.raises(BadInput, match="names no dataset"):
            load(ref)
    for ref in ("labelled:", "labelled:a.csv:b:c:d"):
        with pytest.raises(BadInput, match="names no labelled file"):
            load(ref)


def test_importing_and_naming_imports_nothing_heavy():
    code = (
        "import sys, assay.corpora as c; c.names(); c.load('demo'); c.load('hub:a/b')\n"
        "assert not {'torch', 'datasets', 'pyarrow', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_registry_lists_the_kinds_of_corpus():
    assert CORPORA.names() == ["embedded", "hub", "joint", "labelled", "text"]
    assert all(CORPORA.summary(key) and CORPORA.load(key) for key in CORPORA)
    assert set(names()) >= {"demo", "movie-reviews", "bbc-news", "austen"}


def test_the_settings_of_packing_can_be_read_without_importing():
    from pathlib import Path

    rows = settings(Path(assay.corpora.__file__).with_name("pack.py"), "PackConfig")
    assert [r.name for r in rows] == ["context", "bos", "split", "held_out", "max_tokens", "layout", "chat"]
    assert all(r.doc and not r.required for r in rows)
