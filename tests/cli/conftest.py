"""The command line as a function, a small file of vectors, a small corpus, and the command line as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.activations import Planted
from assay.cli import main
from assay.models.embedded import TINY

ROOT = Path(__file__).parents[2]


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASSAY_STORE", raising=False)
    return tmp_path


@pytest.fixture
def run(home, capsys) -> Callable[..., Ran]:
    """`run("train topk …")` in this process."""

    def call(*words: str) -> Ran:
        code = main([part for word in words for part in word.split()])
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return call


def hears_ctrl_c() -> None:
    """In a child: what a shell starts in the background ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def process(home) -> Callable[..., subprocess.Popen]:
    """`process("train topk …")` as a process of its own, with pipes."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    started: list[subprocess.Popen] = []

    def begin(words: str, **settings: Any) -> subprocess.Popen:
        command = [sys.executable, *settings.pop("flags", ()), "-m", "assay", *words.split()]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
        start = subprocess.Popen(
            command, text=True, env=env | settings.pop("env", {}), cwd=home, preexec_fn=hears_ctrl_c, **pipes
        )
        started.append(start)
        return started[-1]

    yield begin
    for one in started:
        if one.poll() is None:
            one.kill()
            one.wait()


@pytest.fixture
def vectors(home) -> str:
    """A .npy file of planted vectors [2048, 16]."""
    x, _ = Planted(d=16, latents=32, seed=0).codes(2048, 0)
    np.save(home / "vectors.npy", x.numpy())
    return "vectors.npy"


@pytest.fixture
def corpus(home) -> str:
    """A hundred paragraphs of text that the tiny model never saw."""
    paragraphs = (TINY / "austen.txt").read_text(encoding="utf-8").split("\n\n")[:100]
    (home / "text.jsonl").write_text("".join(json.dumps({"text": p}) + "\n" for p in paragraphs), encoding="utf-8")
    return "text.jsonl"
