"""Run a model over a corpus once and keep the activations of several sites in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import safetensors.torch
import torch

from assay import codec, provenance
from assay.activations.forward import read_rows, row_counts, widths_of
from assay.activations.read_ahead import Tell, ahead
from assay.activations.shards import DTYPES, shard_name
from assay.errors import BadInput
from assay.models.base import Model, Site
from assay.progress import Progress, silent
from assay.shapes import Float, Tensor
from assay.store import Store, digest, file_hash, require_space, write_atomic

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens


@dataclass(frozen=True, kw_only=True)
class GatherConfig:
    """How activations are gathered and stored."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number type on disk: bfloat16 takes half the space; float32 keeps what a float32 model computes."""
    batch_rows: int = 16
    """Rows of tokens in one forward pass."""
    shard_rows: int = 512
    """Rows of tokens in one file. Memory holds about two shards; three on a GPU."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or self.batch_rows < 1 or self.shard_rows < 1:
            raise BadInput(f"Gathering needs dtype {' or '.join(DTYPES)}, batch_rows ≥ 1 and shard_rows ≥ 1; got {self}.")


def gather(
    model: Model,
    tokens: Tokens,
    sites: Sequence[Site | str] | Site | str,
    config: GatherConfig,
    store: Store,
    progress: Progress | None = None,
) -> Path:
    """Directory in the store with the activations of `sites` wherever the mask of `tokens` is True; made if not there yet.

    One pass of the model, several sites, bounded memory. After an interruption of any kind the same call goes on at the first
    missing shard and ends in the same bytes. Raises `Unavailable` before it starts when the disk cannot hold the result,
    `NotFinite` with the place of the first NaN or infinity, `SiteMissing`, and `Busy` when another process gathers the same.
    """
    widths = dict(sorted(widths_of(model, sites).items(), key=lambda pair: pair[0].depth))
    counts = row_counts(tokens)
    inputs = {
        "model": {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.dtype).removeprefix("torch.")},
        "tokens": tokens.fingerprint,
        "sites": [str(site) for site in widths],
    }
    key = digest([model.fingerprint, inputs["model"]["dtype"], tokens.fingerprint, inputs["sites"], config.dtype])[:16]
    if store.has("activations", key):
        return store.path("activations", key)
    total = int(counts.sum())
    with provenance.stopwatch() as seconds, store.draft("activations", key) as draft:
        _clear_other(draft.path, {"config": asdict(config), "versions": provenance.versions()})
        jobs = [np.arange(a, min(a + config.shard_rows, len(counts))) for a in range(0, len(counts), config.shard_rows)]
        missing = [rows for i, rows in enumerate(jobs) if not _seal(draft.path / shard_name(i)).exists()]
        require_space(store.root, _bytes(missing, counts, widths, config), f"Gathering {total:,} tokens")
        moments = {site: Moments(d) for site, d in widths.items()}
        tally = _Tally(total, progress or silent)
        files = [draft.path / shard_name(number) for number in range(len(jobs))]
        names = [*map(str, widths), "row", "position"]

        def shard_of(number: int, tell: Tell) -> list[Tensor]:
            told = _both(tell, tally)
            shard = _intact(files[number], told) or _compute(model, tokens, jobs[number], list(widths), config, told)
            return [shard[name] for name in names]

        on = model.device if model.device.type == "cuda" else None  # one shard is written while the GPU is at the next
        with closing(ahead(range(len(jobs)), shard_of, on)) as shards:
            for number, tensors in shards:
                if not _seal(files[number]).exists():
                    _write(files[number], dict(zip(names, tensors, strict=True)))
                for moment, x in zip(moments.values(), tensors):
                    moment.add(x)
                del tensors, x
        about = _statistics(draft.path, counts, moments) | asdict(config)
        return draft.finish(inputs=inputs, about=about, made=_made(model, seconds()))


def _made(model: Model, seconds: float) -> provenance.Made:
    """The circumstances, with the speeds by which the model's number type was chosen."""
    chosen = getattr(model, "speeds", None)
    notes = {} if chosen is None else {"model_tokens_per_second": dict(chosen.tokens_per_second)}
    return provenance.made(device=str(model.device), seconds=seconds, **notes)


