"""Local files and folders become documents, in order, and what is wrong with them is said with file and line."""

from __future__ import annotations

import gzip

import pyarrow
import pyarrow.parquet
import pytest

from assay.corpora import load
from assay.corpora.documents import SUFFIXES
from assay.corpora.text import TextCorpus
from assay.errors import BadInput, DamagedFile, MissingFile, Unavailable

TABLES = [s for s in SUFFIXES if s not in (".txt", ".md")]


@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", TABLES)
def test_every_table_format_gives_the_same_documents(tmp_path, kind, pack, read, written, rows):
    corpus = load(written(tmp_path / f"a{kind}{pack}"))
    assert read(corpus) == [row["text"] for row in rows] == read(corpus)  # again, from the first


@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".md"])
def test_plain_text_is_one_document_unless_separated(tmp_path, kind, pack, read):
    data = "Ein Abschnitt,\nzwei Zeilen.\r\n\r\nÜber zwei.\n\n\n\nDrei.\n".encode()
    data = gzip.compress(data) if pack == ".gz" else pyarrow.compress(data, codec="zstd", asbytes=True) if pack else data
    path = tmp_path / f"a{kind}{pack}"
    path.write_bytes(data)
    assert read(load(path)) == ["Ein Abschnitt,\nzwei Zeilen.\n\nÜber zwei.\n\n\n\nDrei.\n"]
    assert read(load(path, separator="\n\n")) == ["Ein Abschnitt,\nzwei Zeilen.", "Über zwei.", "Drei."]


def test_a_separator_may_straddle_the_pieces_in_which_a_file_is_read(tmp_path, read):
    path = tmp_path / "a.txt"
    path.write_text("x" * ((1 << 20) - 3) + "<|end|>" + "y" * 10 + "<|end|>z")
    assert [len(t) for t in read(load(path, separator="<|end|>"))] == [(1 << 20) - 3, 10, 1]


