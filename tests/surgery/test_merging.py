"""Merging: planted duplicates become one, and nothing else does."""

from __future__ import annotations

import math

import pytest
import torch

from assay import surgery
from assay.coders.base import Batch
from assay.surgery.patient import look
from tests.surgery.planted import LATENTS, LINEAR, D, duplicated


@pytest.mark.parametrize(("name", "seed"), [*((name, 0) for name in LINEAR), ("topk", 1), ("topk", 2), ("jumprelu", 1)])
def test_planted_duplicates_are_merged_and_nothing_is_lost(made, x, fresh, name, seed):
    coder = made[name]
    twin, pairs = duplicated(coder, name, seed)
    found = surgery.duplicates(twin, x)
    own = surgery.duplicates(coder, x)
    assert sorted(map(sorted, found)) == sorted(map(sorted, [*own, *pairs]))
    merged, report = surgery.merge(twin, x)
    assert merged.d_sae == twin.d_sae - len(pairs) - len(own)
    assert report["kept"] == list(range(LATENTS))
    was, now = look(coder, Batch.of(fresh))["fvu"], look(merged, Batch.of(fresh))["fvu"]
    assert now < 1.01 * was
    if name == "topk":
        assert look(twin, Batch.of(fresh))["fvu"] > 1.1 * was


@pytest.mark.parametrize("name", [name for name in LINEAR if name != "matryoshka"])
def test_halves_become_a_whole(made, x, fresh, name):
    """A latent as two that each say half of it: the merged one must say twice as much as either."""
    coder = made[name]
    twin, pairs = duplicated(coder, name, 0, noise=0.0)
    halves = torch.tensor(pairs).flatten()
    with torch.no_grad():
        twin.W_enc[:, halves] *= 0.5
        for weight in ("b_enc", "b_mag"):
            if hasattr(twin, weight):
                getattr(twin, weight)[halves] *= 0.5
        if hasattr(twin, "log_threshold"):
            twin.log_threshold[halves] -= math.log(2)
    merged, _ = surgery.merge(twin, x)
    assert merged.d_sae == LATENTS
    assert look(merged, Batch.of(fresh))["fvu"] < 1.01 * look(coder, Batch.of(fresh))["fvu"]
    if not hasattr(coder.config, "k"):  # latents do not compete: those that are longer fire where they did
        torch.testing.assert_close(surgery.firing(merged, x), surgery.firing(coder, x), rtol=0, atol=1e-3)
        old, new_ = coder.encode(x).z[:, 6], merged.encode(x).z[:, 6]
        ratio = (new_ / old)[(old > 0.01) & (new_ > 0)]
        assert len(ratio) > 100
        assert ratio.max() < 1.001 * ratio.min()


def test_latents_that_only_share_a_direction_are_no_duplicates(made, x):
    """Two that fire on different vectors, by opposite encoders; and a chain whose ends are not alike."""
    coder = made["relu"].clone()
    with torch.no_grad():
        coder.W_dec[2] = coder.W_dec[1]
        coder.W_enc[:, 2] = -coder.W_enc[:, 1]
        a, b = torch.eye(D)[0], torch.eye(D)[1]
        for number, turn in zip((5, 6, 8), (0.0, 0.4, 0.8)):
            coder.W_dec[number] = coder.W_enc[:, number] = torch.cos(torch.tensor(turn)) * a + torch.sin(torch.tensor(turn)) * b
    groups = surgery.duplicates(coder, x)
    assert not any({1, 2} <= set(group) for group in groups)
    assert [len(group) for group in groups if {5, 6, 8} & set(group)] in ([3], [2])
    (group,) = [group for group in groups if {5, 6, 8} & set(group)]
    assert len(group) == (3 if group[0] == 6 else 2)
