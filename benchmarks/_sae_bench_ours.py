"""Assay on the job's model, coders and texts: the first coder alone, then all of them at once, each with an empty store.

python -m benchmarks._sae_bench_ours FOLDER EVAL
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sklearn.linear_model  # noqa: F401 (an import is not what is timed)
import torch
from scipy import stats  # noqa: F401

from assay import corpora, models
from assay.corpora.pack import Tokens
from assay.evals.base import Eval
from assay.evaluate import evaluate
from assay.formats import native
from assay.store import Store
from benchmarks._sae_bench_job import ROWS, Job, Values, answer, timed

WHOLE = 5000
"""More rows than any data set of sae-probes has."""


def core(job: Job) -> Eval[Any]:
    from assay.evals.core import Core, CoreConfig

    return Core(CoreConfig(tokens=job.rows * job.context))


def sparse_probing(job: Job) -> Eval[Any]:
    from assay.evals.sparse_probing import SparseProbing, SparseProbingConfig

    return SparseProbing(SparseProbingConfig(datasets=job.corpus, k=",".join(map(str, job.k)), **texts(job)))


def tpp(job: Job) -> Eval[Any]:
    from assay.evals.tpp import TPP, TPPConfig

    return TPP(TPPConfig(datasets=job.corpus, n=",".join(map(str, job.n)), rescale=False, **texts(job)))


def scr(job: Job) -> Eval[Any]:
    from assay.evals.scr import SCR, SCRConfig

    return SCR(SCRConfig(datasets=job.joint, n=",".join(map(str, job.n)), rescale=False, **texts(job)))


def absorption(job: Job) -> Eval[Any]:
    from assay.evals.absorption import Absorption, AbsorptionConfig

    return Absorption(AbsorptionConfig(words=job.words, examples=10, test=0.2, min_letters=job.letters))


def meta_structure(job: Job) -> Eval[Any]:
    from assay.evals import meta_structure as eval_

    return eval_.MetaStructure(eval_.MetaStructureConfig(**eval_.PRESETS["paper"]))


def sparse_probing_sae_probes(job: Job) -> Eval[Any]:
    from assay.evals.probing import Probing, ProbingConfig

    return Probing(ProbingConfig(
        seed=42, regimes="standard", datasets=f"probe:{job.binary}", split="original", methods="logreg", penalty="l1", strengths=10, folds=0,
        k=",".join(map(str, job.k)), train=WHOLE, test=WHOLE, context=job.longest,
    ))  # fmt: skip


EVALS: dict[str, Callable[[Job], Eval[Any]]] = {
    "core": core, "sparse_probing": sparse_probing, "tpp": tpp, "scr": scr, "absorption": absorption, "meta_structure": meta_structure,
    "sparse_probing_sae_probes": sparse_probing_sae_probes,
}  # fmt: skip


def texts(job: Job) -> dict[str, int]:
    """How many labelled texts, and how long."""
    return {"train": job.train, "test": job.test, "context": job.context}


def main() -> None:
    home, name = Path(sys.argv[1]), sys.argv[2]
    job = Job.read(home)
    torch.set_num_threads(job.threads)
    shutil.rmtree(home / "ours", ignore_errors=True)
    model = models.load(job.model, dtype=job.dtype)
    coders = {n: native.read(home / n) for n in job.coders}
    given = torch.load(home / ROWS)
    rows = Tokens.from_arrays(given["tokens"].numpy(), document=given["document"].numpy())
    labelled = {ref: corpora.load(ref) for ref in (job.corpus, job.joint, f"probe:{job.binary}")}
    for corpus in labelled.values():
        sum(1 for _ in corpus.documents())  # files are read once, as sae-bench's are before its clock starts

    def run(some: Mapping[str, Any], place: str) -> Values:
        records = evaluate(
            some,
            [EVALS[name](job)],
            store=Store(home / place),
            model=model,
            site=job.site,
            text=rows,
            labelled=labelled,
        )
        return {r.coder: {s.spec: [s.value, s.low, s.high] for s in r.scores} for r in records}

    warm = Tokens.from_arrays(rows.tokens[:2], document=rows.document[:2])
    evaluate(dict(list(coders.items())[:1]), ["core"], store=Store(home / "ours/warm"), model=model, site=job.site, text=warm)
    alone, first = timed(lambda: run(dict(list(coders.items())[:1]), "ours/alone"))
    values, together = timed(lambda: run(coders, "ours/together"))
    _, later = timed(lambda: run(coders, "ours/alone"))  # the first one's record is there: the others come later
    if any(values[n] != found for n, found in alone.items()):
        raise SystemExit(f"{name} depends on which coders are evaluated along.")
    answer(home, "ours", name, values=values, first=first, together=together, later=later)


if __name__ == "__main__":
    main()
