"""Stored: vectors gathered before, read from the store in shuffled order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.activations.read_ahead import Tell, quiet
from assay.activations.rows import RowSource
from assay.activations.shards import Activations, as_sites, finite, sites_once
from assay.activations.shuffle import HELD_OUT
from assay.errors import BadInput, NotFinite
from assay.models.base import Site
from assay.progress import Progress, silent
from assay.shapes import Tensor
from assay.store import digest, entry_hash, read_manifest


class Stored(RowSource):
    """Activations in a directory made by `gather`: a block of about `buffer_rows` rows in memory, in the dtype on disk, and the next,
    which a thread reads meanwhile.

    `read` may be left out when the directory has one site. Several are laid side by side (crosscoders); `predict` is the site
    to be predicted where it is another one (transcoders). Each shard is verified when it is first read. The last rows, with at
    most `held_out_share` of the vectors, are held out. With equal `buffer_rows` and share the order of vectors is that of `Live`
    over the same tokens. On a GPU (`device`), blocks are moved there whole, in the dtype on disk, and shuffled there.
    """

    def __init__(
        self,
        path: str | Path,
        read: Site | str | Sequence[Site | str] | None = None,
        predict: Site | str | None = None,
        *,
        buffer_rows: int = 512,
        held_out_share: float = HELD_OUT,
        device: str | torch.device = "cpu",
    ):
        self.path = Path(path)
        manifest = read_manifest(self.path)
        named = list(manifest["about"].get("sites", []))
        if read is None and len(named) != 1:
            raise BadInput(f"{self.path} holds {len(named)} sites: {', '.join(named)}. Say which to read.")
        sites, predicted = as_sites(named if read is None else read), None if predict is None else Site.parse(predict)
        self._on_disk = {site: Activations(self.path, site) for site in sites_once(sites, predicted)}
        super().__init__(self._on_disk[sites[0]].counts, sites, predicted, buffer_rows, held_out_share)
        self.device = self.ahead_on = torch.device(device)
        self.d_in = sum(self._on_disk[site].d for site in sites)
        self.d_out = self.d_in if predicted is None else self._on_disk[predicted].d
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

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the data."""
        return dict(self._about)

    def verify(self, progress: Progress = silent) -> None:
        """Compare all shards with their hashes now, with progress. Otherwise each is when it is first read, before the first batches."""
        self._on_disk[self.sites[0]].verify(progress)

    def load(self, rows: np.ndarray, tell: Tell = quiet) -> list[Tensor]:
        """See RowSource. On `device`, in the dtype on disk."""
        found = {site: stored.read(rows, tell) for site, stored in self._on_disk.items()}
        for site, x in found.items():
            if not finite(x):
                first = int((~torch.isfinite(x)).any(1).nonzero()[0])
                row = rows[np.searchsorted(np.cumsum(self._counts[rows]), first, side="right")]
                raise NotFinite(f"{self.path} holds NaN or infinity at site {site}, row {row}. Gather again.")
        return [x.to(self.device) for x in found.values()]
