"""saelens: SAELens' directories: cfg.json beside sae_weights.safetensors, of version 6 and of those before.

Read: standard, topk, jumprelu, gated, matching_pursuit, transcoders with and without JumpReLU and skip path; of training files also
batchtopk and matryoshka_batchtopk, which SAELens itself does not open for inference. `normalize_activations` may be layer_norm or
constant_norm_rescale (architecture `normalised`); expected_average_only_in and covariance_whitening, where they were not folded into the
weights yet, are by what lies beside a checkpoint, and a factor that nothing says is asked for (`scale`). Of abstopk, whose latents may be
negative, each is two here: what it is above 0 and, after all of these, what it is below. Written: all but abstopk, BatchTopK and
Matryoshka as jumprelu. Not read: temporal, which attends to earlier tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from assay import codec, provenance
from assay.errors import BadInput, DamagedFile
from assay.formats.base import Found, Hints, facts, home, hook_of, hub_id, resized, said_of, site_of
from assay.formats.files import Facts, damage, safetensors_of, taken
from assay.formats.plain import Gate, Plain
from assay.shapes import Tensor
from assay.store import write_atomic

TAKES = ("pursuit", "weighed")
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
LAYOUT = "6.0.0"  # of SAELens, in which files are written
GATES: dict[str, Gate] = {
    "standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated", "batchtopk": "batch_topk",
    "matryoshka_batchtopk": "matryoshka", "matching_pursuit": "matching_pursuit", "abstopk": "topk", "transcoder": "relu", "skip_transcoder": "relu", "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip
NORMS = {
    "none": "none", "layer_norm": "layer", "constant_norm_rescale": "length", "expected_average_only_in": "none",
    "covariance_whitening": "none",
}  # fmt: skip
BESIDE = ("activation_scaler.json", "activation_whitening.safetensors")
"""What a checkpoint says of how activations were normalised in training."""
OLD = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""Keys of versions before 6, and what they are called now."""


def detect(path: Path) -> bool:
    return home(path, CONFIG, WEIGHTS) is not None


