"""Files of strangers: whatever is done to one, it loads or is refused with one clear error, runs no code, and takes no memory it has not."""

from __future__ import annotations

import copy
import io
import itertools
import json
import pickle
import random
import resource
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from assay import formats
from assay.errors import AssayError, BadInput, DamagedFile
from assay.formats import torch_zip
from tests.formats import dialects
from tests.formats.dialects import D, S, gemma_scope, ours

ODD = [
    "null",
    "-1",
    "0",
    "true",
    '""',
    '"x"',
    "[]",
    "{}",
    "1e400",
    "9" * 30,
    "9" * 5000,
    "0.5",
    "[" * 3000,
    '"\\ud800"',
    "NaN",
    "{" * 9,
]


def valid(name: str, place: Path, kind: str | None = None) -> Path:
    """A sound coder in a dialect."""
    kind = kind or {
        "saelens": "jumprelu", "dictionary_learning": "matryoshka", "sparsify": "skip_transcoder_topk", "llamascopium": "crosscoder",
        "native": "matryoshka",
    }.get(name)  # fmt: skip
    if kind is None:
        return getattr(dialects, name)(place)
    formats.write(ours(kind), place / "layers.3.mlp", name, {"model": {"name": "gpt2"}, "site": "resid_post.3"})
    return place / "layers.3.mlp"


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes with something done to them: flipped, cut, grown, run over, exchanged, or a number in text made another."""
    out, n = bytearray(data), len(data)

    def near() -> int:
        """A place anywhere, or close to either end, where headers and directories are."""
        close = draw.randrange(min(n, 400))
        return draw.choice([draw.randrange(n), draw.randrange(n), close, n - 1 - close])

    kind, at = draw.randrange(8), near()
    if kind == 0:
        for _ in range(draw.choice([1, 1, 2, 8])):
            out[near()] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del out[at:]
    elif kind == 2:
        out[at:at] = draw.randbytes(draw.choice([1, 4, 64]))
    elif kind == 3:
        del out[at : at + draw.choice([1, 2, 8, 64])]
    elif kind == 4:
        length = min(draw.choice([1, 2, 4, 8]), n - at)
        out[at : at + length] = draw.choice([b"\xff", b"\x00", b"\x7f"]) * length
    elif kind == 5:
        other, length = near(), draw.choice([1, 4, 16, 64])
        out[at : at + length] = data[other : other + length]
    elif kind == 6:
        places = [i for i in range(n) if data[i : i + 1].isdigit()][:2000] or [at]
        out[draw.choice(places)] = ord(draw.choice("0123456789-."))
    else:
        out[at] = draw.randrange(256)
    return bytes(out)


def repacked(data: bytes, draw: random.Random) -> bytes:
    """An archive with one member mutated and its checksum right, so that what reads the member sees it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    programs = [name for name in members if name.endswith("data.pkl")]
    chosen = draw.choice([*members, *programs * len(members)])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, mutated(value, draw) if name == chosen else value)
    return out.getvalue()


def odd_json(data: bytes, draw: random.Random) -> bytes:
    """A configuration with one value made an odd one, or one key gone."""
    config = json.loads(data)
    part = draw.choice([config, *(v for v in config.values() if isinstance(v, dict) and v)])
    key = draw.choice(list(part))
    if draw.random() < 0.2:
        del part[key]
        return json.dumps(config).encode()
    part[key] = "MARK"
    return json.dumps(config).replace('"MARK"', draw.choice(ODD)).encode()


def assault(name: str, place: Path, seeds: range) -> Counter[str]:
    """Load mutated files; how often each outcome came. Any other error than ours is a fault."""
    path, found = valid(name, place / "sound"), Counter[str]()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    sound = {file: file.read_bytes() for file in files}
    dirty = None
    for seed in seeds:
        draw = random.Random(seed)
        file = draw.choice(list(sound))
        if dirty not in (None, file):
            dirty.write_bytes(sound[dirty])
        change, dirty = mutated, file
        if draw.random() < 0.7:
            change = {".json": odd_json, ".pt": repacked, ".npz": repacked}.get(file.suffix, mutated)
        file.write_bytes(change(sound[file], draw))
        try:
            formats.read(path, None if draw.random() < 0.3 else name, k=3 if name == "qwen_scope" else None)
            found["loaded"] += 1
        except AssayError as error:
            said = str(error)
            assert len(said) < 1000, f"{name}, seed {seed}: an error of {len(said)} characters"
            assert "MemoryError" not in said, f"{name}, seed {seed}: {said}"
            assert "alloc" not in said, f"{name}, seed {seed}: {said}"
            found["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {type(error).__name__}: {error}") from error
    return found


