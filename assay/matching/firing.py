"""Firing: latents matched by when they fire: the Pearson correlation of their activations over the same vectors.

Sparse times sparse: only pairs of latents that are ever active on the same vector are formed, AT_ONCE at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.activations.shards import Activations
from assay.coders.base import SparseCoder
from assay.errors import BadInput, MissingFile
from assay.harvest import Place
from assay.matching.directions import Matching
from assay.progress import Progress, silent
from assay.randomness import numpy_generator
from assay.shapes import Tensor
from assay.splice import home, inference
from assay.store import Store

VECTORS = 16_384  # on which latents are seen to fire together
PRODUCTS = 2**26  # pairs of active latents, over all vectors, after which no more vectors are read
AT_ONCE = 2**22  # of them in memory
CODES = 2**24  # latents encoded at once: vectors times width
ROWS = 64  # rows of text read at once


@dataclass(frozen=True)
class Firing:
    """The latents of one coder by Pearson correlation of their activations with the other's. −1 and NaN where one never fired."""

    nearest: np.ndarray
    """[d_sae] the other's latent with the largest correlation, of those that ever fired on the same vector."""
    correlation: np.ndarray
    """[d_sae] that correlation."""
    with_nearest: np.ndarray
    """[d_sae] correlation with the latent of the nearest direction."""
    with_partner: np.ndarray
    """[d_sae] correlation with the partner."""


@dataclass(frozen=True)
class Together:
    """When latents of two coders fire, seen on the same vectors."""

    a: Firing
    b: Firing
    vectors: int
    """How many were seen."""

    @property
    def swapped(self) -> Together:
        """The same, seen from the other side."""
        return Together(self.b, self.a, self.vectors)


