"""Other libraries' own training steps. Runs in their environment (`make bench-setup`), where Assay is not installed.

Each maker gives what trains on a stream of batches, and what tells the mean L0 now. What is done around their step is what their own
training loop does around it, less logging and what hooks a language model. `share` asks for encoder biases at which every latent fires
on that share of the vectors; the learning rate is then so small that they stay.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch

from benchmarks._data import NotOffered, Shape, bias_for

SMALL, STEPS = 1e-6, 1_000_000
LEVELS = (1 / 32, 2 / 32, 4 / 32, 8 / 32, 17 / 32)  # of Matryoshka, for all
Spec = dict[str, Any]
Made = tuple[Callable[[Iterable[torch.Tensor], int], None], Callable[[], float]]


PACKAGES = {
    "SAELens": "sae-lens", "dictionary_learning": "dictionary-learning", "sparsify": "eai-sparsify", "overcomplete": "overcomplete",
}  # fmt: skip


def load(spec: Spec) -> str:
    """Everything imported that is needed, so that it does not count as memory of training; the version."""
    try:
        version = importlib.metadata.version(PACKAGES[spec["contender"]])
    except importlib.metadata.PackageNotFoundError:
        raise NotOffered("not installed") from None
    if spec["contender"] in ("dictionary_learning", "overcomplete"):
        _bare(spec["contender"])  # their __init__ want nnsight, timm and torchvision, which training on vectors does not
    if spec["contender"] == "overcomplete":  # and that of .sae scikit-learn
        package = _bare("overcomplete.sae")
        vars(package)["SAE"] = import_module("overcomplete.sae.base").SAE
    for module in MODULES[spec["contender"]]:
        import_module(module)
    return version


def make(spec: Spec, shape: Shape, data: list[torch.Tensor]) -> Made:
    """The contender named in `spec`."""
    return MAKERS[spec["contender"]](spec, shape, data)


def sae_lens(spec: Spec, shape: Shape, data: list[torch.Tensor]) -> Made:
    """`SAETrainer.step`, as `fit` calls it."""
    x, share, device = data[0], spec.get("share"), str(data[0].device)
    saes, training = import_module("sae_lens.saes"), import_module("sae_lens.training.sae_trainer")
    widths = [round(sum(LEVELS[: i + 1]) * shape.d_sae) for i in range(len(LEVELS))]
    name, own = {
        "topk": ("TopK", {"k": shape.k}),
        "batch_topk": ("BatchTopK", {"k": shape.k}),
        "matryoshka": ("MatryoshkaBatchTopK", {"k": shape.k, "matryoshka_widths": widths}),
        "relu": ("Standard", {"l1_coefficient": 1e-3}),
        "jumprelu": ("JumpReLU", {"l0_coefficient": 1e-6}),
        "gated": ("Gated", {"l1_coefficient": 1e-3}),
    }.get(spec["architecture"]) or _no(spec)
    config = getattr(saes, f"{name}TrainingSAEConfig")(d_in=shape.d_in, d_sae=shape.d_sae, device=device, **own)
    sae = getattr(saes, f"{name}TrainingSAE")(config)
    low = spec.get("dtype") == "bf16"
    settings = import_module("sae_lens.config").SAETrainerConfig(
        total_training_samples=STEPS * shape.batch, train_batch_size_samples=shape.batch, lr=SMALL if share else 1e-4,
        lr_end=1e-8, device=device, autocast=low,
    )  # fmt: skip
    trainer = training.SAETrainer(settings, sae, iter(()))
    if share:
        bar = sae.threshold.detach() if name == "JumpReLU" else 0.0
        with torch.no_grad():
            bias = sae.b_gate if name == "Gated" else sae.b_enc
            bias += bias_for(sae.process_sae_in(x) @ sae.W_enc + bias, share, bar)

    def run(stream: Iterable[torch.Tensor], steps: int) -> None:
        for batch in stream:
            trainer.maybe_reset_sparsity()
            trainer.step(batch)
            trainer.n_training_steps += 1

    return run, _l0(lambda: sae.encode_with_hidden_pre(x)[0])


def dictionary_learning(spec: Spec, shape: Shape, data: list[torch.Tensor]) -> Made:
    """`Trainer.update`, as `trainSAE` calls it."""
    x, share, device = data[0], spec.get("share"), str(data[0].device)
    common = {
        "activation_dim": shape.d_in,
        "dict_size": shape.d_sae,
        "layer": 0,
        "lm_name": "none",
        "steps": STEPS,
        "device": device,
    }
    common |= {"lr": SMALL if share else 1e-4, "decay_start": None, "warmup_steps": 1000}
    penalised = {"sparsity_warmup_steps": 1000}
    module, name, own = {
        "topk": ("top_k", "TopKTrainer", {"k": shape.k}),
        "batch_topk": ("batch_top_k", "BatchTopKTrainer", {"k": shape.k}),
        "matryoshka": (
            "matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer", {"k": shape.k, "group_fractions": list(LEVELS)},
        ),
        "relu": ("standard", "StandardTrainer", {**penalised, "l1_penalty": 1e-3}),
        "jumprelu": ("jumprelu", "JumpReluTrainer", {**penalised, "target_l0": (share or 0.02) * shape.d_sae}),
        "gated": ("gdm", "GatedSAETrainer", {**penalised, "l1_penalty": 1e-3}),
        "p_anneal": ("p_anneal", "PAnnealTrainer", {**penalised, "initial_sparsity_penalty": 1e-3, "sparsity_function": "Lp^p"}),
    }.get(spec["architecture"]) or _no(spec)  # fmt: skip
    trainer = getattr(import_module(f"dictionary_learning.trainers.{module}"), name)(**common, **own)
    ae = trainer.ae
    trainer.update(0, x)  # sets b_dec from the data
    if name == "PAnnealTrainer":  # half way
        trainer.p, trainer.next_p, trainer.p_step_count = trainer.p_values[5].item(), trainer.p_values[6].item(), 6
    if share:
        with torch.no_grad():
            if name == "GatedSAETrainer":
                ae.gate_bias += bias_for(ae.encoder(x - ae.decoder_bias) + ae.gate_bias, share)
            elif name == "JumpReluTrainer":
                ae.b_enc += bias_for(x @ ae.W_enc + ae.b_enc, share, ae.threshold)
            else:
                ae.encoder.bias += bias_for(ae.encoder(x - ae.bias), share)
    count, low = STEPS // 2 + 1, spec.get("dtype") == "bf16"

    def run(stream: Iterable[torch.Tensor], steps: int) -> None:
        nonlocal count
        for batch in stream:
            with torch.autocast(device, torch.bfloat16) if low else contextlib.nullcontext():
                trainer.update(count, batch.to(torch.bfloat16 if low else torch.float32))
            count += 1

    by_batch = {"use_threshold": False} if hasattr(ae, "threshold") and hasattr(ae, "k") else {}
    return run, _l0(lambda: ae.encode(x, **by_batch))


def sparsify(spec: Spec, shape: Shape, data: list[torch.Tensor]) -> Made:
    """`SparseCoder` in the body of `Trainer.fit`, with torch's Adam (its default optimiser costs the same)."""
    if spec["architecture"] != "topk":
        _no(spec)
    module, config = import_module("sparsify.sparse_coder"), import_module("sparsify.config")
    coder = module.SparseCoder(
        shape.d_in, config.SparseCoderConfig(num_latents=shape.d_sae, k=shape.k), data[0].device, torch.float32
    )
    coder.b_dec.data = data[0].mean(0)
    optimiser = torch.optim.Adam(coder.parameters(), lr=1e-4)
    schedule = import_module("transformers").get_linear_schedule_with_warmup(optimiser, 1000, STEPS)
    since = torch.zeros(coder.num_latents, dtype=torch.long, device=data[0].device)
    fired = torch.zeros(coder.num_latents, dtype=torch.bool, device=data[0].device)

    def run(stream: Iterable[torch.Tensor], steps: int) -> None:
        for x in stream:
            coder.set_decoder_norm_to_unit_norm()
            variance = (x - x.mean(0)).pow(2).sum()
            out = coder(x=x, y=x, dead_mask=None, total_variance=variance)
            fired[out.latent_indices.flatten()] = True
            float(out.fvu.detach())
            (out.fvu + out.multi_topk_fvu / 8).backward()
            coder.remove_gradient_parallel_to_decoder_directions()
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            with torch.no_grad():
                since.add_(len(x))
                since[fired] = 0
                fired.zero_()

    return run, lambda: float(shape.k)


