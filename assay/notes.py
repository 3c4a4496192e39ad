"""Notes: what people say of latents, in STORE/notes.sqlite: labels, ratings and lists. The only thing that the web writes.

    notes = Notes(store)
    notes.label("topk", 123, "citations of statutes", author="ada")
    mine = notes.new_list("legal")
    notes.add(mine.id, "topk", 123)
    notes.file(mine.id)                     # as JSON, for other people's stores: notes.take(...)

Two processes may write: one transaction an operation. Others keep tables of their own in the same file:
`Notes(store, tables)` with `read()` and `write()`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from assay import codec
from assay.errors import BadInput, DamagedFile, NewerSchema, Unavailable, UnknownName
from assay.store import Store

SCHEMA = 1
FILE = "notes.sqlite"
PATIENCE = 10.0
"""Seconds that a writer waits for another."""
LONGEST = 2000
"""Characters of a label, a note, a description."""
STARS = 5
TABLES = {
    "labels": "id INTEGER PRIMARY KEY AUTOINCREMENT, coder TEXT NOT NULL, coder_hash TEXT NOT NULL, latent INTEGER NOT NULL, text TEXT NOT NULL, "
    "author TEXT NOT NULL, at TEXT NOT NULL",
    "ratings": "coder TEXT NOT NULL, coder_hash TEXT NOT NULL, latent INTEGER NOT NULL, stars INTEGER, flag TEXT NOT NULL, "
    "author TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (coder, latent, author)",
    "lists": "id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, about TEXT NOT NULL, at TEXT NOT NULL",
    "entries": "id INTEGER PRIMARY KEY AUTOINCREMENT, list INTEGER NOT NULL, place REAL NOT NULL, coder TEXT NOT NULL, coder_hash TEXT NOT NULL, "
    "latent INTEGER NOT NULL, note TEXT NOT NULL, at TEXT NOT NULL, UNIQUE (list, coder, latent)",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Label:
    """What somebody calls a latent. A latent may have several."""

    id: int
    coder: str
    coder_hash: str
    """Of the coder that was looked at; empty where nobody said. A coder of the same name made later has another."""
    latent: int
    text: str
    author: str
    at: str
    """When, ISO 8601."""


@dataclass(frozen=True, kw_only=True)
class Rating:
    """What somebody thinks of a latent: one an author."""

    coder: str
    coder_hash: str
    latent: int
    stars: int | None
    """1 to 5."""
    flag: str
    """A word of one's own, e.g. "look again"; empty for none."""
    author: str
    at: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A latent in a list."""

    id: int
    coder: str
    coder_hash: str
    latent: int
    note: str
    at: str


@dataclass(frozen=True, kw_only=True)
class List:
    """A named, ordered list of latents of any coders."""

    id: int
    name: str
    about: str
    at: str
    entries: int
    """How many."""


@codec.strict
@dataclass(frozen=True, kw_only=True)
class EntryFile:
    """An entry of a list's file."""

    coder: str
    coder_hash: str = ""
    latent: int
    note: str = ""


@codec.strict
@dataclass(frozen=True, kw_only=True)
class ListFile:
    """A list as a file of its own."""

    kind: Literal["assay list"] = "assay list"
    schema: Literal[1] = 1
    name: str
    about: str = ""
    entries: tuple[EntryFile, ...] = ()


T = TypeVar("T")


