"""Rating: people judge latents of several coders without knowing whose they are (Anthropic, Circuits Updates, June 2024).

    sheet = make({"topk": features_a, "relu": features_b}, SheetConfig(latents=25))
    book = Ratings(store)
    id, key = book.add(sheet)                             the key unblinds the sheet early; only its maker has it
    book.rate(id, item=1, rater="ada", scale="consistency", value=4)
    book.unblind(id)
    outcome(book, id)

A rater sees an item's strongest contexts and some of its upper activation intervals: the seven upper ones, since how many weak activations a
latent has gives its architecture away. Activations are shares of the latent's maximum, for their size would, too. Items stand in an order
that the seed draws; nobody is told coder, latent, density or seed before the sheet is unblinded.

Two scales of 1 to 5. Results are paired as in Rajamanoharan et al. 2024 (arXiv 2404.16014): the k-th latent of each coder by density, rated by
the same people, gives a difference; Wilcoxon's signed-rank test with Pratt's treatment of zeros, and bias-corrected accelerated (BCa)
bootstrap intervals of the mean difference.
"""

from __future__ import annotations

from assay.rating.book import Line, Ratings, Result
from assay.rating.outcome import LEVEL, Difference, Mean, Outcome, outcome, table
from assay.rating.sheet import SCALES, Item, Scale, Sheet, SheetConfig, make

__all__ = [
    "LEVEL", "SCALES", "Difference", "Item", "Line", "Mean", "Outcome", "Ratings", "Result", "Scale", "Sheet", "SheetConfig", "make", "outcome",
    "table",
]  # fmt: skip
