"""Activations on disk: numbered safetensors shards of consecutive token rows, with means and the number of vectors of each row.

00000.safetensors …  one tensor a site, named as it ("resid_post.10": [n, d]); "row" and "position": [n] int32, where in the
                     token rows each vector comes from
stats.safetensors    "counts": [rows] int32, vectors of each row; "mean.resid_post.10": [d] fp64
manifest.json        see store.py; `about` holds sites, widths, norms, dtype and layout
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from assay import store
from assay.errors import BadInput, DamagedFile, UnknownName
from assay.models.base import Site
from assay.shapes import Float, Int, Tensor

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_verified: set[tuple[str, int, int]] = set()


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"{number:05d}.safetensors"


def as_sites(read: Site | str | Sequence[Site | str]) -> tuple[Site, ...]:
    """The sites meant by one site or several, each once, in the order given."""
    sites = tuple(Site.parse(s) for s in ([read] if isinstance(read, (Site, str)) else read))
    if not sites or len(set(sites)) < len(sites):
        raise BadInput(f"Name at least one site, and each once; got {', '.join(map(str, sites)) or 'none'}.")
    return sites


def finite(x: Tensor) -> bool:
    """Whether all of x is finite; on the CPU ten times as fast as `isfinite(x).all()`."""
    return not x.numel() or all(torch.isfinite(end).item() for end in torch.aminmax(x))


def sites_once(read: Sequence[Site], predict: Site | None) -> list[Site]:
    """All sites that a source needs, none twice."""
    return list(dict.fromkeys([*read, predict])) if predict is not None else list(read)


class Activations:
    """One site of a gathered directory: in document order by iteration, any rows by `read`.

    A shard is compared with its hash in the manifest when it is first read; `MissingFile` and `DamagedFile` name it.
    """

    def __init__(self, path: str | Path, site: Site | str):
        self.path = Path(path)
        self.manifest = store.read_manifest(self.path)
        about: dict[str, Any] = self.manifest["about"]
        if self.manifest["kind"] != "activations":
            raise BadInput(f"{self.path} holds {self.manifest['kind']}, not activations. Give a directory made by gather.")
        self.site = Site.parse(site)
        if str(self.site) not in about["sites"]:
            raise UnknownName.among(f"site in {self.path}", str(self.site), about["sites"], more="Gather it first.")
        self.d = int(about["sites"][str(self.site)]["d"])
        self.tokens = int(about["tokens"])
        """Vectors in all."""
        self.dtype = DTYPES[about["dtype"]]
        """As stored; iteration gives fp32."""
        self.shard_rows = int(about["shard_rows"])
        stats = self._file("stats.safetensors")
        with safe_open(stats, framework="pt") as file:
            self.mean: Float[Tensor, " d"] = file.get_tensor(f"mean.{self.site}").float()
            self.counts = file.get_tensor("counts").numpy().astype(np.int64)
            """Vectors of each row."""
        if self.counts.sum() != self.tokens:
            raise DamagedFile(f"{stats} counts {self.counts.sum()} vectors, the manifest {self.tokens}. Gather again.")
        first = np.cumsum(self.counts) - self.counts
        numbers = np.arange(len(self.counts))
        self._starts = first - first[numbers - numbers % self.shard_rows]  # of each row in its shard

    @property
    def rows(self) -> int:
        """Rows of tokens, those without a single vector included."""
        return len(self.counts)

    def __len__(self) -> int:
        """Shards."""
        return -(-self.rows // self.shard_rows)

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "n d"], Int[Tensor, " n"], Int[Tensor, " n"]]]:
        """(vectors as fp32, row, position) of each shard, in document order."""
        for number in range(len(self)):
            with safe_open(self._file(shard_name(number)), framework="pt") as file:
                x = file.get_tensor(str(self.site)).float()
                row, position = file.get_tensor("row").long(), file.get_tensor("position").long()
            yield x, row, position

    def read(self, rows: np.ndarray) -> Float[Tensor, "n d"]:
        """Vectors of some rows, row by row in the order given, as stored. Reads no more than them."""
        counts = self.counts[rows]
        ends = np.cumsum(counts)
        out = torch.empty(int(counts.sum()), self.d, dtype=self.dtype)
        shards = rows // self.shard_rows
        for number in np.unique(shards):
            with safe_open(self._file(shard_name(number)), framework="pt") as file:
                stored = file.get_slice(str(self.site))
                for i in np.flatnonzero((shards == number) & (counts > 0)):
                    start = int(self._starts[rows[i]])
                    out[int(ends[i] - counts[i]) : int(ends[i])] = stored[start : start + int(counts[i])]
        return out

    def _file(self, name: str) -> Path:
        """A file of the directory, verified once a process as long as it does not change."""
        path = self.path / name
        known = (str(path), path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
        if known not in _verified:
            store.verify(self.path, only=name)
            if known is None or name not in self.manifest["files"]:
                raise DamagedFile(f"{path} is not in its manifest. Gather again.")
            _verified.add(known)
        return path
