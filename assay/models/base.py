"""Model and Site: what the rest of the house knows of a language model.

Sites are one vocabulary over all families; Hugging Face and TransformerLens names are translations (`Site.parse`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from assay.errors import BadInput, UnknownName
from assay.shapes import Bool, Float, Int, Tensor

KINDS = ("resid_pre", "attn_z", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post")
"""Kinds of site in the order in which a block computes them."""

TRANSFORMER_LENS = {
    "": "resid_post", "hook_in": "resid_pre", "hook_out": "resid_post",
    "hook_resid_pre": "resid_pre", "hook_resid_mid": "resid_mid", "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out", "attn.hook_out": "attn_out", "attn.hook_z": "attn_z", "attn.o.hook_in": "attn_z",
    "hook_mlp_out": "mlp_out", "mlp.hook_out": "mlp_out", "mlp.hook_in": "mlp_in",
}  # fmt: skip
"""What follows `blocks.N.` in TransformerLens, hooked models and bridges alike."""
HUGGING_FACE = {
    "": "resid_post", "mlp": "mlp_out", "fc2": "mlp_out", "self_attn": "attn_out", "attn": "attn_out", "attention": "attn_out",
}  # fmt: skip
"""What follows `model.layers.N.`, `transformer.h.N.` … in module paths. A path means the module's output."""
NOT_OURS = {
    "hook_mlp_in": "TransformerLens has it before the MLP's norm, where mlp_in is after it; its values are those of resid_mid.{layer}",
    "hook_attn_in": "TransformerLens has it before the attention's norm; its values are those of resid_pre.{layer}",
    "ln1.hook_normalized": "it lies inside a norm, before the norm's weight is applied",
    "ln2.hook_normalized": "it lies inside a norm, before the norm's weight is applied; what enters the MLP is mlp_in.{layer}",
    "mlp.hook_pre": "neurons inside the MLP are no site",
    "mlp.hook_post": "neurons inside the MLP are no site",
    "attn.hook_result": "contributions of single heads are no site; attn_z.{layer} holds what each head gives",
}
"""Names that look like a site of ours and are another place."""


@dataclass(frozen=True)
class Site:
    """A place in the forward pass: `Site("resid_post", 10)`, written `resid_post.10`.

    resid_pre / resid_post: the residual stream before / after a block. resid_mid: between attention and MLP.
    attn_out / mlp_out: what attention / MLP adds to the residual stream (after a post-norm where the family has one).
    mlp_in: what enters the MLP module (after its norm). attn_z: input of the attention's output projection, heads side by side.
    """

    kind: str
    layer: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName.among("kind of site", self.kind, KINDS)
        if self.layer < 0:
            raise BadInput(f"Layer {self.layer} is negative. Layers count from 0.")

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts sites in the order in which a forward pass reaches them."""
        return self.layer, KINDS.index(self.kind)

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """From `resid_post.10`, TransformerLens' `blocks.10.hook_resid_post`, or Hugging Face's `model.layers.10` (its output).

        Whether a module's output is what the site's name says depends on the family: a model's own `site(name)` checks that.
        """
        if isinstance(text, Site):
            return text
        if own := re.fullmatch(r"([a-z_]+)\.(\d+)", text):
            if own[1] not in ("layers", "h", "blocks"):
                return cls(own[1], int(own[2]))
        if other := re.fullmatch(r"(?:[a-z_]+\.)*(?:layers|h|blocks)\.(\d+)(?:\.([a-z0-9_.]+))?", text):
            layer, place = int(other[1]), other[2] or ""
            known = TRANSFORMER_LENS | HUGGING_FACE if text.startswith("blocks.") else HUGGING_FACE
            if place in known:
                return cls(known[place], layer)
            if place in NOT_OURS:
                raise BadInput(f"{text!r} is no site of Assay: {NOT_OURS[place].format(layer=layer)}.")
        raise BadInput(f"{text!r} names no site. Write KIND.LAYER, e.g. resid_post.10; kinds: {', '.join(KINDS)}.")


@dataclass(frozen=True)
class Where:
    """What an edit is told about the activations it gets."""

    site: Site
    start: int = 0
    """Absolute position of the first column: 0 in a plain run, the number of tokens so far in each later step of `generate`."""
    mask: Bool[Tensor, "b s"] | None = None
    """True at positions that count (no padding, no special tokens); None means all do."""


Edit = Callable[[Tensor, Where], Tensor]
"""Takes activations [b, s, d] at a site and gives those that go on instead. It must not write into its input."""


@dataclass
class Run:
    """What came out of a forward pass."""

    read: dict[Site, Float[Tensor, "b s d"]] = field(default_factory=dict)
    """Activations at each site that was asked for, *before* the edit at that site."""
    logits: Float[Tensor, "b s v"] | None = None
    """None when the pass was stopped early."""

    def __getitem__(self, site: Site | str) -> Float[Tensor, "b s d"]:
        return self.read[Site.parse(site)]


@dataclass
class Past:
    """What a model keeps of rows that went through `Model.step`: give a new one with the first tokens, the same one afterwards."""

    cache: Any = None
    length: int = 0
    """Tokens of each row so far."""


@runtime_checkable
class Model(Protocol):
    """A language model with readable and editable sites."""

    name: str
    """What a person calls it: hub id, path, or short name."""
    tokenizer: Any
    n_layers: int

    @property
    def fingerprint(self) -> str:
        """sha256 over configuration and weights, 16 hex digits: part of every key of what is made from this model."""
        ...

    @property
    def device(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def positions(self) -> int | None:
        """Tokens that a row may have; None where there is no limit."""
        ...

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text."""
        ...

    def sites(self) -> list[Site]:
        """Every site this model has, in the order of the forward pass."""
        ...

    def d(self, site: Site | str) -> int:
        """Width of a site; `SiteMissing` where there is none."""
        ...

    def run(
        self,
        tokens: Int[Tensor, "b s"],
        read: Sequence[Site] = (),
        edit: Mapping[Site, Edit] | None = None,
        *,
        stop_after: Site | None = None,
        mask: Bool[Tensor, "b s"] | None = None,
        grad: bool = False,
        start: tuple[Site, Float[Tensor, "b s d"]] | None = None,
    ) -> Run:
        """One forward pass. Right-padded rows; `mask` only travels to edits. `stop_after` ends it there, without logits;
        `start` (a resid_post site and its activations, from an earlier run) skips the blocks before it."""
        ...

    def generate(
        self, tokens: Int[Tensor, "b s"], edit: Mapping[Site, Edit] | None = None, *, new_tokens: int = 32, **settings: Any
    ) -> Int[Tensor, "b s_new"]:
        """Continue `tokens` under edits; gives only the new tokens."""
        ...

    def step(
        self, tokens: Int[Tensor, "b s"], past: Past, edit: Mapping[Site, Edit] | None = None, *,
        mask: Bool[Tensor, "b s"] | None = None, keep: int = 1,
    ) -> Float[Tensor, "b keep v"]:  # fmt: skip
        """The next tokens of rows that `past` remembers, and then remembers too: logits of the last `keep` of them."""
        ...
