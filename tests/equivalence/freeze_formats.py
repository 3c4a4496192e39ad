"""Files of coders as the libraries of their formats write them, and what those libraries make of ours. Run where they are installed:

    python -m venv peers && peers/bin/pip install torch==2.13.0 && peers/bin/pip install sae-lens==6.54.12 eai-sparsify==1.3.3
    peers/bin/pip install --no-deps dictionary-learning==0.1.0 llamascopium==2.0.0b34 circuit-tracer==0.5.0 e2e-sae==2.1.1
    peers/bin/python tests/equivalence/freeze_formats.py                    write tests/equivalence/frozen_formats.json
    peers/bin/python tests/equivalence/freeze_formats.py DIRECTORY          open all DIRECTORY/FORMAT/CASE, print their codes of x

A frozen case holds the configuration and tensors of the files, the input, and the library's own latents and reconstructions. Of cross-layer
transcoders the input of each layer is the same, and latents and predictions are those of all layers.
"""

from __future__ import annotations

import contextlib
import importlib.util
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
for package in ("llamascopium", "e2e_sae", "e2e_sae.models"):  # the rest of these needs databases and plots
    if spec := importlib.util.find_spec(package):
        sys.modules[package] = importlib.util.module_from_spec(spec)


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


def unfolded(architecture: str, **settings: Any) -> Callable[[Path], None]:
    """Writes a checkpoint whose weights are of normalised activations, what normalised them, and its folded form."""

    def write(directory: Path) -> None:
        from sae_lens.registry import get_sae_training_class
        from sae_lens.saes.sae import SAEMetadata
        from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening

        cls, config = get_sae_training_class(architecture)
        sae = cls(config(d_in=D_IN, d_sae=D_SAE, metadata=SAEMetadata(**META), **settings))
        randomise(sae)
        if architecture == "batchtopk":
            sae.topk_threshold.fill_(0.4)
        sae.save_model(directory)
        if sae.cfg.normalize_activations == "covariance_whitening":
            matrix = torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(3)).double() + 2 * torch.eye(D_IN)
            whitening = ActivationWhitening(torch.linspace(-1, 1, D_IN).double(), matrix, matrix.inverse())
            ActivationScaler(whitening=whitening).save(str(directory / "activation_scaler.json"))
            sae.fold_activation_whitening(whitening.mean, whitening.matrix, whitening.inverse_matrix)
        else:
            ActivationScaler(scaling_factor=0.7).save(str(directory / "activation_scaler.json"))
            sae.fold_activation_norm_scaling_factor(0.7)
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


# --- llamascopium --------------------------------------------------------------------------------------------------------------

IN, OUT = "blocks.3.hook_resid_mid", "blocks.3.hook_mlp_out"


def llamascopium(*hooks: str, kind: str = "sae", lengths: float | None = None, **settings: Any) -> Callable[[Path], None]:
    """Writes a dictionary of a kind. `lengths`: mean length of activations at the first place; those of the others are larger."""

    def write(directory: Path) -> None:
        from llamascopium.models import clt, crosscoder, sae

        config, cls = {
            "sae": (sae.SAEConfig, sae.SparseAutoEncoder), "crosscoder": (crosscoder.CrosscoderConfig, crosscoder.Crosscoder),
            "clt": (clt.CLTConfig, clt.CrossLayerTranscoder),
        }[kind]  # fmt: skip
        d = D_IN // len(hooks) if kind == "crosscoder" else D_IN
        places = {
            "sae": {"hook_point_in": hooks[0], "hook_point_out": hooks[-1]}, "crosscoder": {"hook_points": list(hooks)},
            "clt": {f"hook_points_{way}": [f"{hook}.{way}" for hook in hooks] for way in ("in", "out")},
        }[kind]  # fmt: skip
        said = {"norm_activation": "inference"} | settings
        model = cls(config(sae_type=kind, d_model=d, expansion_factor=D_SAE / d, **places, **said))
        randomise(model)
        if lengths:
            model.set_dataset_average_activation_norm(
                {hook: lengths * (1 + i / 4) for i, hook in enumerate(model.cfg.associated_hook_points)}
            )
        model.save_pretrained(directory)
        model.cfg.save_hyperparameters(directory)
        (directory / "lm_config.json").write_text(json.dumps({"model_name": "meta-llama/Llama-3.1-8B"}))

    return write


