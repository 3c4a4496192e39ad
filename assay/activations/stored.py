"""Stored: vectors gathered before, read from the store in shuffled order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.activations.live import side_by_side
from assay.activations.shards import Activations, as_sites, finite, sites_once
from assay.activations.shuffle import HELD_OUT, held_out, kept_rows, shuffled
from assay.coders.base import Batch
from assay.errors import BadInput, NotFinite
from assay.models.base import Site
from assay.shapes import Tensor
from assay.store import digest, entry_hash, read_manifest


class Stored:
    """Activations in a directory made by `gather`: one block of about `buffer_rows` rows in memory, in the dtype on disk.

    `read` may be left out when the directory has one site. Several are laid side by side (crosscoders); `predict` is the site
    to be predicted where it is another one (transcoders). Each shard is verified when it is first read. The last rows, with at
    most `held_out_share` of the vectors, are held out. With equal `buffer_rows` and share the order of vectors is that of `Live`
    over the same tokens.
    """

    def __init__(
        self,
        path: str | Path,
        read: Site | str | Sequence[Site | str] | None = None,
        predict: Site | str | None = None,
        *,
        buffer_rows: int = 512,
        held_out_share: float = HELD_OUT,
    ):
        self.path, self.buffer_rows = Path(path), buffer_rows
        manifest = read_manifest(self.path)
        sites = list(manifest["about"].get("sites", []))
        if read is None and len(sites) != 1:
            raise BadInput(f"{self.path} holds {len(sites)} sites: {', '.join(sites)}. Say which to read.")
        self.read, self.predict = as_sites(sites if read is None else read), None if predict is None else Site.parse(predict)
        self._sites = {site: Activations(self.path, site) for site in sites_once(self.read, self.predict)}
        self.d_in = sum(self._sites[site].d for site in self.read)
        self.d_out = self.d_in if self.predict is None else self._sites[self.predict].d
        self._counts = self._sites[self.read[0]].counts
        self._kept = kept_rows(self._counts, held_out_share)
        self.tokens: int | None = int(self._counts[: self._kept].sum())
        self._about = {
            "kind": "stored",
            "activations": self.path.name,
            "activations_hash": entry_hash(self.path)[:16],
            "model": manifest["inputs"].get("model"),
            "corpus": manifest["inputs"].get("tokens"),
            "tokens": self.tokens,
            "held_out": int(self._counts[self._kept :].sum()),
            "read": [str(site) for site in self.read],
            "predict": None if self.predict is None else str(self.predict),
            "dtype": manifest["about"]["dtype"],
            "buffer_rows": buffer_rows,
        }
        self.fingerprint = digest({k: v for k, v in self._about.items() if k != "activations"})[:16]

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """See ActivationSource. On the CPU."""
        counts = self._counts[: self._kept]
        stream = shuffled(counts, self._load, size=size, seed=seed, start=start, buffer_rows=self.buffer_rows)
        return (self._batch(tensors) for tensors in stream)

    @property
    def block(self) -> int:
        """Vectors that are loaded together, about."""
        return max(1, round(float(self._counts[: self._kept].mean()) * min(self.buffer_rows, self._kept)))

    def held_out(self, size: int) -> Batch | None:
        """See ActivationSource."""
        tensors = held_out(self._counts, self._kept, self._load, size)
        return None if tensors is None else self._batch(tensors)

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the data."""
        return dict(self._about)

    def _load(self, rows: np.ndarray) -> list[Tensor]:
        block = [activations.read(rows) for activations in self._sites.values()]
        for activations, x in zip(self._sites.values(), block):
            if not finite(x):
                first = int((~torch.isfinite(x)).any(1).nonzero()[0])
                row = rows[np.searchsorted(np.cumsum(activations.counts[rows]), first, side="right")]
                raise NotFinite(f"{self.path} holds NaN or infinity at site {activations.site}, row {row}. Gather again.")
        return block

    def _batch(self, tensors: Sequence[Tensor]) -> Batch:
        return side_by_side(dict(zip(self._sites, tensors)), self.read, self.predict)
