"""GGUF to a Hugging Face directory of bf16 safetensors, once: parsing GGUF takes 15 to 40 s, loading the result under 3 s."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from assay import assets, codec, store
from assay.errors import DamagedFile


def converted(name: str, sha256: str) -> Path:
    """Where the conversion of the GGUF file with this hash is or would be."""
    return assets.cache_dir() / "models" / f"{name}-{sha256[:16]}"


def convert(gguf: Path, home: Path, about: Mapping[str, Any]) -> Path:
    """Make `home`, a directory that `from_pretrained` loads: bf16 weights, tokenizer, and `about` as `assay.json`.

    4-bit weights are multiplied out and rounded to bf16; they are not the weights from before the quantisation.
    """
    sha256 = store.file_hash(gguf)
    facts = {**about, "gguf": gguf.name, "sha256": sha256, "dtype": "bfloat16"}

    def make(part: Path) -> dict[str, Any]:
        _save(gguf, part)
        store.write_atomic(part / "assay.json", codec.to_json(facts))
        return facts

    return assets.once(home, make, inputs={gguf.name: sha256})


def _save(gguf: Path, into: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(**where)
            model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
        except (ValueError, KeyError) as error:
            raise DamagedFile(f"transformers cannot read {gguf} ({error}). Expected a GGUF language model it knows.") from error
        # transformers marks whatever came from GGUF as quantised, and refuses to save it, though these are plain tensors now
        for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
            vars(model).pop(mark, None)
        vars(model.config).pop("quantization_config", None)
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and warnings from transformers; its settings are as before afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the GGUF reader's bar obeys no setting
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
