"""Steering: a text continued while latents are added to, clamped, ablated or scaled (Templeton et al. 2024, Scaling Monosemanticity).

    tokens = torch.as_tensor(prompt(model.tokenizer, "My favourite place is").ids)[None]
    for plain, steered in stream(model, coder, "resid_post.10", tokens, [Steering(latent=123, value=8.0)]): ...

What the coder misses of an activation is kept, so that a token's activation moves by (z′ − z) @ W_dec and by nothing else. Each row has a
strength s: z′ = z + s · (target − z), so 0 is the model as it is and 1 the steering as it was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from assay.coders.base import Code, SparseCoder
from assay.errors import BadInput
from assay.models.base import Model, Past, Site, Where
from assay.models.streaming import Sampling, Token, counts
from assay.models.streaming import stream as continued
from assay.shapes import Bool, Float, Int, Tensor
from assay.splice import CodeEdit, splice

AT_ONCE = 2**26
"""Latents, zeros included, that are held for the rows of one pass."""


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What is done to a latent, and where."""

    latent: int
    """Its number."""
    operation: Literal["add", "clamp", "ablate", "scale"] = "add"
    """add: value on top of the activation. clamp: value instead of it. ablate: 0 instead of it. scale: value times it."""
    value: float = 0.0
    """In units of the activation; a factor for scale, not used by ablate."""
    positions: Literal["all", "prompt", "generated"] = "all"
    """Tokens of the prompt, those that were generated, or all. The last token of the prompt decides the first generated one."""

    def target(self, z: Tensor) -> Tensor:
        """What the latent's activations are to be."""
        match self.operation:
            case "add":
                return z + self.value
            case "clamp":
                return torch.full_like(z, self.value)
            case "ablate":
                return torch.zeros_like(z)
            case "scale":
                return z * self.value

    def at(self, columns: Int[Tensor, " s"], prompt: int) -> Bool[Tensor, " s"]:
        """Which columns are steered, of a text whose first `prompt` tokens are the prompt."""
        match self.positions:
            case "all":
                return torch.ones_like(columns, dtype=torch.bool)
            case "prompt":
                return columns < prompt
            case "generated":
                return columns >= prompt


def edit(steerings: Sequence[Steering], strengths: Sequence[float], prompt: int) -> CodeEdit:
    """The edit of codes: row i at strengths[i]. Several steerings of one latent act one after the other."""
    weights = torch.tensor(strengths)

    def change(code: Code, where: Where) -> Code:
        z = code.z.clone()
        columns = where.start + torch.arange(z.shape[1], device=z.device)
        weight = weights.to(z)[:, None]
        for one in steerings:
            old = z[..., one.latent]
            z[..., one.latent] = torch.where(one.at(columns, prompt), torch.lerp(old, one.target(old), weight), old)
        return code.with_latents(z)

    return change


def check(coder: SparseCoder[Any], steerings: Sequence[Steering], strengths: Sequence[float]) -> None:
    """Refuse what cannot be meant."""
    for one in steerings:
        if not 0 <= one.latent < coder.d_sae:
            raise BadInput(f"The coder has latents 0 to {coder.d_sae - 1}, got {one.latent}.")
        if not math.isfinite(one.value):
            raise BadInput(f"Latent {one.latent} is to be steered by {one.value}, which is no finite number.")
    if not strengths or not all(math.isfinite(s) for s in strengths):
        raise BadInput(f"Strengths must be finite numbers, at least one; got {list(strengths)}.")


def steered(
    model: Model,
    coder: SparseCoder[Any],
    site: Site | str,
    steerings: Sequence[Steering],
    strengths: Sequence[float],
    prompt: int,
) -> Model:
    """`model` under steering: for as many rows as there are strengths, of texts whose first `prompt` tokens are the prompt."""
    check(coder, steerings, strengths)
    return splice(model, {Site.parse(site): coder}, edit(steerings, strengths, prompt), error="keep")