class Notes:
    """The notes of a store. The file appears with the first note."""

    def __init__(self, store: Store, tables: Mapping[str, str] = TABLES):
        """`tables`: name → columns in SQL, of those that are used here."""
        self.path, self.tables = store.root / FILE, dict(tables)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for SELECTs; a table that nobody wrote to yet is empty. Rows go by column name."""
        there = self.path.exists()
        db = self._open(f"{self.path.absolute().as_uri()}?mode=ro" if there else ":memory:")
        try:
            known = {row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for name, columns in self.tables.items():
                if name not in known:
                    db.execute(f"CREATE TEMP TABLE {name} ({columns})")
            yield db
        finally:
            db.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is kept, or nothing where an error leaves the block."""
        db = self._open(self.path.absolute().as_uri())
        try:
            # a write-ahead log could not be read where the store is read-only, nor over NFS
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("BEGIN IMMEDIATE")
            for name, columns in self.tables.items():
                db.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
            db.execute(f"PRAGMA user_version = {SCHEMA}")
            yield db
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise Unavailable(f"{self.path} cannot be written ({error}). Is the store read-only, the disk full?") from error
        finally:
            db.close()  # rolls back what was not committed

    def _open(self, uri: str) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
            db.row_factory = sqlite3.Row
            version = db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.OperationalError as error:
            raise Unavailable(f"{self.path} cannot be opened ({error}). Check its permissions.") from error
        except sqlite3.DatabaseError as error:
            raise DamagedFile(f"{self.path} is no SQLite database ({error}). Move it away, or restore it.") from error
        if version > SCHEMA:
            db.close()
            raise NewerSchema(f"{self.path} has schema {version}, this version reads up to {SCHEMA}. Update Assay.")
        return db

    def labels(
        self, coder: str | None = None, latent: int | Sequence[int] | None = None, last: int | None = None
    ) -> list[Label]:
        """Labels in the order in which they were given: all, a coder's, those of a latent or of some; or the last so many."""
        return self._all(Label, "labels", coder, latent, last)

    def label(self, coder: str, latent: int, text: str, *, author: str = "", coder_hash: str = "") -> Label:
        """Give a latent a label. The same text by the same author is kept once."""
        values = (coder, coder_hash, latent, _text(text, "label"), _text(author, "author", empty=True), _now())
        with self.write() as db:
            same = db.execute(
                "SELECT * FROM labels WHERE coder = ? AND latent = ? AND text = ? AND author = ?",
                (coder, latent, values[3], values[4]),
            ).fetchone()
            if same is None:
                same = db.execute(
                    "INSERT INTO labels (coder, coder_hash, latent, text, author, at) VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
                    values,
                ).fetchone()
        return Label(**same)

    def unlabel(self, id: int) -> None:
        """Take a label away."""
        self._remove("labels", "label", id)

    def ratings(
        self, coder: str | None = None, latent: int | Sequence[int] | None = None, last: int | None = None
    ) -> list[Rating]:
        """Ratings in the order in which they were given or changed, chosen as labels are."""
        return self._all(Rating, "ratings", coder, latent, last)

    def counts(self) -> tuple[int, int]:
        """(labels, ratings) in all."""
        with self.read() as db:
            return tuple(db.execute("SELECT (SELECT count(*) FROM labels), (SELECT count(*) FROM ratings)").fetchone())

    def rate(
        self, coder: str, latent: int, stars: int | None = None, flag: str = "", *, author: str = "", coder_hash: str = ""
    ) -> Rating | None:
        """Rate a latent, instead of what the same author said of it. Neither stars nor a flag: that rating is taken away."""
        if stars is not None and not 1 <= stars <= STARS:
            raise BadInput(f"{stars} stars were given; expected 1 to {STARS}, or none.")
        flag, author = _text(flag, "flag", empty=True), _text(author, "author", empty=True)
        with self.write() as db:
            db.execute("DELETE FROM ratings WHERE coder = ? AND latent = ? AND author = ?", (coder, latent, author))
            if stars is None and not flag:
                return None
            row = db.execute(
                "INSERT INTO ratings (coder, coder_hash, latent, stars, flag, author, at) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING *",
                (coder, coder_hash, latent, stars, flag, author, _now()),
            ).fetchone()
        return Rating(**row)

    def lists(self) -> list[List]:
        """All lists, by name."""
        with self.read() as db:
            rows = db.execute(f"{_LISTS} GROUP BY lists.id ORDER BY lists.name COLLATE NOCASE").fetchall()
        return [List(**row) for row in rows]

    def contents(self, id: int) -> tuple[List, list[Entry]]:
        """A list and its entries, in their order."""
        with self.read() as db:
            found = _list(db, id)
            rows = db.execute(f"SELECT {_ENTRY} FROM entries WHERE list = ? ORDER BY place, id", (id,)).fetchall()
        return found, [Entry(**row) for row in rows]

    def lists_with(self, coder: str, latent: int) -> list[List]:
        """The lists that a latent is in."""
        with self.read() as db:
            inside = "lists.id IN (SELECT list FROM entries WHERE coder = ? AND latent = ?)"
            rows = db.execute(f"{_LISTS} WHERE {inside} GROUP BY lists.id ORDER BY lists.name", (coder, latent)).fetchall()
        return [List(**row) for row in rows]

    def new_list(self, name: str, about: str = "") -> List:
        """An empty list. Names are unique."""
        with self.write() as db:
            return _list(db, _insert_list(db, name, about))

    def change_list(self, id: int, *, name: str | None = None, about: str | None = None) -> List:
        """Give a list another name or description."""
        with self.write() as db:
            old = _list(db, id)
            name = old.name if name is None else _text(name, "name")
            about = old.about if about is None else _text(about, "description", empty=True)
            if name != old.name:
                _unused(db, name)
            db.execute("UPDATE lists SET name = ?, about = ? WHERE id = ?", (name, about, id))
            return _list(db, id)

    def remove_list(self, id: int) -> None:
        """Delete a list with its entries."""
        with self.write() as db:
            _list(db, id)
            db.execute("DELETE FROM entries WHERE list = ?", (id,))
            db.execute("DELETE FROM lists WHERE id = ?", (id,))

    def add(self, id: int, coder: str, latent: int, note: str = "", *, coder_hash: str = "") -> Entry:
        """Put a latent at the end of a list. One that is there already stays where it is and gets the note, if there is one."""
        with self.write() as db:
            _list(db, id)
            return _insert(db, id, EntryFile(coder=coder, coder_hash=coder_hash, latent=latent, note=note))

    def change(self, entry: int, *, note: str | None = None, place: int | None = None) -> Entry:
        """Change an entry's note, or move it: `place` counts from 0 in its list."""
        with self.write() as db:
            row = db.execute("SELECT * FROM entries WHERE id = ?", (entry,)).fetchone()
            if row is None:
                raise UnknownName(f"No entry has the number {entry}. It may have been removed meanwhile.")
            if note is not None:
                db.execute("UPDATE entries SET note = ? WHERE id = ?", (_text(note, "note", empty=True), entry))
            if place is not None:
                others = [
                    r["id"] for r in db.execute("SELECT id FROM entries WHERE list = ? ORDER BY place, id", (row["list"],))
                ]
                others.remove(entry)
                others.insert(max(0, min(place, len(others))), entry)
                db.executemany("UPDATE entries SET place = ? WHERE id = ?", [(i, e) for i, e in enumerate(others)])
            return Entry(**db.execute(f"SELECT {_ENTRY} FROM entries WHERE id = ?", (entry,)).fetchone())

    def remove(self, entry: int) -> None:
        """Take an entry out of its list."""
        self._remove("entries", "entry", entry)

    def file(self, id: int) -> ListFile:
        """A list as a file: `codec.to_json(notes.file(id))`."""
        found, entries = self.contents(id)
        kept = (EntryFile(coder=e.coder, coder_hash=e.coder_hash, latent=e.latent, note=e.note) for e in entries)
        return ListFile(name=found.name, about=found.about, entries=tuple(kept))

    def take(self, file: ListFile | Mapping[str, Any]) -> List:
        """A list from a file. Where its name is taken it gets a number behind it."""
        if not isinstance(file, ListFile):
            file = codec.from_data(ListFile, dict(file), "the list")
        with self.write() as db:
            taken = {row["name"] for row in db.execute("SELECT name FROM lists")}
            name, n = _text(file.name, "name"), 2
            while name in taken:
                name, n = f"{file.name} ({n})", n + 1
            id = _insert_list(db, name, file.about)
            for entry in file.entries:
                _insert(db, id, entry)
            return _list(db, id)

    def _all(
        self, kind: type[T], table: str, coder: str | None, latent: int | Sequence[int] | None, last: int | None
    ) -> list[T]:
        which, values = [], []
        if coder is not None:
            which, values = ["coder = ?"], [coder]
        if latent is not None:
            which.append("latent IN (SELECT value FROM json_each(?))")
            values.append(json.dumps([latent] if isinstance(latent, int) else [int(i) for i in latent]))
        sql = f"SELECT * FROM {table} WHERE {' AND '.join(which) or 'true'} ORDER BY rowid DESC LIMIT ?"
        with self.read() as db:
            return [kind(**row) for row in reversed(db.execute(sql, (*values, -1 if last is None else last)).fetchall())]

    def _remove(self, table: str, what: str, id: int) -> None:
        with self.write() as db:
            if not db.execute(f"DELETE FROM {table} WHERE id = ?", (id,)).rowcount:
                raise UnknownName(f"No {what} has the number {id}. It may have been removed meanwhile.")


