"""HFModel: any Hugging Face causal language model behind `models.base.Model`, by hooks on the asked-for sites only.

Numbers are the library's own: nothing is folded, centred or cast.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from assay.errors import BadInput, SiteMissing, UnknownName, WidthMismatch
from assay.models import heads, invariants
from assay.models.base import Edit, Past, Run, Site, Where
from assay.models.families import structure
from assay.models.identity import fingerprint
from assay.models.taps import form_of, skipped
from assay.shapes import Bool, Float, Int

if TYPE_CHECKING:
    from assay.models.faster import Speeds

BESIDE_CONFIG = {"attention_mask", "logits_processor", "stopping_criteria", "streamer"}
"""What `generate` takes besides the fields of a GenerationConfig."""


class _Stop(Exception):
    """Ends a forward pass once everything that was asked for has been seen."""


class _Pass:
    """One forward pass under way: what it reads, what it edits, where it stops."""

    def __init__(
        self,
        rows: int,
        read: Sequence[Site] = (),
        edit: Mapping[Site, Edit] | None = None,
        stop: Site | None = None,
        mask: Tensor | None = None,
        grad: bool = False,
    ):
        self.rows, self.wanted, self.edit, self.stop, self.mask, self.grad = rows, set(read), edit or {}, stop, mask, grad
        self.read: dict[Site, Tensor] = {}
        self.start = 0

    @property
    def sites(self) -> list[Site]:
        """The sites to hook, in the order of the forward pass."""
        entry = {Site("resid_pre", 0)} if self.grad else set()
        return sorted(self.wanted | set(self.edit) | entry | ({self.stop} if self.stop else set()), key=lambda s: s.depth)

    def visit(self, site: Site, x: Tensor) -> Tensor | None:
        """Read, edit, stop. Gives what goes on instead of `x`, or None when nothing changes."""
        value = x.view(self.rows, -1, x.shape[-1]) if x.dim() == 2 else x  # OPT's MLP works on [b·s, d]
        if self.grad and not value.requires_grad:
            value = value.detach().requires_grad_()  # the weights are frozen, so gradients begin at the first site
        if site.kind == "resid_mid" and (self.grad or site in self.edit):
            value = value.clone()  # the tap will write into x
        if site in self.wanted:
            self.read[site] = value.clone() if self.edit and not self.grad else value
        new = self._edited(site, value) if site in self.edit else value
        if site == self.stop:
            raise _Stop
        # In a gradient run everything goes on as it was read, so that gradients flow through what was read.
        return new.view(x.shape) if self.grad or site in self.edit else None

    def _edited(self, site: Site, value: Tensor) -> Tensor:
        new = self.edit[site](value, Where(site, self.start, self.mask))
        if new.shape != value.shape:
            raise WidthMismatch(
                f"The edit at {site} was given {tuple(value.shape)} and returned {tuple(new.shape)}. Shapes must agree."
            )
        return new.to(value)


class HFModel:
    """A causal language model with readable and editable sites.

    Takes `model` over: puts it in eval mode and freezes its weights. Measures on a few random tokens what each site holds
    (see `check`) and refuses, with `SiteMissing`, sites whose meaning is not certain. One pass at a time; others wait.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        *,
        name: str | None = None,
        revision: str | None = None,
        files: Mapping[str, Path] | None = None,
    ):
        self.module: Any = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.config = self.module.config.get_text_config()
        self.name = name or str(getattr(model.config, "_name_or_path", "")) or type(model).__name__
        self.revision = revision
        """Commit on the hub, where the model came from there."""
        self.speeds: Speeds | None = None
        """How fast it is in each number type, where that was measured to choose one."""
        self._files = files  # config.json and weights on disk, where it came from there
        self.structure = structure(model)
        self.n_layers = len(self.structure.blocks)
        self._lock, self._busy = threading.RLock(), False
        with form_of(self.structure.blocks[0]) as in_tuple:
            found = invariants.inspect(self)
        self._in_tuple = in_tuple[-1]  # what a block gives, which depends on family and transformers version
        self._widths, self._refused = found.widths, self.structure.missing | found.refused

    def __repr__(self) -> str:
        return f"HFModel({self.name!r}, {self.n_layers} blocks, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.module.parameters() if p.is_floating_point())

    @property
    def fingerprint(self) -> str:
        """sha256 over configuration, dtype and weights, 16 hex digits. Library versions and paths do not count."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.module, self.dtype, self._files)

    def sites(self) -> list[Site]:
        """Every site whose meaning is certain, in the order of the forward pass."""
        return sorted(set(self._widths) - set(self._refused), key=lambda site: site.depth)

    def d(self, site: Site | str) -> int:
        """Width of a site; `SiteMissing` where there is none."""
        return self._widths[self.site(site)]

    def site(self, name: Site | str) -> Site:
        """What a name means in this model; `SiteMissing`, with the reason, where that is not certain.

        Names of modules (`model.layers.3.mlp`) mean their output. In families with post-norms that is not what is added to the
        residual stream, so such a name is refused there.
        """
        site = Site.parse(name)
        if site.layer >= self.n_layers:
            raise SiteMissing(f"{self.name} has blocks 0 to {self.n_layers - 1}, so there is no {site}.")
        if site in self._refused:
            raise SiteMissing(
                f"{self.name} has no certain {site}: {self._refused[site]}. It has: {', '.join(self._kinds(site.layer))}."
            )
        path = self.structure.taps[site].path
        if site.kind in ("attn_out", "mlp_out") and isinstance(name, str) and (part := re.search(MODULE_OUTPUT, name)):
            if "norm" in path.rsplit(".", 1)[-1]:
                raise SiteMissing(
                    f"In {self.name} the output of {part[1]!r} passes a norm before it is added to the residual stream. "
                    f"{site} is what is added, the output of {path}; write that if you mean it."
                )
        return site

    def _kinds(self, layer: int) -> list[str]:
        return [str(site) for site in self.sites() if site.layer == layer]

    def run(
        self,
        tokens: Int[Tensor, "b s"],
        read: Sequence[Site | str] = (),
        edit: Mapping[Site, Edit] | None = None,
        *,
        stop_after: Site | str | None = None,
        mask: Bool[Tensor, "b s"] | None = None,
        grad: bool = False,
        start: tuple[Site, Float[Tensor, "b s d"]] | None = None,
    ) -> Run:
        """One forward pass over right-padded rows. `stop_after` ends it there, without logits. `start`, a `resid_post` site
        and what an earlier run of these tokens read there, begins there: same bits, without the blocks before.

        Reads are the values before the edit at their site, and may share memory with the model's own: do not write into them.
        With `grad`, gradients flow from logits and reads to edits and to every earlier read; weights get none.
        """
        sites, stop = [self.site(s) for s in read], None if stop_after is None else self.site(stop_after)
        if late := [str(s) for s in sites if stop and s.depth > stop.depth]:
            raise BadInput(f"Asked to read {', '.join(late)} but to stop after {stop}, which comes earlier.")
        tokens = self._tokens(tokens)
        mask = None if mask is None else mask.to(tokens.device)
        edits = {self.site(s): f for s, f in (edit or {}).items()}
        this = _Pass(len(tokens), sites, edits, stop, mask, grad)
        with self._begun(start, tokens, [*sites, *edits]):
            logits = self._forward(tokens, this)
        if lost := [str(s) for s in sites if s not in this.read]:
            raise SiteMissing(f"The forward pass of {self.name} never reached {', '.join(lost)} before {stop or 'its end'}.")
        return Run({site: this.read[site] for site in sites}, logits)

    def _begun(self, start: tuple[Site, Tensor] | None, tokens: Tensor, sites: Sequence[Site]) -> AbstractContextManager[None]:
        """Skip what comes before `start`."""
        if start is None:
            return nullcontext()
        site, x = self.site(start[0]), start[1]
        if site.kind != "resid_post" or any(s.depth < site.depth for s in sites):
            raise BadInput(f"A pass can start at a resid_post site that no read or edit comes before; got {site}.")
        if x.shape != (*tokens.shape, self.d(site)):
            raise WidthMismatch(
                f"The activations to start from have shape {tuple(x.shape)}; {tuple(tokens.shape)} tokens were given."
            )
        return skipped(list(self.structure.blocks)[: site.layer + 1], x.to(self.device), self._in_tuple)

    def probe(
        self, tokens: Int[Tensor, "b s"], read: Sequence[Site] = (), edit: Mapping[Site, Edit] | None = None
    ) -> tuple[dict[Site, Tensor], Float[Tensor, "b s v"]]:
        """Values at any recognised place, certain or not, and the logits: for `models.invariants` alone."""
        this = _Pass(len(tokens), read, edit)
        logits = self._forward(tokens.to(self.device), this)
        assert logits is not None
        return this.read, logits

    def _forward(self, tokens: Tensor, this: _Pass) -> Tensor | None:
        with self._alone(), self._hooked(this), torch.set_grad_enabled(this.grad):
            try:
                return self.module(input_ids=tokens, use_cache=False).logits
            except _Stop:
                return None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One pass at a time: hooks sit on the shared modules."""
        with self._lock:
            if self._busy:
                raise BadInput("An edit ran the very model it edits. Compute what it needs before the run.")
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    @contextmanager
    def _hooked(self, this: _Pass) -> Iterator[None]:
        with ExitStack() as stack:
            for site in this.sites:
                stack.callback(self.structure.taps[site].attach(lambda x, site=site: this.visit(site, x)).remove)
            yield

    def _tokens(self, tokens: Tensor, before: int = 0) -> Tensor:
        """Token ids on the model's device; refused while the reason can still be told (on a GPU a bad id ends the process)."""
        if tokens.dim() != 2 or not tokens.numel():
            raise BadInput(f"Tokens have shape {tuple(tokens.shape)}; expected [rows, positions], neither of them 0.")
        width = before + tokens.shape[1]
        if self.positions is not None and width > self.positions:
            raise BadInput(f"{self.name} has {self.positions} positions, got rows of {width} tokens. Use a shorter context.")
        if tokens.device.type == "cpu":
            low, high = (int(v) for v in tokens.aminmax())
            if low < 0 or high >= self.vocabulary:
                raise BadInput(
                    f"Token ids run from {low} to {high}, {self.name} knows 0 to {self.vocabulary - 1}. Another model's tokenizer?"
                )
        return tokens.to(self.device, torch.long)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.module.get_input_embeddings().num_embeddings

    @property
    def positions(self) -> int | None:
        """Tokens that a row may have; None where there is no limit."""
        return getattr(self.config, "max_position_embeddings", None) or None

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text."""
        end = self.module.generation_config.eos_token_id
        return frozenset(end if isinstance(end, list) else [] if end is None else [end])

    def step(
        self, tokens: Int[Tensor, "b s"], past: Past, edit: Mapping[Site, Edit] | None = None, *,
        mask: Bool[Tensor, "b s"] | None = None, keep: int = 1,
    ) -> Float[Tensor, "b keep v"]:  # fmt: skip
        """The next tokens of rows that `past` remembers, and then remembers too: logits of the last `keep` of them.

        Edits see these tokens alone, with `Where.start` the number of those before. An interrupted step spoils `past`.
        """
        this = _Pass(len(tokens), edit={self.site(s): f for s, f in (edit or {}).items()}, mask=mask)
        this.start, tokens = past.length, self._tokens(tokens, past.length)
        few = {"logits_to_keep": keep} if "logits_to_keep" in signature(self.module.forward).parameters else {}
        with self._alone(), self._hooked(this), torch.no_grad():
            out = self.module(input_ids=tokens, past_key_values=past.cache, use_cache=True, **few)
        past.cache, past.length = out.get("past_key_values"), past.length + tokens.shape[1]
        if past.cache is None:
            raise BadInput(f"The cache of {self.name} does not tell positions: it cannot be run token by token.")
        return out.logits[:, -keep:]

    @torch.no_grad()
    def unembed(self, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """What directions in the residual stream add to the logits, up to the length that the final norm divides by; in fp32.

        The norm's weight (and LayerNorm's centring) is folded into the head; biases do not count. See `models.heads`.
        """
        return heads.linear(self.structure, directions.to(self.device, torch.float32))

    def generate(
        self, tokens: Int[Tensor, "b s"], edit: Mapping[Site, Edit] | None = None, *, new_tokens: int = 32, **settings: Any
    ) -> Int[Tensor, "b s_new"]:
        """Continue `tokens` under edits; gives only the new tokens, padded after an end-of-text token.

        Greedy, whatever the checkpoint suggests; `settings` are transformers' (`do_sample=True, temperature=0.7`,
        `attention_mask` for left-padded prompts …) plus `seed` (0) for sampling. Edits see the prompt first, then one column a
        step, with `Where.start` the absolute position of the first column.
        """
        tokens = self._tokens(tokens)
        seed = settings.pop("seed", 0)
        attention = settings.pop("attention_mask", torch.ones_like(tokens)).to(tokens.device)
        beside = {"attention_mask": attention} | {k: settings.pop(k) for k in BESIDE_CONFIG & settings.keys()}
        config = self._generation(new_tokens, settings)
        this = _Pass(len(tokens), edit={self.site(s): f for s, f in (edit or {}).items()})
        dice = _sampling(seed, tokens.device) if config.do_sample else nullcontext()
        with self._alone(), self._hooked(this), self._counted(this), self._own_defaults(), dice:
            out = self.module.generate(tokens, generation_config=config, **beside)
        return out[:, tokens.shape[1] :]

    def _generation(self, new_tokens: int, settings: Mapping[str, Any]) -> GenerationConfig:
        known = vars(GenerationConfig())
        for key in settings:
            if key not in known:
                raise UnknownName.among("generation setting", key, [*known, *BESIDE_CONFIG, "seed"])
        base = self.module.generation_config
        end = base.eos_token_id
        pad = next((t for t in (base.pad_token_id, getattr(self.tokenizer, "pad_token_id", None)) if t is not None), None)
        if pad is None:
            pad = end[0] if isinstance(end, list) else end
        defaults = {"do_sample": False, "use_cache": True, "eos_token_id": end, "pad_token_id": 0 if pad is None else pad}
        return GenerationConfig(**{**defaults, "max_new_tokens": new_tokens, "disable_compile": True, **settings})

    @contextmanager
    def _own_defaults(self) -> Iterator[None]:
        """Without the sampling settings that came with the checkpoint: transformers would fill ours up with them."""
        kept, self.module.generation_config = self.module.generation_config, GenerationConfig()
        try:
            yield
        finally:
            self.module.generation_config = kept

    @contextmanager
    def _counted(self, this: _Pass) -> Iterator[None]:
        """Tells `this` before each step of `generate` how many positions are in the cache already."""
        end = 0

        def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal end
            cache = kwargs.get("past_key_values")
            width = kwargs["input_ids"].shape[1]
            this.start = int(cache.get_seq_length()) if cache is not None else 0
            if this.edit and not this.start and width < end:
                raise BadInput(
                    f"The cache of {self.name} does not tell positions, so edits cannot be placed. Add use_cache=False."
                )
            end, this.rows = this.start + width, len(kwargs["input_ids"])

        handle = self.module.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def check(self) -> list[invariants.Check]:
        """Every relation between sites that makes their names true, measured now on a few random tokens."""
        return invariants.inspect(self, thorough=True).checks


MODULE_OUTPUT = r"\.(mlp|fc2|self_attn|attn|attention)(?:\.hook_out)?$"
"""Names that other libraries give to the output of a whole module."""


@contextmanager
def _sampling(seed: int, device: torch.device) -> Iterator[None]:
    """transformers samples from torch's global generator: lend it a seed and restore it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
