"""The script of a page: the same numbers as Python's, and in a real browser hover, legend, axes and the state in the URL."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from assay import figures
from assay.figures import page
from assay.figures.base import written
from assay.randomness import numpy_generator
from tests.figures.suite import suite

LR, FVU = "core/loss_recovered[ablation=mean]", "core/fvu"
SCRIPT = page.DATA / "figure.js"
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def figure():
    return figures.against_l0([r for r in suite() if r.about["d_sae"] <= 256], at=20)


def node(code: str, given: Any) -> Any:
    """What `code` makes of `given`, with the script's functions at hand as `f`."""
    program = f"const f = require({str(SCRIPT)!r}), given = JSON.parse(process.argv[1]); console.log(JSON.stringify({code}))"
    done = subprocess.run([NODE, "-e", program, json.dumps(given)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(NODE is None, reason="no node here")
class TestWithoutAPage:
    def test_numbers_are_written_as_in_pictures(self):
        values = [0.0, 0.1234, 0.5, 12.34, 999.4, 1234.6, 4096, 16384, 1.5e6, 3e9, 576]
        for format in ("plain", "width", "count"):
            assert node(f"given.map(v => f.written(v, {format!r}))", values) == [written(v, format) for v in values]

    @pytest.mark.parametrize(
        ("low", "high", "log"), [(24, 32, True), (18, 400, True), (1, 1e6, True), (0.13, 1.2, False), (-3, 2e5, False)]
    )
    def test_ticks_lie_inside_and_are_some(self, low, high, log):
        ticks = node("f.ticks(...given)", [low, high, log])
        assert 3 <= len(ticks) <= 10
        assert low <= min(ticks) and max(ticks) <= high and ticks == sorted(ticks)

    def test_scales_meet_their_ends(self):
        assert node("[1, 10, 100].map(f.scale(1, 100, 50, 250, true))", 0) == pytest.approx([50, 150, 250])
        assert node("[f.ends([3], false), f.ends([0, 10], false), f.ends([1, 100], true)]", 0)[1] == [-0.5, 10.5]

    def test_shown_and_front_are_pythons(self, figure):
        data, keys = page.as_data(figure), list(figure.axes)
        for y in (LR, FVU):
            state = f"f.read({f'#y={y}'!r}, given)".replace("[", "%5B")
            found = node(f"(s => f.shown(given, s).map(x => [x.point.name, x.x, x.y]))({state})", data)
            assert found == [[p.name, page._numbers(at), page._numbers(v)] for p, at, v in figure.shown("l0", y)]
            front = node(
                f"(s => f.front(f.shown(given, s), given.axes[s.x], given.axes[s.y]).map(x => x.point.name))({state})", data
            )
            assert front == [p.name for p, *_ in figure.best("l0", y)] and len(front) > 2
        place = keys.index("core/ce_loss_clean")
        assert node(f"f.front(f.shown(given, f.read('', given)), given.axes[0], given.axes[{place}])", data) == []

    def test_lines_run_through_the_mean_of_seeds(self):
        random = numpy_generator("a test of lines").normal(size=(6, 4)).tolist()
        found = [
            {"point": {"order": i // 2}, "x": [r[0], None, None, 0], "y": [r[1], r[2], None, 3]} for i, r in enumerate(random)
        ]
        course = node("f.course(given)", found)
        assert len(course) == 3
        assert course[1] == pytest.approx(
            [(a + b) / 2 for a, b in zip(*[(r[0], r[1], r[2], r[1]) for r in random[2:4]], strict=True)]
        )

    def test_state_survives_the_url(self, figure):
        data = page.as_data(figure)
        both = "(s => [f.write(s, given), f.write(f.read('#' + f.write(s, given), given), given)])"
        assert node(f"{both}(f.read('', given))", data) == ["", ""]
        for fragment in (f"y={FVU}&logy=1&hide=0,2", "x=core/fvu&logx=1&bands=0&front=1"):
            once, again = node(f"{both}(f.read({fragment!r}.replaceAll('[', '%5B'), given))", data)
            assert once == again and sorted(once.replace("%2F", "/").replace("%2C", ",").split("&")) == sorted(
                fragment.split("&")
            )
        assert node(f"{both}(f.read('#x=nothing&hide=77,a&logx=', given))", data)[0] == "logx=0"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
class TestInABrowser:
    def dom(self, path: Path, fragment: str = "") -> str:
        """What the page has become in a real browser."""
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={path.parent / 'profile'}",
            "--virtual-time-budget=3000",
        ]
        words = [CHROMIUM, *flags, "--window-size=1200,900", "--dump-dom", f"file://{path}{fragment}"]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout

    def test_it_runs_under_its_own_policy(self, figure, tmp_path):
        figures.save(figure, tmp_path / "a.html")
        text = self.dom(tmp_path / "a.html", "#y=core/fvu&hide=0")
        assert text.count("<option") == 2 * len(figure.axes)
        assert text.count('class="line') == 3, "three of four lines that are joined"
        shown = [f for f in figure.shown("l0", FVU) if f[0].line != 0]
        assert text.count("<tr><td>") == len(shown)
        p, _, v = shown[0]
        assert f"<td>{p.name}</td>" in text and f"{v.value:.4g} ({v.low:.4g} to {v.high:.4g})" in text

    def test_hover_legend_and_axes(self, figure, tmp_path):
        """Clicks and moves by a script beside the page's own, for which the policy is taken out."""
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.html(figure))
        (tmp_path / "a.html").write_text(text.replace("</body>", f"<script>{ACTS}</script></body>"), encoding="utf-8")
        found = re.search(r'<pre id="said-by-test">(.*?)</pre>', self.dom(tmp_path / "a.html"), re.DOTALL)
        said = json.loads(unescape(found[1]))
        points = {p.name: p.values for p in figure.points}
        v, l0 = points["topk-256-10"][LR], points["topk-256-10"]["l0"]
        assert said["tip"][0] == "topk-256-10" and said["tip"][1].startswith("topk")
        assert said["tip"][2].endswith(f": {v.value:.4g} ({v.low:.4g} to {v.high:.4g}), n {v.n}")
        assert said["tip"][3] == f"L0: {l0.value:.4g} ({l0.low:.4g} to {l0.high:.4g}), n {l0.n}"
        assert said["away"] is True
        assert said["before"] - said["after"] == 4, "three coders and the interpolated point of the first line"
        assert said["pressed"] == "false" and said["hash"] == "#hide=0"
        assert said["axis"].startswith("fraction of variance unexplained") and "y=core%2Ffvu" in said["hash2"]
        assert said["logy"] == "#y=core%2Ffvu&logy=1&hide=0"
        assert said["only"] == 4 and said["back"] == said["before"]


ACTS = """
const $ = id => document.getElementById(id), said = {}, plot = $("plot");
const marks = () => plot.querySelectorAll("path").length;
const at = (name, i) => {
  const data = JSON.parse($("data").textContent), state = read(location.hash, data);
  return shown(data, state).findIndex(f => f.point.name === name);
};
const place = [...plot.querySelectorAll("path")][at("topk-256-10")].getAttribute("transform").match(/[\\d.]+/g).map(Number);
const box = plot.getBoundingClientRect(), k = box.width / plot.viewBox.baseVal.width;
const move = (x, y) => plot.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + x * k, clientY: box.top + y * k, bubbles: true}));
move(place[0] + 2, place[1] - 1);
said.tip = [...$("tip").children].map(c => c.textContent);
move(430, 440); said.away = $("tip").hidden;
said.before = marks();
$("legend").children[0].click();
said.after = marks(); said.pressed = $("legend").children[0].getAttribute("aria-pressed"); said.hash = location.hash;
$("panels").children[1].click();
said.axis = plot.querySelectorAll(".title")[1].textContent; said.hash2 = location.hash;
$("logy").click(); said.logy = location.hash;
$("legend").children[1].dispatchEvent(new MouseEvent("dblclick")); said.only = marks();
location.hash = ""; dispatchEvent(new HashChangeEvent("hashchange")); said.back = marks();
document.body.append(Object.assign(document.createElement("pre"), {id: "said-by-test", textContent: JSON.stringify(said)}));
"""
