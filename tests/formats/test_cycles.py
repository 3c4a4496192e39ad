"""Import, fold, export, import: what any dialect holds comes back to the last bit, as it is and folded."""

from __future__ import annotations

import pytest
import torch

from assay import formats
from assay.errors import BadInput
from tests.formats.dialects import OURS, REFUSED, codes, ours

WRITTEN = [(name, kind) for name, refused in REFUSED.items() for kind in OURS if kind not in refused]
ABOUT = {"model": {"name": "EleutherAI/pythia-70m-deduped"}, "site": "resid_post.3"}
LAST_BIT = {"rtol": 2e-6, "atol": 1e-6}


def test_every_dialect_that_is_written_is_tried():
    assert set(REFUSED) == {name for name in formats.dialects() if hasattr(formats.dialect(name), "write")}
    assert all(set(OURS) - refused for refused in REFUSED.values())


def cycled(coder, name, place):
    """Written in a dialect and read anew."""
    formats.write(coder, place, name, ABOUT)
    return formats.load(place, name)


@pytest.mark.parametrize(("name", "kind"), WRITTEN)
def test_a_cycle_changes_the_last_bit_at_most(name, kind, tmp_path):
    first = cycled(ours(kind), name, tmp_path / "first")
    second = cycled(first, name, tmp_path / "second")
    assert type(second) is type(first)
    assert second.config == first.config
    for key, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], value, **LAST_BIT)
    torch.testing.assert_close(codes(second), codes(first), **LAST_BIT)
    folded = first.folded()
    torch.testing.assert_close(codes(folded)[1], codes(first)[1], rtol=5e-6, atol=2e-6)
    try:
        second = cycled(folded, name, tmp_path / "folded")
    except (
        BadInput
    ):  # what is folded may be of another kind: a transcoder's form is no transcoder, a crosscoder's no crosscoder
        name = "saelens"
        second = cycled(folded, name, tmp_path / "elsewhere")
    torch.testing.assert_close(codes(second)[1], codes(folded)[1], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(codes(cycled(second, name, tmp_path / "third")), codes(second), **LAST_BIT)