@torch.no_grad()
def together(
    a: SparseCoder[Any],
    b: SparseCoder[Any],
    pieces: Iterable[tuple[Tensor, Tensor]],
    found: Matching,
    progress: Progress = silent,
) -> Together:
    """Correlate activations over vectors, given as (what a reads, what b reads), until VECTORS or PRODUCTS is reached."""
    from scipy import sparse

    mine, theirs, seen, products = [], [], 0, 0
    size = max(1, CODES // max(a.d_sae, b.d_sae))
    with inference(a), inference(b):
        for x, y in (part for pair in pieces for part in zip(*(p.split(size) for p in pair), strict=True)):
            mine.append(_codes(a, x))
            theirs.append(_codes(b, y))
            seen += len(x)
            products += int((np.diff(mine[-1].indptr).astype(np.int64) * np.diff(theirs[-1].indptr)).sum())
            progress(min(seen, VECTORS), VECTORS, "vectors encoded")
            if seen >= VECTORS or products >= PRODUCTS:
                break
    if not mine:
        raise BadInput("There are no vectors to see latents fire on.")
    z, w = sparse.vstack(mine, format="csc"), sparse.vstack(theirs, format="csr")
    return Together(*_correlated(z, w, found), seen)


def _codes(coder: SparseCoder[Any], x: Tensor) -> Any:
    """Latents of some vectors as a CSR matrix of what is not 0."""
    from scipy import sparse

    latents = coder.encode(x.to(home(coder), torch.float32)).latents
    if latents.indices is None or latents.offsets is None:
        return sparse.csr_matrix(latents.values.reshape(-1, coder.d_sae).cpu().numpy())
    parts = (t.cpu().numpy() for t in (latents.values, latents.indices, latents.offsets))
    code = sparse.csr_matrix(tuple(parts), shape=(latents.count, coder.d_sae))
    code.eliminate_zeros()
    return code


def _correlated(z: Any, w: Any, found: Matching) -> tuple[Firing, Firing]:
    """Both sides of the correlation of z (CSC) and w (CSR), vectors by latents, some latents of z at a time."""
    moments = [_moments(t) for t in (z, w)]
    (mean_z, spread_z), (mean_w, spread_w) = moments
    sides = [(np.full(t.shape[1], -1), np.full(t.shape[1], -np.inf)) for t in (z, w)]
    for start, stop in _cut(z, w):
        block = (z[:, start:stop].T.tocsr() @ w).tocsr()
        i, j = np.repeat(np.arange(start, stop), np.diff(block.indptr)), block.indices
        with np.errstate(divide="ignore", invalid="ignore"):
            block.data = (block.data / z.shape[0] - mean_z[i] * mean_w[j]) / (spread_z[i] * spread_w[j])
        _largest(block, sides[0], slice(start, stop), 0)
        _largest(block.tocsc(), sides[1], slice(None), start)
    w, ids = w.tocsc(), [np.arange(t.shape[1]) for t in (z, w)]
    asked = [
        [_pearson(z, w, ids[0], j, moments) for j in (found.a.nearest, found.a.partner)],
        [_pearson(z, w, i, ids[1], moments) for i in (found.b.nearest, found.b.partner)],
    ]
    ours, theirs = (Firing(which, np.where(which < 0, np.nan, r), *more) for (which, r), more in zip(sides, asked, strict=True))
    return ours, theirs


def _moments(z: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each latent over all vectors."""
    n = z.shape[0]
    mean = np.asarray(z.sum(0, dtype=np.float64)).reshape(-1) / n
    square = np.asarray(z.multiply(z).sum(0, dtype=np.float64)).reshape(-1) / n
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _cut(z: Any, w: Any) -> Iterator[tuple[int, int]]:
    """Ranges of z's latents, of AT_ONCE pairs of active latents each (or one latent)."""
    active = np.diff(w.indptr).astype(np.int64)
    pairs = np.add.reduceat(np.append(active[z.indices], 0), np.minimum(z.indptr[:-1], z.nnz)) * (np.diff(z.indptr) > 0)
    start, total = 0, 0
    for i, more in enumerate(pairs):
        if total + more > AT_ONCE and i > start:
            yield start, i
            start, total = i, 0
        total += int(more)
    yield start, z.shape[1]


def _largest(block: Any, side: tuple[np.ndarray, np.ndarray], rows: slice, shift: int) -> None:
    """Note the largest number of each row (CSR) or column (CSC) of a block, where it is larger than what a side has so far."""
    which, value = (known[rows] for known in side)
    lengths = np.diff(block.indptr)
    some = np.flatnonzero(lengths)
    if not len(some):
        return
    r = np.where(np.isnan(block.data), -np.inf, block.data)
    most = np.maximum.reduceat(r, block.indptr[some])
    at = np.flatnonzero(r == np.repeat(most, lengths[some]))[::-1]  # backwards, so that of equal ones the first stays
    first = np.empty(len(lengths), np.int64)
    first[np.repeat(np.arange(len(lengths)), lengths)[at]] = block.indices[at]
    better = most > value[some]
    which[some[better]], value[some[better]] = first[some[better]] + shift, most[better]


def _pearson(z: Any, w: Any, i: np.ndarray, j: np.ndarray, moments: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Correlations of single pairs; NaN where one has no number, or never fired."""
    (mean_z, spread_z), (mean_w, spread_w) = moments
    found, some = np.full(len(i), np.nan), np.flatnonzero((i >= 0) & (j >= 0))
    i, j = i[some], j[some]
    product = np.asarray(z[:, i].multiply(w[:, j]).sum(0, dtype=np.float64)).reshape(-1) / z.shape[0]
    spread = spread_z[i] * spread_w[j]
    with np.errstate(divide="ignore", invalid="ignore"):
        found[some] = np.where(spread > 0, (product - mean_z[i] * mean_w[j]) / spread, np.nan)
    return found


# ---- vectors of the store ------------------------------------------------------------------------------------------------------


def gathered(store: Store, abouts: Mapping[str, Mapping[str, Any]], text: str | None = None) -> Path:
    """Activations in the store that all of these coders can read, by what their manifests say (name → about): of their model, with all
    their sites; of the token rows `text` if there are such, else the most vectors. `MissingFile` says what is not there."""
    models = {name: about.get("model") or {} for name, about in abouts.items()}
    if len({model.get("fingerprint") for model in models.values()}) != 1 or not all(
        m.get("fingerprint") for m in models.values()
    ):
        raise BadInput(f"{' and '.join(abouts)} are not known to be for one model, so they read no vectors in common.")
    model = next(iter(models.values()))
    sites = {str(site) for name, about in abouts.items() for site in Place.of(name, about).read}
    fitting = []
    for name in store.names("activations"):
        manifest = store.manifest("activations", name)
        inputs, about = manifest["inputs"], manifest["about"]
        if (inputs.get("model") or {}).get("fingerprint") == model["fingerprint"] and sites <= set(about["sites"]):
            fitting.append((inputs.get("tokens") == text, about["tokens"], name))
    if not fitting:
        where = ", ".join(sorted(sites))
        raise MissingFile(f"{store.root} holds no activations of {where} of {model.get('name')}. Gather some: assay gather.")
    return store.path("activations", max(fitting)[2])


def vectors(
    path: Path, a: Mapping[str, Any], b: Mapping[str, Any], n: int = VECTORS, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some `n` vectors of gathered activations, as each of two coders reads them (by what its manifest says), by whole rows drawn from
    all over the text."""
    sides = [Place.of("the coder", about).read for about in (a, b)]
    on_disk = {site: Activations(path, site) for side in sides for site in side}
    counts = next(iter(on_disk.values())).counts
    order = numpy_generator("matching", "vectors", seed).permutation(len(counts))
    order = np.sort(order[: int(np.searchsorted(np.cumsum(counts[order]), n)) + 1])
    for rows in np.array_split(order, max(1, len(order) // ROWS)):
        x = {site: one.read(rows) for site, one in on_disk.items()}
        if counts[rows].sum():
            first, second = (torch.cat([x[site] for site in side], 1) for side in sides)
            yield first, second
