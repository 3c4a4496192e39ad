"""Pictures and pages: complete, the same bytes each time, and a page that needs nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from assay import figures
from assay.errors import UnknownName
from assay.figures import page, picture
from assay.figures.base import COLOURS, Figure
from tests.figures.suite import suite

LR, FVU = "core/loss_recovered[ablation=mean]", "core/fvu"
HOSTILE = "</script><script>alert('$x_1$')</script>&"


@pytest.fixture(scope="module")
def records():
    return [r for r in suite() if r.about["d_sae"] <= 256]


@pytest.fixture(scope="module")
def figure(records) -> Figure:
    return figures.against_l0(records, at=20, front=True)


def test_a_picture_shows_every_line(figure):
    drawn = picture.draw(figure)
    left, middle, _ = drawn.axes
    assert (left.get_xscale(), left.get_yscale(), middle.get_yscale()) == ("log", "linear", "linear")
    words = [t.get_text() for t in drawn.legends[0].get_texts()]
    assert words == [line.label for line in figure.lines] + ["L0 20, interpolated", "Pareto front", "activations themselves"]
    assert left.get_ylabel() == "loss recovered (ablation mean)\n↑ higher is better"
    assert middle.get_ylabel().endswith("↓ lower is better")
    assert left.get_title("right") == "core, 13 points, intervals from 16 units"
    marks = {line.get_label(): line for line in left.get_lines() if not line.get_label().startswith("_")}
    own = {label: [list(map(float, ends)) for ends in line.get_data()] for label, line in marks.items()}
    for i, line in enumerate(figure.lines):
        points = [p for p in figure.points if p.line == i and not p.interpolated]
        assert own[line.label] == [[p.values[key].value for p in points] for key in ("l0", LR)]
    styles = {(line.get_color(), line.get_linestyle()) for line in left.get_lines()}
    assert (picture.GREY, "--") in styles and (COLOURS[0], "-") in styles, "baselines are dashed"


def test_whiskers_are_the_intervals(figure):
    left = picture.draw(figure).axes[0]
    ends = {
        tuple(round(float(v), 9) for v in segment[:, 1])
        for c in left.collections
        if hasattr(c, "get_segments")
        for segment in c.get_segments()
    }
    wanted = {(round(p.values[LR].low, 9), round(p.values[LR].high, 9)) for p in figure.points}
    assert wanted <= ends


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_equal_figures_equal_bytes(figure, records, tmp_path, kind):
    figures.save(figure, tmp_path / f"a.{kind}")
    figures.save(figures.against_l0(records, at=20, front=True), tmp_path / f"b.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert (tmp_path / f"a.{kind}").stat().st_size > 5000


@pytest.mark.parametrize("drawn", [figures.correlation, figures.against_width])
def test_other_kinds_are_drawn(drawn, tmp_path):
    made = drawn(suite())
    assert len(picture.draw(made).axes) == len(made.panels) + (made.matrix is not None)
    assert "data" in page.html(made)


def test_other_endings_are_refused(figure, tmp_path):
    with pytest.raises(UnknownName, match="png"):
        figures.save(figure, tmp_path / "a.pngg")


# ---- the page ------------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, and the text of scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def test_a_page_needs_nothing_from_outside(figure):
    text = page.html(figure)
    found = Page(text)
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "object", "base", "form", "img")
        assert not {"src", "href", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")], "no handlers"
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "") and "https:" not in text
    assert "@import" not in text and "url(" not in text
    assert len(text) < 100_000 and len(found.scripts[1]) < 25_000


def test_only_its_own_script_may_run(figure):
    found = Page(page.html(figure))
    (policy,) = [a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a]
    seal = base64.b64encode(hashlib.sha256(found.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{seal}'" in policy and "default-src 'none'" in policy
    assert len(found.scripts) == 2, "data and script"


def test_a_page_holds_the_figure(figure):
    data = json.loads(Page(page.html(figure)).scripts[0])
    keys = [axis["key"] for axis in data["axes"]]
    assert [(keys[x], keys[y]) for x, y in data["panels"]] == figure.panels
    assert [line["label"] for line in data["lines"]] == [line.label for line in figure.lines]
    for got, wanted in zip(data["points"], figure.points, strict=True):
        assert got["name"] == wanted.name
        assert {keys[int(i)]: tuple(v) for i, v in got["values"].items()} == {
            k: (v.value, v.low, v.high, v.n) for k, v in wanted.values.items()
        }
    accuracy = data["axes"][keys.index("sparse_probing/accuracy[k=1,on=latents]")]
    assert accuracy["reference"] == ["activations themselves", [0.6, 0.55, 0.68, 7]]


def test_hostile_names_are_text(figure, tmp_path):
    points = [replace(p, name=HOSTILE) for p in figure.points]
    lines = [replace(line, label=HOSTILE) for line in figure.lines]
    bad = replace(figure, title=HOSTILE, points=points, lines=lines, notes=[HOSTILE])
    text = page.html(bad)
    assert text.count("<script") == 2
    assert json.loads(Page(text).scripts[0])["points"][0]["name"] == HOSTILE
    figures.save(bad, tmp_path / "a.svg")
    assert "<script" not in Path(tmp_path / "a.svg").read_text(encoding="utf-8")