def test_a_byte_order_mark_is_no_text_and_other_encodings_can_be_named(tmp_path, read):
    (tmp_path / "a.txt").write_bytes("\ufeffhéllo".encode())
    assert read(load(tmp_path / "a.txt")) == ["héllo"]
    (tmp_path / "b.csv").write_bytes("text\nhéllo".encode("windows-1252"))
    assert read(load(tmp_path / "b.csv", encoding="cp1252")) == ["héllo"]
    with pytest.raises(BadInput, match="'klingon'"):
        load(tmp_path / "a.txt", encoding="klingon")


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path, read, written, rows):
    for name in ("b/2.txt", "a/z.txt", "b/10.md", ".git/x.txt", "a/.x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    written(tmp_path / "c.jsonl", rows[:1])
    assert read(load(tmp_path)) == ["a/z.txt", "b/10.md", "b/2.txt", rows[0]["text"]]
    assert read(load(tmp_path, column="other")) == ["a/z.txt", "b/10.md", "b/2.txt", "no"]


@pytest.mark.parametrize("kind", TABLES)
def test_the_text_column_is_text_else_the_first_of_text(tmp_path, kind, read, written):
    rows = [{"id": "17", "body": "first", "more": "x"}, {"id": "y", "body": "second", "more": "z"}]
    assert read(load(written(tmp_path / f"a{kind}", rows), column="more")) == ["x", "z"]
    found = read(load(written(tmp_path / f"a{kind}", rows)))
    assert found == (["17", "y"] if kind == ".parquet" else ["first", "second"])  # a Parquet column of strings is text
    with pytest.raises(BadInput, match=r"'boddy'.*id, body, more"):
        read(load(tmp_path / f"a{kind}", column="boddy"))
    with pytest.raises(BadInput, match=r"no column of text.*n, m"):
        read(load(written(tmp_path / f"b{kind}", [{"n": 1, "m": 2}])))


@pytest.mark.parametrize("kind", TABLES)
def test_blank_texts_are_passed_over(tmp_path, kind, read, written):
    rows = [{"text": "a"}, {"text": " "}, {"text": ""}, {"text": "b"}]
    assert read(load(written(tmp_path / f"a{kind}", rows))) == ["a", "b"]


def test_json_may_hold_bare_strings_and_nulls(tmp_path, read):
    (tmp_path / "a.jsonl").write_text('"one"\n\n"two"\n')
    (tmp_path / "b.json").write_text('["one", "two"]')
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n{"text": null}\n{"text": "two"}')
    assert [read(load(tmp_path / name)) for name in ("a.jsonl", "b.json", "c.jsonl")] == [["one", "two"]] * 3


def test_long_documents_are_read_whole(tmp_path, read, written):
    long = "word " * 100_000  # more than the csv module's own limit
    for kind in TABLES:
        assert read(load(written(tmp_path / f"a{kind}", [{"text": long}]))) == [long]


def test_the_fingerprint_is_of_contents_and_settings(tmp_path, written, rows):
    one, two = written(tmp_path / "a.jsonl"), written(tmp_path / "b.jsonl")
    assert load(one).fingerprint == load(two).fingerprint
    different = [load(one, column="other"), load(written(tmp_path / "c.jsonl", rows[:4])), load(tmp_path)]
    assert len({load(one).fingerprint, *(c.fingerprint for c in different)}) == 4
    assert all(len(c.fingerprint) == 16 for c in different)


# --- what goes wrong --------------------------------------------------------------------------------------------------------


def test_missing_file_and_folder_without_text(tmp_path, written):
    with pytest.raises(MissingFile, match=r"nothere\.txt does not exist"):
        load(tmp_path / "nothere.txt")
    with pytest.raises(MissingFile, match="hub:roneneldan/TinyStories"):
        load("roneneldan/TinyStories")
    with pytest.raises(BadInput, match=r"holds no text files.*\.parquet"):
        load(tmp_path)
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(BadInput, match=r"a\.doc.*no kind"):
        load(tmp_path / "a.doc")
    with pytest.raises(BadInput, match="divides nothing"):
        load(written(tmp_path / "a.csv"), separator="")


@pytest.mark.parametrize("pack", ["", ".gz"])
@pytest.mark.parametrize("kind", [".txt", ".csv", ".jsonl", ".json"])
@pytest.mark.parametrize("before", [10, (1 << 20) - 1])
def test_what_is_not_utf8_says_file_and_offset(tmp_path, kind, pack, before, read):
    prefix = {".txt": b"", ".csv": b"text\n", ".jsonl": b'{"text": "', ".json": b'["'}[kind]
    data = prefix + b"a" * before + "é".encode("latin-1") + b"b"
    path = tmp_path / f"a{kind}{pack}"
    path.write_bytes(gzip.compress(data) if pack else data)
    with pytest.raises(DamagedFile, match=rf"byte 0xe9 at offset {len(prefix) + before}\b.*iconv") as error:
        read(load(path))
    assert str(path) in str(error.value)
    assert ("after decompression" in str(error.value)) == bool(pack)


def test_malformed_json_says_file_and_line(tmp_path, read):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": oops}\n')
    with pytest.raises(DamagedFile, match=r"a\.jsonl, line 3: not valid JSON"):
        read(load(path))
    path.write_text('{"text": "a"}\n{"txet": "b"}\n')
    with pytest.raises(BadInput, match=r"line 2 has no column 'text'.*txet"):
        read(load(path))
    path.write_text('{"text": "a"}\n{"text": 5}\n')
    with pytest.raises(BadInput, match=r"line 2.*holds int"):
        read(load(path))
    path.write_text('{"text": "a"}\n[1]\n')
    with pytest.raises(BadInput, match="line 2 holds list"):
        read(load(path))
    path.write_text('{"text": "a"}\n{"text": "\\ud83d!"}\n')
    with pytest.raises(DamagedFile, match=r"line 2.*\\ud83d"):
        read(load(path))
    array = tmp_path / "a.json"
    array.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(DamagedFile, match=r"line 2.*rename it"):
        read(load(array))
    array.write_text('{"text": "a"}')
    with pytest.raises(BadInput, match="one dict, expected an array"):
        read(load(array))


def test_malformed_csv_says_file_and_line(tmp_path, read):
    path = tmp_path / "a.csv"
    path.write_text("text,n\na,1\nb\n")
    with pytest.raises(DamagedFile, match=r"a\.csv, line 3.*2 columns"):
        read(load(path))
    path.write_text('text,n\n"a,1\nb,2\n')  # the quotation mark is never closed
    with pytest.raises(DamagedFile, match=r"a\.csv cannot be read"):
        read(load(path))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.parquet.zst"])
def test_truncated_files_are_not_taken_for_whole_ones(tmp_path, name, read, written):
    rows = [{"text": f"{i}" * 50} for i in range(2000)]
    path = written(tmp_path / name, rows)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedFile, match=name.split(".")[0]):
        read(load(path))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, read, written):
    path = written(tmp_path / "a.csv")
    corpus = TextCorpus(path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pyarrow, "input_stream", refuse)
    with pytest.raises(Unavailable, match="permission is denied"):
        read(corpus)
