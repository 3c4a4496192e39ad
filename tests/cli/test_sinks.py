"""Rows of a training in TensorBoard and Weights & Biases."""

from __future__ import annotations

import sys

import pytest

from assay.cli import sinks
from assay.errors import Unavailable, UnknownName
from assay.train import Row

DENSITY = tuple(range(14))


def row(step: int, coder: str = "a", fvu: float = 0.5) -> Row:
    return Row(step, 100 * (step + 1), coder, {"loss": 1.0, "fvu": fvu}, DENSITY, {"tokens_per_second": 1e3})


def test_unknown_sinks_are_refused(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'tensorboard'"), sinks.open(["tensorbord"], tmp_path):
        pass


def test_no_sink_is_fine(tmp_path):
    with sinks.open([], tmp_path) as listen:
        listen(row(0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_what_is_not_installed_says_how(name, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unavailable, match=rf"pip install 'assay-sae\[{name}\]'"), sinks.open([name], tmp_path):
        pass


def test_edges_fit_the_bins():
    assert len(sinks.DENSITY) == len(DENSITY) + 1
    assert sinks.DENSITY[2] == -6.0 and sinks.DENSITY[-1] == 0.0


def events(path):
    from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, EventAccumulator  # type: ignore[import-not-found]

    return EventAccumulator(str(path), size_guidance={HISTOGRAMS: 0}).Reload()


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    with sinks.open(["tensorboard"], tmp_path) as listen:
        for step in range(4):
            listen(row(step, "a", 0.25 * step))
            listen(row(step, "b"))
        listen(Row(4, 500, "b", {}, stopped="it diverged"))
    home = tmp_path / "tensorboard"
    assert sorted(p.name for p in home.iterdir()) == ["a", "b"]
    found = events(home / "a")
    assert [(s.step, s.value) for s in found.Scalars("fvu")] == [(100, 0.0), (200, 0.25), (300, 0.5), (400, 0.75)]
    assert found.Scalars("tokens_per_second")[0].value == 1e3
    histogram = found.Histograms("log10_density")[-1].histogram_value
    assert list(histogram.bucket) == list(DENSITY) and histogram.num == sum(DENSITY)
    assert "stopped/text_summary" in events(home / "b").Tags()["tensors"]


def test_tensorboard_forgets_what_an_interrupted_run_wrote_too_much(tmp_path):
    pytest.importorskip("tensorboard")
    for steps in (range(4), range(2, 5)):
        with sinks.open(["tensorboard"], tmp_path) as listen:
            for step in steps:
                listen(row(step, fvu=steps[0]))
    found = events(tmp_path / "tensorboard" / "a").Scalars("fvu")
    assert [(s.step, s.value) for s in found] == [(100, 0), (200, 0), (300, 2), (400, 2), (500, 2)]


def test_wandb_works_offline_without_an_account(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pytest.importorskip("wandb")
    with sinks.open(["wandb"], tmp_path / "runs") as listen:
        for coder in "ab":
            listen(row(0, coder))
            listen(row(1, coder))
    written = sorted((tmp_path / "runs" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(written) == 2
    for path in written:
        assert all(key in path.read_bytes() for key in (b"fvu", b"tokens_per_second", b"log10_density"))
