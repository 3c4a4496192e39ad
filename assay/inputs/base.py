"""What all inputs are made of (`Bench`), and the contract of whoever meets one kind of need (`Supply`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import torch

from assay.activations.truth import PlantedSource
from assay.coders.base import SparseCoder
from assay.corpora.base import Corpus
from assay.errors import BadInput
from assay.evals.needs import Need
from assay.inputs.cost import Cost
from assay.models.base import Model, Site
from assay.progress import Progress, silent
from assay.store import Store

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

N = TypeVar("N", bound=Need)
Reads = Literal["model", "planted", "nothing"]
"""What a need is met from: a language model at a site, a planted source, or the coders alone."""
PIECE = 1024  # vectors handed to a coder at once


@dataclass
class Bench:
    """What coders are measured on. What an eval needs and was not given is an error that says what to pass."""

    store: Store
    given_model: Model | None = None
    given_site: Site | None = None
    given_text: Tokens | None = None
    labelled: Mapping[str, Corpus] | Callable[[str], Corpus] | None = None
    given_planted: PlantedSource | None = None
    coders: Mapping[str, SparseCoder[Any]] = field(default_factory=dict)
    """All coders of this call, by hash."""
    progress: Progress = silent
    _corpora: dict[str, Corpus] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """What coders are spliced into."""
        if self.given_model is None:
            raise BadInput("These evals run a model with the coders spliced in. Pass model=… and site=….")
        return self.given_model

    @property
    def site(self) -> Site:
        """Where they are."""
        if self.given_site is None:
            raise BadInput("These evals need the site that the coders stand for. Pass site=…, e.g. resid_post.10.")
        return self.given_site

    @property
    def text(self) -> Tokens:
        """Held-out token rows."""
        if self.given_text is None:
            raise BadInput("These evals need held-out text. Pass text=…, tokenised rows that no coder was trained on.")
        return self.given_text

    @property
    def planted(self) -> PlantedSource:
        """What they learnt from, where its truth is known."""
        if self.given_planted is None:
            raise BadInput(
                "These evals compare with a known truth. Pass planted=…, the planted source that the coders learnt from."
            )
        return self.given_planted

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """How this model's activations are kept."""
        return "float32" if self.model.dtype == torch.float32 else "bfloat16"

    def corpus(self, name: str) -> Corpus:
        """The labelled corpus of a name."""
        if name not in self._corpora:
            if self.labelled is None:
                raise BadInput(f"An eval needs the labelled corpus {name!r}. Pass labelled=…, e.g. assay.corpora.load.")
            self._corpora[name] = self.labelled[name] if isinstance(self.labelled, Mapping) else self.labelled(name)
        return self._corpora[name]


class Supply(Generic[N]):
    """How one need is met, once for all coders and all evals that have it."""

    reads: ClassVar[Reads] = "model"

    def __init__(self, need: N, bench: Bench):
        self.need, self.bench = need, bench

    def fingerprint(self, coder: str) -> str:
        """Hash of the data that the coder of this hash will be scored on, known before anything runs."""
        raise NotImplementedError

    def cost(self) -> Cost:
        """What `gather` takes at most, known before it runs."""
        return Cost()

    def gather(self, coders: Mapping[str, SparseCoder[Any]]) -> None:
        """Make ready what these coders, by hash, will be scored on."""

    def given(self, coder: str) -> Any:
        """The input that an eval of the coder of this hash sees."""
        raise NotImplementedError
