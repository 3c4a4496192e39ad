"""Language models with readable and editable sites. Importing this package imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    import transformers

    from assay.models.base import Edit, Model, Run, Site, Where
    from assay.models.hf import HFModel

__all__ = ["Edit", "HFModel", "Model", "Run", "Site", "Where", "load"]


def load(
    ref: str | Path | transformers.PreTrainedModel,
    *,
    tokenizer: Any = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    accept_terms: bool = False,
) -> HFModel:
    """A model by embedded short name ("smollm2"), local directory, hub id ("org/name"), or one that is in memory already.

    `dtype` defaults to what the checkpoint says; "float32" and the like override it, and "fastest" is what runs clearly fastest here
    of the checkpoint's, float32 and bfloat16: measured, a second or so, and then kept in the cache. `device` defaults to the CPU, or to where an
    in-memory model is. `tokenizer`: an object, a directory or a hub id, where the model brings none. Only safetensors are read and
    no code that comes with a checkpoint is run. Raises UnknownName, MissingFile, DamagedFile, Unavailable or BadInput.
    """
    from assay.models import loading

    return loading.load(ref, tokenizer=tokenizer, dtype=dtype, device=device, accept_terms=accept_terms)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "HFModel":
        from assay.models.hf import HFModel

        return HFModel
    from assay.models import base

    return getattr(base, name)
