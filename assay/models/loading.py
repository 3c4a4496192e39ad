"""Loading: from a short name, directory, hub id or object to an HFModel, with errors that say what is wrong with the files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
from transformers.utils.hub import cached_file

from assay.errors import BadInput, DamagedFile, MissingFile, Unavailable, UnknownName
from assay.models.hf import HFModel

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")
INDEX = "model.safetensors.index.json"
OURS = {"trust_remote_code": False}
"""Given to every call of transformers: no code that comes with a checkpoint is run, and no question is asked about it."""


def load(ref: Any, *, tokenizer: Any, dtype: Any, device: Any, accept_terms: bool) -> HFModel:
    """See `assay.models.load`."""
    if dtype != "fastest":
        return _load(ref, tokenizer, dtype, device, accept_terms)
    from assay.models.faster import speeds

    model = _load(ref, tokenizer, None, device, accept_terms)
    found = speeds(model)
    if found is not None and found.best != found.own:  # anew: what is rounded now and what was not cannot be told apart later
        model = _load(ref, tokenizer, found.best, device, accept_terms)
    model.speeds = found
    return model


def _load(ref: Any, tokenizer: Any, dtype: Any, device: Any, accept_terms: bool) -> HFModel:
    if isinstance(ref, nn.Module):
        words = {k: v for k, v in {"dtype": _dtype(dtype), "device": device}.items() if v not in (None, "auto")}
        return HFModel(ref.to(**words) if words else ref, _tokenizer(tokenizer))
    from assay.models.embedded import EMBEDDED, directory

    text = os.fspath(ref)
    path = Path(text).expanduser()
    if text in EMBEDDED:
        return _from_directory(directory(text, accept_terms=accept_terms), text, tokenizer, dtype, device)
    if isinstance(ref, Path) or path.exists() or text.startswith((".", "/", "~")) or text.count("/") > 1:
        return _from_directory(path, str(path), tokenizer, dtype, device)
    if "/" not in text:
        raise UnknownName.among("model", text, EMBEDDED, more="A hub id has a slash (org/name), a path starts with ./ or /.")
    return _from_hub(text, tokenizer, dtype, device)


def _from_directory(path: Path, name: str, tokenizer: Any, dtype: Any, device: Any) -> HFModel:
    files = checkpoint(path)
    if tokenizer is None and not any((path / f).exists() for f in TOKENIZER_FILES):
        raise MissingFile(f"{path} holds no tokenizer ({', '.join(TOKENIZER_FILES[:3])}). Put it there, or give tokenizer=….")
    with _quiet():
        model = _pretrained(path, dtype)
    return HFModel(model.to(device or "cpu"), _tokenizer(tokenizer or path), name=name, files=files)


def _from_hub(ref: str, tokenizer: Any, dtype: Any, device: Any) -> HFModel:
    with _hub_errors(ref):
        model = _pretrained(ref, dtype)
        tokenizer = _tokenizer(tokenizer or ref)
        here = Path(str(cached_file(ref, "config.json")))
    revision = getattr(model.config, "_commit_hash", None)
    return HFModel(model.to(device or "cpu"), tokenizer, name=ref, revision=revision, files=checkpoint(here.parent))


def checkpoint(path: Path) -> dict[str, Path]:
    """config.json and the weight files of a Hugging Face directory, by name. Missing, truncated and pickled ones are refused."""
    if not path.is_dir():
        if path.exists():
            raise BadInput(f"{path} is a file. Give the directory that holds config.json and model.safetensors.")
        raise MissingFile(f"{path} does not exist. Give a directory that holds config.json and model.safetensors.")
    files = {"config.json": path / "config.json"}
    if not files["config.json"].exists():
        raise MissingFile(f"{path} is no model directory: it has no config.json.")
    _json(files["config.json"])
    index = path / INDEX
    names = sorted(set(_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    for name in names:
        files[name] = path / name
        if not files[name].exists():
            pickles = ", ".join(sorted(p.name for p in path.glob("*.bin")))
            advice = (
                f" It has {pickles}, which Assay does not unpickle: convert to safetensors." if pickles else " Fetch it again."
            )
            raise MissingFile(f"{path} has no {name}.{advice}")
        try:
            with safetensors.safe_open(files[name], "pt"):  # pyright: ignore[reportGeneralTypeIssues,reportAttributeAccessIssue]
                pass
        except safetensors.SafetensorError as error:  # pyright: ignore[reportAttributeAccessIssue]
            raise DamagedFile(f"{files[name]} is truncated or damaged ({error}). Fetch or write it again.") from error
    return files


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFile(f"{path} is not JSON ({error}). Fetch or write it again.") from error


def _pretrained(where: str | Path, dtype: Any) -> Any:
    try:
        config = AutoConfig.from_pretrained(where, **OURS)
    except (ValueError, KeyError) as error:
        raise BadInput(f"transformers {transformers.__version__} cannot load {where}: {_first_line(error)}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise BadInput(f"{where} holds a {config.model_type!r} model, which is no causal language model for transformers.")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=_dtype(dtype) or "auto", use_safetensors=True, output_loading_info=True, **OURS
        )
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise DamagedFile(f"The weights in {where} do not fit its config.json: {_first_line(error)}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):  # transformers would put random numbers there
        raise DamagedFile(f"The weights in {where} lack {len(missing)} tensors of a {config.model_type}, e.g. {missing[0]}.")
    return model


def _tokenizer(what: Any) -> Any:
    """A tokenizer from a directory or hub id; an object (or None) as it is."""
    if not isinstance(what, str | Path):
        return what
    with _hub_errors(str(what)):
        return AutoTokenizer.from_pretrained(what, **OURS)


def _dtype(dtype: Any) -> Any:
    """A torch dtype from its name."""
    if dtype is None or dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UnknownName.among("dtype for a model", str(dtype), ["bfloat16", "float32", "float16", "float64"])
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar for a load from disk."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _hub_errors(ref: str) -> Iterator[None]:
    """Tell apart: no such repository, not allowed, not reachable."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    from assay.models.embedded import EMBEDDED

    known = f"Without it: a local directory with config.json, model.safetensors and tokenizer, or one of {', '.join(EMBEDDED)}."
    try:
        yield
    except OSError as error:
        if isinstance(error, (MissingFile, Unavailable)):
            raise
        causes = (error, error.__cause__, error.__context__)
        if any(isinstance(e, GatedRepoError) for e in causes):
            raise Unavailable(f"{ref} is gated: accept its terms on the hub and set HF_TOKEN. {known}") from error
        if any(isinstance(e, RepositoryNotFoundError) for e in causes):
            raise UnknownName(
                f"The hub has no model {ref!r}, or it is private and HF_TOKEN does not open it. {known}"
            ) from error
        if Path(ref).is_dir() or "safetensors" in str(error):
            raise MissingFile(f"{ref} cannot be loaded: {_first_line(error)}") from error
        raise Unavailable(
            f"{ref} is neither a local directory nor in the hub's cache, and the hub cannot be reached (no network, or HF_HUB_OFFLINE is "
            f"set). {known}"
        ) from error
