"""Activations: gathering them to disk, and the sources of training batches.

Imported eagerly, unlike other rooms: `gather` is a function and a module, and only an import in this place makes the function
win whatever is imported first. Everything here needs torch anyway, and nothing needs transformers.
"""

from __future__ import annotations

from assay.activations.base import ActivationSource
from assay.activations.end_to_end import EndToEnd
from assay.activations.gather import GatherConfig, gather
from assay.activations.live import Live
from assay.activations.mixed import Mixed
from assay.activations.planted import Planted
from assay.activations.shards import Activations
from assay.activations.side_by_side import SideBySide
from assay.activations.stored import Stored
from assay.activations.tensors import Tensors

__all__ = [
    "ActivationSource", "Activations", "EndToEnd", "GatherConfig", "Live", "Mixed", "Planted", "SideBySide", "Stored", "Tensors",
    "gather",
]  # fmt: skip
