"""assay dashboards: out of a store and into another one."""

from __future__ import annotations

from assay import features
from assay.store import Store
from tests.features.made import entry


def test_out_and_in(run, home):
    entry(Store(home / "assay-store"), d_sae=40, k=4, tokens=1000)
    assert run("dashboards export circuit-tracer mine --output files").code == 0
    assert (home / "files/layer_2.bin").exists()
    ran = run("dashboards export neuronpedia mine --output site --set res-40 --model-id toy --json")
    assert ran.code == 0 and ran.json[0]["latents"] == 40 and ran.json[0]["in"] == "site/v1/toy/2-res-40"
    assert run("dashboards export neuronpedia mine --output site --set res-40 --model-id toy").code != 0

    ran = run("dashboards import neuronpedia site --store other")
    assert ran.code != 0 and "Say --model" in ran.err
    ran = run("dashboards import neuronpedia site --store other --model tiny --name theirs --json")
    assert ran.code == 0 and ran.json["coder"] == "theirs" and ran.json["alone"]
    assert features.open(Store(home / "other"), "theirs").d_sae == 40
    ran = run("dashboards import neuronpedia site --coder mine")
    assert ran.code == 0 and "its own numbers stand" in ran.err


def test_what_does_not_fit_is_said(run, home):
    entry(Store(home / "assay-store"), d_sae=40, k=4, tokens=1000)
    assert "only Neuronpedia" in run("dashboards export circuit-tracer mine --output files --set x").err
    assert "With --coder leave it out" in run("dashboards import neuronpedia . --coder mine --name other").err
    assert "Did you mean 'mine'" in run("dashboards export neuronpedia mime --output site").err
