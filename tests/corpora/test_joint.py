"""Some classes of a corpus, and texts with a class in each of two."""

from __future__ import annotations

from collections import Counter

import datasets
import pytest

from assay.corpora import load
from assay.corpora.base import Document
from assay.errors import BadInput, UnknownName

BIOS = [
    ("p m", "professor", "0"),
    ("n f", "nurse", "1"),
    ("p f", "professor", "1"),
    ("d m", "dentist", "0"),
    ("n m ", "nurse", "0"),
]


@pytest.fixture
def bios(tmp_path, written):
    return written(tmp_path / "bios.csv", [dict(zip(("text", "job", "gender"), row, strict=True)) for row in BIOS])


def told(corpus):
    return [(d.text, corpus.classes[d.label]) for d in corpus.documents()]


def test_some_classes_in_the_order_named(bios):
    corpus = load(f"labelled:{bios}:text:job[professor/nurse]")
    assert told(corpus) == [("p m", "professor"), ("n f", "nurse"), ("p f", "professor"), ("n m ", "nurse")]
    assert [d.label for d in corpus.documents()] == [0, 1, 0, 1]
    assert corpus.name.endswith("bios.csv[professor/nurse]")
    other = load(f"labelled:{bios}:text:job[nurse/professor]")
    assert len({c.fingerprint for c in (corpus, other, load(f"labelled:{bios}:text:job"))}) == 3
    assert corpus.fingerprint == load(f"labelled:{bios}:text:job[professor/nurse]").fingerprint


def test_two_columns_of_one_file(bios):
    corpus = load(f"joint:labelled:{bios}:text:job[professor/nurse]+labelled:{bios}:text:gender")
    assert corpus.classes == ("professor & 0", "professor & 1", "nurse & 0", "nurse & 1")
    assert told(corpus) == [("p m", "professor & 0"), ("n f", "nurse & 1"), ("p f", "professor & 1"), ("n m ", "nurse & 0")]
    swapped = load(f"joint:labelled:{bios}:text:job[nurse/professor]+labelled:{bios}:text:gender")
    assert corpus.fingerprint != swapped.fingerprint


def test_only_texts_of_both_and_none_in_contradiction(Listed):
    from assay.corpora.joint import JointCorpus

    first = Listed([Document("a", 0), Document(" b", 1), Document("c", 1), Document("d", 0)], classes=("x", "y"))
    second = Listed([Document("b", 2), Document("a", 1), Document("c", 0), Document("c", 1), Document("e", 0)])
    joined = JointCorpus(first, second)
    assert told(joined) == [("a", "x & 1"), (" b", "y & 2")]
    assert len(joined.classes) == 6


def test_numbers_and_words_of_the_hub_are_classes(tmp_path, read):
    rows = {
        "text": ["one", "two", "three", "four"],
        "stars": [1.0, 5.0, 5.0, 3.0],
        "kind": [21, 13, 7, 21],
        "is": ["C", "D", "C", "E"],
    }
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "d")
    corpus = load(f"hub:{tmp_path / 'd'}:::text:stars[1/5]")
    assert told(corpus) == [("one", "1"), ("two", "5"), ("three", "5")]
    assert told(load(f"hub:{tmp_path / 'd'}:::text:stars[5.0/1.0]")) == [("one", "1.0"), ("two", "5.0"), ("three", "5.0")]
    assert told(load(f"hub:{tmp_path / 'd'}:::text:is[C/E]")) == [("one", "C"), ("three", "C"), ("four", "E")]
    with pytest.raises(BadInput, match=r"'C', expected class numbers.*name classes: hub:.*:text:is\[A/B\]"):
        read(load(f"hub:{tmp_path / 'd'}:::text:is"))
    both = load(f"joint:hub:{tmp_path / 'd'}:::text:kind[21/13]+hub:{tmp_path / 'd'}:::text:stars[1/5]")
    assert told(both) == [("one", "21 & 1"), ("two", "13 & 5")]


def test_sets_of_the_collection_share_texts():
    corpus = load("joint:probe:61+probe:56")
    assert corpus.classes == ("0 & female", "0 & male", "1 & female", "1 & male")
    assert Counter(d.label for d in corpus.documents()) == {0: 68, 1: 77, 2: 111, 3: 110}


def test_what_cannot_be_is_said(bios, Listed, read):
    with pytest.raises(UnknownName, match=r"class of.*'nurs'.*Did you mean 'nurse'"):
        read(load(f"labelled:{bios}:text:job[nurs/professor]"))
    with pytest.raises(BadInput, match="different classes"):
        load(f"labelled:{bios}:text:job[nurse/nurse]")
    with pytest.raises(BadInput, match="names 1 corpora to join"):
        load("joint:probe:61")
    with pytest.raises(BadInput, match=r"no column 'sex'.*text, job, gender"):
        read(load(f"joint:labelled:{bios}:text:job+labelled:{bios}:text:sex"))
    from assay.corpora.joint import JointCorpus, some

    with pytest.raises(BadInput, match="has no labels"):
        _ = JointCorpus(Listed(["a"]), Listed(["a"])).classes
    with pytest.raises(BadInput, match=r"no text of class '5'.*Its classes: 1, 2"):
        read(some(Listed([Document("a", 1), Document("b", 2)]), "1/5"))
