"""The files of passes: one a chunk, each with the sha256 of its own tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from assay.errors import DamagedFile
from assay.shapes import Tensor
from assay.store import write_atomic

MEND = "Delete {} and run the same command again."


def chunk_name(i: int) -> str:
    return f"{i:05d}.safetensors"


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    whole = {k: v.contiguous() for k, v in tensors.items()}
    write_atomic(path, safetensors.torch.save(whole, metadata={"sha256": _seal(whole)}))


def load(path: Path) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        said = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["sha256"]
        if said != _seal(tensors):
            raise DamagedFile(f"{path} does not match the sha256 it carries: it was altered. {MEND.format(path.parent)}")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DamagedFile(f"{path} is truncated, altered or gone ({error}). {MEND.format(path.parent)}") from None
    return tensors


def _seal(tensors: Mapping[str, Tensor]) -> str:
    parts = [name.encode() + tensors[name].cpu().view(torch.uint8).numpy().tobytes() for name in sorted(tensors)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def verify(directory: Path) -> None:
    """Compare every file of a pass with the sha256 that it carries."""
    for path in sorted(directory.glob("[0-9]*.safetensors")):
        load(path)
