"""Checkpoints: one safetensors file that holds all coders of a run, and what else it takes to go on bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from assay import store
from assay.codec import SCHEMAS
from assay.errors import BadInput, DamagedFile
from assay.shapes import Tensor
from assay.training.trainee import Trainee


def identity(trainees: Sequence[Trainee], data: str) -> str:
    """What a checkpoint must agree on to be continued."""
    parts = {t.name: [type(t.coder).__name__, asdict(t.coder.config), t.coder.seed] for t in trainees}
    how = {t.name: asdict(t.cfg) | {"checkpoint_seconds": None} for t in trainees}
    return store.digest({"coders": parts, "cfg": how, "data": data})


def write(path: Path, trainees: Sequence[Trainee], data: str, step: int, scales: tuple[float, float]) -> None:
    """A checkpoint after `step` steps on the source of fingerprint `data`."""
    stopped = {t.name: t.stopped for t in trainees if t.stopped}
    about = {
        "schema": SCHEMAS["checkpoint"],
        "step": step,
        "scales": scales,
        "identity": identity(trainees, data),
        "stopped": stopped,
    }
    tensors = {k: v for t in trainees for k, v in t.tensors().items()}
    store.write_atomic(path, save(tensors, metadata={"assay": json.dumps(about)}))


def read(path: Path, trainees: Sequence[Trainee], data: str) -> tuple[int, tuple[float, float]]:
    """Bring `trainees` to where a checkpoint left them; gives the steps behind it and the scales of the activations."""
    about, tensors = _opened(path, weights=True)
    if about["identity"] != identity(trainees, data):
        raise BadInput(
            f"{path} belongs to a run with other coders or settings, or on other data. Delete it to start over, or use those settings."
        )
    for trainee in trainees:
        trainee.restore(tensors)
        trainee.stopped = about["stopped"].get(trainee.name)
    return about["step"], tuple(about["scales"])


def last_step(path: Path) -> int:
    """Steps a checkpoint has behind it; 0 where there is none."""
    return int(_opened(path, weights=False)[0]["step"]) if path.exists() else 0


def _opened(path: Path, *, weights: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["assay"])
            if about["schema"] != SCHEMAS["checkpoint"]:
                raise BadInput(
                    f"{path} was written by another version of Assay. Finish it with that one, or delete it to start over."
                )
            names = file.keys() if weights else ()
            return about, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DamagedFile(f"{path} is no readable checkpoint ({error}). Delete it to start over.") from None
