"""assay results table --metrics: names of any eval, and what is said of one that none has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assay import results
from assay.results import Score
from assay.store import Store
from tests.test_results import make_record


@pytest.fixture
def store(home) -> None:
    """Records of two evals, with metrics of their own."""
    core = make_record("mine")
    other = {"eval": "density", "scores": [Score(metric="dense", value=0.25)], "details": {}}
    key = results.key("mine", "density", core.eval_version, core.config, core.inputs)
    for record in (core, replace(core, key=key, **other)):
        results.write(Store("assay-store"), record)


@pytest.mark.parametrize("flags", ["", "--pareto", "--normalised"])
def test_each_eval_shows_what_it_has_of_the_metrics(run, store, flags):
    both = run(f"results table --metrics fvu,dense {flags}")
    assert both.code == 0, both.err
    assert [line.split()[0] for line in both.out.splitlines() if line] == ["core", "coder", "mine", "density", "coder", "mine"]
    assert "0.25" in both.out
    one = run(f"results table --metrics fvu {flags}")
    assert (one.code, "density" in one.out) == (0, False)


@pytest.mark.parametrize("flags", ["", "--pareto", "--json", "--seeds"])
def test_a_metric_that_no_eval_has_is_refused_before_anything_is_shown(run, store, flags):
    ran = run(f"results table --metrics fvu,dens {flags}")
    assert (ran.code, ran.out) == (1, "")
    assert (
        ran.err == "error: No metric named 'dens'. Did you mean 'dense'? `assay results show CODER` lists a coder's metrics.\n"
    )
    assert "`assay results show CODER`" in run(f"results table --metrics qq {flags}").err
