"""Fetching from the hub, its cache and mirrors: only what is asked for, of one commit, and errors that say what to do."""

from __future__ import annotations

import pytest

from assay.errors import BadInput, MissingFile, Unavailable, UnknownName
from assay.releases.hub import Hub, Mirror, safe, source
from tests.releases.standin import COMMIT

REPO = "owner/name"


def test_files_are_fetched_once_and_are_there_without_a_network(hub, cache, offline):
    for name in ("a/one.bin", "a/two.bin", "b/other.bin"):
        hub.put(REPO, name, name.encode())
    here = Hub(REPO)
    paths = here.get(["a/one.bin"], ["a/two.bin", "a/none.bin"])
    assert [p.read_bytes() for p in paths] == [b"a/one.bin", b"a/two.bin"]
    assert here.revision == COMMIT
    assert hub.downloads() == ["a/one.bin", "a/two.bin"]
    offline()
    again = Hub(REPO)
    assert again.get(["a/one.bin"], ["a/two.bin", "a/none.bin"]) == paths
    assert again.listing("a") == ["a/one.bin", "a/two.bin"], "what is cached is what can be listed"
    assert len(hub.downloads()) == 2


def test_without_a_network_all_missing_files_the_cache_and_the_way_out_are_named(hub, cache, offline):
    hub.put(REPO, "here.bin", b"x")
    Hub(REPO).get(["here.bin"])
    offline()
    with pytest.raises(Unavailable) as said:
        Hub(REPO).get(["here.bin", "one.bin", "two.bin"])
    for word in ("one.bin, two.bin", str(cache), "HF_HUB_OFFLINE", "--mirror DIR", f"DIR/{REPO}"):
        assert word in str(said.value)
    assert "here.bin," not in str(said.value)
    with pytest.raises(Unavailable, match="ASSAY_MIRROR"):
        Hub("owner/never").listing("")


@pytest.mark.parametrize(
    ("repo", "revision", "name", "error", "words"),
    [
        ("owner/nothing", None, "f", UnknownName, "no repository 'owner/nothing'"),
        (REPO, "old", "f", UnknownName, "no revision 'old'"),
        (REPO, None, "absent.bin", MissingFile, "owner/name has no absent.bin"),
        ("owner/gated", None, "f", Unavailable, "is gated: accept its terms"),
    ],
)
def test_what_the_hub_refuses_is_said(hub, repo, revision, name, error, words):
    hub.put(REPO, "there.bin", b"x")
    hub.put("owner/gated", "f", b"x")
    hub.gated.add("owner/gated")
    with pytest.raises(error, match=words):
        Hub(repo, revision).get([name])


def test_a_hub_that_does_not_answer_is_no_crash(cache, monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise ConnectionError("connection refused")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(Unavailable, match=r"ConnectionError: connection refused.*--mirror DIR"):
        Hub(REPO).get(["f"])


def test_a_mirror_stands_in_place_of_the_hub(tmp_path, monkeypatch, cache):
    (tmp_path / "m" / REPO / "a").mkdir(parents=True)
    (tmp_path / "m" / REPO / "a/one.bin").write_bytes(b"1")
    here = source(REPO, mirror=tmp_path / "m")
    assert isinstance(here, Mirror)
    assert here.get(["a/one.bin"], ["a/two.bin"]) == [tmp_path / "m" / REPO / "a/one.bin"]
    assert here.listing("a") == here.listing("a/one.bin") == ["a/one.bin"]
    with pytest.raises(MissingFile, match=r"has no a/two.bin, b.bin"):
        here.get(["a/one.bin", "a/two.bin", "b.bin"])
    monkeypatch.setenv("ASSAY_MIRROR", str(tmp_path / "m"))
    with pytest.raises(MissingFile, match="has no owner/other"):
        source("owner/other")


@pytest.mark.parametrize(
    "name", ["../up", "a/../../up", "/etc/passwd", "a//b", "./a", "a\\..\\b", "", "a/.", "x" * 2000, "line\nbreak", "a/\x00"]
)
def test_names_that_lead_out_are_refused(name, tmp_path, cache):
    with pytest.raises(BadInput, match="no path inside a repository"):
        safe(name)
    (tmp_path / "m" / REPO).mkdir(parents=True)
    (tmp_path / "up").write_text("secret")
    with pytest.raises(BadInput):
        Mirror(tmp_path / "m", REPO).get([name])
    with pytest.raises(BadInput):
        Hub(REPO).get([name])


@pytest.mark.parametrize("repo", ["owner", "../name", "owner/..", "a/b/c", "owner/na me", "/abs", "owner/n/../x"])
def test_repositories_have_two_parts(repo):
    with pytest.raises(BadInput, match="names no repository"):
        source(repo)


def test_a_listing_of_a_hostile_hub_is_refused(hub):
    hub.put(REPO, "../../evil.safetensors", b"x")
    with pytest.raises(BadInput, match="no path inside"):
        Hub(REPO).listing("")
