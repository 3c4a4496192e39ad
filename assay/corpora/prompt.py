"""Prompt: one text as token ids, begun as the rows of a corpus are begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from assay.corpora.pack import PackConfig
from assay.corpora.rows import rules_of
from assay.errors import BadInput
from assay.shapes import Bool, Int


@dataclass(frozen=True)
class Prompt:
    """A text for a model."""

    ids: Int[np.ndarray, " s"]
    special: Bool[np.ndarray, " s"]
    """True at special tokens: BOS, those of a chat template."""
    begins: str
    """What stands before the text, for people."""


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that are no text."""
    return frozenset(int(i) for i in tokenizer.all_special_ids)


def prompt(tokenizer: Any, text: str, *, bos: Literal["auto", "always", "never"] = "auto", chat: bool = False) -> Prompt:
    """`text` as ids. `bos`: as `PackConfig.bos`, never doubled. `chat`: as a turn of the user, up to where the answer begins.

    Raises BadInput for an empty text, and where the tokenizer has no BOS or no chat template.
    """
    rules = rules_of(tokenizer, PackConfig(bos=bos, chat=chat, layout="documents"))
    said = text
    if chat:
        turn = [{"role": "user", "content": text}]
        said = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids = list(tokenizer(said, add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids)
    if not text or not ids:
        raise BadInput("The text is empty. Write something for the model to read.")
    if rules.strip is not None and ids[0] == rules.strip:
        ids = ids[1:]
    if rules.bos is not None:
        ids = [rules.bos, *ids]
    found, special = np.asarray(ids, np.int64), special_ids(tokenizer)
    return Prompt(found, np.isin(found, sorted(special)), _begins(tokenizer, rules.bos, chat))


def _begins(tokenizer: Any, bos: int | None, chat: bool) -> str:
    """A sentence about what stands before the text."""
    token = f"BOS ({tokenizer.convert_ids_to_tokens(bos)}) stands first" if bos is not None else "No BOS is put in front"
    return f"{token}; the text is a turn of the user in the chat template." if chat else f"{token}."