@pytest.mark.parametrize("name", [*formats.dialects(), formats.NATIVE])
def test_a_mutated_file_loads_or_is_refused(name, tmp_path):
    found = assault(name, tmp_path, range(70))
    assert found["loaded"] > 5, found
    assert found["refused"] > 20, found


@pytest.mark.slow
@pytest.mark.parametrize("name", [*formats.dialects(), formats.NATIVE])
def test_thousands_of_mutated_files_load_or_are_refused(name, tmp_path):
    assault(name, tmp_path / "first", range(10**6, 10**6 + 100))  # whatever is imported, is
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assault(name, tmp_path, range(1000, 3000))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 64, f"{grown:.0f} MB for files of some kB"


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_no_code_is_run(tmp_path):
    mark = tmp_path / "run"
    formats.write(ours("topk"), tmp_path / "a", "dictionary_learning")
    state = torch.load(tmp_path / "a/ae.pt")
    torch.save(state | {"evil": Evil(mark)}, tmp_path / "a/ae.pt")
    assert formats.load(tmp_path / "a").d_sae == S  # what nobody asks for is left alone, and runs nothing
    torch.save(state | {"b_dec": Evil(mark)}, tmp_path / "a/ae.pt")
    with pytest.raises(DamagedFile, match="lacks b_dec"):
        formats.load(tmp_path / "a")
    path = gemma_scope(tmp_path)
    arrays = dict(np.load(path / "params.npz"))
    np.savez(path / "params.npz", **arrays | {"b_dec": np.array([Evil(mark)] * D, dtype=object)}, allow_pickle=True)
    with pytest.raises(DamagedFile, match="no plain little-endian numbers"):
        formats.load(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "the bait does not work"


def test_bombs_are_refused_before_they_are_unpacked(tmp_path):
    path = gemma_scope(tmp_path) / "params.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (16 << 20,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("W_enc.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(64):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DamagedFile, match="claims to hold"):
        formats.load(path)


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    formats.write(ours("topk"), tmp_path, "dictionary_learning")
    state = torch.load(tmp_path / "ae.pt")
    torch.save(state | {"encoder.bias": torch.zeros(1).expand(S)}, tmp_path / "ae.pt")
    with pytest.raises(DamagedFile, match="does not lie within its 1 numbers"):
        formats.load(tmp_path)


def test_headers_and_programs_that_lie_are_refused(tmp_path):
    formats.write(ours("topk"), tmp_path / "a", "saelens")
    weights = tmp_path / "a/sae_weights.safetensors"
    weights.write_bytes((1 << 40).to_bytes(8, "little") + weights.read_bytes()[8:])
    with pytest.raises(DamagedFile, match="says that its header has 1,099,511,627,776 bytes"):
        formats.load(tmp_path / "a")
    formats.write(ours("topk"), tmp_path / "b", "dictionary_learning")
    with zipfile.ZipFile(tmp_path / "b/ae.pt") as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "b/ae.pt", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data[:-4] if name.endswith("data/0") else data)
    with pytest.raises(DamagedFile, match="bytes for 96 numbers"):
        formats.load(tmp_path / "b")


