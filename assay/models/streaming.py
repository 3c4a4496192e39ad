"""Streaming: text token by token, several rows side by side. Each row is what `Model.generate` gives of it alone.

Rows have the same dice: rows that start alike and are treated alike stay alike, so what differs between them comes from the edits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from assay.errors import BadInput, NotFinite
from assay.models.base import Edit, Model, Past, Site
from assay.shapes import Float, Int, Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, and how many there are at most."""

    new_tokens: int = 64
    """Tokens to continue by; fewer where the text ends, or the model has no more positions."""
    temperature: float = 0.0
    """0: the likeliest token each time. 1: as the model says."""
    top_k: int = 0
    """Draw among this many of the likeliest; 0: among all."""
    top_p: float = 1.0
    """Draw among the likeliest that hold this share of the probability."""
    repetition_penalty: float = 1.0
    """What logits of tokens that were there before, prompt included, are divided by (times it where negative); 1: nothing."""
    no_repeat_ngram: int = 0
    """No run of so many tokens comes twice; 0: any may."""
    seed: int = 0
    """Of the dice."""

    def __post_init__(self) -> None:
        if self.new_tokens < 1 or self.top_k < 0 or self.no_repeat_ngram < 0:
            raise BadInput(
                f"new_tokens must be 1 or more, top_k and no_repeat_ngram 0 or more; "
                f"got {self.new_tokens}, {self.top_k} and {self.no_repeat_ngram}."
            )
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise BadInput(f"temperature must be 0 or more and top_p a share; got {self.temperature} and {self.top_p}.")
        if not 0 < self.repetition_penalty < float("inf"):
            raise BadInput(f"repetition_penalty must be above 0, and 1 changes nothing; got {self.repetition_penalty}.")

    def settings(self) -> dict[str, Any]:
        """The same for `Model.generate`."""
        found: dict[str, Any] = {"new_tokens": self.new_tokens, "repetition_penalty": self.repetition_penalty}
        found["no_repeat_ngram_size"] = self.no_repeat_ngram
        if self.temperature > 0:
            found |= {
                "do_sample": True,
                "temperature": self.temperature,
                "top_k": self.top_k,
                "top_p": self.top_p,
                "seed": self.seed,
            }
        return found


@dataclass(frozen=True)
class Token:
    """A token that a row was continued by."""

    id: int
    probability: float
    """Of it, as the model (with the edits) says, before temperature and penalties."""
    last: bool
    """It ends the text."""


def stream(
    model: Model,
    tokens: Int[Tensor, "b s"],
    sampling: Sampling | None = None,
    edit: Mapping[Site, Edit] | None = None,
    *,
    special: Collection[int] = (),
) -> Iterator[list[Token | None]]:
    """Continue rows of equal length; yields each row's next token, None for rows that have ended.

    Edits are told (`Where.mask`) to leave the `special` ids alone. The model is free between two tokens; closing the iterator ends it.
    Raises `BadInput` at once where the model has no position left.
    """
    sampling = sampling or Sampling()
    room = sampling.new_tokens if model.positions is None else min(sampling.new_tokens, model.positions - tokens.shape[1])
    if room < 1:
        raise BadInput(f"{model.name} has {model.positions} positions and the text {tokens.shape[1]} tokens: none is left.")
    return _continued(model, tokens.to(model.device, torch.long), sampling, room, edit, special)


def counts(tokens: Int[Tensor, "b s"], special: Collection[int]) -> Tensor | None:
    """True at tokens that are not among the `special` ids; None where there are no such ids."""
    if not special:
        return None
    return ~torch.isin(tokens, torch.tensor(sorted(special), dtype=tokens.dtype, device=tokens.device))


def _continued(
    model: Model, tokens: Tensor, sampling: Sampling, room: int, edit: Mapping[Site, Edit] | None, special: Collection[int]
) -> Iterator[list[Token | None]]:
    processors, past = _processors(sampling), Past()
    dice = [torch.Generator(tokens.device).manual_seed(sampling.seed) for _ in tokens]
    running, new = [True] * len(tokens), tokens
    for _ in range(room):
        logits = model.step(new, past, edit, mask=counts(new, special))[:, -1].float()
        if logits.isnan().any():
            raise NotFinite(
                f"The logits of {model.name} are not finite after {past.length} tokens. Is it steered too strongly?"
            )
        new = _chosen(processors(tokens, logits.clone()), sampling, dice)
        probability = logits.softmax(-1).gather(1, new)
        tokens = torch.cat([tokens, new], 1)
        found = [(int(i), float(p)) for i, p in zip(new[:, 0].tolist(), probability[:, 0].tolist())]
        yield [Token(i, p, i in model.ends) if on else None for (i, p), on in zip(found, running)]
        running = [on and i not in model.ends for on, (i, _) in zip(running, found)]
        if not any(running):
            return


def _processors(sampling: Sampling) -> Callable[[Any, Any], Tensor]:
    """transformers' own, in its order."""
    found: list[Any] = []
    if sampling.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.no_repeat_ngram:
        found.append(NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram))
    if sampling.temperature > 0:
        found.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            found.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            found.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList(found)


def _chosen(scores: Float[Tensor, "b v"], sampling: Sampling, dice: list[torch.Generator]) -> Int[Tensor, "b 1"]:
    if sampling.temperature == 0:
        return scores.argmax(-1, keepdim=True)
    chances = scores.softmax(-1)
    return torch.cat([torch.multinomial(row[None], 1, generator=one) for row, one in zip(chances, dice)])
