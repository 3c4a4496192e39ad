"""circuit_tracer: a harvest as feature files of circuit-tracer, which show latents beside attribution graphs (serve: features_dir).

    index.json.gz       {"10": {"filename": "layer_10.bin", "offsets": [0, 812, …]}}: one offset more than latents
    layer_10.bin        for each latent its size (uint32, little-endian) and that many bytes of gzipped JSON: read by byte range

Coders of several layers may be written into one directory, one after another. `quantile_values` are the activations at QUANTILES of the active
tokens and `histogram` counts them in 50 equal bars from act_min to act_max: circuit-tracer's page shows neither, and nobody says what they are.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from assay.dashboards import shown
from assay.errors import BadInput, DamagedFile, MissingFile
from assay.features import Example, Features, Latent
from assay.models.pieces import Pieces
from assay.progress import Progress, silent
from assay.store import disk_errors, write_atomic

INDEX = "index.json.gz"
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
LARGEST = 2**26
"""Bytes of one latent's JSON, and of the index, that are read."""


def write(features: Features, pieces: Pieces, directory: Path, progress: Progress = silent) -> Path:
    """The file of this coder's layer, beside those that are there."""
    layer = str(shown.site(features).layer)
    index = _index(directory) if (directory / INDEX).exists() else {}
    if layer in index:
        raise BadInput(
            f"{directory} has layer {layer} already. Give --output a new directory, for layers stand for one coder each."
        )
    path, offsets = directory / f"layer_{layer}.bin", [0]
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                for i in range(features.d_sae):
                    packed = gzip.compress(json.dumps(feature(features, pieces, i), allow_nan=False).encode(), 6, mtime=0)
                    offsets.append(offsets[-1] + file.write(struct.pack("<I", len(packed)) + packed))
                    if i % 256 == 255 or i == features.d_sae - 1:
                        progress(i + 1, features.d_sae, "latents")
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    index[layer] = {"filename": path.name, "offsets": offsets}
    write_atomic(directory / INDEX, gzip.compress(json.dumps(index).encode(), 6, mtime=0))
    return path


def feature(features: Features, pieces: Pieces, i: int) -> dict[str, Any]:
    """What circuit-tracer knows of a latent."""
    row = features.latent(i)
    heights, edges = shown.bars(features, row)
    upto = np.cumsum([0, *heights])
    quantiles = np.interp(np.array(QUANTILES) * upto[-1], upto, edges) if len(edges) else np.zeros(0)
    words = shown.logits(pieces, row)
    return {
        "transcoder_id": features.coder, "index": i, "examples_quantiles": list(_groups(features, pieces, row)), "top_logits": words["pos_str"],
        "bottom_logits": words["neg_str"], "act_min": 0.0, "act_max": shown.number(row.max, 9) or 0.0, "quantile_values": shown.numbers(quantiles),
        "histogram": heights, "activation_frequency": row.density,
    }  # fmt: skip


def _groups(features: Features, pieces: Pieces, row: Latent) -> Iterator[dict[str, Any]]:
    """The strongest examples, then intervals from the strongest."""
    examples = features.examples(row.latent)
    kinds: list[tuple[str, str, int | None]] = [("Top activations", "top", None)]
    for j in reversed(range(len(row.interval_counts))):
        share = row.interval_counts[j] / max(1, row.interval_counts.sum())
        low, high = row.interval_edges[j : j + 2]
        kinds.append((f"Interval {low:.3g} to {high:.3g}: {share:.2%} of active tokens", "interval", j))
    for name, group, j in kinds:
        found = [_example(features, pieces, e) for e in examples if e.group == group and e.interval == j]
        if found:
            yield {"quantile_name": name, "examples": found}


def _example(features: Features, pieces: Pieces, one: Example) -> dict[str, Any]:
    tokens, values = shown.text(features, pieces, one)
    place = one.position - one.start
    return {"tokens": tokens, "tokens_acts_list": values, "train_token_ind": place, "is_repeated_datapoint": False}


def read(directory: Path, layer: int, latent: int) -> dict[str, Any]:
    """What such files say of one latent; only its bytes are read."""
    index = _index(directory)
    if str(layer) not in index:
        raise BadInput(f"{directory} has layers {', '.join(index) or 'none'}; got {layer}.")
    said, where = index[str(layer)], f"{directory / INDEX}, layer {layer}"
    offsets, name = (said.get("offsets"), said.get("filename")) if isinstance(said, dict) else (None, None)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+\.bin", name) or not isinstance(offsets, list):
        raise DamagedFile(f"{where}: expected a filename NAME.bin and offsets.")
    if not 0 <= latent < len(offsets) - 1:
        raise BadInput(f"Layer {layer} has latents 0 to {len(offsets) - 2}, got {latent}.")
    start, stop = offsets[latent : latent + 2]
    if not (isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop - 4 and stop - start <= LARGEST):
        raise DamagedFile(f"{where}: latent {latent} lies from {start} to {stop}, which is no place for it.")
    if not (directory / name).is_file():
        raise MissingFile(f"{directory / name} is missing.")
    with (directory / name).open("rb") as file:
        file.seek(start)
        raw = file.read(stop - start)
    size = struct.unpack("<I", raw[:4])[0] if len(raw) == stop - start else -1
    if not 0 <= size <= len(raw) - 4:
        raise DamagedFile(f"{directory / name}: latent {latent} is cut short.")
    return _json(raw[4 : 4 + size], f"{directory / name}, latent {latent}")


def _index(directory: Path) -> dict[str, Any]:
    path = directory / INDEX
    if not path.is_file():
        raise MissingFile(f"{path} is missing: {directory} holds no feature files.")
    with path.open("rb") as file:
        return _json(file.read(LARGEST), str(path))


def _json(packed: bytes, where: str) -> dict[str, Any]:
    try:
        unpack = zlib.decompressobj(wbits=31)
        text = unpack.decompress(packed, LARGEST)
        found = json.loads(text) if unpack.eof else None
    except (zlib.error, ValueError, RecursionError) as error:
        raise DamagedFile(f"{where} is damaged ({error}).") from None
    if not isinstance(found, dict):
        raise DamagedFile(f"{where} is damaged: expected at most {LARGEST} bytes of a JSON object.")
    return found