def program(path: Path, *parts: bytes) -> Path:
    """A file of PyTorch's with a program of one's own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"".join(parts) + b".")
    return path


def test_programs_that_would_take_time_or_memory_without_end_are_refused(tmp_path):
    """What is small in a program may be large to whoever follows it: each part points at an earlier one."""
    nested = [b"})q\x00", *(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(20)), b"K\x01s"]
    with pytest.raises(DamagedFile, match="has a tuple as a key"):  # of 60 steps, its hash would take longer than anyone waits
        torch_zip.read(program(tmp_path / "hash.pt", *nested))
    copies = [b"}q\x00X\x01\x00\x00\x00aK\x01s", b"ccollections\nOrderedDict\nq\x01", *([b"h\x01h\x00\x85R"] * 3)]
    with pytest.raises(DamagedFile, match="makes an ordered dict from what is already there"):
        torch_zip.read(program(tmp_path / "copies.pt", *copies))
    long = b"X" + (300).to_bytes(4, "little") + b"a" * 300 + b"q\x00"
    with pytest.raises(DamagedFile, match="names something that is no text"):  # two texts are joined into a third each time
        torch_zip.read(program(tmp_path / "names.pt", long, b"h\x00\x93" * 3))
    with pytest.raises(DamagedFile, match="more than 400,000 steps"):
        torch_zip.read(program(tmp_path / "steps.pt", b"}" * 400_001))
    shape = b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00(" + b"K\x01" * 9 + b"t(" + b"K\x01" * 9 + b"ttR"
    with pytest.raises(DamagedFile, match="size and strides do not fit"):  # a long shape that is gone through for each tensor
        torch_zip.read(program(tmp_path / "shape.pt", shape))


def test_an_odd_value_anywhere_in_a_configuration_of_ours_is_refused_or_read(tmp_path):
    values = [
        None,
        -1,
        0,
        1,
        1e9,
        float("inf"),
        "x",
        [],
        {},
        True,
        "a" * 5000,
        10**30,
        [1] * 5,
        float("nan"),
        1 << 31,
        "1e-999999999,1",
    ]
    longest = 0
    for kind in ("matryoshka", "crosscoder", "matching_pursuit"):
        path = valid("native", tmp_path / kind, kind)
        sound, found = json.loads((path / "config.json").read_text()), Counter[str]()
        places = (
            [(name,) for name in sound]
            + [("config", name) for name in sound["config"]]
            + [("about", "model"), ("about", "site")]
        )
        for place, value in itertools.product(places, values):
            config = copy.deepcopy(sound)
            part = config if len(place) == 1 else config[place[0]]
            part[place[-1]] = value
            (path / "config.json").write_text(json.dumps(config))
            try:
                formats.read(path)
                found["loaded"] += 1
            except AssayError as error:
                found["refused"] += 1
                longest = max(longest, len(str(error)))
        assert min(found["loaded"], found["refused"]) > 10, found
    assert longest < 1200


def test_a_coder_of_ours_takes_no_memory_before_its_weights_are_seen_to_fit(tmp_path):
    path = valid("native", tmp_path)
    config = json.loads((path / "config.json").read_text())
    config["config"] |= {"d_in": 60_000, "d_sae": 200_000_000}  # 96 TB
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DamagedFile, match=r"asks for \(200000000, 60000\)"):
        formats.load(path)
    weights = path / "weights.safetensors"
    weights.write_bytes((1 << 40).to_bytes(8, "little") + weights.read_bytes()[8:])
    with pytest.raises(DamagedFile, match="says that its header has 1,099,511,627,776 bytes"):
        formats.load(path)


def test_a_file_of_old_pytorch_is_named(tmp_path):
    formats.write(ours("topk"), tmp_path, "dictionary_learning")
    state = torch.load(tmp_path / "ae.pt")
    torch.save(state, tmp_path / "ae.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(DamagedFile, match=r"before 1\.6"):
        formats.load(tmp_path)


def test_views_and_shared_storages_are_read(tmp_path):
    """What torch saves of slices and transposed tensors."""
    coder = ours("topk")
    formats.write(coder, tmp_path, "dictionary_learning")
    state = torch.load(tmp_path / "ae.pt")
    both = torch.cat([state["encoder.weight"], state["decoder.weight"].T])
    torch.save(state | {"encoder.weight": both[:S], "decoder.weight": both[S:].T}, tmp_path / "ae.pt")
    assert torch.equal(formats.load(tmp_path).W_dec, coder.W_dec)
    assert torch.equal(formats.load(tmp_path).W_enc, coder.W_enc)


def test_a_directory_that_is_no_coder_is_refused(tmp_path):
    shutil.copytree(gemma_scope(tmp_path), tmp_path / "a")
    (tmp_path / "a/params.npz").unlink()
    (tmp_path / "a/params.npz").mkdir()
    with pytest.raises(BadInput, match="no known format"):
        formats.load(tmp_path / "a")
