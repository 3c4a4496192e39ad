"""sweep: train coders into a store: checkpoints while it lasts, finished coders at the end, the same bytes after any interruption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from assay import provenance, splice
from assay.activations.base import ActivationSource
from assay.coders.base import SparseCoder
from assay.errors import BadInput, NotFinite
from assay.formats import native
from assay.store import Store, digest, require_space
from assay.train import Row, TrainConfig, train
from assay.training.checkpoint import last_step

Again = Literal["never", "missing", "always"]
SPEED = "speed"  # not .jsonl: a coder may have that name


def run_key(
    coders: Mapping[str, SparseCoder[Any]],
    source: ActivationSource,
    cfg: TrainConfig,
    each: Mapping[str, TrainConfig] | None = None,
) -> str:
    """Identity of a training run: what is trained, on what, how. 16 hex digits."""
    parts = {name: [native.architecture_of(c), asdict(c.config), c.seed] for name, c in coders.items()}
    how = {name: asdict(own) | {"checkpoint_seconds": None} for name, own in ({"": cfg} | dict(each or {})).items()}
    tuned = [name for name, c in coders.items() if ((each or {}).get(name) or cfg).fine_tune]
    start = {name: splice.coder_hash(coders[name]) for name in tuned}
    return digest({"coders": parts, "source": source.fingerprint, "train": how, "start": start})[:16]


def sweep(
    coders: Mapping[str, SparseCoder[Any]],
    source: ActivationSource,
    cfg: TrainConfig,
    store: Store,
    *,
    each: Mapping[str, TrainConfig] | None = None,
    about: Mapping[str, Any] | None = None,
    again: Again = "missing",
    listen: Callable[[Row], None] | None = None,
) -> dict[str, Path]:
    """Train `coders` over one stream and save each as `coders/NAME`; gives their directories.

    Coders begin as their seeds make them, whatever weights they come with; only with `fine_tune` do they go on from those.
    Call it again after an interruption and it goes on from the last checkpoint. `again`: "missing" keeps finished coders of this
    very run and refuses names that another run has taken; "always" trains anew and replaces; "never" keeps whatever has the name.
    `each`: settings of some coders. Coders that diverge are not saved: the others are, then `NotFinite` says which and why.
    """
    for name in coders:
        store.path("coders", name)  # refuses what can be no name
    key, each = run_key(coders, source, cfg, each), dict(each or {})
    if again != "always" and _all_there(coders, store, key, again):
        return {name: store.path("coders", name) for name in coders}
    with store.lock(f"run-{key}"), provenance.stopwatch() as seconds:
        run = store.path("runs", key)
        weights = sum(p.numel() for c in coders.values() for p in c.state_dict().values())
        require_space(
            store.root, 4 * 6 * weights, "Training"
        )  # weights and Adam's two moments; the new file before the old one goes
        checkpoint = run / "checkpoint.safetensors"
        if again == "always" and last_step(checkpoint) >= cfg.steps:
            shutil.rmtree(run)  # of a run that ended with a coder that diverged
        _fresh(coders, cfg, each)
        with _rows(run, coders, last_step(checkpoint)) as write:
            for row in train(coders, source, cfg, each=each, resume=checkpoint):
                write(row)
                if listen:
                    listen(row)
        stopped = {name: why for name, why in stopped_in(run).items() if name in coders}
        facts = {"source": source.describe(), "run": key} | dict(about or {})
        paths = {}
        for name, coder in coders.items():
            if name in stopped:
                continue
            made = provenance.made(device=str(coder.W_dec.device), seconds=seconds())
            own = facts | {"train": asdict(each.get(name, cfg))}
            paths[name] = _save(name, coder, store, run, own, made, source.fingerprint, again)
        if stopped:
            kept = f" Saved: {', '.join(paths)}." if paths else ""
            raise NotFinite(" ".join(stopped.values()) + kept)
        shutil.rmtree(run)
    return paths


def _all_there(coders: Collection[str], store: Store, key: str, again: Again) -> bool:
    """Whether every coder is finished; a name that belongs to another run is an error rather than a loss."""
    there = {name: store.manifest("coders", name)["about"].get("run") for name in coders if store.has("coders", name)}
    if again == "missing":
        for name, run in there.items():
            if run != key:
                raise BadInput(
                    f"{store.root} already has a coder named {name!r}, made with other settings or data. "
                    "Give this one another name, or replace the old one with --again always."
                )
    return len(there) == len(coders)


def _fresh(coders: Mapping[str, SparseCoder[Any]], cfg: TrainConfig, each: Mapping[str, TrainConfig]) -> None:
    """Coders as their seeds make them: one that was half trained in this process must not begin where it was left."""
    for name, coder in coders.items():
        if not each.get(name, cfg).fine_tune:
            coder.load_state_dict(type(coder)(coder.config, seed=coder.seed).state_dict())


@contextmanager
def _rows(run: Path, coders: Mapping[str, Any], done: int) -> Iterator[Callable[[Row], None]]:
    """Append rows to one file a coder; rows beyond the checkpoint that training goes on from are cut off first.

    speed.jsonl stands apart: what it says is never the same twice.
    """
    run.mkdir(parents=True, exist_ok=True)
    files = {"": (run / SPEED).open("a", encoding="utf-8")}
    try:
        for name in coders:
            path = run / f"{name}.jsonl"
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in lines if _step(line) < done]
            files[name] = path.open("w", encoding="utf-8")
            files[name].writelines(line + "\n" for line in kept)
            files[name].flush()

        latest = [-1]

        def write(row: Row) -> None:
            files[row.coder].write(json.dumps(as_line(row), allow_nan=False) + "\n")
            files[row.coder].flush()
            if row.step != latest[-1]:
                latest.append(row.step)
                files[""].write(json.dumps({"step": row.step, "tokens": row.tokens, **row.speed}) + "\n")

        yield write
    finally:
        for file in files.values():
            file.close()


def as_line(row: Row) -> dict[str, Any]:
    """A row as train.jsonl holds it."""
    line: dict[str, Any] = {"step": row.step, "tokens": row.tokens, **row.metrics}
    line |= {"density": list(row.density)} if row.density else {}
    return line | ({"stopped": row.stopped} if row.stopped else {})


def stopped_in(run: Path) -> dict[str, str]:
    """Coders of an unfinished run that diverged, and why: from their rows."""
    lasts = {path.stem: path.read_text(encoding="utf-8").splitlines()[-1:] for path in run.glob("*.jsonl")}
    found = {name: json.loads(last[0]).get("stopped") for name, last in lasts.items() if last}
    return {name: why for name, why in found.items() if why}


def _step(line: str) -> float:
    """Step of a row; a line cut short by a kill counts as later than any."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")


