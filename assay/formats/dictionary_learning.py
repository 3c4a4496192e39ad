"""dictionary_learning: saprmarks/dictionary_learning's ae.pt beside config.json; the class that config.json names decides all.

Every dict_class is read: AutoEncoder (its decoder rows made unit length, as that library's own loader does), AutoEncoderNew,
GatedAutoEncoder, AutoEncoderTopK, BatchTopKSAE, MatryoshkaBatchTopKSAE, JumpReluAutoEncoder; also of backups made during training.
Written: each architecture as the class of its kind; thresholds that TopK does not use get lost.
"""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from assay import codec
from assay.errors import BadInput, DamagedFile
from assay.formats import torch_zip
from assay.formats.base import Found, Hints, facts, home, resized, said_of, site_of
from assay.formats.files import Facts, damage, taken
from assay.formats.plain import Gate, Plain
from assay.shapes import Tensor
from assay.store import write_atomic

WEIGHTS, CONFIG = "ae.pt", "config.json"
LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "b_dec"}
BARE = {name: name for name in LINEAR}
CLASSES: dict[str, tuple[Gate, bool, dict[str, str]]] = {
    "AutoEncoder": ("relu", True, LINEAR | {"b_dec": "bias"}),
    "AutoEncoderNew": ("relu", False, LINEAR | {"b_dec": "decoder.bias"}),
    "GatedAutoEncoder": (
        "gated", True, LINEAR | {"b_enc": "gate_bias", "b_dec": "decoder_bias", "r_mag": "r_mag", "b_mag": "mag_bias"},
    ),
    "AutoEncoderTopK": ("topk", True, LINEAR),
    "BatchTopKSAE": ("batch_topk", True, LINEAR | {"threshold": "threshold"}),
    "MatryoshkaBatchTopKSAE": ("matryoshka", True, BARE | {"threshold": "threshold"}),
    "JumpReluAutoEncoder": ("jumprelu", False, BARE | {"threshold": "threshold"}),
}  # fmt: skip
"""Of each class: its gate, whether it is centred, and what its tensors are called. Those of nn.Linear are transposed."""
TRAINERS = {
    "AutoEncoder": "StandardTrainer", "AutoEncoderNew": "StandardTrainerAprilUpdate", "GatedAutoEncoder": "GatedSAETrainer",
    "AutoEncoderTopK": "TopKTrainer", "BatchTopKSAE": "BatchTopKTrainer", "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
}  # fmt: skip


def detect(path: Path) -> bool:
    return home(path, WEIGHTS, CONFIG) is not None


def read(path: Path, hints: Hints) -> Found:
    directory = home(path, WEIGHTS, CONFIG) or path
    config, weights = Facts.of(directory / CONFIG), directory / WEIGHTS
    trainer, buffer = config.part("trainer"), config.part("buffer")
    kind = trainer.word("dict_class")
    if kind not in CLASSES:
        raise BadInput(f"{config.path}: dict_class {kind[:60]!r} is not known. Read: {', '.join(CLASSES)}.")
    gate, centred, names = CLASSES[kind]
    tensors = torch_zip.read(weights)
    if isinstance(tensors, dict) and isinstance(inner := tensors.get("ae"), dict):
        tensors = inner  # a backup made during training
    if not isinstance(tensors, dict):
        raise DamagedFile(f"{weights} holds a {type(tensors).__name__}; a state dict was expected.")
    given: dict[str, Any] = dict(zip(names, taken(tensors, weights, *names.values())))
    dtype, notes = given["W_enc"].dtype, []
    with damage(weights):
        for name in ("W_enc", "W_dec") if names["W_enc"] == LINEAR["W_enc"] else ():
            given[name] = given[name].T
        if gate in ("topk", "batch_topk", "matryoshka"):
            given["k"] = _k(trainer, tensors, weights)
        if gate in ("batch_topk", "matryoshka") and float(given["threshold"]) < 0:
            given["threshold"] = torch.zeros(())
            notes.append("its threshold was never estimated (training ended too early): all positive pre-activations fire")
        if gate == "matryoshka":
            given["groups"] = _groups(taken(tensors, weights, "group_sizes")[0], given["W_dec"].shape[0])
        plain = Plain.of(weights, gate=gate, centred=centred, **given)
    trainer.check("activation_dim", plain.d_in)
    trainer.check("dict_size", plain.d_sae)
    norms = plain.W_dec.norm(dim=1)
    if kind == "AutoEncoder" and not torch.allclose(norms, torch.ones_like(norms)):
        plain = plain.with_norms(norms)
        notes.append("its decoder rows were made unit length, as the library's own loader does")
    reads, assumed = _place(trainer)
    if assumed:
        notes.append(f"site {reads} is assumed from the layer: the file does not say which part of it")
    about = facts(model=trainer.word("lm_name", None), reads=reads, context=buffer.whole("ctx_len", None))
    return Found(plain=plain, files=(config.path, weights), dtype=dtype, about=about, notes=tuple(notes))


