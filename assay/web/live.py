"""live: with a model: which latents a text makes active, and texts continued while latents are steered.

Long requests take turns (`assay.web.turns`), a continuation as a whole; the model itself is held for one token at a time, so that short
requests come in between. Answers that grow are server-sent events; closing the connection stops the work at the next token.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal, TypeVar

import anyio
import numpy as np
import torch
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from assay.corpora.prompt import prompt, special_ids
from assay.dashboards.importing import KIND as ALONE
from assay.errors import AssayError, BadInput, MissingFile
from assay.features import Features
from assay.harvest import Place
from assay.models.pieces import Pieces
from assay.models.streaming import Sampling
from assay.store import entry_hash
from assay.studies import steer
from assay.studies.reading import Reading, read
from assay.web import latents_table
from assay.web.live_forms import (
    TOKENS,
    Active,
    Begun,
    Codes,
    CodesOf,
    Continue,
    Ended,
    Failed,
    Live,
    LiveCoder,
    NewToken,
    SteerBy,
    SteerEvent,
    SweepEvent,
    SweepOver,
    SweepPoint,
    SweepShare,
    Text,
    TextToken,
    Waiting,
)  # fmt: skip
from assay.web.shelf import Shelf, Shelved
from assay.web.turns import Turns

E = TypeVar("E", bound=BaseModel)
router = APIRouter(tags=["live"])


class Events(StreamingResponse):
    """Server-sent events: each a line `data: JSON`."""

    media_type = "text/event-stream"


STREAMED: dict[str, Any] = {"description": "Server-sent events, each of this form.", "content": {Events.media_type: {}}}


@router.get("/live.json")
def live(shelf: Shelved) -> Live:
    """The live model, and which coders can be used with it."""
    model = shelf.live
    advice = None if model else "No model is loaded. Start the server with one: `assay serve STORE --live MODEL`."
    looked_at = {name.rpartition(".")[0] for name in shelf.store.names("features")}
    return Live(
        model=None if model is None else model.name, advice=advice, coders=[_line(shelf, name, name in looked_at) for name in shelf.coders()],
        chat=bool(model and getattr(model.tokenizer, "chat_template", None)), tokens=TOKENS,
    )  # fmt: skip


@router.post("/live/codes.json")
def codes(shelf: Shelved, asked: CodesOf) -> Codes:
    """The text's tokens, and the latents that are strongest on all of them or on some."""
    job = Job(shelf, asked)
    with shelf.reading():
        found = job.reading
    at = ~job.prompt.special | asked.special
    if asked.at:
        at = np.isin(np.arange(len(at)), asked.at)
    rare = None if asked.density is None else job.column("density") <= asked.density
    ids = found.strongest(asked.by, at, among=rare, limit=asked.limit)
    about = {line.latent: line for line in latents_table.lines(shelf, job.features, ids)} if job.features else {}
    rows = [(int(i), *found.row(i)) for i in ids]
    tokens, l0 = job.tokens(), found.l0().tolist()
    for i, token in enumerate(tokens):
        token.l0, token.missed = l0[i], None if found.missed is None else float(f"{found.missed[i]:.4g}")
    active = [Active(latent=i, at=at.tolist(), values=[float(f"{v:.4g}") for v in z], about=about.get(i)) for i, at, z in rows]
    return Codes(tokens=tokens, begins=job.prompt.begins, distinct=found.distinct(), latents=active)


@router.post("/live/steer", responses={200: {"model": SteerEvent} | STREAMED})
def steered(shelf: Shelved, asked: SteerBy) -> Events:
    """The text continued, as it is and steered, side by side, token by token. Close the connection to stop."""
    job = Job(shelf, asked)
    return Events(_sent(job.queued(job.told(asked))))


@router.post("/live/sweep", responses={200: {"model": SweepEvent} | STREAMED})
def swept(shelf: Shelved, asked: SweepOver) -> Events:
    """What steering does at each of several strengths. Close the connection to stop."""
    job = Job(shelf, asked)
    return Events(_sent(job.queued(job.points(asked))))


