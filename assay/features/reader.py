"""Reader: a harvest as numpy arrays. Scalar columns are read once; lists and examples a row group at a time, the last few kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from assay import codec
from assay.corpora.pack import Tokens
from assay.errors import BadInput, DamagedFile, MissingFile, UnknownName
from assay.features.layout import FURTHER, GROUP, KINDS, LISTS, SCALARS
from assay.store import Store, read_manifest, weights_hash

NUMPY = {pa.float16(): np.float32}  # what of arrays in memory is wider than on disk
KEPT = 32  # row groups of each file that stay in memory


@dataclass(frozen=True, kw_only=True)
class Latent:
    """All that is known of one latent. What it does not have (a dead one's mean) is None, or an empty list."""

    latent: int
    count: int
    """Tokens on which it is not 0."""
    density: float
    """Share of the tokens on which it is not 0."""
    mean: float | None
    """Mean over the tokens on which it is not 0."""
    max: float | None
    dead: bool
    dense: bool
    """Active on more than a tenth of the tokens."""
    decoder_norm: float | None
    encoder_norm: float | None
    cosine: float | None
    """Of its encoder column and its decoder row."""
    nearest: int | None
    """The latent whose decoder row is most alike."""
    nearest_cosine: float | None
    top_token: int | None
    """The token at most peaks of its top examples."""
    purity: float | None
    """Share of the top examples that peak on it."""
    x: float | None
    """First two principal components of the unit decoder rows."""
    y: float | None
    umap_x: float | None = None
    umap_y: float | None = None
    histogram: np.ndarray
    """Active tokens in each bin of `Features.edges`."""
    interval_edges: np.ndarray
    """0, then the nine edges nearest to tenths of the maximum, then the maximum."""
    interval_counts: np.ndarray
    top_logits: np.ndarray
    """Token ids; values as `HFModel.unembed` gives them, the mean over the vocabulary taken off."""
    top_logit_values: np.ndarray
    bottom_logits: np.ndarray
    bottom_logit_values: np.ndarray
    logit_histogram: np.ndarray
    """Tokens of the vocabulary in equal bins of `logit_range`."""
    logit_range: np.ndarray
    neighbours: np.ndarray
    """Nearest latents by decoder cosine."""
    neighbour_cosines: np.ndarray
    correlated: np.ndarray
    """Latents by Pearson correlation of activations over tokens."""
    correlations: np.ndarray
    coactive: np.ndarray
    """Latents by the share of this one's active tokens on which they are active too."""
    coactive_shares: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Example:
    """A place in the text. Positions count all tokens of all rows: row · context + column."""

    latent: int
    group: str
    """top, interval, random or near_miss."""
    interval: int | None
    """0 to 9, of an interval's example."""
    position: int
    """Of the peak; of an interval's example the token that was drawn, of the others where it could have been."""
    start: int
    stop: int
    """The window, within one row and one document."""
    at: np.ndarray
    """Places in the window, counted from `start`, where the latent is not 0."""
    values: np.ndarray
    """Its activations there (kept in float16)."""
    weight: float | None
    """Active tokens of the interval for each example shown of it."""


@dataclass(frozen=True)
class Where:
    """A condition on a scalar column; both ends belong to it."""

    column: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Window:
    """A stretch of one row of the text."""

    ids: np.ndarray
    mask: np.ndarray
    """False at special tokens and padding."""
    position: int
    """Of the first token."""


class Features:
    """A harvest: `features.open(store, coder)`."""

    def __init__(self, store: Store, name: str):
        self.path = store.find("features", name)
        self.manifest: Mapping[str, Any] = read_manifest(self.path)
        self.about: Mapping[str, Any] = codec.migrate("features", self.manifest["about"], self.path / "manifest.json")
        self.coder, self.coder_hash = str(self.about["coder"]), str(self.manifest["inputs"]["coder"])
        self.d_sae, self.n_tokens = int(self.about["d_sae"]), int(self.about["tokens"])
        self.edges = np.asarray(self.about["histogram_edges"], np.float64)
        """Of the histograms' bins, common to all latents."""
        self._store = store
        self._features, self._examples = _File(self.path / "features.parquet"), _File(self.path / "examples.parquet")
        self._sorted: dict[str, np.ndarray] = {}

    @cached_property
    def text(self) -> Tokens:
        """The token rows that were read."""
        key = str(self.manifest["inputs"]["tokens"])
        if not self._store.has("tokens", key):
            raise MissingFile(f"The text of {self.path.name}, {self._store.root}/tokens/{key}, is gone. {_again(self.coder)}")
        return Tokens.open(self._store.path("tokens", key))

    @cached_property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Scalar columns, [d_sae] each; a missing value is NaN."""
        names = [*SCALARS, *(name for name in FURTHER if name in self._features.names)]
        table = self._features.read(names)
        return {name: table[name].to_numpy() for name in names}

    def latent(self, i: int) -> Latent:
        """Everything of one latent."""
        group, row = self._features.row(self._checked(i))
        values: dict[str, Any] = {name: group[name][row] for name in group.column_names if name not in LISTS}
        found: dict[str, Any] = {name: value.as_py() for name, value in values.items()}
        found |= {
            name: np.asarray(group[name][row].as_py() or [], NUMPY.get(of, of.to_pandas_dtype())) for name, of in LISTS.items()
        }
        return Latent(**found)

    def examples(self, i: int, group: str | None = None, interval: int | None = None) -> list[Example]:
        """Examples of one latent: all, of one group, of one interval. Of a group they come strongest first, then by position."""
        if group is not None and group not in KINDS:
            raise UnknownName.among("group of examples", group, KINDS)
        table = self._examples.group(self._checked(i) // GROUP)
        first, last = np.searchsorted(table["latent"].to_numpy(), [i, i + 1])
        found = (_example(row) for row in table.slice(first, last - first).to_pylist())
        return [e for e in found if group in (None, e.group) and interval in (None, e.interval)]

    def window(self, start: int, stop: int) -> Window:
        """Tokens at these positions, cut to the row of the first."""
        row, column = self._place(start)
        end = min(column + max(0, stop - start), self.text.tokens.shape[1])
        return Window(np.array(self.text.tokens[row, column:end]), np.array(self.text.mask[row, column:end]), start)

    def document(self, position: int) -> tuple[int, int]:
        """Start and stop of the whole document around a position; special tokens that start rows lie within."""
        row, column = self._place(position)
        number, (rows, context) = int(self.text.document[row, column]), self.text.document.shape
        if number < 0:
            return position, position + 1
        first = last = row
        while first > 0 and (self.text.document[first - 1] == number).any():
            first -= 1
        while last < rows - 1 and (self.text.document[last + 1] == number).any():
            last += 1
        inside = np.flatnonzero(self.text.document[first : last + 1].reshape(-1) == number) + first * context
        return int(inside[0]), int(inside[-1]) + 1

    def select(
        self, sort: str = "density", descending: bool = True, where: Sequence[Where] = (), offset: int = 0, limit: int = 100
    ) -> tuple[np.ndarray, int]:
        """(ids of a page, how many match). Equal ones come by id; those without a value come last."""
        ids = self._order(sort, descending)
        keep = np.ones(self.d_sae, np.bool_)
        for one in where:
            values = self._column(one.column)
            for bound, fits in ((one.low, np.greater_equal), (one.high, np.less_equal)):
                if bound is not None:
                    keep &= fits(values, bound)
        ids = ids[keep[ids]]
        return ids[offset : offset + limit].copy(), len(ids)

    def _column(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise UnknownName.among("column", name, self.columns)
        return self.columns[name]

    def _order(self, name: str, descending: bool) -> np.ndarray:
        key = f"{name} {descending}"
        if key not in self._sorted:
            values = self._column(name).astype(np.float64)
            self._sorted[key] = np.argsort(-values if descending else values, kind="stable").astype(np.int32)
        return self._sorted[key]

    def _checked(self, i: int) -> int:
        if not 0 <= int(i) < self.d_sae:
            raise BadInput(f"{self.coder} has latents 0 to {self.d_sae - 1}, got {i}.")
        return int(i)

    def _place(self, position: int) -> tuple[int, int]:
        rows, context = self.text.tokens.shape
        if not 0 <= position < rows * context:
            raise BadInput(f"The text has positions 0 to {rows * context - 1}, got {position}.")
        return divmod(int(position), context)


class _File:
    """A Parquet file by row groups. Several threads may ask."""

    def __init__(self, path: Path):
        if not path.exists():
            raise MissingFile(f"{path} is missing. Harvest the coder again: assay harvest CODER --again always.")
        try:
            self.file = pq.ParquetFile(path, memory_map=True)
        except pa.ArrowInvalid as error:
            raise DamagedFile(f"{path} is no Parquet file ({error}). Harvest the coder again with --again always.") from None
        self.names = self.file.schema_arrow.names
        sizes = [self.file.metadata.row_group(g).num_rows for g in range(self.file.num_row_groups)]
        self.starts = np.cumsum([0, *sizes])
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, names: list[str]) -> pa.Table:
        """Whole columns."""
        with self._lock:
            return self.file.read(names, use_threads=False)

    def group(self, number: int) -> pa.Table:
        """All columns of a row group."""
        with self._lock:
            if number not in self._kept:
                self._kept[number] = self.file.read_row_group(number, use_threads=False).combine_chunks()
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(number)
            return self._kept[number]

    def row(self, i: int) -> tuple[pa.Table, int]:
        """The row group that row `i` is in, and its place there."""
        number = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.group(number), i - int(self.starts[number])


def _example(row: dict[str, Any]) -> Example:
    start, stop = row["position"] - row["before"], row["position"] + row["after"] + 1
    return Example(
        latent=row["latent"], group=KINDS[row["group"]], interval=row["interval"], position=row["position"], start=start, stop=stop,
        at=np.asarray(row["at"], np.uint8), values=np.asarray(row["values"], np.float32), weight=row["weight"],
    )  # fmt: skip


def names(store: Store, coder: str | None = None) -> list[str]:
    """Names of the harvests in a store, newest first: all, or those of one coder."""
    found = [(read_manifest(store.path("features", name)), name) for name in store.names("features")]
    mine = [(m["made"]["at"], name) for m, name in found if coder in (None, m["about"]["coder"])]
    return [name for _, name in sorted(mine, reverse=True)]


def open(store: Store, coder: str, text: str | None = None) -> Features:
    """The newest harvest of a coder, or the one over a text (the key of its token rows, or the first digits of it)."""
    there = names(store, coder)
    if not there:
        if store.has("coders", coder):
            raise MissingFile(f"{coder} has not been harvested. Run: assay harvest {coder} --store {store.root}")
        raise UnknownName.among(f"coder in {store.root}", coder, store.names("coders"))
    fitting = [name for name in there if name.rpartition(".")[2].startswith(text or "")]
    if not fitting:
        raise UnknownName.among(f"text that {coder} was harvested on", str(text), [name.rpartition(".")[2] for name in there])
    now = weights_hash(store.find("coders", coder)) if store.has("coders", coder) else None
    for name in fitting:
        found = Features(store, name)
        if now is None or found.about.get("weights") in (None, now):
            return found
    raise MissingFile(f"{coder} was harvested with other weights than it has now. {_again(coder)} --store {store.root}")


def _again(coder: str) -> str:
    return f"Run: assay harvest {coder}"
