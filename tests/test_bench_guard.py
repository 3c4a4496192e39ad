"""A TopK step stays near the floor of its parts: a ratio within one process, turn by turn, never a time. And the harness runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import _floor, _ours, _rounds, speed
from benchmarks._clock import Timed, of_parts
from benchmarks._data import SHAPES, Shape, batches

SHAPE = Shape(512, 4096, 32, 1024)
ROUNDS = 8
BOUND = 1.5
"""A dense gradient of W_enc makes it 1.9, a dense decoder with all its gradients 4."""


def ratio() -> float:
    """Our step over the sum of the floor's parts, each the least processor time of several rounds."""
    data = batches(SHAPE, 2)
    run, _ = _ours.make({"contender": "Assay", "architecture": "topk"}, SHAPE, data)
    parts, timed = _floor.sparse(SHAPE, data[0]), Timed(data)
    least: dict[str, float] = {}
    step = float("inf")
    for _ in range(ROUNDS):
        for name, (_, seconds) in of_parts(parts).items():
            least[name] = min(seconds, least.get(name, seconds))
        run(timed.take(2), 2)
        step = min(step, *timed.steps(2)["cpu"])
    return step / sum(least.values())


def test_a_step_is_no_dearer_than_its_parts():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = ratio()
        assert found <= BOUND, (
            f"A TopK step takes {found:.2f} times the least that its parts take (bound {BOUND}): has something dense come into it? "
            "Look with: python -m benchmarks speed --only topk --shape small"
        )
    finally:
        torch.set_num_threads(threads)


def test_contenders_take_turns_and_a_peer_that_is_missing_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "VARIANTS", {"Assay": ((), {})})
    monkeypatch.setattr(speed, "PEERS", tmp_path / "python")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    some = speed.contenders("topk", asdict(SHAPES["tiny"]), "cpu")
    some.pop("floor, dense")
    found = _rounds.compare(some, rounds=2, seconds=0.01)
    ours, floor = found["contenders"]["Assay"], found["contenders"]["floor"]
    assert len(ours["wall"]) == len(ours["cpu"]) == len(floor["wall"]) == 2
    assert ours["l0"] == SHAPES["tiny"].k and ours["memory"] > 16 * 2 * 64 * 512
    assert 0 < sum(part["wall"] for part in floor["parts"].values()) < 1
    assert found["contenders"]["SAELens"] == {"missing": "not installed"}
    row = speed.table({"topk": found}).splitlines()[-1]
    assert row.count("not installed") == len(speed.RIVALS) and f"{_rounds.ratio(ours, floor, found['clock']):.2f}" in row


def test_ratios_are_medians_of_rounds():
    a, b = {"wall": [2.0, 30.0, 4.0]}, {"wall": [1.0, 10.0, 2.0]}
    assert _rounds.ratio(a, b, "wall") == 2.0  # where one round was slow for both
    assert _rounds.ratio(a, {"missing": "not installed"}, "wall") is None


def test_the_page_has_a_place_for_every_table(monkeypatch, tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(speed.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(speed, "PAGE", Path(page))
    for name in ("small", "large", "gpu", "scaling"):
        speed.mark(name, f"of {name}\n")
        assert f"<!-- {name} -->\nof {name}\n<!-- end -->" in page.read_text(encoding="utf-8")
