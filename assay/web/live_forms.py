"""live_forms: what the live pages ask, and what they are told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from assay.web.latents_table import LatentLine

TOKENS = 512
"""Of a text, at most."""
LETTERS = 4000
"""Of a text, at most; more are refused before they are tokenised, and links to a page hold no more."""
Whole = Annotated[int, Field(ge=0, lt=2**31)]
Real = Annotated[float, Field(ge=-1e6, le=1e6)]


class Asked(BaseModel):
    """What a request says; anything else in it is refused."""

    model_config = ConfigDict(extra="forbid")


class Text(Asked):
    """A text, and the coder to look through."""

    coder: Annotated[str, Field(min_length=1, max_length=200)]
    text: Annotated[str, Field(min_length=1, max_length=LETTERS)]
    bos: Literal["auto", "always", "never"] | None = None
    """Whether BOS stands first; null: as in the text that the coder learnt from."""
    chat: bool = False
    """The text is a turn of the user in the chat template."""


class CodesOf(Text):
    """Which of its latents are wanted."""

    by: Literal["max", "sum", "count"] = "max"
    """Largest activation, sum of activations, or number of active tokens, over the chosen tokens."""
    at: Annotated[list[Whole], Field(max_length=TOKENS)] = []
    """Chosen tokens, counted from 0; empty: all."""
    special: bool = False
    """Count special tokens too, where none are chosen."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """Leave out latents that are active on more than this share of the harvest's tokens."""
    limit: Annotated[int, Field(ge=1, le=200)] = 30


class Effect(Asked):
    """What is done to a latent."""

    latent: Whole
    operation: Literal["add", "clamp", "ablate", "scale"] = "add"
    value: Real = 0.0
    """For add and clamp an activation; for scale a factor."""
    unit: Literal["raw", "max"] = "raw"
    """max: the value of add and clamp is in units of the latent's largest activation in the harvest."""
    positions: Literal["all", "prompt", "generated"] = "all"


class Continue(Text):
    """A text to continue, as it is and steered."""

    effects: Annotated[list[Effect], Field(min_length=1, max_length=32)]
    special: bool = False
    """Steer special tokens too."""
    new_tokens: Annotated[int, Field(ge=1, le=TOKENS)] = 48
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    no_repeat_ngram: Annotated[int, Field(ge=0, le=64)] = 0
    seed: Whole = 0


class SteerBy(Continue):
    """How strongly."""

    strength: Real = 1.0
    """0: not at all. 1: as the effects say. In between, and beyond, in proportion."""


class SweepOver(Continue):
    """How strongly, one after the other."""

    strengths: Annotated[list[Real], Field(min_length=1, max_length=41)]


class LiveCoder(BaseModel):
    """A coder on the live page."""

    name: str
    site: str | None
    d_sae: int | None
    harvested: bool
    steers: bool
    """Whether it can be steered through: it predicts what it reads."""
    refused: str | None
    """Why it cannot be used with this model."""
    caution: str | None
    """What does not fit quite."""


class Live(BaseModel):
    """What the live page can do."""

    model: str | None
    advice: str | None
    """How to have a model, where there is none."""
    coders: list[LiveCoder]
    chat: bool
    """Whether the model has a chat template."""
    tokens: int
    """Of a text, at most."""


class TextToken(BaseModel):
    """A token of the text."""

    text: str
    """"" where it only continues the character before."""
    id: int
    special: bool
    l0: int | None = None
    """Its active latents."""
    missed: float | None = None
    """Share of its activation's square that the coder misses."""


class Active(BaseModel):
    """A latent that is active on the text."""

    latent: int
    at: list[int]
    """Tokens on which it is active."""
    values: list[float]
    about: LatentLine | None
    """What the harvest and the user say of it."""


class Codes(BaseModel):
    """Tokens by latents."""

    tokens: list[TextToken]
    begins: str
    """What stands before the text."""
    distinct: int
    """Latents that are active on any token."""
    latents: list[Active]


class Waiting(BaseModel):
    """Others use the model."""

    kind: Literal["waiting"] = "waiting"
    ahead: int


class Begun(BaseModel):
    """The turn has come."""

    kind: Literal["begun"] = "begun"
    tokens: list[TextToken]
    begins: str


class NewToken(BaseModel):
    """A token of a continuation."""

    kind: Literal["token"] = "token"
    side: Literal["plain", "steered"]
    text: str
    probability: float
    special: bool


class Ended(BaseModel):
    """A continuation is over: the text ended, or the number of tokens is reached."""

    kind: Literal["ended"] = "ended"
    side: Literal["plain", "steered"]
    reason: Literal["text", "length"]


class SweepShare(BaseModel):
    """How much of a sweep is done."""

    kind: Literal["share"] = "share"
    done: float


class SweepPoint(BaseModel):
    """A sweep at one strength."""

    kind: Literal["point"] = "point"
    strength: float
    kl: float
    """KL(unsteered ‖ steered) of the next token, nats, mean over the unsteered continuation."""
    perplexity: float
    """Of the steered continuation to the unsteered model."""
    text: str


class Failed(BaseModel):
    """It went wrong on the way."""

    kind: Literal["failed"] = "failed"
    error: str
    message: str


SteerEvent = Waiting | Begun | NewToken | Ended | Failed
SweepEvent = Waiting | Begun | SweepShare | SweepPoint | Failed
