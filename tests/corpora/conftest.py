"""Files in every format, a corpus from memory, and byte-level tokenizers trained in it."""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import dataclass

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from assay.corpora.base import Document

ROWS = [{"text": f'tëxt {i}, with "quotes"', "other": "no", "n": i} for i in range(5)]


@pytest.fixture
def rows():
    return [dict(row) for row in ROWS]


@pytest.fixture
def written():
    """written(path, rows): the rows at `path`, in the format and compression of its suffix."""
    return _write


@pytest.fixture
def read():
    """read(corpus): its texts."""
    return lambda corpus: [document.text for document in corpus.documents()]


def _write(path, rows=ROWS):
    kind, pack = (path.with_suffix("").suffix, path.suffix) if path.suffix in (".gz", ".zst") else (path.suffix, "")
    out = io.BytesIO()
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    elif kind == ".jsonl":
        out.write("\n".join(json.dumps(row) for row in rows).encode())
    elif kind == ".json":
        out.write(json.dumps(rows, indent=1).encode())
    elif kind == ".tsv":
        lines = [rows[0], *(row.values() for row in rows)]
        out.write("".join("\t".join(map(str, line)) + "\n" for line in lines).encode())
    elif kind == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        out.write(text.getvalue().encode())
    data = out.getvalue()
    packers = {
        ".gz": gzip.compress,
        ".zst": lambda plain: pyarrow.compress(plain, codec="zstd", asbytes=True),
        "": lambda plain: plain,
    }
    path.write_bytes(packers[pack](data))
    return path


CHAT = "{{ bos_token }}{% for m in messages %}<|turn|>{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "boil",
    "naïve",
    "potions",
    "in",
    "Zürich",
    "東京",
    "🦊",
]


@dataclass
class _Listed:
    """A corpus from memory."""

    texts: list
    name: str = "listed"
    fingerprint: str = "00000000deadbeef"
    classes: tuple = ()

    def documents(self):
        yield from (text if isinstance(text, Document) else Document(text) for text in self.texts)


def _texts(n: int, seed: int = 0) -> list[str]:
    """`n` texts of 1 to 40 words, all different."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return [f"{i} " + " ".join(rng.choice(WORDS, rng.integers(1, 41))) for i in range(n)]


def _tokenizer_of(*, bos="<s>", eos="</s>", pad=None, habit=False, chat=None) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained in memory. `habit`: it starts sequences with BOS of itself, as Llama's and Gemma's do."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<|turn|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(_texts(50), trainer)
    if habit:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    given = {name: value for name, value in (("bos_token", bos), ("eos_token", eos), ("pad_token", pad)) if value}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **given)
    tokenizer.chat_template = chat
    return tokenizer


@pytest.fixture(scope="module")
def plain():
    """Has BOS and EOS, adds none of itself."""
    return _tokenizer_of()


@pytest.fixture(scope="module")
def llama():
    """Starts sequences with BOS; its chat template writes BOS too."""
    return _tokenizer_of(habit=True, pad="<pad>", chat=CHAT)


@pytest.fixture(scope="module")
def bare():
    """No special tokens at all."""
    return _tokenizer_of(bos=None, eos=None)


@pytest.fixture
def Listed():
    """Listed(texts): a corpus from memory."""
    return _Listed


@pytest.fixture
def texts():
    """texts(n): `n` different texts of 1 to 40 words."""
    return _texts


@pytest.fixture
def tokenizer_of():
    """tokenizer_of(bos, eos, pad, habit, chat): a tokenizer trained in memory; ids 0, 1, 2, 3 are <s>, </s>, <pad>, <|turn|>."""
    return _tokenizer_of


@pytest.fixture
def ids():
    """ids(tokenizer, text): without the special tokens that a tokenizer adds of itself."""
    return lambda tokenizer, text: tokenizer(text, add_special_tokens=False).input_ids


@pytest.fixture
def template():
    """A chat template that opens with BOS and closes each turn with EOS."""
    return CHAT
