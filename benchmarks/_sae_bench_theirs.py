"""sae-bench 0.6 on the job's model, coders and texts, by its own entry points, in an environment of its own.

    python -m benchmarks._sae_bench_theirs FOLDER EVAL

What is replaced, since it would come from a hub: `HookedTransformer.from_pretrained_no_processing` gives the job's model (converted
by TransformerLens, no BOS put before texts), `ActivationsStore.from_sae` is given the job's rows, and the labelled texts come from
the job. Everything else is sae-bench's: what it measures, in which batches, what it caches, what it writes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

os.environ["JAXTYPING_DISABLE"] = (
    "1"  # else today's beartype refuses tensors of two lengths under one name; and checks take time
)

from benchmarks._sae_bench_job import POOLS, ROWS, TEXTS, WORDS, Job, Values, answer, timed

NAME = "local"
LONGEST = 1024  # TransformerLens keeps a [context, context] mask for each block


def model(job: Job) -> Any:
    """The job's model as TransformerLens has it, and as every further call for a model is answered."""
    import transformer_lens.loading_from_pretrained as loading
    from transformer_lens import HookedTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    known = loading.get_official_model_name
    loading.get_official_model_name = lambda name: name if Path(name).exists() else known(name)
    dtype = getattr(torch, job.dtype)
    whole = AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype).eval()
    made = HookedTransformer.from_pretrained_no_processing(job.model, hf_model=whole, device="cpu", dtype=dtype, n_ctx=LONGEST)
    made.tokenizer = AutoTokenizer.from_pretrained(job.model)  # TransformerLens gives it a BOS that this model never saw
    made.cfg.tokenizer_prepends_bos = False
    made.cfg.default_prepend_bos = False
    if made.tokenizer.pad_token is None:
        made.tokenizer.pad_token = made.tokenizer.eos_token
    made.cfg.model_name = NAME
    HookedTransformer.from_pretrained_no_processing = lambda *_, **__: made  # type: ignore[method-assign]
    differ(made, whole)
    return made


@torch.no_grad()
def differ(ours: Any, whole: Any) -> None:
    """Refuse a conversion whose logits are not the model's."""
    tokens = torch.arange(64)[None] * 7 % whole.config.vocab_size
    a, b = ours(tokens).float(), whole(tokens).logits.float()
    apart = ((a - b).norm() / b.norm()).item()
    bound = 1e-4 if b.dtype == whole.dtype else 5e-2
    if not apart < bound:
        raise SystemExit(f"TransformerLens gives other logits than the model: they differ by {apart:.2g} of their norm.")
    print(f"logits differ from the model's by {apart:.2g} of their norm")


def saes(job: Job, home: Path) -> list[tuple[str, Any]]:
    """The job's coders as sae-bench's own TopKSAE."""
    from sae_bench.custom_saes.topk_sae import TopKSAE
    from safetensors.torch import load_file

    found = []
    for name in job.coders:
        config = json.loads((home / name / "config.json").read_text(encoding="utf-8"))
        weights = load_file(home / name / "weights.safetensors")
        d_in, d_sae = weights["W_enc"].shape
        k = config.get("k") or config["config"]["k"]
        sae = TopKSAE(d_in, d_sae, k, NAME, job.layer, torch.device("cpu"), getattr(torch, job.dtype), hook_name=job.hook)
        sae.load_state_dict({**{n: weights[n].contiguous() for n in ("W_enc", "b_enc", "W_dec", "b_dec")}, "k": sae.k})
        sae.cfg.architecture, sae.cfg.context_size = "topk", job.context
        found.append((name, sae))
    return found


# ---- the evals: each gives what runs sae-bench on some of the coders -----------------------------------------------------------

Run = Callable[[Sequence[tuple[str, Any]]], Values]


def core(job: Job, home: Path) -> Run:
    import sae_bench.evals.core.main as main
    from datasets import Dataset

    rows = Dataset.from_dict({"tokens": torch.load(home / ROWS)["tokens"].tolist()})
    given = main.ActivationsStore.from_sae
    main.ActivationsStore.from_sae = lambda model, sae, **settings: given(model, sae, **settings | {"dataset": rows})

    def run(some: Sequence[tuple[str, Any]]) -> Values:
        batches = job.rows // job.batch_rows
        found = main.multiple_evals(
            list(some), batches, batches, job.batch_rows, compute_featurewise_density_statistics=True,
            compute_featurewise_weight_based_metrics=True, exclude_special_tokens_from_reconstruction=True, dataset="local",
            context_size=job.context, output_folder=str(home / "core"), dtype=job.dtype, device="cpu", force_rerun=True,
        )  # fmt: skip
        return {r["sae_set"]: flat(r["metrics"]) for r in found}

    return run


def texts(job: Job, home: Path) -> list[str]:
    """Let sae-bench's data set called NAME be the job's texts; its classes."""
    from sae_bench.sae_bench_utils import dataset_info, dataset_utils

    data = json.loads((home / TEXTS).read_text(encoding="utf-8"))
    dataset_info.chosen_classes_per_dataset[NAME] = list(data["train"])
    dataset_utils.get_multi_label_train_test_data = lambda *_: (dict(data["train"]), dict(data["test"]))
    return list(data["train"])


