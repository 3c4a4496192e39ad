"""The one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

import assay.cli
from assay.cli import CRASHED, FAILED, INTERRUPTED, RESUMES, USAGE, main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train topkk --d-sae 16k", "No architecture named 'topkk'. Did you mean 'topk'?"),
        ("list coder", "No list named 'coder'. Did you mean 'coders'?"),
        ("train", "Name an architecture (batch_topk,"),
        ("train topk --d-sae 16x", "'16x' is no whole number. Write e.g. 4096, 16k"),
        ("train topk --d-sae 1k", "by one of --data, --activations, --planted and --model"),
        ("train topk --d-sae 1k --model tiny", "--model also needs --corpus and --site"),
        ("train topk --d-sae 1k --data missing.npy", "missing.npy does not exist"),
        ("train topk --d-sae 1k --activations nokey", "No activations entry in assay-store named 'nokey'"),
        ("gather tinny --corpus a.txt --site resid_post.1", "No model named 'tinny'. Did you mean 'tiny'?"),
        ("gather tiny --corpus austen --site resid_pots.1", "No kind of site named 'resid_pots'. Did you mean 'resid_post'?"),
        ("gather tiny --corpus austen --site resid_post.99", "tiny has blocks 0 to 3"),
        ("gather tiny --corpus nothing.txt --site resid_post.1", "nothing.txt"),
        ("eval cores x", "No eval named 'cores'. Did you mean 'core'?"),
        ("results table", "assay-store is not a store"),
        ("assets verify smolm2", "Did you mean 'smollm2'?"),
    ],
)
def test_mistakes_are_one_line_on_stderr(run, words, message):
    ran = run(words)
    assert ran.code == FAILED
    assert ran.out == ""
    assert message in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", 'Unknown command "trian". Did you mean "train"?'),
        ("train topk --d-sae 8 --kk 3", "--kk"),
        ("train topk", "--d-sae"),
        ("results tabel", 'Did you mean "table"?'),
    ],
)
def test_what_is_not_understood_is_a_usage_error(run, words, message):
    ran = run(words)
    assert ran.code == USAGE
    assert message in ran.err
    assert "--help" in ran.err
    assert "Traceback" not in ran.err


def test_debug_shows_the_traceback(run):
    assert "Traceback" in run("list coder --debug").err


def test_our_own_faults_ask_for_a_report(run, monkeypatch):
    def broken(words):
        raise ZeroDivisionError("half a coder")

    monkeypatch.setattr(assay.cli, "_run", broken)
    ran = run("list coders")
    assert ran.code == CRASHED
    assert "ZeroDivisionError: half a coder" in ran.err
    assert "report" in ran.err
    assert "Traceback" not in ran.err
    assert "Traceback" in run("list coders --debug").err


@pytest.mark.parametrize("words", [*RESUMES, "steer mine", "list coders"])
def test_ctrl_c_says_how_to_go_on_where_that_is_so(run, monkeypatch, words):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(assay.cli, "_run", interrupted)
    ran = run(words)
    assert ran.code == INTERRUPTED
    assert ran.err == f"interrupted{'; run the same command again to resume' if words in RESUMES else ''}\n"


def test_sigterm_is_like_ctrl_c_and_its_handler_is_put_back(run, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(assay.cli, "_run", lambda words: os.kill(os.getpid(), signal.SIGTERM))
    assert run("list coders").code == INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_leaves_is_no_error(process):
    started = process("list coders --json")
    started.stdout.close()
    assert started.wait() in (0, 141)
    assert started.stderr.read() == ""


def test_version_and_no_words_at_all(run):
    assert run("--version").out.strip()
    assert "Commands" in run("").out


def test_full_disk_says_so(process, home):
    small = home / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", small], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        started = process("gather tiny --corpus austen --site resid_post.1 --tokens 20k --store small/store")
        assert started.wait() == FAILED
        said = started.stderr.read()
        assert "Traceback" not in said
        assert "disk is full" in said or "are free" in said
    finally:
        subprocess.run(["umount", small], check=True)


def test_read_only_store_says_so(home, capsys, vectors):
    sealed = home / "sealed"
    sealed.mkdir()
    if os.geteuid() == 0:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k,ro", "tmpfs", sealed], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("root may write anywhere, and cannot mount here")
    else:
        sealed.chmod(0o500)
    try:
        assert main(f"train topk --data {vectors} --d-sae 32 --store sealed/store".split()) == FAILED
        assert "Choose another place with --store" in capsys.readouterr().err
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", sealed], check=True)
