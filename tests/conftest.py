"""Small by design: one thread, no hub, a private cache for whatever a test fetches."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from assay.store import Store

torch.set_num_threads(1)
if not torch.cuda.is_available():  # Triton's kernels then run in its interpreter; it looks once, when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")