class Job:
    """A request and what it needs. What cannot be done is refused here, before anything is sent."""

    def __init__(self, shelf: Shelf, asked: Text):
        self.shelf, self.model, self.name = shelf, shelf.model, asked.coder
        about = shelf.manifest(asked.coder)["about"]
        if (why := _unusable(shelf, asked.coder, about)) is not None:
            raise BadInput(f"{asked.coder} cannot be used with {self.model.name}: {why}.")
        place = Place.of(asked.coder, about)
        self.site, self.predicts = place.read[0], place.write != place.read[0]
        self.coder = shelf.coder(asked.coder)
        bos = asked.bos or (about.get("text") or {}).get("bos") or "auto"
        self.prompt = prompt(self.model.tokenizer, asked.text, bos=bos, chat=asked.chat)
        limit = min(TOKENS, self.model.positions or TOKENS)
        if len(self.prompt.ids) > limit:
            raise BadInput(f"The text has {len(self.prompt.ids)} tokens; at most {limit} are read here. Shorten it.")
        self.ids = torch.from_numpy(self.prompt.ids)[None]
        self.pieces = shelf.kept("live pieces", self.model.name, lambda: Pieces(self.model.tokenizer))
        self._key = (asked.coder, entry_hash(shelf.store.find("coders", asked.coder)), self.prompt.ids.tobytes())

    @cached_property
    def features(self) -> Features | None:
        """What was harvested of the coder, if anything was."""
        with suppress(MissingFile):
            return self.shelf.features(self.name)
        return None

    def column(self, name: str) -> np.ndarray:
        """A column of the harvest; `MissingFile` where there is none."""
        return self.shelf.features(self.name).columns[name]

    @cached_property
    def reading(self) -> Reading:
        """Activations of the text; those of the last text are kept, for another look at them."""

        def made() -> Reading:
            with self.shelf.model_lock:
                return read(self.model, self.coder, self.site, self.ids, predicts=self.predicts)

        return self.shelf.kept("live reading", self._key, made)

    def tokens(self) -> list[TextToken]:
        """The text, token by token."""
        each = zip(self.pieces.row(self.prompt.ids), self.prompt.ids.tolist(), self.prompt.special.tolist())
        return [TextToken(text=text, id=id, special=special) for text, id, special in each]

    def steering(self, asked: Continue) -> dict[str, Any]:
        """What `steer.stream` and `steer.sweep` are told alike."""
        if self.predicts:
            raise BadInput(f"{self.name} predicts another site than it reads, so {self.site} cannot be steered through it.")
        effects = []
        for one in asked.effects:
            value = one.value
            if one.unit == "max" and one.operation in ("add", "clamp") and one.latent < self.coder.d_sae:
                value *= float(np.nan_to_num(self.column("max")[one.latent]))
            effects.append(steer.Steering(latent=one.latent, operation=one.operation, value=value, positions=one.positions))
        sampling = Sampling(
            new_tokens=asked.new_tokens, temperature=asked.temperature, top_k=asked.top_k, top_p=asked.top_p, seed=asked.seed,
            repetition_penalty=asked.repetition_penalty, no_repeat_ngram=asked.no_repeat_ngram,
        )  # fmt: skip
        return {
            "model": self.model, "coder": self.coder, "site": self.site, "tokens": self.ids, "steerings": effects, "sampling": sampling,
            "special": () if asked.special else special_ids(self.model.tokenizer),
        }  # fmt: skip

    def told(self, asked: SteerBy) -> Generator[SteerEvent]:
        """The events of a text continued as it is and steered."""
        steps = steer.stream(**self.steering(asked), strengths=(0.0, asked.strength))
        return self._told(steps)

    def _told(self, steps: Iterator[list[steer.Token | None]]) -> Generator[SteerEvent]:
        yield Begun(tokens=self.tokens(), begins=self.prompt.begins)
        sides = Side("plain", self.pieces, self.model.tokenizer), Side("steered", self.pieces, self.model.tokenizer)
        for step in steps:
            for side, token in zip(sides, step):
                if token is not None:
                    yield from side.take(token)
        for side in sides:
            yield from side.end()

    def points(self, asked: SweepOver) -> Generator[SweepEvent]:
        """The events of a sweep."""
        found = steer.sweep(**self.steering(asked), strengths=asked.strengths)
        return self._points(found)

    def _points(self, found: Iterator[steer.Point | float]) -> Generator[SweepEvent]:
        yield Begun(tokens=self.tokens(), begins=self.prompt.begins)
        for one in found:
            if isinstance(one, steer.Point):
                text = "".join(self.pieces.row(one.ids))
                yield SweepPoint(strength=one.strength, kl=one.kl, perplexity=one.perplexity, text=text)
            else:
                yield SweepShare(done=one)

    def queued(self, events: Generator[E]) -> Generator[E | Waiting | Failed]:
        """The events, once it is their turn."""
        turns = self.shelf.kept("live turns", None, Turns)
        try:
            with turns.one() as waiting:
                for ahead in waiting:
                    yield Waiting(ahead=ahead)
                while True:
                    with self.shelf.model_lock:
                        event = next(events, None)
                    if event is None:
                        return
                    yield event
        except AssayError as error:
            yield Failed(error=type(error).__name__, message=str(error))
        finally:
            events.close()


