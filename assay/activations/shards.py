"""Activations on disk: numbered safetensors shards of consecutive token rows, with means and the number of vectors of each row.

00000.safetensors …  one tensor a site, named as it ("resid_post.10": [n, d]); "row" and "position": [n] int32, where in the
                     token rows each vector comes from
stats.safetensors    "counts": [rows] int32, vectors of each row; "mean.resid_post.10": [d] fp64
manifest.json        see store.py; `about` holds sites, widths, norms, dtype and layout
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from assay import store
from assay.activations.read_ahead import Tell, quiet
from assay.errors import BadInput, DamagedFile, UnknownName
from assay.models.base import Site
from assay.progress import Progress, silent
from assay.shapes import Float, Int, Tensor

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
HASHERS = 8  # at most so many threads compare shards with their hashes
CODES = {"BF16": torch.bfloat16, "F32": torch.float32}  # of safetensors
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
        self._begins: dict[int, int] = {}

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

    def read(self, rows: np.ndarray, tell: Tell = quiet) -> Float[Tensor, "n d"]:
        """Vectors of some rows, row by row in the order given, as stored. Reads no more than them, straight into their place.

        Not through a memory map: that is no faster, faults at every few pages, and a file cut short ends the process.
        """
        width = self.d * self.dtype.itemsize
        sizes, starts = self.counts[rows] * width, self._starts[rows] * width
        ends = np.cumsum(sizes)
        room = np.empty(
            (int(sizes.sum()) // width, self.d), f"i{self.dtype.itemsize}"
        )  # numpy, unlike torch, asks for huge pages
        data = room.reshape(-1).view(np.uint8).data
        shards, order = rows // self.shard_rows, np.argsort(rows, kind="stable")
        for some in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(rows) else ():
            path = self._file(shard_name(int(shards[some[0]])))
            with path.open("rb", buffering=0) as file:
                begin = self._begin(path, file.fileno())
                for i in some:
                    place = data[int(ends[i] - sizes[i]) : int(ends[i])]
                    if os.preadv(file.fileno(), [place], begin + int(starts[i])) < len(place):
                        raise DamagedFile(f"{path} was cut short while it was read. Gather again.")
            tell(int(self.counts[rows[some]].sum()))
        return torch.from_numpy(room).view(self.dtype)

    def verify(self, progress: Progress = silent) -> None:
        """Compare all shards with their hashes now, not one by one as they are first read. Several at a time."""
        names = [shard_name(number) for number in range(len(self))]
        pool, done, total = ThreadPoolExecutor(min(HASHERS, os.cpu_count() or 1)), 0, sum(map(self._bytes, names))
        try:
            for name, _ in zip(names, pool.map(self._file, names)):
                done += self._bytes(name)
                progress(done, total, "bytes compared")
        finally:
            pool.shutdown(cancel_futures=True)

    def _bytes(self, name: str) -> int:
        return self.manifest["files"].get(name, {}).get("bytes", 0)

    def _begin(self, path: Path, file: int) -> int:
        """Where in an open shard the vectors of the site begin, by its header: length in 8 bytes, then JSON."""
        number = int(path.stem)
        if number not in self._begins:
            length = int.from_bytes(os.pread(file, 8, 0), "little")
            said = json.loads(os.pread(file, length, 8)).get(str(self.site), {})
            shape = [int(self.counts[number * self.shard_rows : (number + 1) * self.shard_rows].sum()), self.d]
            if said.get("shape") != shape or CODES.get(said.get("dtype")) != self.dtype:
                raise DamagedFile(f"{path} holds {said} as {self.site}, expected shape {shape} and {self.dtype}. Gather again.")
            self._begins[number] = 8 + length + int(said["data_offsets"][0])
        return self._begins[number]

    def _file(self, name: str) -> Path:
        """A file of the directory, verified once a process as long as it does not change."""
        path = self.path / name
        known = (str(path), path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
        if known not in _verified:
            if name not in self.manifest["files"]:
                raise DamagedFile(f"{path} is not in its manifest. Gather again.")
            store.compare(self.path, name, self.manifest["files"][name])
            assert known is not None  # what is missing was told
            _verified.add(known)
        return path
