"""bench: what coders are measured on, out of flags and manifests, and the measuring: model, text, planted source, baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from assay.cli.flags import Common, Machine
from assay.cli.output import note
from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.activations.truth import PlantedSource
    from assay.cli.origin import About, Flags, Origin
    from assay.coders.base import SparseCoder
    from assay.models.hf import HFModel
    from assay.progress import Progress
    from assay.results import Record
    from assay.store import Store
    from assay.train import TrainConfig


def suited(evals: Mapping[str, Any], said: About, flags: Flags) -> dict[str, Any]:
    """Those evals that coders of this origin can take: with a planted truth or a language model, and without either."""
    from assay.cli.origin import is_planted
    from assay.evaluate import reads

    kinds = ("nothing", "planted" if is_planted(said) and flags.model is None else "model")
    return {name: one for name, one in evals.items() if reads(one) in kinds}


@dataclass(frozen=True)
class Bench:
    """What coders are measured on, as the flags and their manifests say."""

    origin: Origin | None
    source: PlantedSource | None
    baselines: list[str] | None
    """Their names; None where there are to be none, and empty where all are meant."""
    frozen: TrainConfig | None
    corpus_tokens: int | None
    seed: int

    @classmethod
    def of(
        cls, evals: Mapping[str, Any], said: About, flags: Flags, baselines: str | None, frozen_tokens: int | None,
        corpus_tokens: int | None, seed: int,
    ) -> Bench:  # fmt: skip
        """From the flags, and from manifests where flags are left out. `baselines` as it is typed: all, or names."""
        from assay.cli.origin import Origin, is_planted, truth_of
        from assay.evaluate import reads

        planted = is_planted(said) and flags.model is None
        source = truth_of(said) if planted or any(reads(one) == "planted" for one in evals.values()) else None
        spliced = [name for name, one in evals.items() if reads(one) == "model"]
        if spliced and planted:
            raise BadInput(
                f"{', '.join(spliced)}: {', '.join(said)} learnt from planted vectors, which no language model makes, so there is "
                "nothing to splice into. Evaluate synthetic instead, or name a --model, --site and --corpus of that width."
            )
        needed = bool(spliced) or (bool(baselines) and source is None)
        text = bool(baselines) or any(_reads_text(one) for one in evals.values())
        wanted = None if baselines is None else [] if baselines == "all" else baselines.split(",")
        frozen = _frozen(said, wanted or [], frozen_tokens)
        return cls(Origin.of(said, flags, reads=text) if needed else None, source, wanted, frozen, corpus_tokens, seed)

    def flags(self) -> dict[str, Any]:
        """What manifests said, as flags."""
        return self.origin.flags() if self.origin else {}

    def measured(
        self, evals: Mapping[str, Any], coders: dict[str, SparseCoder[Any]], said: About, again: Any, store: Store,
        machine: Machine, common: Common, display: Progress,
    ) -> list[Record]:  # fmt: skip
        """Records of the coders, and of their baselines, with a note of what that will take."""
        from assay import corpora
        from assay.cli.origin import places_of
        from assay.cli.source import open_model, open_tokens
        from assay.evaluate import evaluate

        origin = self.origin
        model = open_model(origin.model, origin.model_dtype, machine, display) if origin else None
        device, text = model.device if model else machine.torch_device(), None
        coders = {name: coder.to(device) for name, coder in coders.items()}
        if origin and model and origin.corpus and any(_reads_text(one) for one in evals.values()):
            text = open_tokens(origin.corpus, origin.text("held_out", self.corpus_tokens), model, store, display)
        places = places_of(said)
        if self.baselines is not None:
            twins = self._baselines(coders, model, store, display)
            shared = next(iter(places.values())) if len({repr(place) for place in places.values()}) == 1 else {}
            coders, places = coders | {n: c.to(device) for n, c in twins.items()}, dict.fromkeys(twins, shared) | places
        about: dict[str, Any] = {
            "model": model, "site": origin.site if origin else None, "text": text, "planted": self.source,
            "labelled": corpora.load, "origins": places,
        }  # fmt: skip
        foresee = lambda estimate: note(str(estimate), common)  # noqa: E731
        return evaluate(coders, list(evals.values()), store=store, again=again, foresee=foresee, progress=display, **about)

    def _baselines(
        self, coders: dict[str, Any], model: HFModel | None, store: Store, display: Progress
    ) -> dict[str, SparseCoder[Any]]:
        """Baselines at the coders' own L0, fitted to what they learnt from, in the store like them."""
        from assay.activations import Live
        from assay.baselines import matched
        from assay.cli.source import open_tokens

        origin = self.origin
        if origin is None or model is None:
            assert self.source is not None
            return matched(coders, self.source, self.baselines or None, store=store, seed=self.seed, train=self.frozen)
        assert origin.corpus is not None
        text = open_tokens(origin.corpus, origin.text("train", origin.packing["max_tokens"]), model, store, display)
        source = Live(model, text, origin.site, buffer_rows=128)
        facts = {"model": {"name": origin.model, "fingerprint": model.fingerprint}, "site": origin.site}
        return matched(coders, source, self.baselines or None, store=store, about=facts, seed=self.seed, train=self.frozen)


def _reads_text(one: Any) -> bool:
    """Whether an eval needs held-out text."""
    return any(type(need).__name__ == "Passes" for need in one.needs().values())


def _frozen(said: About, baselines: Sequence[str], tokens: int | None) -> TrainConfig | None:
    """How frozen decoders learn: as the first coder did, from `tokens` vectors where that is said; None where none are wanted."""
    from assay import codec
    from assay.train import TrainConfig

    if tokens is None and "frozen_decoder" not in baselines:
        return None
    facts = next((facts["train"] for facts in said.values() if facts.get("train")), None)
    if facts is None and tokens is None:
        raise BadInput(f"{', '.join(said)}: no manifest says from how many vectors the coder learnt. Say --frozen-tokens.")
    how = codec.from_data(TrainConfig, facts, "train") if facts else TrainConfig()
    return how if tokens is None else replace(how, tokens=max(tokens, how.batch), revive="own")
