"""The face of the package: at most 25 names, lazy, and the same whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import assay
from assay.activations import Planted
from assay.errors import UnknownName
from assay.sweep import sweep as sweep_function
from assay.train import TrainConfig


def test_names_are_few_and_there():
    assert len(assay.__all__) <= 25
    assert set(assay.__all__) <= set(dir(assay))
    for name in assay.__all__:
        assert callable(getattr(assay, name)), name
        assert getattr(assay, name).__doc__, name


def test_importing_it_imports_no_torch():
    code = "import assay, sys; dir(assay); assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "before", ["pass", "import assay.train, assay.sweep", "from assay.train import train", "from assay import sweep"]
)
def test_modules_that_are_called_work_in_any_order(before):
    code = (
        f"{before}\nimport assay\nfrom assay.train import TrainConfig\nassert callable(assay.train) and callable(assay.sweep)"
    )
    subprocess.run([sys.executable, "-c", f"{code}\nassert assay.TrainConfig is TrainConfig"], check=True)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = assay.trian


def test_from_new_to_saved_and_back(tmp_path, monkeypatch):
    coder = assay.new("topk", d_in=16, d_sae=32, k=2)
    source = assay.Planted(d=16, latents=32)
    assert isinstance(source, Planted)
    rows = list(assay.train({"mine": coder}, source, assay.TrainConfig(tokens=2048, batch=256, log_every=4)))
    assert rows[-1].metrics["l0"] == 2
    twin = assay.load(assay.save(coder, tmp_path / "mine"))
    x = source.codes(8, 1)[0]
    assert (twin(x) == coder(x)).all()

    store = assay.Store(tmp_path / "store")
    assay.sweep({"kept": assay.new("topk", d_in=16, d_sae=32, k=2)}, source, TrainConfig(tokens=2048, batch=256), store)
    assert (assay.load("kept", store=store.root)(x) == coder(x)).all()
    monkeypatch.setenv("ASSAY_STORE", str(store.root))
    assert assay.load("kept").d_sae == 32
    with pytest.raises(UnknownName, match="Did you mean 'kept'"):
        assay.load("kep")
    assert assay.results(store) == []
    assert callable(sweep_function)