def open_llamascopium(directory: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    from llamascopium.models import clt, crosscoder, sae  # noqa: F401, which register themselves
    from llamascopium.models.sparse_dictionary import SparseDictionary

    model = SparseDictionary.from_local(str(directory))
    cfg, kind = model.cfg, model.cfg.sae_type
    if kind == "sae":
        z = model.encode(x * model.compute_norm_factor(x, cfg.hook_point_in))
        return z, model.decode(z) / model.compute_norm_factor(x, cfg.hook_point_out)
    parts = x.reshape(len(x), cfg.n_heads, -1) if kind == "crosscoder" else x[:, None].repeat(1, cfg.n_layers, 1)
    scaled = torch.stack([parts[:, i] * model.compute_norm_factor(parts[:, i], hook) for i, hook in enumerate(cfg.hooks_in)], 1)
    z = model.encode(scaled)
    y = model.decode(z) if kind == "crosscoder" else model.decode(z, batch_first=True)
    y = torch.stack([y[:, i] / model.compute_norm_factor(y[:, i], hook) for i, hook in enumerate(cfg.hooks_out)], 1)
    return (z[:, 0], y.flatten(1)) if kind == "crosscoder" else (z.transpose(0, 1), y.transpose(0, 1))


# --- circuit-tracer ------------------------------------------------------------------------------------------------------------

LINES = 'model_name: "google/gemma-2-2b"\nfeature_input_hook: "mlp.hook_in"\nfeature_output_hook: "hook_mlp_out"\n'


def circuit_tracer(*, threshold: bool, skip: bool) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        from circuit_tracer.transcoder.activation_functions import JumpReLU
        from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder

        gate = JumpReLU(torch.zeros(D_SAE)) if threshold else torch.nn.functional.relu
        coder = SingleLayerTranscoder(
            D_IN, D_SAE, gate, 3, skip_connection=skip, dtype=torch.float32, device=torch.device("cpu")
        )
        randomise(coder)
        directory.mkdir(parents=True)
        coder.to_safetensors(str(directory / "layer_3.safetensors"))
        (directory / "config.yaml").write_text(LINES)

    return write


def open_circuit_tracer(directory: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder

    (file,) = directory.glob("layer_*.safetensors")
    coder = load_relu_transcoder(str(file), 3, device=torch.device("cpu"))
    return coder.encode(x), coder(x)


def circuit_tracer_clt(*, threshold: bool) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder

        coder = CrossLayerTranscoder(
            3,
            D_SAE,
            D_IN,
            "jump_relu" if threshold else "relu",
            lazy_decoder=False,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        randomise(coder)
        coder.to_safetensors(str(directory))
        (directory / "config.yaml").write_text(LINES)

    return write


def open_circuit_tracer_clt(directory: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt

    coder = load_clt(str(directory), dtype=torch.float32, device=torch.device("cpu"))
    z = coder.encode(x[None].repeat(3, 1, 1))
    return z, coder.decode(z)


def gemma_scope_2_clt(*, skip: bool) -> Callable[[Path], None]:
    """Writes layers as its release has them, which circuit-tracer reads."""

    def write(directory: Path) -> None:
        from safetensors.torch import save_file

        random = torch.Generator().manual_seed(0)
        directory.mkdir(parents=True)
        for layer in range(3):
            shapes = {
                "w_enc": (D_IN, D_SAE),
                "w_dec": (D_SAE, 3, D_IN),
                "b_enc": (D_SAE,),
                "b_dec": (D_IN,),
                "threshold": (D_SAE,),
            }
            shapes |= {"affine_skip_connection": (D_IN, D_IN)} if skip else {}
            drawn = {name: 0.5 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
            save_file(drawn | {"threshold": drawn["threshold"].abs()}, directory / f"params_layer_{layer}.safetensors")

    return write


def open_gemma_scope_2_clt(directory: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    from circuit_tracer.transcoder.cross_layer_transcoder import load_gemma_scope_2_clt

    paths = {
        layer: str(directory / f"params_layer_{min(layer, 2)}.safetensors") for layer in range(4)
    }  # it leaves the last one out
    coder = load_gemma_scope_2_clt(paths, dtype=torch.float32, device=torch.device("cpu"))
    inputs = x[None].repeat(3, 1, 1)
    z = coder.encode(inputs)
    return z, coder.decode(z, inputs)


# --- e2e_sae -------------------------------------------------------------------------------------------------------------------


def e2e_sae(directory: Path) -> None:
    """What its `save_module` writes of the coders beside a model, one a place."""
    from e2e_sae.models.sparsifiers import SAE

    module = torch.nn.ModuleDict({"blocks-3-hook_resid_post": SAE(D_IN, D_SAE, init_decoder_orthogonal=False)})
    randomise(module)
    directory.mkdir(parents=True)
    torch.save(module.state_dict(), directory / "samples_400000.pt")
    lines = ["saes:", f"  dict_size_to_input_ratio: {D_SAE / D_IN + 0.01}", "  sae_positions:", "  - blocks.3.hook_resid_post"]
    text = "\n".join([*lines, "tlens_model_name: gpt2-small", "tlens_model_path: null", ""])
    (directory / "final_config.yaml").write_text(text)


def open_e2e_sae(directory: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """As `SAETransformer.from_local_path` builds them, without the model."""
    import yaml
    from e2e_sae.models.sparsifiers import SAE

    config = yaml.safe_load((directory / "final_config.yaml").read_text())
    (file,), (place,) = directory.glob("samples_*.pt"), config["saes"]["sae_positions"]
    module = torch.nn.ModuleDict({place.replace(".", "-"): SAE(D_IN, int(config["saes"]["dict_size_to_input_ratio"] * D_IN))})
    module.load_state_dict(torch.load(file))
    x_hat, c = next(iter(module.values()))(x)
    return c, x_hat


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
        "standard_scaled_checkpoint": unfolded("standard", normalize_activations="expected_average_only_in"),
        "batchtopk_scaled_checkpoint": unfolded("batchtopk", k=K, normalize_activations="expected_average_only_in"),
        "matching_pursuit_scaled_checkpoint": unfolded("matching_pursuit", normalize_activations="expected_average_only_in"),
        "jumprelu_whitened_checkpoint": unfolded("jumprelu", normalize_activations="covariance_whitening"),
        "gated_whitened_checkpoint": unfolded("gated", normalize_activations="covariance_whitening", apply_b_dec_to_input=False),
        "abstopk": sae_lens("abstopk", k=K),
        "abstopk_rescaled": sae_lens("abstopk", k=K, rescale_acts_by_decoder_norm=True),
        "matching_pursuit": sae_lens("matching_pursuit", residual_threshold=0.5),
        "matching_pursuit_9": sae_lens("matching_pursuit", residual_threshold=0.0, max_iterations=9, stop_on_duplicate_support=False),
        "matching_pursuit_uncentred": sae_lens("matching_pursuit", max_iterations=4, apply_b_dec_to_input=False),
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
    "llamascopium": {
        "relu": llamascopium(IN, act_fn="relu"),
        "relu_dataset_wise": llamascopium(IN, act_fn="relu", norm_activation="dataset-wise", lengths=4.0),
        "relu_token_wise": llamascopium(IN, act_fn="relu", norm_activation="token-wise"),
        "relu_unbiased": llamascopium(IN, act_fn="relu", use_decoder_bias=False),
        "jumprelu": llamascopium(IN, act_fn="jumprelu"),
        "jumprelu_plain": llamascopium(IN, act_fn="jumprelu", sparsity_include_decoder_norm=False),
        "topk": llamascopium(IN, act_fn="topk", top_k=K),
        "topk_plain": llamascopium(IN, act_fn="topk", top_k=K, sparsity_include_decoder_norm=False),
        "transcoder": llamascopium(IN, OUT, act_fn="jumprelu", norm_activation="dataset-wise", lengths=2.0),
        "crosscoder": llamascopium(IN, OUT, kind="crosscoder"),
        "crosscoder_dataset_wise": llamascopium(IN, OUT, kind="crosscoder", norm_activation="dataset-wise", lengths=2.0),
    },
    "circuit_tracer": {
        "relu": circuit_tracer(threshold=False, skip=False),
        "jumprelu": circuit_tracer(threshold=True, skip=False),
        "jumprelu_skip": circuit_tracer(threshold=True, skip=True),
    },
    "e2e_sae": {"relu": e2e_sae},
    "circuit_tracer_clt": {"relu": circuit_tracer_clt(threshold=False), "jumprelu": circuit_tracer_clt(threshold=True)},
    "gemma_scope_2_clt": {"jumprelu": gemma_scope_2_clt(skip=False), "jumprelu_skip": gemma_scope_2_clt(skip=True)},
    "llamascopium_clt": {
        "jumprelu": llamascopium("a", "b", "c", kind="clt", act_fn="jumprelu"),
        "relu_dataset_wise": llamascopium("a", "b", "c", kind="clt", norm_activation="dataset-wise", lengths=2.0),
        "topk": llamascopium("a", "b", "c", kind="clt", act_fn="topk", top_k=K),
    },
}  # fmt: skip
OPEN = {
    "saelens": open_sae_lens, "dictionary_learning": open_dictionary_learning, "sparsify": open_sparsify,
    "llamascopium": open_llamascopium, "circuit_tracer": open_circuit_tracer, "e2e_sae": open_e2e_sae,
    "circuit_tracer_clt": open_circuit_tracer_clt, "gemma_scope_2_clt": open_gemma_scope_2_clt, "llamascopium_clt": open_llamascopium,
}  # fmt: skip


@torch.no_grad()
def case(name: str, kind: str) -> dict[str, Any]:
    """A coder written by its library, as numbers, and what the library makes of the input with it."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as place:
        directory, files = Path(place) / "coder", {}
        CASES[name][kind](directory)
        for file in sorted(path for path in directory.iterdir() if path.is_file()):
            if file.suffix not in (".pt", ".safetensors"):
                files[file.name] = json.loads(file.read_text()) if file.suffix == ".json" else file.read_text()
                continue
            tensors = torch.load(file) if file.suffix == ".pt" else load_file(file)
            files[file.name] = {
                k: {"dtype": str(v.dtype).removeprefix("torch."), "values": v.tolist()} for k, v in tensors.items()
            }
        z, x_hat = OPEN[name](directory, inputs())
        return {"files": files, "z": z.tolist(), "x_hat": x_hat.tolist()}


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
