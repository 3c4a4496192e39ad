from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from assay import provenance
from assay import store as disk
from assay.errors import BadInput, Busy, DamagedFile, MissingFile, NewerSchema, Unavailable, UnknownName
from assay.store import Store


def finished(s: Store, name: str = "a", text: str = "hello"):
    with s.draft("coders", name) as draft:
        disk.write_atomic(draft.path / "file.txt", text)
        return draft.finish(inputs={"x": "1"}, about={"k": 3}, made=provenance.made())


def test_a_directory_appears_only_when_complete(store):
    with store.draft("coders", "a") as draft:
        (draft.path / "file.txt").write_text("half")
        assert store.names("coders") == []
        assert not store.has("coders", "a")
    assert store.names("coders") == []
    path = finished(store)
    assert store.names("coders") == ["a"]
    assert store.manifest("coders", "a")["files"]["file.txt"]["bytes"] == 5
    assert path.name == "a"


def test_a_draft_survives_an_error_and_is_resumed(store):
    with pytest.raises(RuntimeError), store.draft("coders", "a") as draft:
        (draft.path / "shard0").write_text("kept")
        raise RuntimeError
    with store.draft("coders", "a") as draft:
        assert (draft.path / "shard0").read_text() == "kept"


def test_finishing_again_replaces(store):
    finished(store, text="one")
    finished(store, text="two")
    assert (store.find("coders", "a") / "file.txt").read_text() == "two"
    assert [p.name for p in (store.root / "coders").iterdir()] == ["a"]


def test_verify_names_what_is_wrong(store):
    path = finished(store)
    disk.verify(path)
    (path / "file.txt").write_text("hellO")
    with pytest.raises(DamagedFile, match=r"file.txt does not match the sha256"):
        disk.verify(path)
    (path / "file.txt").write_text("hel")
    with pytest.raises(DamagedFile, match=r"has 3 bytes, its manifest says 5"):
        disk.verify(path)
    (path / "file.txt").unlink()
    with pytest.raises(MissingFile, match="is missing"):
        disk.verify(path)
    for name in ("../outside", "/dev/zero"):
        with pytest.raises(DamagedFile, match="lies outside"):
            disk.compare(path, name, {"bytes": 5, "sha256": ""})


def test_names_are_checked(store):
    for bad in ("../x", "a/b", "", ".hidden", "x" * 300):
        with pytest.raises(BadInput, match="cannot name a directory"):
            store.path("coders", bad)
    finished(store, "topk-32")
    with pytest.raises(UnknownName, match=r"Did you mean 'topk-32'\?"):
        store.find("coders", "topk32")


def test_newer_store_is_refused(tmp_path):
    (tmp_path / "store.toml").write_text("schema = 99\n")
    with pytest.raises(NewerSchema):
        Store(tmp_path)


def test_a_strange_directory_is_not_taken_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(BadInput, match="not a store and not empty"):
        Store(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(MissingFile, match="not a store"):
        Store(tmp_path / "none", create=False)


def test_a_store_killed_at_birth_is_born_again(tmp_path):
    (tmp_path / ".store.toml.123.part").write_text("sch")
    Store(tmp_path)
    assert (tmp_path / "store.toml").exists()


def test_two_processes_on_one_entry(store):
    code = (
        "import sys, time; from assay.store import Store\n"
        f"with Store({str(store.root)!r}).draft('coders', 'a') as d: print('in', flush=True); time.sleep(30)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(Busy, match="Another process is working on coders-a"), store.draft("coders", "a"):
            pass
        with store.draft("coders", "b"):  # other entries stay free
            pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    time.sleep(0.1)
    with store.draft("coders", "a"):  # a dead process holds no lock
        pass


def test_no_space_is_said_before_starting(tmp_path):
    with pytest.raises(Unavailable, match=r"needs 1000000.00 GB .* free"):
        disk.require_space(tmp_path / "deep" / "down", 10**15, "Gathering")


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/proc/mounts"), reason="needs root to mount a tmpfs")
@pytest.mark.parametrize("options", ["size=64k", "ro"])
def test_full_and_read_only_disks(tmp_path, options):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(Unavailable, match="read-only" if options == "ro" else "disk is full"):
            s = Store(place / "store")
            with s.draft("coders", "a") as draft:
                disk.write_atomic(draft.path / "big", b"x" * 10**6)
        if options != "ro":
            assert Store(place / "store").names("coders") == []
            assert not list((place / "store").rglob("big*"))
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_digest_is_stable():
    assert disk.digest({"b": 1, "a": [1.5, "é"]}) == disk.digest({"a": [1.5, "é"], "b": 1})
    assert disk.digest({"a": 1}) != disk.digest({"a": 2})