def stream(
    model: Model, coder: SparseCoder[Any], site: Site | str, tokens: Int[Tensor, "1 s"], steerings: Sequence[Steering],
    sampling: Sampling | None = None, *, strengths: Sequence[float] = (0.0, 1.0), special: Collection[int] = (),
) -> Iterator[list[Token | None]]:  # fmt: skip
    """Continue one text at several strengths side by side, by default unsteered and steered; see `assay.models.streaming.stream`.

    `special`: ids of tokens that are not steered.
    """
    under = steered(model, coder, site, steerings, strengths, tokens.shape[1])
    return continued(under, tokens.expand(len(strengths), -1), sampling, special=special)


@dataclass(frozen=True)
class Point:
    """What steering does at one strength."""

    strength: float
    kl: float
    """KL(unsteered ‖ steered) of the next token, nats, mean over the tokens of the unsteered continuation."""
    perplexity: float
    """Of the steered continuation to the unsteered model."""
    ids: tuple[int, ...]
    """The steered continuation."""


def sweep(
    model: Model, coder: SparseCoder[Any], site: Site | str, tokens: Int[Tensor, "1 s"], steerings: Sequence[Steering],
    strengths: Sequence[float], sampling: Sampling | None = None, *, special: Collection[int] = (),
) -> Iterator[Point | float]:  # fmt: skip
    """How far steering moves the model, and how likely the model finds what comes out: a Point for each strength, in their order.

    Between them, after every token: the share of the work that is done. Closing the iterator ends the work there.
    A low perplexity may also be one word over and over: look at the text.
    """
    check(coder, steerings, strengths)
    job = _Job(model, coder, Site.parse(site), tokens.to(model.device, torch.long), steerings, sampling or Sampling(), special)
    job.continued((0.0,))  # refuses a prompt that leaves no room
    return _swept(job, strengths)


def _swept(job: _Job, strengths: Sequence[float]) -> Iterator[Point | float]:
    size = max(1, AT_ONCE // (job.coder.d_sae * (job.tokens.shape[1] + job.sampling.new_tokens)))
    groups = [(0.0,), *(tuple(strengths[i : i + size]) for i in range(0, len(strengths), size))]
    said = plain = job.tokens
    for number, group in enumerate(groups):
        rows: list[list[int]] = [[] for _ in group]
        for step, new in enumerate(job.continued(group)):
            for row, token in zip(rows, new):
                row += [token.id] if token else []
            yield (number + step / job.sampling.new_tokens) / len(groups)
        if number == 0:
            said = torch.cat([job.tokens, torch.tensor(rows, device=job.tokens.device)], 1)
            plain = job.next_tokens(said)
            continue
        for strength, ids in zip(group, rows):
            kl = (
                torch.nn.functional.kl_div(job.next_tokens(said, strength), plain, log_target=True, reduction="none")
                .sum(-1)
                .mean()
            )
            yield Point(strength, max(0.0, float(kl)), job.perplexity(ids), tuple(ids))


@dataclass(frozen=True)
class _Job:
    """What stays the same over a sweep."""

    model: Model
    coder: SparseCoder[Any]
    site: Site
    tokens: Tensor
    steerings: Sequence[Steering]
    sampling: Sampling
    special: Collection[int]

    def continued(self, strengths: Sequence[float]) -> Iterator[list[Token | None]]:
        """The text's tokens at each strength."""
        return stream(
            self.model,
            self.coder,
            self.site,
            self.tokens,
            self.steerings,
            self.sampling,
            strengths=strengths,
            special=self.special,
        )

    def next_tokens(self, row: Int[Tensor, "1 s"], strength: float | None = None) -> Float[Tensor, "new v"]:
        """Log-probabilities of each token after the prompt; without a strength, to the model as it is."""
        prompt, under = self.tokens.shape[1], self.model
        if strength is not None:
            under = steered(self.model, self.coder, self.site, self.steerings, (strength,), prompt)
        logits = under.step(row, Past(), mask=counts(row, self.special), keep=row.shape[1] - prompt + 1)
        return logits[0, :-1].float().log_softmax(-1)

    def perplexity(self, ids: Sequence[int]) -> float:
        """Of a continuation, to the model as it is."""
        new = torch.tensor([ids], device=self.tokens.device)
        likely = self.next_tokens(torch.cat([self.tokens, new], 1)).gather(-1, new[0, :, None])
        return math.exp(min(700.0, -float(likely.mean())))