_ENTRY = "id, coder, coder_hash, latent, note, at"
_LISTS = "SELECT lists.*, count(entries.id) AS entries FROM lists LEFT JOIN entries ON entries.list = lists.id"


def _list(db: sqlite3.Connection, id: int) -> List:
    row = db.execute(f"{_LISTS} WHERE lists.id = ? GROUP BY lists.id", (id,)).fetchone()
    if row is None:
        raise UnknownName(f"No list has the number {id}. It may have been removed meanwhile.")
    return List(**row)


def _unused(db: sqlite3.Connection, name: str) -> None:
    if db.execute("SELECT 1 FROM lists WHERE name = ?", (name,)).fetchone():
        raise BadInput(f"There is a list named {name!r} already. Choose another name.")


def _insert_list(db: sqlite3.Connection, name: str, about: str) -> int:
    name = _text(name, "name")
    _unused(db, name)
    values = (name, _text(about, "description", empty=True), _now())
    return db.execute("INSERT INTO lists (name, about, at) VALUES (?, ?, ?) RETURNING id", values).fetchone()["id"]


def _insert(db: sqlite3.Connection, id: int, entry: EntryFile) -> Entry:
    note = _text(entry.note, "note", empty=True)
    if not 0 <= entry.latent < 2**31:
        raise BadInput(f"{entry.latent} is no latent of {entry.coder}: they count from 0.")
    row = db.execute(
        f"INSERT INTO entries (list, place, coder, coder_hash, latent, note, at) "
        "VALUES (?, (SELECT coalesce(max(place), -1) + 1 FROM entries WHERE list = ?), ?, ?, ?, ?, ?) "
        f"ON CONFLICT (list, coder, latent) DO UPDATE SET note = iif(excluded.note = '', note, excluded.note) RETURNING {_ENTRY}",
        (id, id, _text(entry.coder, "coder"), entry.coder_hash, entry.latent, note, _now()),
    ).fetchone()
    return Entry(**row)


def _text(text: str, what: str, *, empty: bool = False) -> str:
    """Text as it is kept: without space around it, not too long, encodable."""
    text = text.strip()
    if not text and not empty:
        raise BadInput(f"The {what} is empty.")
    if len(text) > LONGEST:
        raise BadInput(f"The {what} has {len(text)} characters; at most {LONGEST} are kept.")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise BadInput(f"The {what} holds half a character (a lone surrogate).")
    return text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
