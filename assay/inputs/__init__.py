"""inputs: how each kind of need is met, one file a kind, once for all coders. A new kind is its dataclasses in `assay.evals.needs`, a
file here, and a line below.
"""

from __future__ import annotations

from typing import Any

from assay.evals.needs import Labelled, Need, Passes, Siblings, Spelling, Truth
from assay.inputs.base import Bench, Supply
from assay.inputs.labelled import LabelledSupply
from assay.inputs.passes import PassesSupply
from assay.inputs.siblings import SiblingsSupply
from assay.inputs.spelling import SpellingSupply
from assay.inputs.truth import TruthSupply

SUPPLIES: dict[type[Need], type[Supply[Any]]] = {
    Labelled: LabelledSupply,
    Passes: PassesSupply,
    Siblings: SiblingsSupply,
    Spelling: SpellingSupply,
    Truth: TruthSupply,
}

__all__ = ["SUPPLIES", "Bench", "Supply"]
