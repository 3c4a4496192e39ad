"""Book: sheets and what raters said, in the store's notes. Until a sheet is unblinded nothing here tells whose an item is."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from assay.errors import BadInput, UnknownName
from assay.notes import Notes
from assay.rating.sheet import SCALES, Sheet, SheetConfig
from assay.store import Store

TABLES = {
    "sheets": "id TEXT PRIMARY KEY, title TEXT NOT NULL, at TEXT NOT NULL, config TEXT NOT NULL, model TEXT NOT NULL, items INTEGER NOT NULL, "
    "key TEXT NOT NULL, unblinded TEXT",
    "sheet_items": "sheet TEXT NOT NULL, item INTEGER NOT NULL, coder TEXT NOT NULL, coder_hash TEXT NOT NULL, latent INTEGER NOT NULL, "
    "pair INTEGER NOT NULL, shown TEXT NOT NULL, PRIMARY KEY (sheet, item)",
    "sheet_ratings": "sheet TEXT NOT NULL, item INTEGER NOT NULL, rater TEXT NOT NULL, scale TEXT NOT NULL, value INTEGER NOT NULL, "
    "at TEXT NOT NULL, PRIMARY KEY (sheet, item, rater, scale)",
}  # fmt: skip
NAMES = 40
"""Characters of a rater's name at most."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A sheet as everybody may see it."""

    id: str
    title: str
    at: str
    """When it was made, ISO 8601."""
    model: str
    items: int
    raters: dict[str, int]
    """Items that each rater has rated on both scales."""
    unblinded: str | None
    """When it was, if it was."""

    @property
    def complete(self) -> bool:
        """Whether somebody began, and everybody who did has rated every item on both scales."""
        return bool(self.raters) and all(rated == self.items for rated in self.raters.values())


@dataclass(frozen=True, kw_only=True)
class Result:
    """An item whose coder may be told, with what was said of it."""

    item: int
    coder: str
    coder_hash: str
    latent: int
    pair: int
    ratings: dict[str, dict[str, int]]
    """Scale → rater → value."""