class Moments:
    """Sums in fp64 over the vectors of a site, in a fixed order."""

    def __init__(self, d: int):
        self.count, self.norms, self.squares = 0, 0.0, 0.0
        self.sum = torch.zeros(d, dtype=torch.float64)

    def add(self, x: Float[Tensor, "n d"]) -> None:
        for part in x.split(512):  # the fp64 copy stays in the cache
            wide = part.double()
            norms = wide.norm(dim=1)
            self.sum += wide.sum(0)
            self.norms += norms.sum().item()
            self.squares += norms.square().sum().item()
        self.count += len(x)


class _Tally:
    """Adds up what is done and tells the listener."""

    def __init__(self, total: int, progress: Progress):
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, more: int) -> None:
        self.done += more
        self.progress(self.done, self.total, "tokens")


def _both(*listeners: Tell) -> Tell:
    def tell(more: int) -> None:
        for listener in listeners:
            listener(more)

    return tell


def _clear_other(directory: Path, plan: Mapping[str, Any]) -> None:
    """Drop what an attempt with another layout or other package versions left: its bytes would not fit in with ours."""
    mark = directory / ".plan.json"
    text = codec.to_json(plan)
    if not mark.exists() or mark.read_text(encoding="utf-8") != text:
        for file in directory.iterdir():
            file.unlink()
        write_atomic(mark, text)


def _bytes(jobs: Sequence[np.ndarray], counts: np.ndarray, widths: Mapping[Site, int], config: GatherConfig) -> int:
    """Bytes of the shards of `jobs` and of the files beside them."""
    vector = sum(widths.values()) * DTYPES[config.dtype].itemsize + 8  # values, row and position
    beside = 8 * sum(widths.values()) + 4 * len(counts) + (len(jobs) + 1) * (1024 + 256 * len(widths))
    return sum(int(counts[rows].sum()) for rows in jobs) * vector + beside


def _seal(shard: Path) -> Path:
    """Side file with a shard's sha256, written after it. Being hidden, it goes when the draft is finished."""
    return shard.with_name(f".{shard.name}.sha256")


def _intact(file: Path, tell: Tell) -> dict[str, Tensor] | None:
    """The tensors of a shard that an earlier attempt completed; None where it must be made (again)."""
    seal = _seal(file)
    if not (file.exists() and seal.exists() and seal.read_text() == file_hash(file)):
        _seal(file).unlink(missing_ok=True)
        return None
    shard = safetensors.torch.load_file(file)
    tell(len(shard["row"]))
    return shard


def _compute(
    model: Model, tokens: Tokens, rows: np.ndarray, sites: Sequence[Site], config: GatherConfig, tell: Tell
) -> dict[str, Tensor]:
    """The tensors of the shard of these rows."""
    dtype = DTYPES[config.dtype]
    vectors = read_rows(model, tokens, rows, sites, batch_rows=config.batch_rows, dtype=dtype, device="cpu", tell=tell)
    row, position = np.asarray(tokens.mask[rows]).nonzero()
    places = {"row": torch.from_numpy(rows[row]).int(), "position": torch.from_numpy(position).int()}
    return {str(site): x for site, x in zip(sites, vectors)} | places


def _write(file: Path, shard: dict[str, Tensor]) -> None:
    """Write a shard, then its seal."""
    data = safetensors.torch.save(shard)
    write_atomic(file, data)
    write_atomic(_seal(file), hashlib.sha256(data).hexdigest())


def _statistics(directory: Path, counts: np.ndarray, moments: Mapping[Site, Moments]) -> dict[str, Any]:
    """Write what is known of all shards together; give what belongs in the manifest."""
    tensors = {f"mean.{site}": m.sum / m.count for site, m in moments.items()}
    write_atomic(directory / "stats.safetensors", safetensors.torch.save(tensors | {"counts": torch.from_numpy(counts).int()}))
    sites = {
        str(site): {"d": len(m.sum), "mean_norm": m.norms / m.count, "mean_square_norm": m.squares / m.count}
        for site, m in moments.items()
    }
    return {"sites": sites, "tokens": int(counts.sum()), "rows": len(counts)}
