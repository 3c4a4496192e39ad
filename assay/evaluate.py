"""evaluate: gather what evals need, once for all coders, and score each coder with each eval.

Every finished (eval, coder) is a file of its own, and every forward pass is kept (see `passes`): after an interruption the same
call goes on and ends in the same scores. What a coder scores never depends on which other coders are evaluated along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from assay import codec, passes, provenance, registry, results
from assay.activations import Activations, GatherConfig, gather
from assay.activations.score import truths
from assay.activations.truth import PlantedSource
from assay.coders.base import SparseCoder
from assay.corpora.base import Corpus, Document
from assay.errors import BadInput, WidthMismatch
from assay.evals.base import Eval, Labelled, LabelledInput, Losses, Need, PassesInput, Truth, TruthInput
from assay.models.base import Model, Site
from assay.progress import Progress, silent
from assay.randomness import numpy_generator
from assay.results import Record
from assay.splice import coder_hash, home, inference, splice
from assay.store import Store, digest

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

Again = Literal["never", "missing", "always"]
PIECE = 1024  # vectors handed to a coder at once


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
    again: Again = "missing",
    progress: Progress = silent,
) -> list[Record]:
    """Records of every (eval, coder), in that order, each also in the store.

    `model` and `site`: what the coders stand for, which all evals need but those of a planted truth. `text`: held-out token rows.
    `labelled`: gives the corpus of a name, for evals on labelled data. `planted`: the source that the coders learnt from, for evals
    that compare with its truth. `hashes`: identities of the coders, computed from their weights where left out. `again`: "missing"
    scores what has no record with this very coder, configuration and data; "never" is content with any record of that eval and
    coder; "always" scores everything anew, from the passes in the store. Raises `WidthMismatch` before anything runs when a coder
    does not fit the site or the source.
    """
    bench = _Bench(model, None if site is None else Site.parse(site), store, text, labelled, planted, progress)
    wanted = [registry.EVALS.load(e)() if isinstance(e, str) else e for e in evals]
    for one in wanted:
        bench.fits(one, coders)
    known = {name: (hashes or {}).get(name) or coder_hash(coder) for name, coder in coders.items()}
    found: dict[tuple[int, str], Record] = {}
    jobs: list[tuple[int, str, str, dict[str, str]]] = []
    for i, one in enumerate(wanted):
        inputs = bench.inputs(one)
        for name in coders:
            key = results.key(known[name], eval_name(one), one.version, asdict(one.config), inputs)
            there = _existing(store, one, name, known[name], key, again)
            if there is None:
                jobs.append((i, name, key, inputs))
            else:
                found[i, name] = there
    bench.run(
        {known[name]: coders[name] for _, name, _, _ in jobs}, {need for i, *_ in jobs for need in wanted[i].needs().values()}
    )
    for done, (i, name, key, inputs) in enumerate(jobs):
        progress(done, len(jobs), "scores")
        record = _score(wanted[i], name, coders[name], known[name], key, bench, inputs)
        results.write(store, record)
        found[i, name] = record
    return [found[i, name] for i in range(len(wanted)) for name in coders]


def eval_name(one: Eval[Any]) -> str:
    """Registry key of an eval: the name of its file."""
    return type(one).__module__.rsplit(".", 1)[-1]


def describe(coder: SparseCoder[Any]) -> dict[str, Any]:
    """What a record says of a coder."""
    return {
        "architecture": type(coder).__module__.rsplit(".", 1)[-1], "baseline": not coder.trained,
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
    one: Eval[Any], name: str, coder: SparseCoder[Any], hash_: str, key: str, bench: _Bench, inputs: dict[str, str]
) -> Record:
    with provenance.stopwatch() as seconds, inference(coder), torch.no_grad():
        scores, details = one.run(coder, {k: bench.given(need, hash_) for k, need in one.needs().items()})
    if undeclared := {s.metric for s in scores} - set(one.metrics):
        raise BadInput(f"{eval_name(one)} scored metrics that it does not declare: {', '.join(sorted(undeclared))}.")
    about, device = describe(coder) | bench.about(one), home(coder) if bench.is_planted(one) else bench.model.device
    return Record(
        schema=codec.SCHEMAS["record"], key=key, coder=name, coder_hash=hash_, eval=eval_name(one), eval_version=one.version,
        config=asdict(one.config), inputs=inputs, about=about, scores=scores, details=details,
        made=provenance.made(device=str(device), seconds=seconds()),
    )  # fmt: skip


class _Bench:
    """What all coders are measured on, gathered once."""

    def __init__(
        self, model: Model | None, site: Site | None, store: Store, text: Tokens | None,
        labelled: Mapping[str, Corpus] | Callable[[str], Corpus] | None, planted: PlantedSource | None, progress: Progress,
    ):  # fmt: skip
        self._model, self._site, self.store, self.text, self.progress = model, site, store, text, progress
        self._labelled, self._planted = labelled, planted
        self._corpora: dict[str, Corpus] = {}
        self._ready: dict[Need, Any] = {}

    @property
    def model(self) -> Model:
        """What coders are spliced into."""
        if self._model is None:
            raise BadInput("These evals run a model with the coders spliced in. Pass model=… and site=….")
        return self._model

    @property
    def site(self) -> Site:
        """Where they are."""
        if self._site is None:
            raise BadInput("These evals need the site that the coders stand for. Pass site=…, e.g. resid_post.10.")
        return self._site

    @property
    def planted(self) -> PlantedSource:
        """What they learnt from, where its truth is known."""
        if self._planted is None:
            raise BadInput(
                "These evals compare with a known truth. Pass planted=…, the planted source that the coders learnt from."
            )
        return self._planted

    @staticmethod
    def is_planted(one: Eval[Any]) -> bool:
        """Whether all that an eval needs is a planted truth: no model, no site."""
        return all(isinstance(need, Truth) for need in one.needs().values())

    def fits(self, one: Eval[Any], coders: Mapping[str, SparseCoder[Any]]) -> None:
        """Refuse coders that have not the widths of what they are measured on."""
        for name, coder in coders.items():
            if not self.is_planted(one):
                splice(self.model, {self.site: coder})
            elif (coder.d_in, coder.d_out) != (self.planted.d_in, self.planted.d_out):
                raise WidthMismatch(
                    f"{self.planted.kind} vectors have width {self.planted.d_in}, but {name} reads {coder.d_in} and gives "
                    f"{coder.d_out}. {eval_name(one)} takes coders that were trained on this source."
                )

    def about(self, one: Eval[Any]) -> dict[str, str]:
        """What a record says of where a coder was measured."""
        if self.is_planted(one):
            return {"model": self.planted.kind, "site": f"seed {self.planted.seed}"}
        return {"model": self.model.name, "site": str(self.site)}

    def corpus(self, name: str) -> Corpus:
        """The labelled corpus of a name."""
        if name not in self._corpora:
            if self._labelled is None:
                raise BadInput(f"An eval needs the labelled corpus {name!r}. Pass labelled=…, e.g. assay.corpora.load.")
            self._corpora[name] = self._labelled[name] if isinstance(self._labelled, Mapping) else self._labelled(name)
        return self._corpora[name]

    def inputs(self, one: Eval[Any]) -> dict[str, str]:
        """Hashes of all that an eval's numbers are computed from, beside the coder."""
        found = {}
        if not self.is_planted(one):
            found = {
                "model": self.model.fingerprint,
                "dtype": str(self.model.dtype).removeprefix("torch."),
                "site": str(self.site),
            }
        for name, need in one.needs().items():
            if isinstance(need, Labelled):
                found[name] = self.corpus(need.corpus).fingerprint
            elif isinstance(need, Truth):
                found[name] = self.planted.fingerprint
            elif self.text is None:
                raise BadInput(
                    f"{eval_name(one)} needs held-out text. Pass text=…, tokenised rows that no coder was trained on."
                )
            else:
                found[name] = self.text.fingerprint
        return found

    def run(self, coders: Mapping[str, SparseCoder[Any]], needs: set[Need]) -> None:
        """Gather all needs; `coders` by hash."""
        for need in sorted(needs, key=repr):
            if isinstance(need, Labelled):
                self._ready[need] = self._gather(need)
            elif isinstance(need, Truth):
                self._ready[need] = truth(self.planted, need)
            else:
                assert self.text is not None
                read = passes.Text(self.model, self.site, self.text, need.tokens, self.store, self.progress)
                read.read()
                read.run({key: splice(self.model, {self.site: coder}) for key, coder in coders.items()})
                self._ready[need] = read

    def given(self, need: Need, hash_: str) -> PassesInput | LabelledInput | TruthInput:
        """What an eval of the coder with this hash sees of a need."""
        ready = self._ready[need]
        if isinstance(ready, LabelledInput | TruthInput):
            return ready
        return PassesInput(
            documents=len(ready.documents), vectors=ready.vectors, mean=ready.mean, document=ready.predicted,
            clean=Losses(*ready.losses(passes.CLEAN)), mean_ablated=Losses(*ready.losses(ready.mean_ablated)),
            zero_ablated=Losses(*ready.losses(passes.ZERO)), spliced=Losses(*ready.losses(passes.through(hash_))),
        )  # fmt: skip

    def _gather(self, need: Labelled) -> LabelledInput:
        from assay.corpora.pack import PackConfig, tokenise

        chosen = choose(self.corpus(need.corpus), need.train, need.test)
        config = PackConfig(context=need.context, layout="documents")
        tokens = tokenise(chosen, self.model.tokenizer, config, self.store, self.progress)
        dtype = "float32" if self.model.dtype == torch.float32 else "bfloat16"
        path = gather(self.model, tokens, [self.site], GatherConfig(dtype=dtype), self.store, self.progress)
        document = tokens.document

        def vectors() -> Iterator[tuple[torch.Tensor, np.ndarray]]:
            for x, row, position in Activations(path, self.site):
                example = np.asarray(document)[row.numpy(), position.numpy()].astype(np.int64)
                for start in range(0, len(x), PIECE):
                    yield x[start : start + PIECE], example[start : start + PIECE]

        return LabelledInput(
            name=need.corpus, labels=chosen.labels, train=chosen.train, classes=chosen.classes, leak=chosen.leak,
            conflicts=chosen.conflicts, vectors=vectors,
        )  # fmt: skip


