"""Sheet: which latents are rated, in which order, and what is shown of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.errors import BadInput
from assay.features import Example, Features
from assay.randomness import numpy_generator

INTERVALS = 10
"""Parts of the range from 0 to a latent's maximum that a harvest has examples of."""
MOST = 400
"""Items that a sheet has at most: more than anybody rates."""


@dataclass(frozen=True)
class Scale:
    """What is judged, from 1 to 5."""

    question: str
    steps: tuple[str, ...]
    """What 1, 2, 3, 4 and 5 mean."""


SCALES = {
    "consistency": Scale(
        "Do the places where it is active have something in common?",
        (
            "no pattern that I can see",
            "a broad theme, but loose",
            "a pattern, which quite a few examples do not fit",
            "a clear pattern, with one or two exceptions",
            "a clear pattern, without exception",
        ),
    ),
    "complexity": Scale(
        "How much must one understand to tell where it is active?",
        (
            "a single token, such as an opening bracket",
            "a single word, in several spellings or languages, such as dog",
            "a phrase, a category or a form of sentence, such as web addresses",
            "something of high-level meaning, such as return statements in code",
            "one idea in many kinds of context, such as belonging together",
        ),
    ),
}
"""The two scales of the rubric: activation consistency and complexity."""


@dataclass(frozen=True, kw_only=True)
class SheetConfig:
    """What a sheet is made of."""

    title: str = ""
    """What raters see it called. It must not name a coder."""
    latents: int = 25
    """Latents drawn of each coder, all equally likely."""
    seed: int = 0
    """Draws the latents and their order. Who knows it and the coders could find out whose a latent is."""
    top: int = 8
    """Strongest examples shown of each."""
    intervals: int = 7
    """Upper activation intervals (tenths of the range up to the maximum) that are shown."""
    each: int = 2
    """Examples shown of each interval."""
    least: int = 20
    """Latents active on fewer tokens are not drawn: there is too little to judge."""


@dataclass(frozen=True)
class Item:
    """One latent of a sheet."""

    number: int
    """Place in the order, from 1."""
    coder: str
    coder_hash: str
    latent: int
    pair: int
    """Rank by density among the latents drawn of its coder: items of equal rank are compared."""
    shown: list[dict[str, Any]]
    """Groups of examples: `interval` (None: the strongest) and `examples` of `ids`, `values` (shares of the maximum), `special`, `peak`."""


@dataclass(frozen=True)
class Sheet:
    """Items in the order in which everybody rates them."""

    config: SheetConfig
    model: str
    """Whose tokens these are."""
    items: list[Item]


def make(harvests: Mapping[str, Features], config: SheetConfig | None = None) -> Sheet:
    """Draw a sheet from harvests (coder's name → features) of one text. The same harvests and configuration give the same sheet."""
    config = config or SheetConfig()
    _check(harvests, config)
    drawn = [
        (name, latent, pair) for name in sorted(harvests) for pair, latent in enumerate(_draw(harvests[name], name, config))
    ]
    order = numpy_generator("rating", "order", config.seed).permutation(len(drawn))
    items = []
    for number, (name, latent, pair) in enumerate((drawn[i] for i in order), 1):
        features = harvests[name]
        items.append(Item(number, name, features.coder_hash, latent, pair, _shown(features, latent, config)))
    model = next(iter(harvests.values())).about.get("model") or {}
    return Sheet(config, str(model.get("name")), items)


def _check(harvests: Mapping[str, Features], config: SheetConfig) -> None:
    if not harvests:
        raise BadInput("A sheet needs the latents of at least one coder.")
    low = {"latents": 1, "top": 1, "intervals": 0, "each": 1, "least": 1}
    if wrong := [f"{name}={getattr(config, name)}" for name, least in low.items() if getattr(config, name) < least]:
        raise BadInput(f"A sheet cannot be made with {', '.join(wrong)}: latents, top, each and least are 1 or more.")
    if config.intervals > INTERVALS or config.latents * len(harvests) > MOST:
        raise BadInput(f"A sheet shows at most {INTERVALS} intervals, of at most {MOST} latents in all.")
    if named := [name for name in harvests if name.casefold() in config.title.casefold()]:
        raise BadInput(f"The title {config.title!r} names {named[0]}; raters would read it. Choose another title.")
    alike = {repr([f.manifest["inputs"].get(what) for what in ("tokens", "model", "shape")]) for f in harvests.values()}
    if len(alike) > 1:
        raise BadInput(
            "These coders were harvested on different texts or with different settings, which would show whose a latent is. "
            "Harvest all of them in one call: assay harvest CODER CODER …"
        )


def _draw(features: Features, name: str, config: SheetConfig) -> list[int]:
    """Latents of one coder, by density."""
    count = features.columns["count"]
    fitting = np.flatnonzero(count >= config.least)
    if len(fitting) < config.latents:
        raise BadInput(
            f"{name} has {len(fitting)} latents that are active on {config.least} tokens or more; {config.latents} were asked for. "
            "Ask for fewer, or harvest more text."
        )
    drawn = numpy_generator("rating", "latents", config.seed, name).choice(fitting, config.latents, replace=False)
    return [int(i) for i in drawn[np.lexsort((drawn, -count[drawn]))]]


def _shown(features: Features, latent: int, config: SheetConfig) -> list[dict[str, Any]]:
    examples = features.examples(latent)
    most = float(features.columns["max"][latent])
    top = [e for e in examples if e.group == "top"][: config.top]
    seen = {e.position for e in top}  # nothing is shown twice
    groups: list[dict[str, Any]] = [{"interval": None, "examples": [_example(features, e, most) for e in top]}]
    for interval in range(INTERVALS - 1, INTERVALS - 1 - config.intervals, -1):
        some = [e for e in examples if e.group == "interval" and e.interval == interval and e.position not in seen][
            : config.each
        ]
        if some:
            groups.append({"interval": interval, "examples": [_example(features, e, most) for e in some]})
    return groups


def _example(features: Features, example: Example, most: float) -> dict[str, Any]:
    """A window without a word of where it is from: activations as hundredths of the maximum."""
    window = features.window(example.start, example.stop)
    values = np.zeros(len(window.ids))
    inside = example.at < len(values)
    values[example.at[inside]] = np.round(example.values[inside] / most, 2) if most > 0 else 0.0
    special = [] if window.mask.all() else np.flatnonzero(~window.mask).tolist()
    return {
        "ids": window.ids.tolist(), "values": values.tolist(), "special": special, "peak": example.position - example.start,
    }  # fmt: skip
