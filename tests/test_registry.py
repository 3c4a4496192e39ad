from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from assay.errors import UnknownName
from assay.registry import CODERS, EVALS, Folder, as_dataclass


def test_names_summaries_and_tags():
    assert {"topk", "batch_topk", "relu"} <= set(CODERS)
    assert set(CODERS.names(tag="baseline")) == {"random", "permuted_decoder", "frozen_decoder", "pca", "identity", "oracle"}
    for folder in (CODERS, EVALS):
        for name in folder:
            assert len(folder.summary(name)) > 20, f"{name} has no summary line"


def test_listing_imports_no_torch():
    code = (
        "import sys; from assay.registry import CODERS, EVALS; "
        "[(f.summary(n), f.settings(n)) for f in (CODERS, EVALS) for n in f]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("folder", "name"), [(f, n) for f in (CODERS, EVALS) for n in f], ids=lambda v: getattr(v, "noun", v))
def test_settings_read_from_source_equal_the_dataclass(folder, name):
    config = folder.load(name).Config
    seen = {s.name: s for s in folder.settings(name)}
    real = {f.name: f for f in dataclasses.fields(config)}
    assert set(seen) == set(real)
    for key, setting in seen.items():
        assert setting.default == real[key].default, key
        assert setting.doc, f"{name}.{key} has no docstring; it is the text of --help"


def test_unknown_name_suggests_the_closest():
    with pytest.raises(UnknownName, match=r"No architecture named 'topkk'. Did you mean 'topk'\?"):
        CODERS.load("topkk")


def test_entry_points_add_to_a_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(
        '"""Elsewhere: an architecture of another package."""\n'
        "from assay.coders.base import CoderConfig\nfrom assay.coders.linear import LinearCoder\n"
        "class ElsewhereConfig(CoderConfig):\n    pass\n"
        "class Elsewhere(LinearCoder[ElsewhereConfig]):\n    Config = ElsewhereConfig\n"
    )
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[assay.coders]\nelsewhere = elsewhere:Elsewhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = Folder("assay.coders", "architecture", also=("dictionary", "latents", "linear", "losses"))
    assert folder.summary("elsewhere").startswith("Elsewhere")
    assert folder.load("elsewhere").__name__ == "Elsewhere"
    assert [s.name for s in folder.settings("elsewhere")] == ["d_in", "d_sae", "d_out"]


def test_as_dataclass_keeps_defaults():
    made = as_dataclass("Flags", [s for s in CODERS.settings("topk") if not s.required])
    assert made().k == 32