def truth(source: PlantedSource, need: Truth) -> TruthInput:
    """Vectors of a source, made once for all coders. Of what is true of them only the places of the features are kept."""
    kept = [(x, there.nonzero(as_tuple=True)) for x, there in truths(source, need.vectors, need.seed)]

    def pieces() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for x, places in kept:
            there = torch.zeros(len(x), source.latents, dtype=torch.bool)
            there[places] = True
            yield x, there

    return TruthInput(
        source=source.describe(), directions=source.directions.cpu(), parents=getattr(source, "parents", None), pieces=pieces
    )  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """Some documents of a labelled corpus, in its order: itself a corpus."""

    source: Corpus
    numbers: np.ndarray
    """Which documents, ascending."""
    labels: np.ndarray
    train: np.ndarray
    classes: list[str]
    leak: float
    conflicts: int

    @property
    def name(self) -> str:
        return f"{self.source.name} ({len(self.numbers)} documents)"

    @property
    def fingerprint(self) -> str:
        return digest([self.source.fingerprint, self.numbers.tolist()])[:16]

    def documents(self) -> Iterator[Document]:
        wanted = set(self.numbers.tolist())
        return (document for i, document in enumerate(self.source.documents()) if i in wanted)


def choose(corpus: Corpus, train: int, test: int) -> Chosen:
    """Draw `train` and `test` documents, as many of each class (fewer, in proportion, of a class that is too small).

    A text that occurs several times is used once, and one with several labels not at all: nothing can be on both sides.
    """
    texts, repeats, conflicts = _unique(corpus)
    kinds = sorted(set(texts.values()))
    if len(kinds) < 2:
        raise BadInput(f"{corpus.name} has {len(kinds)} class(es) in {len(texts)} texts; a probe needs two or more.")
    picked: dict[int, bool] = {}
    for kind in kinds:
        places = np.array([number for number, label in texts.items() if label == kind])
        places = numpy_generator("choose", corpus.fingerprint, kind).permutation(places)
        share = min(1.0, len(places) * len(kinds) / (train + test))
        n_train, n_test = int(train * share / len(kinds)), int(test * share / len(kinds))
        picked |= {int(p): i < n_train for i, p in enumerate(places[: n_train + n_test])}
    numbers = np.array(sorted(picked))
    names = getattr(corpus, "classes", None) or range(max(kinds) + 1)
    return Chosen(
        source=corpus, numbers=numbers, labels=np.array([texts[n] for n in numbers]), train=np.array([picked[n] for n in numbers]),
        classes=[str(names[k]) for k in range(max(kinds) + 1)], leak=repeats, conflicts=conflicts,
    )  # fmt: skip


def _unique(corpus: Corpus) -> tuple[dict[int, int], float, int]:
    """(class of each usable text by document number, share of documents that repeat an earlier text, documents in contradiction)."""
    first: dict[bytes, int] = {}
    labels: dict[int, list[int]] = {}
    for i, document in enumerate(corpus.documents()):
        if document.label is None:
            raise BadInput(
                f"Document {i} of {corpus.name} has no label. Probing needs a labelled corpus: name its label column."
            )
        place = first.setdefault(hashlib.sha256(document.text.strip().encode()).digest(), i)
        labels.setdefault(place, []).append(document.label)
    clean = {place: found[0] for place, found in labels.items() if len(set(found)) == 1}
    dropped = getattr(corpus, "dropped", {"copies": 0, "contradicting": 0})  # what the corpus itself has left out
    conflicts = sum(len(found) for place, found in labels.items() if place not in clean) + dropped["contradicting"]
    rows = sum(map(len, labels.values()))
    repeats = rows - len(labels) + dropped["copies"]
    return clean, repeats / max(rows + dropped["copies"] + dropped["contradicting"], 1), conflicts
