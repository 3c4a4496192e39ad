"""Matching: which latents of two coders are the same, by the directions they write and by when they fire.

    found = match(decoder(a), decoder(b))
    found.a.nearest, found.a.cosine          of each latent of a, the most alike of b
    found.a.partner, found.a.paired          one to one, with the largest sum of cosines
    splits(found, at=0.7), merges(found, at=0.7), kinds(found, at=0.7)["unique"]
    together(a, b, vectors, found)           correlation of activations

Directions are compared as in *Feature matching* of Bricken et al. 2023 and in stitching (Leask, Bussmann et al. 2025, arXiv 2502.04878,
which calls a latent *novel* below a cosine of .7). Cosines have their sign: opposite directions are different latents. In some hundred
dimensions the largest of many cosines is never near 0, so beside them stands what chance gives: random directions, as many as each
coder has latents; and the other coder's own directions with their coordinates permuted, all in the same way, which keeps how they
lie to each other.

Memory: the two decoders and a block of cosines, whatever the widths. Time: one product of the decoders.
"""

from __future__ import annotations

from assay.matching.directions import NOVEL, Group, Matching, Side, decoder, kinds, match, merges, mutual, splits
from assay.matching.firing import Firing, Together, gathered, together, vectors

__all__ = [
    "NOVEL", "Firing", "Group", "Matching", "Side", "Together", "decoder", "gathered", "kinds", "match", "merges", "mutual", "splits",
    "together", "vectors",
]  # fmt: skip
