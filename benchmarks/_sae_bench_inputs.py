"""Make a job's folder: three TopK coders trained on the model, rows of text for core, labelled texts for probing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from assay import coders, corpora, models
from assay.activations import Tensors
from assay.activations.forward import read_rows
from assay.corpora.pack import PackConfig, Tokens, tokenise
from assay.formats import native
from assay.inputs.labelled import choose
from assay.inputs.spelling import ask
from assay.models.base import Site
from assay.store import Store
from assay.train import TrainConfig, train
from benchmarks._sae_bench_job import POOLS, ROWS, TEXTS, WORDS, Job
from benchmarks._sae_bench_ours import absorption


def prepare(job: Job, home: Path, corpus: str, ks: dict[str, int], d_sae: int, tokens: int, steps: int) -> None:
    """Write everything that both sides read. `tokens` of `corpus` are trained on, other documents of it are core's rows."""
    torch.set_num_threads(job.threads)
    model, store, text = models.load(job.model, dtype="fastest"), Store(home / "store"), corpora.load(corpus)
    shape = {"context": job.context, "bos": "never", "held_out": 0.3}
    learn = tokenise(text, model.tokenizer, PackConfig(**shape, split="train", max_tokens=tokens), store)
    held_out = tokenise(text, model.tokenizer, PackConfig(**shape, split="held_out"), store)
    pick = clean(held_out, job.rows)
    rows = {name: torch.from_numpy(np.asarray(getattr(held_out, name)[pick], np.int64)) for name in ("tokens", "document")}
    torch.save(rows, home / ROWS)
    (home / TEXTS).write_text(json.dumps(labelled(job.corpus, job.train, job.test)), encoding="utf-8")
    four = labelled(job.joint, job.train, job.test)
    (home / POOLS).write_text(json.dumps({side: pools(texts) for side, texts in four.items()}), encoding="utf-8")
    words = [word.text for word in ask(model.tokenizer, absorption(job).needs()["words"]).words]  # pyright: ignore
    (home / WORDS).write_text(json.dumps(words), encoding="utf-8")
    (x,) = read_rows(
        model, learn, np.arange(len(learn)), [Site.parse(job.site)], batch_rows=16, dtype=torch.float32, device="cpu"
    )
    made = {name: coders.new("topk", d_in=x.shape[1], d_sae=d_sae, k=k, seed=k) for name, k in ks.items()}
    batch = min(1024, len(x) // 2)
    cfg = TrainConfig(tokens=steps * batch, batch=batch, lr=1e-3, log_every=steps, held_out_vectors=0)
    for row in train(made, Tensors(x), cfg):
        print(f"{row.coder}: fvu {row.metrics['fvu']:.3f} after {row.step + 1} steps", flush=True)
    for name, coder in made.items():
        native.write(coder, home / name)
    job.write(home)


def clean(text: Tokens, count: int) -> np.ndarray:
    """The first rows that hold nothing but text of one document: there, nobody's treatment of special tokens matters."""
    document = np.asarray(text.document)
    whole = np.flatnonzero(np.asarray(text.mask).all(1) & (document == document[:, :1]).all(1))
    if len(whole) < count:
        raise SystemExit(f"Only {len(whole)} of the text's rows lie in one document; {count} are needed.")
    return whole[:count]


def labelled(corpus: str, train: int, test: int) -> dict[str, dict[str, list[str]]]:
    """{train, test} → class → texts: those that our probing evals draw themselves."""
    chosen = choose(corpora.load(corpus), train, test)
    found: dict[str, dict[str, list[str]]] = {side: {name: [] for name in chosen.classes} for side in ("train", "test")}
    for document, label, learn in zip(chosen.documents(), chosen.labels, chosen.train, strict=True):
        found["train" if learn else "test"][chosen.classes[label]].append(document.text)
    return found


def pools(four: dict[str, list[str]]) -> dict[str, list[str]]:
    """sae-bench's six pools, which it names so whatever the data, from the texts of (0, 0), (0, 1), (1, 0), (1, 1)."""
    neither, second, first, both = four.values()
    few, biased = min(map(len, four.values())), min(len(both), len(neither))
    return {
        "male / female": both[:few] + second[:few], "female_data_only": first[:few] + neither[:few],
        "professor / nurse": both[:few] + first[:few], "nurse_data_only": second[:few] + neither[:few],
        "male_professor / female_nurse": both[:biased], "female_nurse_data_only": neither[:biased],
    }  # fmt: skip
