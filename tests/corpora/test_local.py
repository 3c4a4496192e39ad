"""Looking through corpora and copying them: counts known by hand, copies that say the same."""

from __future__ import annotations

import json

import pytest

from assay import corpora
from assay.corpora.local import save, survey
from assay.errors import BadInput

ROWS = [("a cat", "x"), ("a dog", "y"), ("a cat", "x"), ("a cow", "x"), ("a cow", "y"), ("an owl", "y")]


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS), encoding="utf-8")
    return f"labelled:{path}"


def test_survey_counts_what_is_there(labelled):
    found = survey(corpora.load(labelled))
    assert (found.documents, found.copies, found.contradicting) == (6, 1, 2)
    assert found.classes == {"x": 1, "y": 2}, "each usable text once"
    assert found.leak == 3 / 6
    every = survey(corpora.load(labelled, unique=False))
    assert (every.documents, every.copies, every.classes) == (6, 2, {"x": 3, "y": 3})
    assert every.characters == sum(len(text) for text, _ in ROWS) and every.longest == 6
    assert survey(corpora.load(labelled, unique=False), limit=2).documents == 2


def test_a_copy_says_the_same(labelled, tmp_path):
    source = corpora.load(labelled)
    path, reference = save(source, tmp_path / "copies")
    copy = corpora.load(reference)
    assert list(copy.documents()) == list(source.documents())
    assert copy.classes == source.classes
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no drafts are left"
    plain, text = save(corpora.load("austen"), tmp_path / "copies", limit=5)
    assert text == str(plain)
    assert [d.text for d in corpora.load(text).documents()] == [d.text for d in corpora.load("austen").documents()][:5]


def test_an_interrupted_copy_leaves_nothing(labelled, tmp_path):
    source = corpora.load(labelled)
    source.documents = lambda: (_ for _ in range(1) if 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(source, tmp_path / "copies")
    assert list((tmp_path / "copies").iterdir()) == []


def test_what_is_empty_or_half_labelled_is_refused(labelled, tmp_path):
    source = corpora.load(labelled)
    source.documents = lambda: iter(())
    for read in (survey, lambda corpus: save(corpus, tmp_path)):
        with pytest.raises(BadInput, match="no documents"):
            read(source)
    source.documents = lambda: iter([corpora.Document("a", 0), corpora.Document("b", None)])
    with pytest.raises(BadInput, match="1 of 2 documents have no label"):
        survey(source)