def _save(
    name: str, coder: SparseCoder[Any], store: Store, run: Path, facts: dict[str, Any], made: provenance.Made, source: str, again: Again
) -> Path:  # fmt: skip
    kind = "baseline" if coder.baseline else "trained"
    about = facts | {"architecture": native.architecture_of(coder), "config": asdict(coder.config), "kind": kind}
    where = {k: facts[k] for k in ("model", "site") if k in facts}
    with store.draft("coders", name) as draft:
        if again == "never" and store.has("coders", name):
            return store.path("coders", name)
        _all_there([name], store, facts["run"], again)  # another process may have taken the name while this one trained
        native.write(coder, draft.path, where)
        shutil.copyfile(run / f"{name}.jsonl", draft.path / "train.jsonl")
        shutil.copyfile(run / SPEED, draft.path / f"{SPEED}.jsonl")
        return draft.finish(inputs={"activations": source}, about=about, made=made)


def save_baseline(
    name: str, coder: SparseCoder[Any], store: Store, *, about: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Path:
    """Save a coder that was not trained here (a permuted decoder, say) as `coders/NAME`."""
    facts = {"architecture": native.architecture_of(coder), "config": asdict(coder.config), "kind": "baseline"} | dict(about)
    where = {k: facts[k] for k in ("model", "site") if k in facts}
    with store.draft("coders", name) as draft:
        native.write(coder, draft.path, where)
        return draft.finish(inputs=inputs, about=facts, made=provenance.made(device=str(coder.W_dec.device)))