class Ratings:
    """The sheets of a store and what was said of them."""

    def __init__(self, store: Store):
        self.notes = Notes(store, TABLES)

    def add(self, sheet: Sheet) -> tuple[str, str]:
        """(id, key) of a new sheet. The key is kept by nobody but who is given it here."""
        id, key = secrets.token_hex(6), secrets.token_urlsafe(12)
        title = _name(sheet.config.title or "Blind rating", "title", 200)
        rows = [(id, i.number, i.coder, i.coder_hash, i.latent, i.pair, json.dumps(i.shown)) for i in sheet.items]
        with self.notes.write() as db:
            db.execute(
                "INSERT INTO sheets VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (id, title, _now(), json.dumps(asdict(sheet.config)), sheet.model, len(rows), _hash(key)),
            )
            db.executemany("INSERT INTO sheet_items VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        return id, key

    def sheets(self) -> list[Line]:
        """All sheets, the newest first."""
        with self.notes.read() as db:
            return [self._line(db, row) for row in db.execute("SELECT * FROM sheets ORDER BY at DESC, rowid DESC").fetchall()]

    def sheet(self, id: str) -> Line:
        """One sheet."""
        with self.notes.read() as db:
            return self._line(db, _row(db, id))

    def config(self, id: str) -> SheetConfig:
        """What an unblinded sheet was made with."""
        with self.notes.read() as db:
            return SheetConfig(**json.loads(_open(_row(db, id))["config"]))

    def shown(self, id: str, item: int) -> list[dict[str, Any]]:
        """What is shown of an item: see `Item.shown`."""
        with self.notes.read() as db:
            _row(db, id)
            return json.loads(_item(db, id, item)["shown"])

    def said(self, id: str, rater: str) -> dict[int, dict[str, int]]:
        """What one rater said: item → scale → value."""
        found: dict[int, dict[str, int]] = {}
        with self.notes.read() as db:
            _row(db, id)
            for row in db.execute("SELECT * FROM sheet_ratings WHERE sheet = ? AND rater = ? ORDER BY item", (id, rater)):
                found.setdefault(row["item"], {})[row["scale"]] = row["value"]
        return found

    def rate(self, id: str, item: int, rater: str, scale: str, value: int) -> None:
        """Rate an item, instead of what the rater said before. After the sheet is unblinded nobody rates any more."""
        rater = _name(rater, "rater's name", NAMES)
        if scale not in SCALES:
            raise UnknownName.among("scale", scale, SCALES)
        if not 1 <= value <= len(SCALES[scale].steps):
            raise BadInput(f"{scale} was rated {value}; expected 1 to {len(SCALES[scale].steps)}.")
        with self.notes.write() as db:
            if (row := _row(db, id))["unblinded"]:
                raise BadInput(f"{row['title']} was unblinded at {row['unblinded']}; since then nobody can rate it blindly.")
            _item(db, id, item)
            db.execute(
                "INSERT OR REPLACE INTO sheet_ratings VALUES (?, ?, ?, ?, ?, ?)", (id, item, rater, scale, value, _now())
            )

    def unblind(self, id: str, key: str | None = None) -> None:
        """Tell whose the items are, from now on. When not every rater has rated every item, only the maker's key does it."""
        with self.notes.write() as db:
            row = _row(db, id)
            if row["unblinded"]:
                return
            if key is not None and not secrets.compare_digest(_hash(key), row["key"]):
                raise BadInput("This is not the key that was given to the maker of this sheet.")
            if key is None and not (line := self._line(db, row)).complete:
                rated = ", ".join(f"{name} {n}" for name, n in line.raters.items()) or "nobody"
                raise BadInput(
                    f"Not every item is rated yet ({rated} of {line.items}). Wait for the raters, or unblind with the maker's key."
                )
            db.execute("UPDATE sheets SET unblinded = ? WHERE id = ?", (_now(), id))

    def results(self, id: str) -> list[Result]:
        """Items with their coders and ratings. Refused while the sheet is blind."""
        with self.notes.read() as db:
            _open(_row(db, id))
            said: dict[int, dict[str, dict[str, int]]] = {}
            for r in db.execute("SELECT * FROM sheet_ratings WHERE sheet = ? ORDER BY rater", (id,)):
                said.setdefault(r["item"], {}).setdefault(r["scale"], {})[r["rater"]] = r["value"]
            rows = db.execute(
                "SELECT item, coder, coder_hash, latent, pair FROM sheet_items WHERE sheet = ? ORDER BY item", (id,)
            )
            return [Result(**row, ratings=said.get(row["item"], {})) for row in rows]

    def remove(self, id: str, key: str) -> None:
        """Delete a sheet and all that was said of it; only its maker can."""
        with self.notes.write() as db:
            if not secrets.compare_digest(_hash(key), _row(db, id)["key"]):
                raise BadInput("This is not the key that was given to the maker of this sheet.")
            for table, column in (("sheets", "id"), ("sheet_items", "sheet"), ("sheet_ratings", "sheet")):
                db.execute(f"DELETE FROM {table} WHERE {column} = ?", (id,))

    def _line(self, db: Any, row: Mapping[str, Any]) -> Line:
        counts = db.execute(
            "SELECT rater, sum(scales = ?) AS rated FROM (SELECT rater, item, count(*) AS scales FROM sheet_ratings WHERE sheet = ? "
            "GROUP BY rater, item) GROUP BY rater ORDER BY rater",
            (len(SCALES), row["id"]),
        )
        raters = {r["rater"]: int(r["rated"]) for r in counts}
        known = {name: row[name] for name in ("id", "title", "at", "model", "items", "unblinded")}
        return Line(**known, raters=raters)


def _row(db: Any, id: str) -> Any:
    row = db.execute("SELECT * FROM sheets WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise UnknownName(f"No sheet has the id {id!r}. It may have been deleted.")
    return row


def _open(row: Any) -> Any:
    """The row of a sheet that is unblinded."""
    if not row["unblinded"]:
        raise BadInput(f"{row['title']} is still blind: nobody is told whose its items are. Unblind it first.")
    return row


def _item(db: Any, id: str, item: int) -> Any:
    row = db.execute("SELECT * FROM sheet_items WHERE sheet = ? AND item = ?", (id, item)).fetchone()
    if row is None:
        raise UnknownName(f"The sheet has no item {item}.")
    return row


def _name(text: str, what: str, longest: int) -> str:
    text = text.strip()
    if not 0 < len(text) <= longest or not text.isprintable():
        raise BadInput(f"The {what} must have 1 to {longest} printable characters.")
    return text


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
