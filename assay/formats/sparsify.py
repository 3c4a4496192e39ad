"""sparsify: EleutherAI's sparsify (and its forerunner sae): cfg.json beside sae.safetensors, in a directory called after the hookpoint.

TopK coders, transcoders, and both with a skip path; W_dec has one row a latent, unlike the encoder's transposed neighbour in other
dialects. All but transcoders are centred. The model is named by config.json of the run above the directory, where it is there. Not read:
groupmax (one latent of each group), signed latents. Written: TopK coders and transcoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from assay import codec
from assay.errors import BadInput, DamagedFile
from assay.formats.base import Found, Hints, facts, home
from assay.formats.files import Facts, damage, safetensors_of, taken
from assay.formats.plain import Plain
from assay.models.base import Site
from assay.store import write_atomic

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}


def detect(path: Path) -> bool:
    return home(path, CONFIG, WEIGHTS) is not None


def read(path: Path, hints: Hints) -> Found:
    directory = home(path, CONFIG, WEIGHTS) or path
    cfg, weights = Facts.of(directory / CONFIG), directory / WEIGHTS
    if (activation := cfg.word("activation", "topk")) != "topk" or cfg.flag("signed", False):
        raise BadInput(
            f"{cfg.path}: {'signed latents' if cfg.data.get('signed') else activation[:40]} have no counterpart here."
        )
    tensors, transcodes = safetensors_of(weights), cfg.flag("transcode", False)
    given: dict[str, Any] = dict(zip(NAMES, taken(tensors, weights, *NAMES.values())))
    dtype = given["W_enc"].dtype
    with damage(weights):
        given["W_enc"] = given["W_enc"].T
        if cfg.flag("skip_connection", False):
            given["W_skip"] = taken(tensors, weights, "W_skip")[0].T
        plain = Plain.of(weights, gate="topk", k=cfg.whole("k"), centred=not transcodes, transcodes=transcodes, **given)
    cfg.check("d_in", plain.d_in)
    if (said := cfg.whole("num_latents", 0) or plain.d_in * cfg.whole("expansion_factor", 0)) not in (0, plain.d_sae):
        raise DamagedFile(f"{cfg.path}: its settings make {said} latents, but the tensors have {plain.d_sae}.")
    about, files = _about(directory, transcodes)
    notes = () if "model" in about else ("no run above the directory says which model it is for: say --model",)
    return Found(plain=plain, files=(cfg.path, weights, *files), dtype=dtype, about=about, notes=notes)


def _about(directory: Path, transcodes: bool) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Facts from the hookpoint that the directory is called after, and from the settings of the run above it."""
    directory = directory.absolute()
    names = [directory.name, directory.parent.name] if directory.name.startswith("seed") else [directory.name]
    hook = next((name for name in names if "." in name), None)
    predicts = hook if transcodes else None
    if hook and transcodes and hook.endswith(".mlp"):
        layer = hook.split(".")[-2]
        hook, predicts = (f"mlp_in.{layer}", f"mlp_out.{layer}") if layer.isdecimal() else (hook, hook)
    for above in directory.parents[:3]:
        if (run := above / "config.json").is_file():
            settings = Facts.of(run)
            if "sae" not in settings.data and "sparse_coder" not in settings.data:
                break
            found = facts(
                model=settings.word("model", None), reads=hook, predicts=predicts, context=settings.whole("ctx_len", None),
                corpus=settings.word("dataset", None),
            )  # fmt: skip
            return found, (run,)
    return facts(reads=hook, predicts=predicts), ()


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    if plain.gate != "topk" or plain.norm != "none":
        raise BadInput("sparsify has TopK coders of unchanged inputs alone. Export to saelens or dictionary_learning.")
    if plain.d_in != plain.d_out:
        raise BadInput(
            f"sparsify's transcoders are as wide at both ends; this one reads {plain.d_in} and predicts {plain.d_out}."
        )
    plain = plain.with_centring(not plain.transcodes)
    tensors = plain.to(dtype)
    kept = {theirs: tensors[ours] for ours, theirs in NAMES.items()}
    kept["encoder.weight"] = kept["encoder.weight"].T.contiguous()
    if plain.W_skip is not None:
        kept["W_skip"] = tensors["W_skip"].T.contiguous()
    norms = plain.W_dec.norm(dim=1)
    config = {
        "activation": "topk", "expansion_factor": max(1, plain.d_sae // plain.d_in), "num_latents": plain.d_sae, "k": plain.k,
        "normalize_decoder": bool(torch.allclose(norms, torch.ones_like(norms), atol=1e-3)), "multi_topk": False,
        "skip_connection": plain.W_skip is not None, "transcode": plain.transcodes, "d_in": plain.d_in,
    }  # fmt: skip
    write_atomic(directory / WEIGHTS, save(kept))
    write_atomic(directory / CONFIG, codec.to_json(config))
    site = about.get("site")
    return ["model and site: call the directory after the hookpoint" + (f" ({_hookpoint(site)})" if site else "")]


def _hookpoint(site: str) -> str:
    """The module path that a site is, as sparsify names directories."""
    parsed = Site.parse(site)
    ending = {"resid_post": "", "mlp_out": ".mlp", "attn_out": ".attn"}.get(parsed.kind)
    return f"layers.{parsed.layer}{ending}" if ending is not None else site
