"""Help is there at once, for every command, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from assay import registry
from assay.cli.app import COMMANDS, build, summary

HELPS = [
    "--help", *(f"{c} --help" for c in COMMANDS), "train topk --help", "train batch_topk --help", "eval core,sparse_probing --help", "results table --help",
    "results export --help", "assets fetch --help",
]  # fmt: skip
HEAVY = ["torch", "transformers", "numpy", "scipy", "sklearn", "pyarrow", "pydantic", "matplotlib"]
PROBE = """
import json, sys
from assay.cli import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "loaded": [m for m in %r if m in sys.modules]}), file=sys.stderr)
"""
YARDSTICK = "import cyclopts, rich.console, rich.table"  # 0.1 s of an idle core: what help costs before a line of ours


@pytest.mark.parametrize("words", HELPS)
def test_help_is_fast_and_light(words):
    ratios = []
    for _ in range(3):  # a busy neighbour slows the yardstick, run right after, as well; the best round counts
        done, cost = _timed(PROBE % HEAVY, *words.split())
        assert json.loads(done.stderr) == {"code": 0, "loaded": []}
        assert done.stdout.startswith("Usage: assay")
        ratios.append(cost / _timed(YARDSTICK)[1])
    assert min(ratios) < 5, f"{words}: {min(ratios):.1f} times the CPU of the yardstick"


def _timed(program: str, *words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    before = os.times()
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    after = os.times()
    return done, after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does(command):
    assert 20 < len(summary(command)) < 120
    assert summary(command)[0].isupper()


@pytest.mark.parametrize("architecture", list(registry.CODERS))
def test_every_setting_of_every_architecture_is_a_flag_with_help(architecture, capsys):
    build(["train"])(["train", architecture, "--help"], exit_on_error=False, result_action="return_value")
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for setting in registry.CODERS.settings(architecture):
        if setting.name not in ("d_in", "d_out"):
            assert "--" + setting.name.replace("_", "-") in said
            assert setting.doc.split()[0] in said
    for word in ("--tokens", "--lr", "--data", "--activations", "--planted", "--site", "--store", "--device", "--json"):
        assert word in said


@pytest.mark.parametrize("evaluation", list(registry.EVALS))
def test_every_setting_of_every_eval_is_a_flag(evaluation, capsys):
    build(["eval", evaluation])(["eval", evaluation, "--help"], exit_on_error=False, result_action="return_value")
    said = capsys.readouterr().out
    for setting in registry.EVALS.settings(evaluation):
        if setting.name not in ("tokens", "seed"):
            assert f"--{evaluation}.{setting.name.replace('_', '-')}" in said
