"""Files of coders as the libraries of their formats write them, and what those libraries make of ours. Run where they are installed:

    python -m venv peers && peers/bin/pip install torch==2.13.0 && peers/bin/pip install sae-lens==6.54.12 eai-sparsify==1.3.3
    peers/bin/pip install --no-deps dictionary-learning==0.1.0
    peers/bin/python tests/equivalence/freeze_formats.py                    write tests/equivalence/frozen_formats.json
    peers/bin/python tests/equivalence/freeze_formats.py DIRECTORY          open all DIRECTORY/FORMAT/CASE, print their codes of x

A frozen case holds the configuration and tensors of the files, the input, and the library's own latents and reconstructions.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
D_IN, D_OUT, D_SAE, N, K = 6, 5, 16, 8, 3
for missing in ("nnsight", "zstandard"):  # imported by dictionary_learning for what is not used here
    sys.modules.setdefault(missing, types.ModuleType(missing)).__spec__ = ModuleSpec(missing, None)
sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]


def inputs() -> Tensor:
    return torch.randn(N, D_IN, generator=torch.Generator().manual_seed(1)) + 0.3


@torch.no_grad()
def randomise(module: torch.nn.Module, *, unit: str = "", seed: int = 0) -> None:
    """Numbers of a coder that is neither fresh nor symmetric; `unit` names the matrix whose rows (or columns) are made unit length."""
    random = torch.Generator().manual_seed(seed)
    for name, p in sorted(module.named_parameters()):
        drawn = torch.randn(p.shape, generator=random) * (0.5 if p.ndim == 2 else 0.2)
        p.copy_(drawn.abs() if "threshold" in name else drawn)
        if name == unit:
            p.div_(p.norm(dim=0 if "decoder" in name else 1, keepdim=True))


# --- SAELens -------------------------------------------------------------------------------------------------------------------

META = {"model_name": "pythia-70m-deduped", "hook_name": "blocks.3.hook_resid_post", "context_size": 128, "prepend_bos": True}


def sae_lens(architecture: str, *, training: bool = False, dtype: str = "float32", **settings: Any) -> Callable[[Path], None]:
    """Writes a coder of an architecture: an inference file, or the checkpoint that training leaves."""

    def write(directory: Path) -> None:
        from sae_lens.registry import get_sae_class, get_sae_training_class
        from sae_lens.saes.sae import SAEMetadata

        cls, config = (get_sae_training_class if training else get_sae_class)(architecture)
        meta = SAEMetadata(**META | ({"hook_name_out": "blocks.3.hook_mlp_out"} if "transcoder" in architecture else {}))
        sae = cls(config(d_in=D_IN, d_sae=D_SAE, metadata=meta, **settings))
        randomise(sae)
        if training:
            sae.topk_threshold.fill_(0.4)
        sae.to(dtype=getattr(torch, dtype)).save_model(directory)
        if training:  # which the library opens only as the inference form that it makes of it
            sae.save_inference_model(directory / "inference")

    return write


def before_version_6(directory: Path) -> None:
    """A file as SAELens 3 wrote it: the metadata among the rest, TopK as an activation function."""
    sae_lens("topk", k=K)(directory)
    cfg = {
        "model_name": "gpt2-small", "hook_name": "blocks.8.hook_resid_pre", "hook_layer": 8, "d_in": D_IN, "d_sae": D_SAE,
        "dtype": "torch.float32", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "normalize_activations": False,
        "context_size": 64, "finetuning_scaling_factor": False, "sae_lens_training_version": "3.9.0",
    }  # fmt: skip
    (directory / "cfg.json").write_text(json.dumps(cfg))


def open_sae_lens(directory: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    from sae_lens.saes.sae import SAE

    sae = SAE.load_from_disk(directory / "inference" if (directory / "inference").exists() else directory, dtype="float32")
    return sae.encode(x), sae(x)


# --- dictionary_learning -------------------------------------------------------------------------------------------------------


def dictionary_learning(trainer: str, unit: str = "decoder.weight", **settings: Any) -> Callable[[Path], None]:
    """Writes what a trainer does at the end of a run, with its own configuration."""

    def write(directory: Path) -> None:
        from dictionary_learning import trainers
        from dictionary_learning.trainers import matryoshka_batch_top_k

        place = {
            "layer": 4,
            "lm_name": "EleutherAI/pythia-70m-deduped",
            "submodule_name": "resid_post_layer_4",
            "device": "cpu",
        }
        cls = getattr(trainers, trainer, None) or getattr(matryoshka_batch_top_k, trainer)
        made = cls(activation_dim=D_IN, dict_size=D_SAE, steps=30_000, **place, **settings)
        randomise(made.ae, unit=unit)
        if "threshold" in dict(made.ae.named_buffers()):
            made.ae.threshold.fill_(0.4)
        directory.mkdir(parents=True, exist_ok=True)
        torch.save(made.ae.state_dict(), directory / "ae.pt")
        buffer = {"d_submodule": D_IN, "io": "out", "n_ctxs": 30000, "ctx_len": 128}
        config = {"trainer": made.config, "buffer": buffer}
        (directory / "config.json").write_text(json.dumps(config, default=str))

    return write


def open_dictionary_learning(directory: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    from dictionary_learning.utils import load_dictionary

    with contextlib.redirect_stdout(sys.stderr):
        ae = load_dictionary(str(directory), "cpu")[0]
    z = ae.encode(x)
    return z, ae.decode(z)


# --- sparsify ------------------------------------------------------------------------------------------------------------------


def sparsify(dtype: torch.dtype = torch.float32, **settings: Any) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        coder = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K, **settings))
        randomise(coder, unit="" if settings.get("transcode") else "W_dec")
        coder.to(dtype).save_to_disk(directory)

    return write


def open_sparsify(directory: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    from sparsify import SparseCoder

    coder = SparseCoder.load_from_disk(directory).float()
    acts, chosen, _ = coder.encode(x)
    z = torch.zeros(len(x), coder.num_latents).scatter(-1, chosen, acts)
    return z, z @ coder.W_dec + coder.b_dec + (0 if coder.W_skip is None else x @ coder.W_skip.T)


# -------------------------------------------------------------------------------------------------------------------------------

CASES: dict[str, dict[str, Callable[[Path], None]]] = {
    "saelens": {
        "standard": sae_lens("standard"),
        "standard_uncentred": sae_lens("standard", apply_b_dec_to_input=False),
        "standard_layer_norm": sae_lens("standard", normalize_activations="layer_norm"),
        "topk": sae_lens("topk", k=K),
        "topk_uncentred": sae_lens("topk", k=K, apply_b_dec_to_input=False),
        "topk_rescaled": sae_lens("topk", k=K, rescale_acts_by_decoder_norm=True),
        "topk_constant_norm": sae_lens("topk", k=K, normalize_activations="constant_norm_rescale"),
        "topk_before_6": before_version_6,
        "jumprelu": sae_lens("jumprelu"),
        "jumprelu_bfloat16": sae_lens("jumprelu", dtype="bfloat16"),
        "gated": sae_lens("gated"),
        "gated_uncentred": sae_lens("gated", apply_b_dec_to_input=False),
        "batchtopk_checkpoint": sae_lens("batchtopk", training=True, k=K),
        "batchtopk_checkpoint_plain": sae_lens("batchtopk", training=True, k=K, rescale_acts_by_decoder_norm=False),
        "matryoshka_checkpoint": sae_lens("matryoshka_batchtopk", training=True, k=K, matryoshka_widths=[4, 8, D_SAE]),
        **{
            name: sae_lens(name, d_out=D_OUT, apply_b_dec_to_input=False)
            for name in ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
        },
    },
    "dictionary_learning": {
        "AutoEncoder": dictionary_learning("StandardTrainer"),
        "AutoEncoder_free": dictionary_learning("StandardTrainer", unit=""),
        "AutoEncoder_p_anneal": dictionary_learning("PAnnealTrainer"),
        "GatedAutoEncoder": dictionary_learning("GatedSAETrainer"),
        "AutoEncoderTopK": dictionary_learning("TopKTrainer", k=K),
        "BatchTopKSAE": dictionary_learning("BatchTopKTrainer", k=K),
        "MatryoshkaBatchTopKSAE": dictionary_learning("MatryoshkaBatchTopKTrainer", "W_dec", k=K, group_fractions=[0.25, 0.25, 0.5]),
        "JumpReluAutoEncoder": dictionary_learning("JumpReluTrainer", "W_dec"),
    },
    "sparsify": {
        "topk": sparsify(),
        "topk_bfloat16": sparsify(torch.bfloat16),
        "transcoder": sparsify(transcode=True),
        "skip": sparsify(skip_connection=True),
        "skip_transcoder": sparsify(transcode=True, skip_connection=True),
    },
}  # fmt: skip
OPEN = {"saelens": open_sae_lens, "dictionary_learning": open_dictionary_learning, "sparsify": open_sparsify}
FILES = {
    "saelens": ("cfg.json", "sae_weights.safetensors"), "dictionary_learning": ("config.json", "ae.pt"),
    "sparsify": ("cfg.json", "sae.safetensors"),
}  # fmt: skip


@torch.no_grad()
def case(name: str, kind: str) -> dict[str, Any]:
    """A coder written by its library, as numbers, and what the library makes of the input with it."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "coder"
        CASES[name][kind](directory)
        config, weights = (directory / file for file in FILES[name])
        tensors = torch.load(weights) if weights.suffix == ".pt" else load_file(weights)
        z, x_hat = OPEN[name](directory, inputs())
        return {
            "config": json.loads(config.read_text()), "z": z.tolist(), "x_hat": x_hat.tolist(),
            "tensors": {k: {"dtype": str(v.dtype).removeprefix("torch."), "values": v.tolist()} for k, v in tensors.items()},
        }  # fmt: skip


def rounded(value: Any) -> Any:
    """Nine digits: as many as tell float32 numbers apart."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    if words:
        found = {}
        for directory in sorted(Path(words[0]).glob("*/*")):
            with torch.no_grad():
                z, x_hat = OPEN[directory.parent.name](directory, inputs())
            found[f"{directory.parent.name}/{directory.name}"] = {"z": z.tolist(), "x_hat": x_hat.tolist()}
        sys.stdout.write(json.dumps(found) + "\n")
        return
    frozen = {name: {kind: case(name, kind) for kind in kinds} for name, kinds in CASES.items()}
    lines = [f"{json.dumps(f'{a}/{b}')}: {json.dumps(rounded(value))}" for a, of in frozen.items() for b, value in of.items()]
    body = ",\n".join(lines)
    text = f'{{"x": {json.dumps(rounded(inputs().tolist()))},\n{body}}}\n'
    (HERE / "frozen_formats.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