def read(path: Path, hints: Hints) -> Found:
    directory = home(path, CONFIG, WEIGHTS) or path
    cfg, meta = _config(directory / CONFIG)
    architecture, weights = cfg.word("architecture"), directory / WEIGHTS
    if architecture not in GATES:
        raise BadInput(
            f"{cfg.path}: SAELens' architecture {architecture[:60]!r} has no counterpart here. Read: {', '.join(GATES)}."
        )
    tensors = safetensors_of(weights)
    given = (
        _pursuit(cfg, tensors, weights) if architecture == "matching_pursuit" else _numbers(architecture, cfg, tensors, weights)
    )
    predicts = "transcoder" in architecture
    with damage(weights):
        plain = Plain.of(
            weights, gate=GATES[architecture], transcodes=predicts, norm=_norm(cfg),
            centred=not predicts and cfg.flag("apply_b_dec_to_input", True), **given,
        )  # fmt: skip
    halves = 2 if architecture == "abstopk" else 1
    for name, found in (("d_in", plain.d_in), ("d_sae", plain.d_sae // halves), ("d_out", plain.d_out)):
        cfg.check(name, found)
    dtype = tensors["W_dec"].dtype
    tensors.clear()  # so that no more than two of a coder's sizes are held while it is scaled
    given.clear()
    weighed = cfg.flag("rescale_acts_by_decoder_norm", False) and plain.gate in ("topk", "batch_topk", "matryoshka")
    plain, beside = _raw(replace(plain, weighed=weighed), cfg, hints)
    if plain.weighed:
        plain = plain.unweighed()  # and in its latents too the lengths are
    about = facts(
        model=meta.word("model_name", None), reads=_hook(meta, "hook_name", "hf_hook_name"),
        predicts=_hook(meta, "hook_name_out", "hf_hook_name_out"), context=meta.whole("context_size", None),
        bos=meta.flag("prepend_bos", None), corpus=meta.word("dataset_path", None),
    )  # fmt: skip
    if meta.data.get("hook_head_index") is not None:
        about.pop("site", None)
    return Found(
        plain=plain, scaled=hints.scale is not None, files=(directory / CONFIG, weights, *beside), dtype=dtype, about=about,
        version=meta.word("sae_lens_version", None), notes=_notes(meta, about, architecture),
    )  # fmt: skip


def _config(path: Path) -> tuple[Facts, Facts]:
    """The configuration in the words of version 6, and its metadata, which lay among the rest before."""
    cfg = Facts.of(path)
    meta = cfg.part("metadata")
    version = cfg.word("sae_lens_version", None) or meta.word("sae_lens_version", None) or "0"
    if not version.split(".")[0].isdecimal():
        raise DamagedFile(f"{path}: sae_lens_version must read like 6.1.0, got {version[:40]!r}.")
    if int(version.split(".")[0][:9]) >= 6 and meta.data:
        return cfg, meta
    cfg = Facts(path, {OLD.get(name, name): value for name, value in cfg.data.items()})
    activation = cfg.word("activation_fn", "relu")
    if activation == "topk":
        cfg.data |= {"architecture": "topk", "k": cfg.part("activation_fn_kwargs").data.get("k")}
    elif activation != "relu":
        raise BadInput(f"{path}: the activation function {activation[:40]!r} has no counterpart here.")
    cfg.data.setdefault("architecture", "standard")
    if isinstance(scaled := cfg.data.get("normalize_activations"), bool):
        cfg.data["normalize_activations"] = "expected_average_only_in" if scaled else "none"
    if cfg.data.get("prepend_bos") is None:
        cfg.data["prepend_bos"] = True
    return cfg, Facts(path, cfg.data | meta.data)


def _norm(cfg: Facts) -> str:
    norm = cfg.word("normalize_activations", "none")
    if norm not in NORMS:
        raise BadInput(f"{cfg.path}: normalize_activations {norm[:40]!r} has no counterpart here. Read: {', '.join(NORMS)}.")
    return NORMS[norm]


def _raw(plain: Plain, cfg: Facts, hints: Hints) -> tuple[Plain, tuple[Path, ...]]:
    """The coder of activations as they are, by what a person says or a checkpoint has beside it; and the files read."""
    norm, scaler, whitening = cfg.word("normalize_activations", "none"), *(cfg.path.with_name(name) for name in BESIDE)
    if norm == "covariance_whitening":
        if not whitening.is_file():
            raise BadInput(f"{cfg.path}: activations were whitened in training, and {whitening.name} is not beside it.")
        parts = taken(safetensors_of(whitening), whitening, "mean", "matrix", "inverse_matrix")
        with damage(whitening):
            found = (plain.unweighed() if plain.weighed else plain).with_whitening(*parts)
            plain = Plain.of(whitening, **vars(found))
        return plain, (whitening,)
    said, files = hints.scale, ()
    if norm == "expected_average_only_in" and said is None:
        said = Facts.of(scaler).number("scaling_factor", None) if scaler.is_file() else None
        files = (scaler,)
        if said is None:
            raise BadInput(
                f"{cfg.path}: activations were scaled in training, to a mean length of √d, by a factor that the file does not hold. Say it as "
                "scale= or --scale: √d over their mean length. 1 reads the weights as they are, as SAELens does from disk."
            )
    return (plain if said is None else plain.with_scale(said)), files


def _numbers(architecture: str, cfg: Facts, tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """Arguments of `Plain` that come from the tensors and depend on the architecture."""
    with damage(path):
        given: dict[str, Any] = dict(zip(("W_enc", "W_dec", "b_dec"), taken(tensors, path, "W_enc", "W_dec", "b_dec")))
        if (factor := tensors.get("scaling_factor")) is not None and cfg.flag("finetuning_scaling_factor", False):
            given["W_dec"] = given["W_dec"].float() * factor.float()[:, None]
        if architecture == "gated":
            given |= dict(zip(("b_enc", "b_mag", "r_mag"), taken(tensors, path, "b_gate", "b_mag", "r_mag")))
        else:
            (given["b_enc"],) = taken(tensors, path, "b_enc")
        if "skip" in architecture:
            given["W_skip"] = taken(tensors, path, "W_skip")[0].T
        if "jumprelu" in architecture:
            old = tensors.get("log_threshold")
            given["threshold"] = taken(tensors, path, "threshold")[0] if old is None else old.float().exp()
        if "batchtopk" in architecture:
            (given["threshold"],) = taken(tensors, path, "topk_threshold")
            given["k"] = max(1, round(cfg.number("k")))
        if architecture == "matryoshka_batchtopk":
            given["groups"] = _groups(cfg, given["W_dec"].shape[0])
        if architecture in ("topk", "abstopk"):
            given["k"] = cfg.whole("k")
        if architecture == "abstopk":  # the largest k of ±pre are those of |pre|, each with its sign
            given |= {
                "b_enc": torch.cat([given["b_enc"], -given["b_enc"]]),
                "W_dec": torch.cat([given["W_dec"], -given["W_dec"]]),
            }
            given["W_enc"] = torch.cat([given["W_enc"], -given["W_enc"]], dim=1)
    return given


def _pursuit(cfg: Facts, tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """Arguments of `Plain` for a matching pursuit: one dictionary, and when to stop."""
    W_dec, b_dec = taken(tensors, path, "W_dec", "b_dec")
    most = cfg.whole("max_iterations", None)
    with damage(path):
        return {
            "W_enc": W_dec.T, "W_dec": W_dec, "b_enc": torch.zeros(len(W_dec)), "k": W_dec.shape[1] if most is None else most,
            "b_dec": b_dec if cfg.flag("apply_b_dec_to_input", True) else torch.zeros_like(b_dec),
            "residual": max(0.0, float(cfg.number("residual_threshold", 1e-2))),
            "repeats": not cfg.flag("stop_on_duplicate_support", True),
        }  # fmt: skip


def _groups(cfg: Facts, d_sae: int) -> tuple[int, ...]:
    """Sizes of the groups between the widths of a matryoshka; the whole is one of them, said or not."""
    widths = cfg.items("matryoshka_widths")
    if not all(type(w) is int and 0 < w <= d_sae for w in widths) or widths != sorted(set(widths)):
        raise DamagedFile(f"{cfg.path}: matryoshka_widths must be rising whole numbers up to {d_sae}.")
    lengths = [w for w in widths if w < d_sae] + [d_sae]
    return tuple(b - a for a, b in zip([0, *lengths], lengths))


def _hook(meta: Facts, *names: str) -> str | None:
    """The first of several names of a place that is a site of ours, or else the first there is."""
    said = [word for name in names if (word := meta.word(name, None))]
    return next((word for word in said if site_of(word)), said[0] if said else None)


def _notes(meta: Facts, about: Mapping[str, Any], architecture: str) -> tuple[str, ...]:
    notes = []
    if architecture == "abstopk":
        notes.append(
            "its latents may be negative: each is two here, what it is above 0, and after all of these what it is below"
        )
    if (head := meta.data.get("hook_head_index")) is not None:
        notes.append(f"it reads head {head!r:.40} of {about['said'].get('reads')} alone, which is no site here")
    elif (hook := about["said"].get("reads")) and "site" not in about and "predicts" not in about["said"]:
        notes.append(f"{hook} is no site here: say --site where one is needed")
    if meta.data.get("model_from_pretrained_kwargs"):
        notes.append(f"it was trained on a model loaded with {meta.data['model_from_pretrained_kwargs']!r:.200}")
    return tuple(notes)


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    lost = []
    if plain.gate in ("batch_topk", "matryoshka"):
        lost.append(f"{plain.gate} is written as jumprelu, as SAELens does: k is not kept")
        plain = plain.as_jumprelu()
    if plain.weighed:  # its own way with these makes latents of other sizes too: rescale_acts_by_decoder_norm
        lost, plain = [*lost, *resized(plain.W_dec.norm(dim=1))], plain.unweighed()
    if plain.transcodes or plain.W_skip is not None:
        plain = (plain if plain.gate in ("relu", "jumprelu") else plain.as_jumprelu()).with_centring(False)
        parts = ("jumprelu" if plain.gate == "jumprelu" else "", "skip" if plain.W_skip is not None else "", "transcoder")
        architecture = "_".join(filter(None, parts))
    else:
        architecture = next(name for name, gate in GATES.items() if gate == plain.gate)
    tensors = plain.to(dtype)
    if plain.gate == "matching_pursuit":
        tensors = {name: tensors[name] for name in ("W_dec", "b_dec")}
        lost += [f"tolerance {plain.tolerance:g}: its steps go on to the smallest positive share"] if plain.tolerance else []
    if plain.gate == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
    if plain.W_skip is not None:
        tensors["W_skip"] = tensors["W_skip"].T.contiguous()
    said = said_of(about)
    if said["bos"] is None and (about.get("packing") or about.get("text") or {}).get("bos") == "auto":
        lost.append("whether rows start with BOS: they did as the tokenizer does it (bos=auto), which was not written down")
    metadata = {
        "sae_lens_version": LAYOUT, "sae_lens_training_version": None, "written_by": f"assay {provenance.package_version()}",
        "model_name": hub_id(said["model"]) if said["model"] else None, "hook_name": _hook_of(said["reads"]),
        "hook_head_index": None, "dataset_path": said["corpus"], "context_size": said["context"],
        "prepend_bos": said["bos"],
    } | ({"hook_name_out": _hook_of(said["predicts"])} if plain.transcodes else {})  # fmt: skip
    config = {
        "architecture": architecture, "d_in": plain.d_in, "d_sae": plain.d_sae, "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu", "apply_b_dec_to_input": plain.centred, "reshape_activations": "none",
        "normalize_activations": next(name for name, norm in NORMS.items() if norm == plain.norm),
        "metadata": {name: value for name, value in metadata.items() if value is not None or name == "sae_lens_training_version"},
    }  # fmt: skip
    config |= {"d_out": plain.d_out} if plain.transcodes or plain.W_skip is not None else {}
    config |= {"k": plain.k, "rescale_acts_by_decoder_norm": False} if plain.gate == "topk" else {}
    if plain.gate == "matching_pursuit":
        config |= {
            "max_iterations": plain.k,
            "residual_threshold": plain.residual,
            "stop_on_duplicate_support": not plain.repeats,
        }
    write_atomic(directory / WEIGHTS, save(tensors))
    write_atomic(directory / CONFIG, codec.to_json(config))
    return lost


def _hook_of(place: str | None) -> str | None:
    return hook_of(place) if place and site_of(place) else place
