"""evaluate: gather what evals need, once for all coders, and score each coder with each eval.

Every finished (eval, coder) is a file of its own, and every forward pass is kept (see `passes`): after an interruption the same
call goes on and ends in the same scores. What a coder scores never depends on which other coders are evaluated along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import torch

from assay import codec, provenance, registry, results
from assay.activations.truth import PlantedSource
from assay.coders.base import SparseCoder
from assay.corpora.base import Corpus
from assay.errors import BadInput, WidthMismatch
from assay.evals.base import Eval
from assay.evals.needs import Need
from assay.inputs import SUPPLIES, Bench, Supply
from assay.inputs.base import Reads
from assay.inputs.cost import Estimate, tokens_per_second
from assay.models.base import Model, Site
from assay.progress import Progress, silent
from assay.results import Record
from assay.splice import coder_hash, home, inference, splice
from assay.store import Store

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

Again = Literal["never", "missing", "always"]


def evaluate(
    coders: Mapping[str, SparseCoder[Any]],
    evals: Sequence[Eval[Any] | str],
    *,
    store: Store,
    model: Model | None = None,
    site: Site | str | None = None,
    text: Tokens | None = None,
    labelled: Mapping[str, Corpus] | Callable[[str], Corpus] | None = None,
    planted: PlantedSource | None = None,
    hashes: Mapping[str, str] | None = None,
    origins: Mapping[str, Mapping[str, str]] | None = None,
    again: Again = "missing",
    foresee: Callable[[Estimate], None] | None = None,
    progress: Progress = silent,
) -> list[Record]:
    """Records of every (eval, coder), in that order, each also in the store.

    `model` and `site`: what the coders stand for, which all evals need but those of a planted truth. `text`: held-out token rows.
    `labelled`: gives the corpus of a name, for evals on labelled data. `planted`: the source that the coders learnt from, for evals
    that compare with its truth. `hashes`: identities of the coders, computed from their weights where left out. `origins`: model and
    site of a coder, for the records of evals that read neither. `again`: "missing" scores what has no record with this very coder,
    configuration and data; "never" is content with any record of that eval and coder; "always" scores everything anew, from the
    passes in the store. `foresee` is told what the work will take before it begins. Raises `WidthMismatch` before anything runs when a coder does not fit the site or the source.
    """
    wanted = [registry.EVALS.load(e)() if isinstance(e, str) else e for e in evals]
    known = {name: (hashes or {}).get(name) or coder_hash(coder) for name, coder in coders.items()}
    where = None if site is None else Site.parse(site)
    bench = Bench(store, model, where, text, labelled, planted, {known[name]: c for name, c in coders.items()}, progress)
    supplies = {need: SUPPLIES[type(need)](need, bench) for one in wanted for need in one.needs().values()}
    for one in wanted:
        _check_fit(one, coders, bench)
    found: dict[tuple[int, str], Record] = {}
    jobs: list[tuple[int, str, str, dict[str, str]]] = []
    for i, one in enumerate(wanted):
        for name in coders:
            inputs = _inputs(one, known[name], bench, supplies)
            key = results.key(known[name], eval_name(one), one.version, asdict(one.config), inputs)
            there = _existing(store, one, name, known[name], key, again)
            if there is None:
                jobs.append((i, name, key, inputs))
            else:
                found[i, name] = there
    fresh = {known[name]: coders[name] for _, name, _, _ in jobs}
    needed = sorted({need for i, *_ in jobs for need in wanted[i].needs().values()}, key=repr)
    if foresee and jobs:
        foresee(_estimate([supplies[need] for need in needed], [eval_name(wanted[i]) for i, *_ in jobs], len(fresh), bench))
    for need in needed:
        supplies[need].gather(fresh)
    for done, (i, name, key, inputs) in enumerate(jobs):
        progress(done, len(jobs), "scores")
        given = {k: supplies[need].given(known[name]) for k, need in wanted[i].needs().items()}
        origin = (origins or {}).get(name, {})
        record = _score(wanted[i], name, coders[name], known[name], key, bench, inputs, given, origin)
        results.write(store, record)
        found[i, name] = record
    return [found[i, name] for i in range(len(wanted)) for name in coders]


def eval_name(one: Eval[Any]) -> str:
    """Registry key of an eval: the name of its file."""
    return type(one).__module__.rsplit(".", 1)[-1]


def describe(coder: SparseCoder[Any]) -> dict[str, Any]:
    """What a record says of a coder."""
    return {
        "architecture": type(coder).__module__.rsplit(".", 1)[-1], "baseline": coder.baseline,
        "d_in": coder.d_in, "d_out": coder.d_out, "d_sae": coder.d_sae, "config": asdict(coder.config), "seed": coder.seed,
    }  # fmt: skip


def _existing(store: Store, one: Eval[Any], name: str, hash_: str, key: str, again: Again) -> Record | None:
    if again == "always":
        return None
    if again == "never":
        old = [r for r in results.load(store, eval_name(one)) if r.coder_hash == hash_]
        record = max(old, key=lambda r: (r.eval_version, r.made.at, r.key)) if old else None
    else:
        record = results.find(store, eval_name(one), key)
    return replace(record, coder=name) if record else None


def _score(
    one: Eval[Any], name: str, coder: SparseCoder[Any], hash_: str, key: str, bench: Bench, inputs: dict[str, str],
    given: Mapping[str, Any], origin: Mapping[str, str],
) -> Record:  # fmt: skip
    with provenance.stopwatch() as seconds, inference(coder), torch.no_grad():
        scores, details = one.run(coder, given)
    if undeclared := {s.metric for s in scores} - set(one.metrics):
        raise BadInput(f"{eval_name(one)} scored metrics that it does not declare: {', '.join(sorted(undeclared))}.")
    device = bench.model.device if reads(one) == "model" else home(coder)
    return Record(
        schema=codec.SCHEMAS["record"], key=key, coder=name, coder_hash=hash_, eval=eval_name(one), eval_version=one.version,
        config=asdict(one.config), inputs=inputs, about=describe(coder) | _place(one, bench, origin), scores=scores,
        details=details, made=provenance.made(device=str(device), seconds=seconds()),
    )  # fmt: skip


def _estimate(supplies: Sequence[Supply[Any]], jobs: Sequence[str], coders: int, bench: Bench) -> Estimate:
    """What the work will take; `jobs`: the eval of each score that is to be made."""
    rate = tokens_per_second(bench.model) if any(s.reads == "model" for s in supplies) else 1.0
    gathering: dict[str, float] = {}
    for supply in supplies:
        cost, kind = supply.cost(), type(supply.need).__name__.lower()
        gathering[kind] = gathering.get(kind, 0.0) + (cost.once + cost.each * coders) / rate
    scoring: dict[str, float | None] = {}
    for name in dict.fromkeys(jobs):
        took = [r.made.seconds for r in results.load(bench.store, name) if r.made.seconds is not None]
        scoring[name] = median(took) * jobs.count(name) if took else None
    return Estimate(gathering, scoring, sum(supply.cost().disk for supply in supplies))


def reads(one: Eval[Any]) -> Reads:
    """What an eval runs on: a model where any of its needs does, a planted source, or the coders alone."""
    kinds = {SUPPLIES[type(need)].reads for need in one.needs().values()}
    return "model" if "model" in kinds else "planted" if "planted" in kinds else "nothing"


def _check_fit(one: Eval[Any], coders: Mapping[str, SparseCoder[Any]], bench: Bench) -> None:
    """Refuse coders that have not the widths of what they are measured on."""
    for name, coder in coders.items():
        if reads(one) == "model":
            splice(bench.model, {bench.site: coder})
        elif reads(one) == "planted" and (coder.d_in, coder.d_out) != (bench.planted.d_in, bench.planted.d_out):
            raise WidthMismatch(
                f"{bench.planted.kind} vectors have width {bench.planted.d_in}, but {name} reads {coder.d_in} and gives "
                f"{coder.d_out}. {eval_name(one)} takes coders that were trained on this source."
            )


def _place(one: Eval[Any], bench: Bench, origin: Mapping[str, str]) -> dict[str, str]:
    """What a record says of where a coder was measured; of an eval that reads the coder alone, where the coder comes from."""
    if reads(one) == "model":
        return {"model": bench.model.name, "site": str(bench.site)}
    if reads(one) == "planted":
        return {"model": bench.planted.kind, "site": f"seed {bench.planted.seed}"}
    return dict(origin)


def _inputs(one: Eval[Any], hash_: str, bench: Bench, supplies: Mapping[Need, Supply[Any]]) -> dict[str, str]:
    """Hashes of all that an eval's numbers are computed from, beside the coder."""
    found = {}
    if reads(one) == "model":
        dtype = str(bench.model.dtype).removeprefix("torch.")
        found = {"model": bench.model.fingerprint, "dtype": dtype, "site": str(bench.site)}
    return found | {name: supplies[need].fingerprint(hash_) for name, need in one.needs().items()}