def _k(trainer: Facts, tensors: Mapping[str, Any], path: Path) -> int:
    said, kept = trainer.whole("k", None), tensors.get("k")
    found = int(kept) if isinstance(kept, Tensor) else said
    if found is None or said not in (None, found):
        raise DamagedFile(f"{path} has k = {found}, and {trainer.path} {said}.")
    return found


def _groups(sizes: Tensor, d_sae: int) -> tuple[int, ...]:
    found = tuple(int(size) for size in sizes.tolist())
    if min(found, default=0) < 1 or sum(found) != d_sae:
        raise ValueError(f"its groups of latents do not add up to {d_sae}")
    return found


def _place(trainer: Facts) -> tuple[str | None, bool]:
    """The site that a trainer names, as `resid_post_layer_8` or a module path, or assumed from its layer."""
    said, layer = trainer.word("submodule_name", None), trainer.whole("layer", None)
    if said is not None:
        found = re.fullmatch(r"([a-z_]+)_layer_(\d+)", said)
        site = site_of(f"{found[1]}.{found[2]}" if found else said)
        return (str(site) if site else said), False
    return (f"resid_post.{layer}", True) if layer is not None and layer >= 0 else (None, False)


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    if plain.transcodes or plain.W_skip is not None or plain.norm != "none":
        raise BadInput("dictionary_learning has neither transcoders nor normalised inputs. Export to saelens or sparsify.")
    kind = _class(plain)
    _, centred, names = CLASSES[kind]
    plain, lost = plain.with_centring(centred), []
    if kind == "AutoEncoder":
        norms = plain.W_dec.norm(dim=1)
        if not torch.allclose(norms, torch.ones_like(norms)):
            lost, plain = resized(norms), plain.with_norms(norms)  # as its loader would
    tensors = plain.to(dtype)
    for name in ("W_enc", "W_dec") if names["W_enc"] == LINEAR["W_enc"] else ():
        tensors[name] = tensors[name].T.contiguous()
    state: dict[str, Tensor] = OrderedDict((theirs, tensors[ours]) for ours, theirs in names.items())
    if plain.k is not None:
        state["k"] = torch.tensor(plain.k, dtype=torch.int)
    if plain.gate == "topk":
        state["threshold"] = torch.tensor(-1.0)
    if plain.gate == "matryoshka":
        state["group_sizes"] = torch.tensor(plain.groups)
    said = said_of(about)
    site = site_of(said["reads"])
    trainer = {
        "trainer_class": TRAINERS[kind], "dict_class": kind, "activation_dim": plain.d_in, "dict_size": plain.d_sae, "k": plain.k,
        "lm_name": said["model"], "layer": site.layer if site else None,
        "submodule_name": f"{site.kind}_layer_{site.layer}" if site else said["reads"], "device": "cpu",
    }  # fmt: skip
    buffer = {"d_submodule": plain.d_in, "ctx_len": said["context"]}
    kept = {"trainer": {k: v for k, v in trainer.items() if v is not None}, "buffer": {k: v for k, v in buffer.items() if v}}
    packed = io.BytesIO()
    torch.save(state, packed)
    write_atomic(directory / WEIGHTS, packed.getvalue())
    write_atomic(directory / CONFIG, codec.to_json(kept))
    return lost


def _class(plain: Plain) -> str:
    """The class for a gate; of ReLU coders the one with the centring."""
    if plain.gate == "relu":
        return "AutoEncoder" if plain.centred else "AutoEncoderNew"
    return next(kind for kind, (gate, _, _) in CLASSES.items() if gate == plain.gate)
