"""Labels, ratings and lists outlive processes, arguments about who writes, and other people's files."""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3

import pytest

from assay import codec
from assay.errors import BadInput, DamagedFile, NewerSchema, Unavailable, UnknownName
from assay.notes import Notes
from assay.store import Store


@pytest.fixture
def notes(store) -> Notes:
    return Notes(store)


def test_looking_leaves_no_file(notes):
    assert notes.labels() == [] and notes.ratings() == [] and notes.lists() == [] and notes.lists_with("a", 1) == []
    with pytest.raises(UnknownName, match="number 4"):
        notes.contents(4)
    assert not notes.path.exists()


def test_labels(notes, store):
    one = notes.label("a", 3, "  <b>legal</b> texts ", author="ada", coder_hash="f00")
    two = notes.label("a", 3, "statutes")
    notes.label("b", 3, "other")
    assert notes.label("a", 3, "<b>legal</b> texts", author="ada") == one
    assert Notes(Store(store.root)).labels("a", 3) == [one, two]
    assert notes.path.read_bytes()[18:20] == b"\x01\x01"  # a rollback journal: a store that is read-only can be read
    assert (one.text, one.author, one.coder_hash) == ("<b>legal</b> texts", "ada", "f00")
    assert [label.text for label in notes.labels()] == ["<b>legal</b> texts", "statutes", "other"]
    assert [label.coder for label in notes.labels(latent=3)] == ["a", "a", "b"]
    assert [label.coder for label in notes.labels(latent=[1, 3], last=2)] == ["a", "b"] and notes.labels("a", []) == []
    assert notes.counts() == (3, 0)
    notes.unlabel(one.id)
    assert notes.labels("a") == [two]
    with pytest.raises(UnknownName, match="number 1"):
        notes.unlabel(one.id)


@pytest.mark.parametrize(("text", "why"), [("  ", "empty"), ("x" * 2001, "2001 characters"), ("\ud800", "half a character")])
def test_labels_that_are_refused(notes, text, why):
    with pytest.raises(BadInput, match=why):
        notes.label("a", 0, text)
    assert notes.labels() == []


def test_a_rating_replaces_the_same_authors(notes):
    notes.rate("a", 1, 2, author="ada")
    notes.rate("a", 1, 5, "look again", author="bob")
    assert notes.rate("a", 1, 4, author="ada").stars == 4
    assert {(r.author, r.stars, r.flag) for r in notes.ratings("a", 1)} == {("ada", 4, ""), ("bob", 5, "look again")}
    assert notes.rate("a", 1, author="ada") is None
    assert [r.author for r in notes.ratings()] == ["bob"]
    for stars in (0, 6):
        with pytest.raises(BadInput, match="1 to 5"):
            notes.rate("a", 1, stars)


def test_lists_keep_their_order(notes):
    mine = notes.new_list("mine", "about it")
    a, b, c = (notes.add(mine.id, "topk", i) for i in (7, 5, 9))
    again = notes.add(mine.id, "topk", 5, "a note")
    assert again.id == b.id and notes.add(mine.id, "topk", 5).note == "a note"

    def latents():
        return [e.latent for e in notes.contents(mine.id)[1]]

    assert latents() == [7, 5, 9]
    notes.change(c.id, place=0)
    assert latents() == [9, 7, 5]
    notes.change(c.id, place=99, note="last")
    assert latents() == [7, 5, 9] and notes.contents(mine.id)[1][-1].note == "last"
    notes.remove(a.id)
    notes.add(mine.id, "other", 7)
    assert latents() == [5, 9, 7] and notes.contents(mine.id)[0].entries == 3
    assert [found.name for found in notes.lists_with("topk", 9)] == ["mine"] and notes.lists_with("other", 9) == []
    assert notes.lists_with("topk", 9)[0].entries == 3
    with pytest.raises(UnknownName):
        notes.change(a.id, note="x")
    with pytest.raises(UnknownName):
        notes.add(77, "topk", 1)


def test_names_of_lists_are_unique(notes):
    one, two = notes.new_list("One"), notes.new_list("two")
    for change in (lambda: notes.new_list("One"), lambda: notes.change_list(two.id, name="One")):
        with pytest.raises(BadInput, match="named 'One' already"):
            change()
    assert notes.change_list(one.id, name="One", about="told").about == "told"
    assert [found.name for found in notes.lists()] == ["One", "two"]
    notes.remove_list(one.id)
    assert [found.name for found in notes.lists()] == ["two"]


def test_a_list_goes_to_another_store(notes, tmp_path):
    mine = notes.new_list("mine", "why")
    notes.add(mine.id, "topk", 3, "first", coder_hash="abc")
    notes.add(mine.id, "relu", 1)
    text = codec.to_json(notes.file(mine.id))
    other = Notes(Store(tmp_path / "other"))
    taken = other.take(json.loads(text))
    assert other.file(taken.id) == notes.file(mine.id)
    assert other.take(notes.file(mine.id)).name == "mine (2)" and other.take(notes.file(mine.id)).name == "mine (3)"


@pytest.mark.parametrize(
    "change", [{"kind": "other"}, {"schema": 2}, {"entries": [{"coder": "a", "latent": -1}]}, {"more": 1}, {"name": " "},
               {"entries": [{"coder": "a", "latent": 1, "note": "x" * 3000}]}, {"entries": [{"coder": "a", "latent": 2**31}]}]
)  # fmt: skip
def test_files_that_are_no_lists(notes, change):
    with pytest.raises(BadInput):
        notes.take({"kind": "assay list", "schema": 1, "name": "n", "about": "", "entries": []} | change)
    assert notes.lists() == []  # nothing of it


def test_nothing_or_all_is_kept(notes):
    with pytest.raises(RuntimeError), notes.write() as db:
        db.execute("INSERT INTO lists (name, about, at) VALUES ('x', '', '')")
        raise RuntimeError
    assert notes.lists() == []


def test_others_keep_their_own_tables(notes, store):
    notes.label("a", 1, "text")
    theirs = Notes(store, {"sheets": "id INTEGER PRIMARY KEY, seed INTEGER NOT NULL"})
    with theirs.read() as db:
        assert db.execute("SELECT * FROM sheets").fetchall() == []
    with theirs.write() as db:
        db.execute("INSERT INTO sheets (seed) VALUES (5)")
    with theirs.read() as db:
        assert db.execute("SELECT seed FROM sheets").fetchone()["seed"] == 5
    assert len(notes.labels()) == 1


def test_files_of_other_kinds_and_times(notes):
    notes.path.write_bytes(b"no database, but long enough to be taken for one" * 50)
    with pytest.raises(DamagedFile, match="no SQLite database"):
        notes.labels()
    notes.path.unlink()
    db = sqlite3.connect(notes.path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(NewerSchema, match="schema 99"):
        notes.label("a", 1, "b")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written(notes):
    notes.path.parent.chmod(0o500)
    try:
        with pytest.raises(Unavailable, match="cannot"):
            notes.label("a", 1, "b")
    finally:
        notes.path.parent.chmod(0o700)


def write(root: str, who: str, ready) -> None:
    notes = Notes(Store(root))
    ready.wait()
    for i in range(25):
        notes.label("a", i, "said", author=who)
        notes.labels()


def test_processes_write_at_once(store):
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(3)
    workers = [context.Process(target=write, args=(store.root, who, ready)) for who in "xyz"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len({label.id for label in Notes(store).labels("a")}) == 75
