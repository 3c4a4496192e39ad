"""What the pages tell a reader to type works: Python runs, commands and their flags exist, run files are understood.

Blocks of one page share a namespace, and a working directory of their own. A page may bring files of the package (```python PATH);
such a page is run in a copy of the repository with these files in it, by this very test.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from assay.activations import Planted
from assay.cli import run_file
from assay.cli.app import COMMANDS, build
from assay.store import Store

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SLOW = ("tutorial",)
BLOCK = re.compile(r"^```(\w+)[ ]?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(file it is to be, or "", contents) of each block of a language."""
    return [(file, text) for kind, file, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def brought(page: Path) -> dict[str, str]:
    """Files that a page brings."""
    return {file: text for file, text in blocks(page, "python") if file}


def here(pages: list[Path], language: str) -> list:
    """Pages with blocks of a language, but for those whose files are not in this tree."""
    found = [p for p in pages if blocks(p, language) and all((ROOT / file).exists() for file in brought(p))]
    slow = {True: [pytest.mark.slow], False: []}
    return [pytest.param(p, id=p.stem, marks=slow[language == "python" and p.stem in SLOW]) for p in found]


@pytest.mark.parametrize("page", here(GUIDES, "python"))
def test_python(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    text = page.read_text(encoding="utf-8")
    for file, block in blocks(page, "python"):
        if not file:
            above = text[: text.index(block)].count("\n")  # so that a traceback names the page's own line
            exec(compile("\n" * above + block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", here([*GUIDES, *sorted((DOCS / "commands").glob("*.md"))], "sh"))
def test_shell(page):
    lines = [line for _, text in blocks(page, "sh") for line in text.replace("\\\n", " ").splitlines()]
    assert lines
    for line in lines:
        understood(re.split(r"\s{3,}|\s+# ", line)[0])


def understood(line: str) -> None:
    """Fail unless the command of a line exists, with these arguments."""
    words = shlex.split(line.replace("…", ""))
    if words[:1] == ["assay"]:
        app = build(words[1:])
        assert words[1] in COMMANDS, line
        if "--config" in words:
            return  # names a file of the reader's
        app.parse_args(words[1:], exit_on_error=False, print_error=False)
    elif words[:1] == ["make"]:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets), line
    elif words[:3] == ["python", "-m", "benchmarks"]:
        named = list(takewhile(lambda word: not word.startswith("-"), words[3:]))
        texts = [(ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8") for name in named]
        assert all(f'"{word}"' in texts[-1] for word in words[3 + len(named) :]), line
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[3:] if word.startswith("tests")), line
    else:
        assert words[:1] in (["git"], ["cd"], ["pip"], []), f"Teach this test about: {line}"


@pytest.mark.parametrize("page", here(GUIDES, "toml"))
def test_run_files(page, tmp_path):
    for number, (_, text) in enumerate(blocks(page, "toml")):
        if "[coder." in text:
            (tmp_path / f"{number}.toml").write_text(text, encoding="utf-8")
            run = run_file.read(tmp_path / f"{number}.toml")
            plan = run_file.build(run, Planted(d=16, latents=32), Store(tmp_path / "store"), page.name)
            assert plan.coders.keys() == run.coder.keys()


@pytest.mark.parametrize("command", re.findall(r"`(assay [a-z][^`…]*|make [a-z]+|python -m benchmarks[^`]*)[^`]*`", "".join(
    page.read_text(encoding="utf-8") for page in GUIDES)))  # fmt: skip
def test_commands_in_running_text(command):
    words = command.split()
    if words[0] != "assay":
        understood(command)
        return
    assert words[1] in COMMANDS, command
    app = build(words[1:])[words[1]]
    for word in (w for w in words[2:3] if w.isalpha() and w.islower() and app.default_command is None):
        assert word in app, command
    page = (DOCS / "commands" / f"{words[1]}.md").read_text(encoding="utf-8")
    assert all(word in page for word in words[2:] if word.startswith("--") and word != "--help"), command


@pytest.mark.slow
def test_pages_that_bring_files(tmp_path):
    """In a copy of the repository with those files and no other change: the contract, the pages' code, floors, style, reference."""
    for name in ("assay", "docs", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    files = {file: text for page in GUIDES for file, text in brought(page).items()}
    assert len(files) >= 2
    for file, text in files.items():
        assert not (tmp_path / file).exists(), f"{file} is taken: choose another name for the example"
        (tmp_path / file).write_text(text, encoding="utf-8")
    run(tmp_path, "ruff", "check", *files)
    run(tmp_path, "ruff", "format", "--check", *files)
    run(tmp_path, "docs/generate.py")
    for file in files:
        assert (tmp_path / "docs" / Path(file).parent.name / f"{Path(file).stem}.md").exists()
    chosen = " or ".join(["test_layers", "add-an", *(Path(file).stem for file in files)])
    tests = ("tests/contract", "tests/test_layers.py", "tests/docs/test_code.py")
    out = run(tmp_path, "pytest", *tests, "-k", chosen, "-rA", "-p", "no:cacheprovider")
    for wanted in (
        "contract[group_max-check_resume]",
        "python[add-an-architecture]",
        "python[add-an-eval]",
        "shell[add-an-eval]",
    ):
        assert re.search(rf"^PASSED .*::test_{re.escape(wanted)}$", out, re.MULTILINE), out


def run(tree: Path, what: str, *words: str) -> str:
    """Run a module or a script in a tree, with the package that lies there; fail with what it printed."""
    command = [sys.executable, *([what] if what.endswith(".py") else ["-m", what]), *words]
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
