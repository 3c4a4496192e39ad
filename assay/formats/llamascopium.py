"""llamascopium: OpenMOSS's library (once lm-saes) and Llama Scope R1, which it trained: config.json beside sae_weights.safetensors or .pt.

Coders and transcoders of ReLU, JumpReLU and TopK; crosscoders of ReLU; of cross-layer transcoders one layer at a time (`layer`): what it
writes to all layers, side by side. Scales of activations (dataset-wise) are in the file and folded in; token-wise ones are the
architecture `normalised`. Where the choice of latents is weighed by lengths of decoder rows (sparsity_include_decoder_norm), it is here.
Of batchtopk no threshold is kept: it is read with one of 0. Not read: molt, lorsa, use_glu_encoder, batch-wise scales, crosscoders of other
gates, which choose anew for each site. Written: ReLU, JumpReLU and TopK, crosscoders of ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf, nextafter, sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from assay import codec
from assay.errors import BadInput, DamagedFile
from assay.formats import torch_zip
from assay.formats.base import NO_THRESHOLD, Found, Hints, facts, home, hook_of, said_of, site_of, slice_note
from assay.formats.files import Facts, damage, safetensors_of, taken
from assay.formats.plain import Gate, Plain, cross_layer
from assay.shapes import Float, Tensor
from assay.store import write_atomic

TAKES = ("weighed", "sites")
CONFIG, MODEL, WEIGHTS = "config.json", "lm_config.json", ("sae_weights.safetensors", "sae_weights.pt")
NAMES = {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"}
OLD = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"}
"""Names until 2025, as in Llama Scope R1. Both matrices are transposed."""
THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
GATES: dict[str, Gate] = {"relu": "relu", "jumprelu": "jumprelu", "topk": "topk", "batchtopk": "batch_topk"}


def _files(path: Path) -> tuple[Path, Path] | None:
    """Configuration and weights."""
    for name in WEIGHTS:
        directory = home(path, CONFIG, name)
        if directory and path.name not in set(WEIGHTS) - {name}:
            return directory / CONFIG, directory / name
    return None


def detect(path: Path) -> bool:
    return _files(path) is not None


def read(path: Path, hints: Hints) -> Found:
    config, weights = _files(path) or (path / CONFIG, path / WEIGHTS[0])
    cfg = Facts.of(config)
    kind = cfg.word("sae_type", "sae")
    if kind not in READERS:
        raise BadInput(f"{cfg.path}: sae_type {kind[:40]!r} has no counterpart here. Read: {', '.join(READERS)}.")
    if cfg.flag("use_glu_encoder", False):
        raise BadInput(f"{cfg.path}: an encoder with a sigmoid gate (use_glu_encoder) has no counterpart here.")
    state = safetensors_of(weights) if weights.suffix == ".safetensors" else torch_zip.state_of(weights).get("sae")
    if not isinstance(state, dict):
        raise DamagedFile(f'{weights} holds no state dict under "sae".')
    dtype = taken(state, weights, "W_E" if "W_E" in state else OLD["W_enc"])[0].dtype
    plain, reads, predicts, notes = READERS[kind](cfg, state, weights, hints)
    lm = config.with_name(MODEL)
    model = Facts.of(lm).word("model_name", None) if lm.is_file() else None
    notes += () if model else (f"no {MODEL} beside it says which model it is for: say --model",)
    about = facts(model=model, reads=reads, predicts=predicts)
    files = (config, weights, lm) if lm.is_file() else (config, weights)
    return Found(plain=plain, files=files, dtype=dtype, about=about, notes=notes)


Read = tuple[Plain, str | None, str | None, tuple[str, ...]]


def _sae(cfg: Facts, state: dict[str, Any], weights: Path, hints: Hints) -> Read:
    old = "W_E" not in state
    names, hook = OLD if old else NAMES, cfg.word("hook_point_in", None)
    out = cfg.word("hook_point_out", hook)
    biased = cfg.flag("use_decoder_bias", True)
    wanted = {ours: theirs for ours, theirs in names.items() if biased or ours != "b_dec"}
    given: dict[str, Any] = dict(zip(wanted, taken(state, weights, *wanted.values())))
    with damage(weights):
        for name in ("W_enc", "W_dec") if old else ():
            given[name] = given[name].T
        if not biased:
            given["b_dec"] = torch.zeros(given["W_dec"].shape[1])
        given |= _gate(cfg, state, weights, given["W_dec"].float().norm(dim=1))
        norm = _norm(cfg, hook == out)
        plain = Plain.of(weights, centred=False, transcodes=hook != out, norm=norm, **given)
    _check_widths(cfg, plain.d_in, plain.d_sae)
    scales = _scales(cfg, state, [hook, out], hints)
    state.clear()  # so that no more than two of a coder's sizes are held while it is scaled
    given.clear()
    plain = plain if set(scales) == {1.0} else _scaled(plain, *scales)
    return plain, hook or None, out if hook != out else None, _notes(plain)


def _check_widths(cfg: Facts, d: int, d_sae: int) -> None:
    cfg.check("d_model", d)
    with damage(cfg.path):
        if round(cfg.number("expansion_factor", d_sae / d) * d) != d_sae:
            raise ValueError(f"its expansion_factor does not make the {d_sae} latents that the tensors have")


def _gate(
    cfg: Facts, state: dict[str, Any], weights: Path, norms: Float[Tensor, " d_sae"], layer: int | None = None
) -> dict[str, Any]:
    """Arguments of `Plain` that say which latents are kept. `norms`: by which pre-activations are multiplied, if so configured."""
    act, weighed = cfg.word("act_fn", "relu").lower(), cfg.flag("sparsity_include_decoder_norm", True)
    if act not in GATES:
        raise BadInput(f"{cfg.path}: act_fn {act[:40]!r} has no counterpart here. Read: {', '.join(GATES)}.")
    given: dict[str, Any] = {"gate": GATES[act]}
    if act == "jumprelu":
        name = next((name for name in THRESHOLDS if name in state), THRESHOLDS[0])
        theta = taken(state, weights, name)[0].double().exp()
        theta = theta if layer is None else theta[layer]
        given["threshold"] = theta / norms.where(norms > 0, 1.0) if weighed else theta
    if act in ("topk", "batchtopk"):
        given |= {"k": cfg.whole("top_k", 50), "weighed": weighed}
    return given | ({"threshold": torch.zeros(())} if act == "batchtopk" else {})


def _norm(cfg: Facts, alike: bool) -> str:
    norm = cfg.word("norm_activation", "dataset-wise")
    if norm == "token-wise" and alike:
        return "length"
    if norm not in ("dataset-wise", "inference"):
        raise BadInput(f"{cfg.path}: norm_activation {norm[:40]!r} has no counterpart here for coders of this kind.")
    return "none"


def _scales(cfg: Facts, state: dict[str, Any], hooks: list[str | None], hints: Hints) -> list[float]:
    """Of each place what activations are multiplied by: √d over their mean length."""
    if cfg.word("norm_activation", "dataset-wise") != "dataset-wise":
        return [1.0] * len(hooks)
    with damage(cfg.path):
        lengths = [float(state.get(f"dataset_average_activation_norm.{hook}", 0.0)) for hook in hooks]
        known = [sqrt(cfg.whole("d_model")) / length for length in lengths if 0 < length < inf]
    if len(known) == len(hooks):
        if hints.scale is not None:
            raise BadInput(f"{cfg.path}: the weights beside it say what activations were multiplied by: leave scale out.")
        return known
    if hints.scale is None:
        raise BadInput(
            f"{cfg.path}: activations were scaled in training, to a mean length of √d, by a factor that the weights do not hold. Say it as "
            "scale= or --scale: √d over their mean length."
        )
    return [1.0] * len(hooks)  # the reader's caller multiplies


def _scaled(plain: Plain, reads: float | Tensor, predicts: float | Tensor) -> Plain:
    """A coder of x · reads, which predicts y · predicts, as one of x and y. Latents keep their size."""
    by = reads[:, None] if isinstance(reads, Tensor) else reads
    return replace(plain, W_enc=plain.W_enc * by, W_dec=plain.W_dec / predicts, b_dec=plain.b_dec / predicts)


def _notes(plain: Plain) -> tuple[str, ...]:
    return (NO_THRESHOLD.format(plain.k),) if plain.gate == "batch_topk" else ()


def _crosscoder(cfg: Facts, state: dict[str, Any], weights: Path, hints: Hints) -> Read:
    if (act := cfg.word("act_fn", "relu").lower()) != "relu":
        raise BadInput(
            f"{cfg.path}: crosscoders of {act[:40]} choose latents anew for each site, which has no counterpart here."
        )
    _norm(cfg, False)
    given: dict[str, Any] = dict(zip(NAMES, taken(state, weights, *NAMES.values())))
    hooks = [hook if isinstance(hook, str) else None for hook in cfg.items("hook_points")]
    with damage(weights):
        sites, d, d_sae = given["W_enc"].shape
        if given["W_dec"].shape != (sites, d_sae, d) or given["b_dec"].shape != (sites, d) or len(hooks) != sites:
            raise DamagedFile(
                f"{weights}: W_D, b_D and the hook_points of {cfg.path.name} do not fit W_E for {sites} sites of width {d}."
            )
        given = {
            "W_enc": given["W_enc"].reshape(sites * d, d_sae), "b_enc": given["b_enc"].float().sum(0), "b_dec": given["b_dec"].reshape(-1),
            "W_dec": given["W_dec"].transpose(0, 1).reshape(d_sae, sites * d),
        }  # fmt: skip
        plain = Plain.of(weights, gate="relu", centred=False, widths=(d,) * sites, **given)
    _check_widths(cfg, d, d_sae)
    scales = torch.tensor(_scales(cfg, state, hooks, hints)).repeat_interleave(d)
    return _scaled(plain, scales, scales), ", ".join(hook or "?" for hook in hooks), "all of them", ()


def _clt(cfg: Facts, state: dict[str, Any], weights: Path, hints: Hints) -> Read:
    """One layer's encoder, and of each later layer's decoders the one that reads it."""
    W_enc, b_enc = taken(state, weights, *list(NAMES.values())[:2])
    layers = len(W_enc) if W_enc.ndim == 3 else 0
    hooks = [cfg.items(f"hook_points_{way}") for way in ("in", "out")]
    if not layers or any(len(names) != layers or not all(isinstance(name, str) for name in names) for names in hooks):
        raise DamagedFile(
            f"{weights}: W_E has shape {tuple(W_enc.shape)}, which does not fit the hook points of {cfg.path.name}."
        )
    layer = hints.layer
    if layer is None or not 0 <= layer < layers:
        raise BadInput(
            f"{weights} is a cross-layer transcoder of {layers} layers, read one at a time. Say layer=, 0 to {layers - 1}."
        )
    later = range(layer, layers)
    rows, (b_dec,) = taken(state, weights, *(f"W_D.{j}" for j in later)), taken(state, weights, f"b_D.{layer}")
    with damage(weights):
        W_dec = torch.stack([decoders[layer] for decoders in rows], dim=1)
        norms = W_dec.float().square().sum((1, 2)).sqrt()
        gate = _gate(cfg, state, weights, norms, layer)
        W_dec, b_dec = cross_layer(W_dec, b_dec)
        plain = Plain.of(
            weights, W_enc=W_enc[layer], b_enc=b_enc[layer], W_dec=W_dec, b_dec=b_dec, centred=False, transcodes=True, **gate
        )
    _check_widths(cfg, plain.d_in, plain.d_sae)
    _norm(cfg, False)
    reads, *predicts = _scales(cfg, state, [hooks[0][layer], *(hooks[1][j] for j in later)], hints)
    plain = _scaled(plain, reads, torch.tensor(predicts).repeat_interleave(plain.d_in))
    names = [str(site_of(name) or name) for name in hooks[1][layer:]]
    return plain, hooks[0][layer], ", ".join(names), (slice_note(layer, layers), *_notes(plain))


READERS = {"sae": _sae, "crosscoder": _crosscoder, "clt": _clt}


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    sites = len(plain.widths)
    if plain.W_skip is not None or plain.norm == "layer" or plain.d_in != plain.d_out or (sites and plain.gate != "relu"):
        raise BadInput(
            "llamascopium has no skip paths, no layer-normalised inputs, no transcoders between widths, and crosscoders of ReLU alone. "
            "Export to saelens."
        )
    if sites and len(set(plain.widths)) > 1:
        raise BadInput(f"llamascopium's crosscoders have sites of one width; this one's are {plain.widths}.")
    known = plain.gate in ("relu", "topk", "jumprelu")
    lost = [] if known else [f"{plain.gate} is written as jumprelu" + (": k is not kept" if plain.k else "")]
    plain = (plain if known else plain.as_jumprelu()).with_centring(False)
    tensors, d = plain.to(dtype), plain.d_in // max(1, sites)
    state = {theirs: tensors[ours] for ours, theirs in NAMES.items()}
    if sites:
        first = torch.arange(sites)[:, None] == 0  # its encoder biases are summed over sites
        state |= {
            "W_E": state["W_E"].reshape(sites, d, -1), "W_D": state["W_D"].reshape(-1, sites, d).transpose(0, 1).contiguous(),
            "b_E": state["b_E"] * first, "b_D": state["b_D"].reshape(sites, d),
        }  # fmt: skip
    if plain.gate == "jumprelu":
        state[THRESHOLDS[0]] = plain.thresholds.double().clamp_min(torch.finfo(torch.float32).tiny).log().float()
    factor = plain.d_sae / d
    while int(factor * d) < plain.d_sae:  # as it counts latents
        factor = nextafter(factor, inf)
    config = {
        "sae_type": "crosscoder" if sites else "sae", "d_model": d, "expansion_factor": factor, "use_decoder_bias": True,
        "act_fn": plain.gate, "norm_activation": "token-wise" if plain.norm == "length" else "inference",
        "sparsity_include_decoder_norm": plain.weighed or bool(sites),
    } | ({"top_k": plain.k} if plain.k else {}) | _hooks(about, plain, sites)  # fmt: skip
    write_atomic(directory / WEIGHTS[0], save(state))
    write_atomic(directory / CONFIG, codec.to_json(config))
    if model := said_of(about)["model"]:
        write_atomic(directory / MODEL, codec.to_json({"model_name": model}))
    return lost


def _hooks(about: Mapping[str, Any], plain: Plain, sites: int) -> dict[str, Any]:
    """Places as it names them; it needs a name also where nobody knows one."""
    said = said_of(about)
    reads, predicts = (hook_of(place) if place and site_of(place) else place for place in (said["reads"], said["predicts"]))
    if sites:
        read = (about.get("source") or {}).get("read") or (reads or "").split(", ")
        return {"hook_points": [hook_of(place) if site_of(place) else place for place in read] if len(read) == sites else [
            f"site_{number}" for number in range(sites)
        ]}  # fmt: skip
    reads = reads or "input"
    return {"hook_point_in": reads, "hook_point_out": (predicts or "output") if plain.transcodes else reads}
