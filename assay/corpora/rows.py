"""How documents become rows: what a tokenizer's special tokens are used for, the two layouts, and the files they are appended to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from assay.corpora.base import Corpus, Document
from assay.errors import BadInput
from assay.progress import Progress
from assay.store import digest

if TYPE_CHECKING:
    from assay.corpora.pack import PackConfig


# --- the rules of a tokenizer -----------------------------------------------------------------------------------------------


class Rules(NamedTuple):
    """Ids that are put in by position, and one that is taken out."""

    bos: int | None  # starts every row
    eos: int | None  # between documents
    pad: int
    strip: int | None  # dropped where a document's own ids begin with it, so that no row gets two


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 over what decides ids: not over padding and truncation, which every call of a fast tokenizer may change."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        what = digest({"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()})
    else:  # a Gemma's has 33 MB of JSON: its text is cut, not parsed; version, truncation and padding stand before the cut
        _, cut, rest = backend.to_str().partition('"added_tokens":')
        assert cut, "the tokenizers library has changed its file format"
        what = hashlib.sha256(rest.encode()).hexdigest()
    return digest([what, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id])


def rules_of(tokenizer: Any, config: PackConfig) -> Rules:
    """What `config` means with this tokenizer. Raises BadInput where it means nothing: no BOS, no chat template.

    The BOS that a chat template writes is taken out where the tokenizer starts sequences with BOS by habit (rows get it by the
    same rule as ever) and kept where BOS is merely the token that opens a turn (SmolLM2).
    """
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    habit = bos is not None and list(tokenizer("x").input_ids[:1]) == [bos]
    if config.bos == "always" and bos is None:
        raise BadInput(
            "bos='always', but the tokenizer has no BOS token. Use bos='auto' or 'never', or set tokenizer.bos_token."
        )
    starts = config.bos == "always" or (config.bos == "auto" and habit)
    strip = bos if starts or (config.chat and habit) else None
    packed = config.layout == "packed"
    if config.chat:
        if not getattr(tokenizer, "chat_template", None):
            raise BadInput(
                "chat=True, but the tokenizer has no chat template. Use an instruction-tuned model's tokenizer, or chat=False."
            )
        if starts and not habit and packed and _ids(tokenizer, ["x"], chat=True)[0][:1] == [bos]:
            raise BadInput(
                "bos='always', but this tokenizer's chat template uses BOS to open each turn: rows would hold it twice. Use bos='auto'."
            )
    separates = packed and not config.chat  # a chat template closes its turns itself
    return Rules(bos if starts else None, eos if separates else None, next((i for i in (pad, eos) if i is not None), 0), strip)


def _ids(tokenizer: Any, texts: list[str], *, chat: bool) -> list[list[int]]:
    """Ids of each text, without the special tokens that a tokenizer adds of itself."""
    if chat:
        texts = [tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False) for text in texts]
    return tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    ).input_ids


# --- packing ----------------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Some rows, still without BOS."""

    tokens: np.ndarray
    document: np.ndarray  # -1 where no text stands
    labels: list[int | None]  # of the rows, layout documents
    cut: list[bool]  # whether a row's document was longer, layout documents


class Encoded(NamedTuple):
    """One document."""

    index: int
    ids: np.ndarray
    label: int | None


@dataclass
class Tally:
    """What went by, for the record and for errors."""

    seen: int = 0  # documents of the corpus
    documents: int = 0  # those in the split
    remainder: int = 0  # tokens left over


def held_out(text: str, share: float) -> bool:
    """Whether a text belongs to the held-out side: a function of the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < share * 2**64


def _batches(corpus: Corpus, config: PackConfig, tally: Tally) -> Iterator[list[tuple[int, Document]]]:
    """The split's documents with their index in the corpus, about a megabyte at a time: what a fast tokenizer likes."""
    batch: list[tuple[int, Document]] = []
    size = 0
    for index, document in enumerate(corpus.documents()):
        tally.seen += 1
        if config.split != "all" and held_out(document.text, config.held_out) != (config.split == "held_out"):
            continue
        tally.documents += 1
        batch.append((index, document))
        size += len(document.text)
        if size >= 1 << 20 or len(batch) == 1024:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode(corpus: Corpus, tokenizer: Any, config: PackConfig, rules: Rules, tally: Tally) -> Iterator[list[Encoded]]:
    """The split's documents as ids, in batches; those without a token are passed over."""
    for batch in _batches(corpus, config, tally):
        found = _ids(tokenizer, [document.text for _, document in batch], chat=config.chat)
        ids = (np.asarray(i[1:] if i and i[0] == rules.strip else i, np.int32) for i in found)
        yield [Encoded(index, i, document.label) for (index, document), i in zip(batch, ids) if len(i)]


