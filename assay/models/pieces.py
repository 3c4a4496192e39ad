"""Pieces: what a person is shown of tokens. A vocabulary's entries as bytes, and rows of ids as strings that stay beside them.

Byte-level tokenizers cut inside characters: "“" may be two tokens. Here a character belongs to the token that its first byte is in, so
there is one string a token, "" for one that only continues; joined they are the text. Bytes that are no UTF-8 read <0xE2>, as
byte tokens are written. Spaces and line breaks stay as they are: how to show them is the page's business.

    pieces = named("smollm2")           from the tokenizer's file, without torch, transformers or a network
    pieces.row([11, 582])               [" the", "ing"]
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from assay.models.embedded import EMBEDDED, at_hand

FILE = "tokenizer.json"
SPACE = "▁"  # SentencePiece's
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def _alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level vocabularies (Radford et al. 2019), turned round."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


ALPHABET = _alphabet()


class Pieces:
    """The strings of a tokenizer's tokens. Without a tokenizer, or for ids it does not know, the id: <17>."""

    def __init__(self, tokenizer: Any = None):
        """`tokenizer`: of transformers or of tokenizers."""
        self._tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        self._raw = [] if tokenizer is None else _vocabulary(self._tokenizer)

    def __len__(self) -> int:
        return len(self._raw)

    def raw(self, token: int) -> bytes:
        """Bytes of a token."""
        return self._raw[token] if 0 <= token < len(self._raw) else f"<{token}>".encode()

    def one(self, token: int) -> str:
        """A token that stands alone, as in a list of logits."""
        return "".join(text for text, _ in _characters(self.raw(int(token))))

    def row(self, tokens: Iterable[int]) -> list[str]:
        """A string for each token of a stretch of text; "" where a token only continues the character before."""
        parts = [self.raw(int(token)) for token in tokens]
        found, ends, i, place = [""] * len(parts), [], 0, 0
        for part in parts:
            ends.append((ends[-1] if ends else 0) + len(part))
        for text, size in _characters(b"".join(parts)):
            while place >= ends[i]:
                i += 1
            found[i] += text
            place += size
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it would stand in the middle of a line, without special tokens; none without a tokenizer."""
        if self._tokenizer is None:
            return []
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return list(getattr(found, "ids", found))

    @cached_property
    def all(self) -> list[str]:
        """Every token by itself."""
        return [self.one(token) for token in range(len(self))]


def named(model: str) -> Pieces:
    """The pieces of a model: an embedded one's name, a directory, a hub id. Ids where its tokenizer is not on this machine."""
    import tokenizers

    path = _file(model)
    return Pieces(None if path is None else tokenizers.Tokenizer.from_file(str(path)))


def _file(model: str) -> Path | None:
    home = at_hand(model) if model in EMBEDDED else Path(model).expanduser()
    if home is not None and (home / FILE).is_file():
        return home / FILE
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, FILE) if model.count("/") == 1 else None
    return Path(found) if isinstance(found, str) else None


def _characters(raw: bytes) -> list[tuple[str, int]]:
    """Characters and how many bytes each took; a byte that belongs to none is shown as <0xE2>."""
    return [
        (f"<0x{ord(c) - 0xDC00:02X}>", 1) if "\udc80" <= c <= "\udcff" else (c, len(c.encode()))
        for c in raw.decode("utf-8", "surrogateescape")
    ]


def _vocabulary(tokenizer: Any) -> list[bytes]:
    """Bytes of each token by id. The kind of vocabulary shows in it: ▁ cannot stand in a byte-level one."""
    ids: dict[str, int] = tokenizer.get_vocab()
    if SPACE in ids:
        spell = _sentencepiece
    elif "Ġ" in ids:
        spell = _byte_level
    elif any(word.startswith("##") for word in ids):
        spell = _wordpiece
    else:
        spell = str.encode
    found = [b""] * (max(ids.values(), default=-1) + 1)
    for text, i in ids.items():
        found[i] = spell(text)
    added = getattr(tokenizer, "added_tokens_decoder", None) or tokenizer.get_added_tokens_decoder()
    for i, token in added.items():
        found[i] = str(getattr(token, "content", token)).encode()  # they are written as they are
    return found


def _byte_level(text: str) -> bytes:
    return bytes(ALPHABET[c] for c in text) if all(c in ALPHABET for c in text) else text.encode()


def _sentencepiece(text: str) -> bytes:
    byte = BYTE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace(SPACE, " ").encode()


def _wordpiece(text: str) -> bytes:
    return text.removeprefix("##").encode() if text.startswith("##") else f" {text}".encode()