def sparse_probing(job: Job, home: Path) -> Run:
    import sae_bench.evals.sparse_probing.main as main

    texts(job, home)
    config = main.SparseProbingEvalConfig(
        model_name=NAME, dataset_names=[NAME], probe_train_set_size=job.train, probe_test_set_size=job.test,
        context_length=job.context, llm_batch_size=32, llm_dtype=job.dtype, k_values=list(job.k),
    )  # fmt: skip

    def run(some: Sequence[tuple[str, Any]]) -> Values:
        found = main.run_eval(
            config, list(some), "cpu", str(home / "sparse_probing"), force_rerun=True, artifacts_path=str(home / "artifacts")
        )
        return results(found)

    return run


def tpp(job: Job, home: Path) -> Run:
    import sae_bench.evals.scr_and_tpp.main as main

    texts(job, home)
    main.COLUMN2_VALS_LOOKUP[NAME] = ("", "")
    config = main.ScrAndTppEvalConfig(perform_scr=False, **ablating(job))
    return lambda some: results(
        main.run_eval(config, list(some), "cpu", str(home), True, artifacts_path=str(home / "artifacts"))
    )


def scr(job: Job, home: Path) -> Run:
    import sae_bench.evals.scr_and_tpp.main as main

    pools = json.loads((home / POOLS).read_text(encoding="utf-8"))
    main.dataset_creation.get_train_test_data = lambda *_: (dict(pools["train"]), dict(pools["test"]))
    main.COLUMN2_VALS_LOOKUP[NAME] = ("", "")
    config = main.ScrAndTppEvalConfig(perform_scr=True, column1_vals_lookup={NAME: [("first", "second")]}, **ablating(job))
    return lambda some: results(
        main.run_eval(config, list(some), "cpu", str(home), True, artifacts_path=str(home / "artifacts"))
    )


def ablating(job: Job) -> dict[str, Any]:
    """Settings that SCR and TPP share; the others are sae-bench's own."""
    return {
        "dataset_names": [NAME], "train_set_size": job.train, "test_set_size": job.test, "context_length": job.context,
        "llm_batch_size": 32, "llm_dtype": job.dtype, "model_name": NAME, "n_values": list(job.n),
    }  # fmt: skip


def absorption(job: Job, home: Path) -> Run:
    import sae_bench.evals.absorption.common as common
    import sae_bench.evals.absorption.feature_absorption as last
    import sae_bench.evals.absorption.main as main

    words = json.loads((home / WORDS).read_text(encoding="utf-8"))
    common.get_alpha_tokens = last.get_alpha_tokens = lambda *_: list(words)
    shutil.rmtree(
        common.RESULTS_DIR, ignore_errors=True
    )  # in the package's own folder: what an earlier run left would not be timed
    config = main.AbsorptionEvalConfig(model_name=NAME, llm_batch_size=32, llm_dtype=job.dtype, min_feats_for_eval=job.letters)
    (home / "absorption").mkdir(exist_ok=True)
    return lambda some: results(main.run_eval(config, list(some), "cpu", str(home / "absorption"), True))


def meta_structure(job: Job, home: Path) -> Run:
    import sae_bench.evals.meta_structure.main as main

    def run(some: Sequence[tuple[str, Any]]) -> Values:
        config = main.MetaStructureEvalConfig()
        main._set_random_seed(config.random_seed)
        found = main.run_eval(config, list(some), "cpu", str(home / "meta_structure"), force_rerun=True)  # type: ignore[arg-type]
        return {
            name.removesuffix("_custom_sae"): {"decoder_fraction_variance_explained": value} for name, value in found.items()
        }

    return run


def sparse_probing_sae_probes(job: Job, home: Path) -> Run:
    import sae_bench.evals.sparse_probing_sae_probes.main as main

    config = main.SparseProbingSaeProbesEvalConfig(model_name=NAME, dataset_names=[job.binary], ks=list(job.k))
    return lambda some: results(main.run_eval(config, list(some), "cpu", str(home / "sae_probes"), True))


EVALS: dict[str, Callable[[Job, Path], Run]] = {
    "core": core, "sparse_probing": sparse_probing, "tpp": tpp, "scr": scr, "absorption": absorption, "meta_structure": meta_structure,
    "sparse_probing_sae_probes": sparse_probing_sae_probes,
}  # fmt: skip


def results(found: dict[str, Any]) -> Values:
    """The metrics of each coder, from the dictionaries that sae-bench writes as JSON."""
    return {name.removesuffix("_custom_sae"): flat(one["eval_result_metrics"]) for name, one in found.items()}


def flat(categories: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Metrics without their categories, and without those that were not measured."""
    return {m: v for inner in categories.values() for m, v in inner.items() if isinstance(v, int | float)}


def main() -> None:
    home, name = Path(sys.argv[1]).resolve(), sys.argv[2]
    job = Job.read(home)
    torch.set_num_threads(job.threads)
    os.chdir(home)  # some of it writes where it stands
    model(job)
    run, every = EVALS[name](job, home), saes(job, home)
    found, first = timed(lambda: run(every[:1]))
    rest = None
    if every[1:]:
        more, rest = timed(lambda: run(every[1:]))
        found |= more
    if missing := [c for c in job.coders if not found.get(c)]:
        raise SystemExit(f"sae-bench gave no {name} of {', '.join(missing)}: see what it printed above.")
    versions = {p: version(p) for p in ("sae-bench", "sae-lens", "transformer-lens")}
    answer(home, "theirs", name, values=found, first=first, rest=rest, versions=versions)


if __name__ == "__main__":
    main()