def packed(encoded: Iterator[list[Encoded]], width: int, rules: Rules, tally: Tally) -> Iterator[Block]:
    """Full rows of `width` out of the stream of all documents."""
    tokens, document = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    first = True
    for batch in encoded:
        for index, ids, _ in batch:
            if rules.eos is not None and not first:
                tokens.append(np.full(1, rules.eos, np.int32))
                document.append(np.full(1, -1, np.int32))
            tokens.append(ids)
            document.append(np.full(len(ids), index, np.int32))
            first = False
        flat, owner = np.concatenate(tokens), np.concatenate(document)
        n = len(flat) // width
        yield Block(flat[: n * width].reshape(n, width), owner[: n * width].reshape(n, width), [], [])
        tokens, document = [flat[n * width :]], [owner[n * width :]]
    tally.remainder = int((document[0] >= 0).sum())


def one_each(encoded: Iterator[list[Encoded]], width: int, rules: Rules) -> Iterator[Block]:
    """A row for each document."""
    for batch in encoded:
        block = Block(np.full((len(batch), width), rules.pad, np.int32), np.full((len(batch), width), -1, np.int32), [], [])
        for row, (index, ids, label) in enumerate(batch):
            block.cut.append(len(ids) > width)
            ids = ids[:width]
            block.tokens[row, : len(ids)], block.document[row, : len(ids)] = ids, index
            block.labels.append(label)
        yield block


@dataclass
class Sink:
    """Appends blocks to the files of a directory, up to `limit` tokens of text."""

    directory: Path
    limit: int | None
    bos: int | None
    rows: int = 0
    n_tokens: int = 0
    documents: int = 0
    truncated: int = 0
    last: int = -1  # document of the last token so far
    labelled: bool | None = None
    full: bool = False

    def write(self, blocks: Iterator[Block], progress: Progress) -> None:
        """Append until the blocks end or the limit is reached."""
        names = ("tokens.bin", "document.bin", "mask.bin", "labels.bin")
        with ExitStack() as stack:
            files = [stack.enter_context((self.directory / name).open("wb")) for name in names]
            for block in blocks:
                for file, array in zip(files, self._fitting(block)):
                    file.write(np.ascontiguousarray(array).data)
                progress(self.n_tokens, self.limit, "tokens")
                if self.full:
                    break
        if not self.labelled:
            (self.directory / "labels.bin").unlink()

    def _fitting(self, block: Block) -> Sequence[np.ndarray]:
        """The rows that the limit lets in, BOS put before them, as (tokens, document, mask, labels)."""
        tokens, document, labels, cut = block
        counts = (document >= 0).sum(1).cumsum() + self.n_tokens
        n = len(counts) if self.limit is None else int(np.searchsorted(counts, self.limit, side="right"))
        self.full = n < len(counts) or (n > 0 and counts[n - 1] == self.limit)
        self.rows, self.n_tokens = self.rows + n, int(counts[n - 1]) if n else self.n_tokens
        owners = document[:n][document[:n] >= 0]  # never falling: documents come in order
        self.documents += int((np.diff(owners, prepend=self.last) != 0).sum())
        self.last, self.truncated = int(owners[-1]) if len(owners) else self.last, self.truncated + sum(cut[:n])
        if self.bos is not None:
            tokens = np.pad(tokens, ((0, 0), (1, 0)), constant_values=self.bos)
            document = np.pad(document, ((0, 0), (1, 0)), constant_values=-1)
        values = [label for label in labels if label is not None]
        if labels and self.labelled is None:
            self.labelled = bool(values)
        if len(values) != (len(labels) if self.labelled else 0):
            raise BadInput("Some documents of the corpus have a label and some have none. Give all of them one, or none.")
        return tokens[:n], document[:n], document[:n] >= 0, np.asarray(values[:n], np.int64)
