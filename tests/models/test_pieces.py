"""What a person is shown of tokens: every tokenizer's own text, piece by piece, with no character lost at a cut."""

from __future__ import annotations

import pytest

from assay.models.pieces import Pieces, named

TEXT = "“Naïve café”, she said —\n\n\t日本語 👩‍👩‍👧 <script>alert(1)</script>\r\n  end…"


@pytest.fixture(scope="module")
def tiny() -> Pieces:
    return named("tiny")


def test_joined_they_are_the_text_and_one_stands_for_each_token(tiny):
    ids = tiny.encode(TEXT)
    found = tiny.row(ids)
    assert len(found) == len(ids) and "".join(found) == TEXT


def test_a_character_belongs_to_the_token_of_its_first_byte(tiny):
    ids = tiny.encode("a日b")
    first = next(i for i, t in enumerate(ids) if tiny.raw(t)[:1] == "日".encode()[:1])
    assert tiny.row(ids)[first] == "日" and tiny.row(ids)[first + 1 : -1] == [""] * 2


def test_a_window_may_begin_and_end_inside_a_character(tiny):
    ids = tiny.encode("日")
    raw = [tiny.raw(t) for t in ids]
    assert b"".join(raw) == "日".encode() and len(ids) > 1
    assert "".join(tiny.row(ids[1:])) == "".join(f"<0x{b:02X}>" for b in b"".join(raw[1:]))
    assert "�" not in "".join(tiny.row(ids[:-1]))


def test_one_alone_and_ids_that_no_tokenizer_knows(tiny):
    assert tiny.one(tiny.encode(" the")[0]) == " the"
    assert tiny.one(10**6) == "<1000000>" and tiny.one(-1) == "<-1>"
    assert Pieces().row([5, 7]) == ["<5>", "<7>"] and len(Pieces()) == 0
    assert tiny.row([]) == []
    assert len(tiny.all) == len(tiny) == 1024


class Vocabulary:
    """What of a tokenizer is read."""

    def __init__(self, words: list[str], added: dict[int, str] | None = None):
        self.words, self.added = words, added or {}

    def get_vocab(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def get_added_tokens_decoder(self) -> dict[int, str]:
        return self.added


def test_sentencepiece_with_bytes():
    pieces = Pieces(Vocabulary(["▁", "▁the", "<0xE2>", "<0x82>", "<0xAC>", "Ġ", "▁x▁y"]))
    assert pieces.row([1, 2, 3, 4, 5, 6]) == [" the", "€", "", "", "Ġ", " x y"]
    assert pieces.one(2) == "<0xE2>"


def test_wordpiece_characters_and_added_tokens():
    assert Pieces(Vocabulary(["play", "##ing"])).row([0, 1]) == [" play", "ing"]
    assert Pieces(Vocabulary(["a", "b"])).row([0, 1]) == ["a", "b"]
    assert Pieces(Vocabulary(["Ġ", "é"], {1: "<|é end|>"})).row([0, 1]) == [" ", "<|é end|>"]


def test_tokenizers_of_transformers_too():
    from transformers import AutoTokenizer

    from assay.models.embedded import TINY

    theirs = AutoTokenizer.from_pretrained(TINY)
    ids = theirs(TEXT, add_special_tokens=False)["input_ids"]
    assert Pieces(theirs).row(ids) == named("tiny").row(ids) and "".join(named(str(TINY)).row(ids)) == theirs.decode(ids)
    assert Pieces(theirs).encode(TEXT) == ids


def test_a_tokenizer_that_is_not_here_is_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path))
    for name in ("smollm2", "nobody/nothing", str(tmp_path), "in memory", ""):
        assert named(name).row([5]) == ["<5>"] and named(name).encode("a") == []
