"""Ctrl-C in long commands: exit 130, no traceback, nothing half-written, and the same bytes in the end."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from assay.activations import Planted
from assay.cli import INTERRUPTED, main
from assay.models.embedded import TINY

TRAIN = (
    "train topk --data big.npy --d-sae 512 --k 4 --tokens 300k --batch 256 --checkpoint-seconds 0.2 --threads 1 --log-every 5"
)
GATHER = "gather tiny --corpus long.jsonl --site resid_post.2 --context 64 --shard-rows 8 --batch-rows 4 --threads 1"


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def files(directory: Path) -> dict[str, bytes]:
    """Files of an entry that decide anything: not who made it when, nor how fast."""
    return {
        p.name: p.read_bytes() for p in directory.iterdir() if p.name not in ("manifest.json", "speed.jsonl", "report.html")
    }


@pytest.fixture
def big(home):
    x, _ = Planted(d=32, latents=64, seed=0).codes(4096, 0)
    np.save(home / "big.npy", x.numpy())


@pytest.fixture
def long(home):
    paragraphs = (TINY / "austen.txt").read_text(encoding="utf-8").split("\n\n")
    (home / "long.jsonl").write_text("".join(json.dumps({"text": p}) + "\n" for p in paragraphs), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_train(process, home, big, capsys, number):
    started = process(f"{TRAIN} --store cut")
    until(lambda: list((home / "cut").glob("runs/*/checkpoint.safetensors")))
    started.send_signal(number)
    out, err = started.communicate(timeout=60)
    assert started.returncode == INTERRUPTED, err
    assert "interrupted; run the same command again to resume" in err
    assert "Traceback" not in err
    assert out == ""
    assert not (home / "cut/coders").exists()
    assert main(f"{TRAIN} --store cut --quiet".split()) == 0
    assert main(f"{TRAIN} --store whole --quiet".split()) == 0
    assert files(home / "cut/coders/topk") == files(home / "whole/coders/topk")


@pytest.mark.slow
def test_gather(process, home, long, capsys):
    started = process(f"{GATHER} --store cut")
    until(lambda: list((home / "cut").glob("activations/.*.part/00001.safetensors")))
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == INTERRUPTED, err
    assert "run the same command again to resume" in err
    assert "Traceback" not in err
    assert not [p for p in (home / "cut/activations").iterdir() if not p.name.startswith(".")]
    assert main(f"{GATHER} --store cut --quiet".split()) == 0
    assert main(f"{GATHER} --store whole --quiet".split()) == 0
    (key,) = {p.name for p in (home / "whole/activations").iterdir()}
    assert files(home / f"cut/activations/{key}") == files(home / f"whole/activations/{key}")


@pytest.mark.slow
def test_eval(process, home, long, capsys):
    gather = GATHER.replace("--context 64", "--context 64 --tokens 8k --held-out 0.4")
    assert main(f"{gather} --quiet".split()) == 0
    (key,) = {p.name for p in (home / "assay-store/activations").iterdir()}
    assert main(f"train topk --activations {key} --d-sae 256 --k 8 --tokens 16k --batch 256 --quiet".split()) == 0
    line = "eval core topk --baselines pca --threads 1 --corpus-tokens 20k --json"
    started = process(line)
    until(lambda: list((home / "assay-store").glob("passes/*/00001.safetensors")))
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == INTERRUPTED, err
    assert "Traceback" not in err
    capsys.readouterr()
    assert main(line.split()) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert main(f"{line} --again always".split()) == 0
    anew = json.loads(capsys.readouterr().out)
    assert [(r["coder"], r["scores"]) for r in resumed] == [(r["coder"], r["scores"]) for r in anew]


@pytest.mark.slow
def test_two_processes_on_one_store(process, home, big):
    """The second is told, or finds the work done; the coder is there, whole."""
    first, second = process(TRAIN), process(TRAIN)
    codes = []
    for started in (first, second):
        _, err = started.communicate(timeout=120)
        codes.append(started.returncode)
        assert "Traceback" not in err
        assert started.returncode == 0 or "Another process is working on run-" in err
    assert 0 in codes
    assert main(["doctor", "--verify", "--quiet"]) == 0
