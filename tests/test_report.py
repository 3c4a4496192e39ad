"""The report of a training: complete, self-contained, the same bytes each time, and honest about what is missing."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay import charts, registry, report
from assay.coders import new
from assay.errors import DamagedFile, MissingFile
from assay.formats import native
from assay.randomness import generator

HOSTILE = "</svg><script>alert('$x_1$')</script>&"


def rows(count: int = 40, **more: Any) -> list[dict[str, Any]]:
    """A training as it should go, L0 from 40 down to 8."""
    made = []
    for i in range(count):
        t = i / max(1, count - 1)
        row = {
            "step": 10 * i,
            "tokens": 5120 * (i + 1),
            "loss": 1.1 - t,
            "mse": 1 - t,
            "aux_k": 0.1,
            "fvu": 1 - 0.9 * t,
            "l0": 40 - 32 * t,
        }
        row |= {
            "dead": 0.02,
            "lr": 1e-3,
            "grad_norm": 0.1,
            "held_out_fvu": 1 - 0.89 * t,
            "held_out_l0": 40 - 32 * t,
            "gamma": 1.0,
        }
        row |= {"tokens_per_second": 1e4, "peak_memory": 3e8, "density": [2, 0, 0, 0, 1, 2, 3, 9, 9, 3, 2, 1, 0, 0]}
        made.append(row | more)
    return made


def finished(home: Path, kind: str = "batch_topk", training: list[dict[str, Any]] | None = None, **settings: Any) -> Path:
    """A coder's directory, without a manifest."""
    home.mkdir(parents=True, exist_ok=True)
    coder = new(kind, d_in=16, d_sae=32, **settings)
    native.write(coder, home)
    lines = rows() if training is None else training
    if lines:
        (home / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return home


@pytest.fixture
def sketched(monkeypatch):
    """Charts without pictures: a tenth of the time."""
    monkeypatch.setattr(charts, "picture", lambda title, draw: f"<svg><title>{title}</title></svg>")


class Page(HTMLParser):
    """Tags, what they point to, ids, and text by tag."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "xlink:href"):
                self.links.append(value or "")
            assert not name.startswith("on"), "no handlers"

    def handle_data(self, data):
        if self.tags:
            self.text.setdefault(self.tags[-1], []).append(data)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Path, str]:
    """A whole report of a JumpReLU coder whose every name means harm."""
    home = tmp_path_factory.mktemp("store") / "<script>alert(1)"
    directory = finished(home, "jumprelu", [row | {HOSTILE: 0.3} for row in rows()])
    made = {"seconds": 12.0, "versions": {"torch": HOSTILE}}
    about = {"train": {"l0": 8.0, "lr": 0.001}, "source": {"kind": HOSTILE}}
    (home / "manifest.json").write_text(json.dumps({"schema": 1, "files": {}, "about": about, "made": made}))
    return directory, report.write(directory).read_text(encoding="utf-8")


def test_needs_nothing_from_outside(hostile):
    page = Page(hostile[1])
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert page.links and all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert "@import" not in hostile[1] and "url(http" not in hostile[1]
    assert len(hostile[1].encode()) < 300_000


def test_hostile_names_are_text(hostile):
    assert "<script" not in hostile[1]
    page = Page(hostile[1])
    assert "<script>alert(1)" in "".join(page.text["h1"])
    assert HOSTILE in "".join(page.text["text"]), "the term's name stands in the legend"
    assert HOSTILE in "".join(page.text["td"])


def test_every_chart_has_axes_and_an_explanation(hostile):
    figures = hostile[1].split("<figure>")[1:]
    drawn = [f for f in figures if "<svg" in f]
    assert len(drawn) >= 13
    for figure in figures:
        assert len(Page(figure).text["figcaption"][0]) > 8
    for figure in drawn:
        svg = ET.fromstring(figure[figure.index("<svg") : figure.index("</svg>") + 6].replace("<svg ", '<svg xmlns="s" '))
        words = [t.text or "" for t in svg.iter("{s}text")]
        assert len([w for w in words if any(c.isalpha() or c in "γθ" for c in w)]) >= 2, words
        assert "#0a0b" not in figure, "every stand-in colour is replaced"
    ids = Page(hostile[1]).ids
    assert len(ids) == len(set(ids))


def test_figures_of_the_end(hostile):
    text = " ".join("".join(Page(hostile[1]).text["b"]).split())
    assert text == "0.110 8 2.0% 1.000 204,800 12 10,000 300".replace(" ", "")
    assert "wanted: 8" in hostile[1] and 'class="warn"' not in hostile[1]


def test_equal_input_equal_bytes(hostile, tmp_path):
    twin = tmp_path / hostile[0].name
    shutil.copytree(hostile[0], twin)
    assert report.write(twin).read_text(encoding="utf-8") == hostile[1]


@pytest.mark.parametrize("kind", sorted(registry.CODERS))
def test_every_architecture(kind, tmp_path, sketched):
    text = report.html(finished(tmp_path / "a", kind))
    assert "Spectrum of the decoder" in text and "Thresholds" in text


def test_thresholds(tmp_path, sketched):
    assert "topk has no thresholds" in report.html(finished(tmp_path / "a", "topk", k=4))
    assert "All 32 are alike" in report.html(finished(tmp_path / "b", "batch_topk"))


def test_what_is_missing_is_said(tmp_path, sketched):
    older = [{"step": 0, "tokens": 64, "loss": 1.0, "mse": 1.0, "fvu": 0.5, "l0": 8.0, "dead": 0.0}]
    text = report.html(finished(tmp_path / "a", training=older))
    for column in ("gamma", "density", "peak_memory", "tokens_per_second", "lr"):
        assert f"the rows of this training have no {column}." in text
    assert "on the last training batch" in text
    assert "Not shown: no rows of a training." in report.html(finished(tmp_path / "b", training=[]))


def test_what_a_reader_should_stop_at(tmp_path, sketched):
    bad = rows(dead=0.3, gamma=0.8, held_out_l0=20.0, held_out_fvu=0.4)
    text = report.html(finished(tmp_path / "a", training=bad, k=8))
    for words in (
        "30% of the latents are dead",
        "γ = 0.800",
        "L0 is 20 at inference, 8 was wanted",
        "FVU is 0.400 on held-out",
    ):
        assert words in text
    assert 'class="warn"' not in report.html(finished(tmp_path / "b", k=8))


def test_numbers_that_are_none(tmp_path, sketched):
    broken = rows()
    broken[-1] |= {"loss": float("nan"), "fvu": None, "gamma": float("inf")}
    run = report.read(finished(tmp_path / "a", training=broken))
    loss = run.series("loss")
    assert loss and loss[0][-1] == broken[-2]["tokens"]
    assert (run.last("fvu"), run.last("gamma")) == (broken[-2]["fvu"], 1.0)


def test_damage_is_named(tmp_path):
    directory = finished(tmp_path / "a")
    with (directory / "train.jsonl").open("a") as file:
        file.write('{"step": 3')
    with pytest.raises(DamagedFile, match=r"train\.jsonl, line 41"):
        report.write(directory)
    with pytest.raises(MissingFile):
        report.write(tmp_path / "nowhere")


def test_of_a_real_run(store, sketched):
    from assay.activations import Planted
    from assay.sweep import sweep
    from assay.train import TrainConfig

    coders = {"a": new("topk", d_in=16, d_sae=32, k=4), "b": new("relu", d_in=16, d_sae=32)}
    paths = sweep(coders, Planted(16, 32), TrainConfig(tokens=4096, batch=256, log_every=4), store)
    for path in paths.values():
        text = report.write(path).read_text(encoding="utf-8")
        assert (
            all(f"training have no {column}" not in text for column in ("density", "peak_memory"))
            and "planted" in text
            and "torch" in text
        )
        assert report.read(path).terms[0] == "mse"


def test_spectrum_is_the_singular_values():
    for shape in ((40, 8), (8, 40)):
        W = torch.randn(*shape, generator=generator("report spectrum", shape))
        torch.testing.assert_close(report.spectrum(W).float(), torch.linalg.svdvals(W), rtol=1e-4, atol=1e-5)


def test_neighbours_leave_the_latent_itself_out():
    W = torch.randn(600, 8, generator=generator("report neighbours"))
    W[7] = 3 * W[3]
    cosines = torch.nn.functional.normalize(W, dim=1) @ torch.nn.functional.normalize(W, dim=1).T
    expected = cosines.fill_diagonal_(-2).amax(1)
    torch.testing.assert_close(report.neighbours(W), expected.clamp(-1, 1))
    assert report.neighbours(W)[[3, 7]].min() > 0.9999
    assert len(report.neighbours(W, sample=100)) == 100


@pytest.mark.parametrize(("rows", "d"), [(256, 16), (1000, 64)])
def test_chance_neighbour(rows, d):
    found = report.neighbours(torch.randn(rows, d, generator=generator("report chance", d))).median()
    assert report.chance_neighbour(rows, d) == pytest.approx(float(found), abs=0.02)


def test_thinned_curves_keep_spikes_and_ends():
    y = np.zeros(10_000)
    y[[1234, 7777]] = 5, -5
    across, up = charts.thin(range(10_000), y)
    assert len(up) <= charts.POINTS + 2
    assert (across[0], across[-1], up.max(), up.min()) == (0, 9999, 5, -5)
    assert across[up == 5] == 1234
    assert len(charts.thin(range(100), y[:100])[0]) == 100


def test_a_curve_is_drawn_where_it_should_be():
    svg = charts.lines("t", {"a": ([0, 50, 100], [0.0, 10.0, 5.0])}, y="y")
    curve = next(p for p in svg.split("<path")[1:] if "var(--s0)" in p)
    points = [[float(v) for v in part.split()] for part in curve.split('"')[1].replace("M", "L").split("L")[1:]]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 < x1 < x2 and x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert (y0 - y2) == pytest.approx((y0 - y1) / 2, abs=0.2) and y1 < y0, "SVG's y grows downwards"
