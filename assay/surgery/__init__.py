"""Surgery: change a trained coder without training it: prune latents, merge duplicates, move its L0, turn it into a JumpReLU.

Each operation gives a new coder and a report: latents, L0, FVU and γ before and after, on the vectors it was given. Where there is
a choice, the vectors decide: what explains more of them is taken. For coders of linear architectures, and what is composed of them.
"""

from assay.surgery.merging import duplicates, merge
from assay.surgery.pruning import dead, dense, firing, prune
from assay.surgery.saving import save
from assay.surgery.thresholds import recalibrate, to_jumprelu

__all__ = ["dead", "dense", "duplicates", "firing", "merge", "prune", "recalibrate", "save", "to_jumprelu"]