class Side:
    """One of the two continuations, as events. Tokens wait for those that their last character goes on in."""

    def __init__(self, name: Literal["plain", "steered"], pieces: Pieces, tokenizer: Any):
        self.name: Literal["plain", "steered"] = name
        self.pieces, self.special = pieces, special_ids(tokenizer)
        self.held: list[steer.Token] = []
        self.reason: Literal["text", "length"] | None = None

    def take(self, token: steer.Token) -> Iterator[NewToken | Ended]:
        """Another token."""
        self.held.append(token)
        if token.last or not self._cut():
            yield from self._given()
        if token.last:
            self.reason = "text"
            yield Ended(side=self.name, reason="text")

    def end(self) -> Iterator[NewToken | Ended]:
        """No more come."""
        if self.reason is None:
            yield from self._given()
            yield Ended(side=self.name, reason="length")

    def _cut(self) -> bool:
        """Whether the last character is not whole yet."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(b"".join(self.pieces.raw(token.id) for token in self.held))
        return bool(decoder.getstate()[0])

    def _given(self) -> Iterator[NewToken]:
        for token, text in zip(self.held, self.pieces.row([t.id for t in self.held])):
            yield NewToken(side=self.name, text=text, probability=token.probability, special=token.id in self.special)
        self.held = []


async def _sent(events: Generator[BaseModel]) -> AsyncIterator[str]:
    """Events as they go over the wire. Whoever goes away ends them: the work stops where it is, and the turn is given on."""
    try:
        async for event in iterate_in_threadpool(events):
            yield f"data: {event.model_dump_json()}\n\n"
    finally:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(events.close)


def _unusable(shelf: Shelf, name: str, about: Mapping[str, Any]) -> str | None:
    """Why a coder cannot be used with the live model."""
    if about.get("kind") == ALONE:
        return "only its pages were imported; it has no weights here"
    if not about.get("site") and not (about.get("source") or {}).get("read"):
        return "it learnt from vectors of a file, and nothing says of which site they are"
    try:
        site, *others = Place.of(name, about).read
        width = shelf.model.d(site)
    except AssayError as error:
        return str(error).rstrip(".")
    if others:
        return "it reads several sites at once"
    d_in = (about.get("config") or {}).get("d_in", width)
    return None if d_in == width else f"it reads width {d_in}, and {site} has {width}"


def _line(shelf: Shelf, name: str, harvested: bool) -> LiveCoder:
    about = shelf.manifest(name)["about"]
    model, caution, refused, steers = about.get("model") or {}, None, None, True
    if shelf.live is not None:
        refused, theirs = _unusable(shelf, name, about), model.get("fingerprint")
        if not refused and theirs and theirs != shelf.live.fingerprint:
            caution = f"It learnt from {model.get('name')} as {about.get('model_dtype') or 'it was then'}: other weights or another number type."
    sites = [about["site"]] if about.get("site") else (about.get("source") or {}).get("read") or []
    if about.get("site") is None and sites:
        steers = (about.get("source") or {}).get("predict") in (None, *sites)
    return LiveCoder(
        name=name, site=", ".join(sites) or None, d_sae=(about.get("config") or {}).get("d_sae"), harvested=harvested, steers=steers,
        refused=refused, caution=caution,
    )  # fmt: skip
