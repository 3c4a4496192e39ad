"""The house keeps its shape: imports go down only, no cycles, files and functions stay small."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "assay"
FLOORS = {
    0: ["registry", "shapes", "errors", "provenance", "randomness", "progress", "timeline"],
    1: ["store", "codec", "assets", "carriers"],
    2: ["coders", "models", "corpora", "kernels"],
    3: ["splice", "activations", "results", "statistics", "charts", "passes", "features", "notes"],
    4: ["evals", "probing", "formats", "dashboards"],
    5: [
        "train",
        "training",
        "budget",
        "profile",
        "sweep",
        "report",
        "compare",
        "figures",
        "evaluate",
        "harvest",
        "inputs",
        "baselines",
        "surgery",
        "testing",
        "demo",
        "studies",
        "recipes",
        "matching",
        "rating",
        "releases",
        "check",
    ],
    6: ["cli", "web", "__main__"],
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    """First part of a file's module path below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, at_import: bool = False) -> set[str]:
    """Modules of this package that a file imports, `assay.` left out; or only those imported when it is imported itself."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "assay":
            inner = node.module.removeprefix("assay").strip(".")
            found |= {f"{inner}.{a.name}" if inner else a.name for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("assay.") for a in node.names if a.name.startswith("assay.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    here = room(path)
    assert here in FLOOR, f"{here} stands on no floor: add it to FLOORS"
    for name in imports(path):
        there = name.split(".")[0]
        assert there in FLOOR, f"{path.name} imports {name}, which stands on no floor"
        assert FLOOR[there] <= FLOOR[here], (
            f"{path.name} (floor {FLOOR[here]}) imports {name} from above (floor {FLOOR[there]})"
        )
    nouns = {"coders", "models", "corpora"} - {here}
    if here in ("coders", "models", "corpora"):
        assert not nouns & {n.split(".")[0] for n in imports(path)}, f"{here} must not know the other nouns"


def test_contributors_are_told_the_floors():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.*) \|$", text, re.MULTILINE)
    told = {int(floor): sorted(re.findall(r"`(\w+(?:/|\.py))`", row)) for floor, row in rows}
    there = {room(path): f"{room(path)}/" if path.parent != PACKAGE else path.name for path in FILES}
    assert told == {floor: sorted(there[name] for name in rooms if name in there) for floor, rooms in FLOORS.items()}


def test_no_import_cycles():
    """Between modules, type-checking imports aside."""
    graph = {}
    for path in FILES:
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = path
    edges = {
        n: {t for i in imports(p, at_import=True) for t in (i, i.rsplit(".", 1)[0]) if t in graph and t != n}
        for n, p in graph.items()
    }
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != 1, "import cycle: " + " → ".join([*trail[trail.index(name) :], name])
        if state.get(name) is None:
            state[name] = 1
            for other in sorted(edges[name]):
                visit(other, (*trail, name))
            state[name] = 2

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_budgets(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, f"{path.name} has {len(text.splitlines())} lines; at most 400"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{path.name}: {node.name} has {length} lines; at most 60"


def test_ground_floor_needs_no_torch():
    """registry and errors stay importable in a moment."""
    for name in ("registry", "errors", "progress"):
        text = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
        assert "import torch" not in text, f"{name}.py must not import torch"
