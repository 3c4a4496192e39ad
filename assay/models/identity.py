"""Identity: what tells one model from another, whatever it is called and wherever it lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from assay.shapes import Float, Tensor
from assay.store import digest, file_hash

VOLATILE = {
    "transformers_version",
    "_name_or_path",
    "dtype",
    "torch_dtype",
    "use_cache",
    "_commit_hash",
    "_attn_implementation",
}
"""Keys of a configuration that do not decide what the model computes (dtype is hashed as it was loaded)."""


def fingerprint(module: Any, dtype: torch.dtype, files: Mapping[str, Path] | None) -> str:
    """sha256 over configuration, dtype and weights, 16 hex digits; `files`: config.json and the weights, where it came from there."""
    if files is None:
        config = module.config.to_diff_dict()
        weights = {name: _tensor_hash(tensor) for name, tensor in module.state_dict().items()}
    else:
        config = json.loads(files["config.json"].read_text(encoding="utf-8"))
        weights = {name: file_hash(path) for name, path in files.items() if name != "config.json"}
    return digest({"config": _stable(config), "dtype": str(dtype), "weights": weights})[:16]


def _stable(config: Any) -> Any:
    """A configuration without its volatile keys, at any depth."""
    if isinstance(config, dict):
        return {str(k): _stable(v) for k, v in config.items() if k not in VOLATILE}
    return [_stable(v) for v in config] if isinstance(config, list | tuple) else config


def _tensor_hash(x: Float[Tensor, "*n"]) -> str:
    data = x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(f"{x.dtype} {tuple(x.shape)} ".encode() + data.tobytes()).hexdigest()