def overcomplete(spec: Spec, shape: Shape, data: list[torch.Tensor]) -> Made:
    """`train_sae`, without its monitoring."""
    x, share, device = data[0], spec.get("share"), str(data[0].device)
    module, name, own = {
        "topk": ("topk_sae", "TopKSAE", {"top_k": shape.k}),
        "batch_topk": ("batchtopk_sae", "BatchTopKSAE", {"top_k": shape.k * shape.batch}),  # counts the whole batch
        "relu": ("base", "SAE", {}),
        "jumprelu": ("jump_sae", "JumpSAE", {}),
    }.get(spec["architecture"]) or _no(spec)
    sae = getattr(import_module(f"overcomplete.sae.{module}"), name)(shape.d_in, shape.d_sae, device=device, **own)
    losses, training = import_module("overcomplete.sae.losses"), import_module("overcomplete.sae.train")
    optimiser = torch.optim.Adam(sae.parameters(), lr=SMALL if share else 1e-4)
    if share:
        with torch.no_grad():
            bar = sae.thresholds.exp() if name == "JumpSAE" else 0.0
            bias = sae.encoder.final_block[0].bias
            bias += bias_for(sae.encoder(x)[0], share, bar)

    def mse(x: torch.Tensor, x_hat: torch.Tensor, pre: torch.Tensor, z: torch.Tensor, dictionary: torch.Tensor) -> torch.Tensor:
        return (x - x_hat).square().mean()

    def mse_l1(
        x: torch.Tensor, x_hat: torch.Tensor, pre: torch.Tensor, z: torch.Tensor, dictionary: torch.Tensor
    ) -> torch.Tensor:
        return losses.mse_l1(x, x_hat, pre, z, dictionary, penalty=1e-3)

    train = training.train_sae_amp if spec.get("dtype") == "bf16" else training.train_sae  # amp: float16

    def run(stream: Iterable[torch.Tensor], steps: int) -> None:
        train(sae, stream, mse_l1 if share else mse, optimiser, nb_epochs=1, monitoring=0, device=device)

    return run, _l0(lambda: sae.encode(x)[1])


