"""Forward passes over held-out text that all coders share: activations at a site, and losses clean, ablated and spliced."""

from assay.passes.files import verify
from assay.passes.reference import Reference
from assay.passes.text import CLEAN, VERSION, ZERO, ZERO_EVERYWHERE, Text, through

__all__ = ["CLEAN", "VERSION", "ZERO", "ZERO_EVERYWHERE", "Reference", "Text", "through", "verify"]