MAKERS = {"SAELens": sae_lens, "dictionary_learning": dictionary_learning, "sparsify": sparsify, "overcomplete": overcomplete}
MODULES = {
    "SAELens": ("sae_lens.saes", "sae_lens.training.sae_trainer", "sae_lens.config"),
    "dictionary_learning": ("dictionary_learning.trainers",),
    "sparsify": ("sparsify.sparse_coder", "sparsify.config", "transformers"),
    "overcomplete": ("overcomplete.sae.losses", "overcomplete.sae.train"),
}


def _l0(codes: Callable[[], torch.Tensor]) -> Callable[[], float]:
    @torch.no_grad()
    def l0() -> float:
        return (codes() != 0).sum(1).float().mean().item()

    return l0


def _no(spec: Spec) -> Any:
    raise NotOffered(f"{spec['contender']} has no {spec['architecture']}")


def _bare(package: str) -> types.ModuleType:
    """A package without what its __init__ imports."""
    spec = importlib.util.find_spec(package) if "." not in package else None
    parent, _, own = package.rpartition(".")
    places = list(spec.submodule_search_locations or []) if spec else [f"{sys.modules[parent].__path__[0]}/{own}"]
    module = types.ModuleType(package)
    module.__path__ = places
    module.__spec__ = None
    sys.modules[package] = module
    return module
