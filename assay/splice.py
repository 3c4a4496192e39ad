"""Splice: a view of a model in which activations at some sites are a coder's reconstructions, edited or constant.

The only way into a forward pass: loss recovered, ablation, steering and generation under edits all go through here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch

from assay.coders.base import Code, SparseCoder
from assay.errors import BadInput, WidthMismatch
from assay.models.base import Edit, Model, Past, Run, Site, Where
from assay.shapes import Bool, Float, Int, Tensor

CodeEdit = Callable[[Code, Where], Code]
"""Takes the code of activations [b, s, d] and gives the one that is decoded instead; `code.with_latents(z)` makes one."""


def splice(
    model: Model,
    at: Mapping[Site, SparseCoder[Any]] | Mapping[str, SparseCoder[Any]],
    edit: CodeEdit | None = None,
    *,
    error: Literal["drop", "keep"] = "drop",
) -> Model:
    """`model` with each site's activations replaced by its coder's reconstruction, in fp32, then back in the model's dtype.

    Only positions that count (`Where.mask`) are replaced. `edit` may change the code in between. `error="keep"` adds back what
    the coder misses (x − x̂ of the unedited code), so that tokens whose code was not edited keep their activations exactly.
    `WidthMismatch` at once when a coder does not fit its site.
    """
    if error not in ("drop", "keep"):
        raise BadInput(
            f'error={error!r} is neither "drop" (the reconstruction stands alone) nor "keep" (its error is added back).'
        )
    edits = {}
    for name, coder in at.items():
        site = Site.parse(name)
        if (coder.d_in, coder.d_out) != (model.d(site), model.d(site)):
            raise WidthMismatch(
                f"{site} of {model.name} has width {model.d(site)}, but this {type(coder).__name__} reads {coder.d_in} and gives "
                f"{coder.d_out}. Splice the coder at the site and model it was trained on."
            )
        edits[site] = _through(coder, edit, error == "keep")
    return Spliced(model, edits, None if edit else {Site.parse(k): v for k, v in at.items()}, error)


def ablate(model: Model, site: Site | str, value: Float[Tensor, " d"] | None = None, *, special: bool = False) -> Model:
    """`model` with a constant vector (a mean, or zeros when None) at every position of `site` that counts; with `special` at all."""
    site = Site.parse(site)
    d = model.d(site)
    constant = torch.zeros(d) if value is None else value
    if constant.shape != (d,):
        raise WidthMismatch(
            f"{site} of {model.name} has width {d}, the constant has shape {tuple(constant.shape)}; expected ({d},)."
        )

    def replace(x: Tensor, where: Where) -> Tensor:
        return _only(None if special else where.mask, constant.to(x.device, x.dtype).expand_as(x), x)

    return Spliced(model, {site: replace}, None, "drop")


def home(coder: SparseCoder[Any], otherwise: torch.device | str = "cpu") -> torch.device:
    """The device a coder's weights are on; `otherwise` for a coder without any."""
    weights = next(iter(coder.state_dict().values()), None)
    return torch.device(otherwise) if weights is None else weights.device


@contextmanager
def inference(coder: SparseCoder[Any]) -> Iterator[None]:
    """Within, the coder is in eval mode: each vector's code depends on that vector alone."""
    was = coder.training
    coder.eval()
    try:
        yield
    finally:
        coder.train(was)


def _only(mask: Bool[Tensor, "b s"] | None, new: Tensor, old: Tensor) -> Tensor:
    return new if mask is None else torch.where(mask.to(old.device)[..., None], new, old)


def _through(coder: SparseCoder[Any], edit: CodeEdit | None, keep: bool) -> Edit:
    def replace(x: Float[Tensor, "b s d"], where: Where) -> Float[Tensor, "b s d"]:
        if keep and edit is None:
            return x
        with inference(coder):
            full = x.to(home(coder, x.device), torch.float32)
            code = coder.encode(full)
            edited = code if edit is None else edit(code, where)
            out = _keep_error(coder, full, code, edited) if keep else coder.decode(edited)
        return _only(where.mask, out.to(x.device, x.dtype), x)

    return replace


def _keep_error(coder: SparseCoder[Any], x: Tensor, code: Code, edited: Code) -> Tensor:
    # Sparse and dense latents round differently: decode both densely, so that unedited tokens move by exactly 0.
    return x + (coder.decode(edited.with_latents(edited.z)) - coder.decode(code.with_latents(code.z)))


class Spliced:
    """A model under edits. Reading an edited site gives what the edits of this view made of it."""

    def __init__(self, model: Model, edits: Mapping[Site, Edit], coders: Mapping[Site, SparseCoder[Any]] | None, error: str):
        self.model, self.edits, self._coders, self._error = model, dict(edits), coders, error
        self.name = f"{model.name} spliced at {', '.join(str(s) for s in self.edits)}"
        self.tokenizer, self.n_layers = model.tokenizer, model.n_layers

    @property
    def fingerprint(self) -> str:
        """Of the model and the spliced coders; `BadInput` under an edit, which is code and has no hash."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        if self._coders is None:
            raise BadInput(
                f"{self.name} runs under an edit and has no fingerprint: nothing made from it can be stored under a key."
            )
        parts = [self.model.fingerprint, self._error]
        parts += [f"{site} {coder_hash(coder)}" for site, coder in self._coders.items()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def device(self) -> Any:
        return self.model.device

    @property
    def dtype(self) -> Any:
        return self.model.dtype

    @property
    def positions(self) -> int | None:
        return self.model.positions

    @property
    def ends(self) -> frozenset[int]:
        return self.model.ends

    def sites(self) -> list[Site]:
        return self.model.sites()

    def d(self, site: Site | str) -> int:
        return self.model.d(site)

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
        """As `Model.run`; `edit` comes after this view's own edits."""
        seen: dict[Site, Tensor] = {}
        wanted = {s for s in read if s in self.edits}
        edits = self._merged(edit, seen, wanted)
        run = self.model.run(tokens, read, edits, stop_after=stop_after, mask=mask, grad=grad, start=start)
        run.read |= seen
        return run

    def generate(
        self, tokens: Int[Tensor, "b s"], edit: Mapping[Site, Edit] | None = None, *, new_tokens: int = 32, **settings: Any
    ) -> Int[Tensor, "b s_new"]:
        """As `Model.generate`; `edit` comes after this view's own edits."""
        return self.model.generate(tokens, self._merged(edit, {}, set()), new_tokens=new_tokens, **settings)

    def step(
        self, tokens: Int[Tensor, "b s"], past: Past, edit: Mapping[Site, Edit] | None = None, *,
        mask: Bool[Tensor, "b s"] | None = None, keep: int = 1,
    ) -> Float[Tensor, "b keep v"]:  # fmt: skip
        """As `Model.step`; `edit` comes after this view's own edits."""
        return self.model.step(tokens, past, self._merged(edit, {}, set()), mask=mask, keep=keep)

    def _merged(self, edit: Mapping[Site, Edit] | None, seen: dict[Site, Tensor], wanted: set[Site]) -> dict[Site, Edit]:
        theirs = dict(edit or {})

        def chain(site: Site, own: Edit) -> Edit:
            def both(x: Tensor, where: Where) -> Tensor:
                x = own(x, where)
                if site in wanted:
                    seen[site] = x
                return theirs[site](x, where) if site in theirs else x

            return both

        return theirs | {site: chain(site, own) for site, own in self.edits.items()}


def coder_hash(coder: SparseCoder[Any]) -> str:
    """Identity of a coder: sha256 over its class, configuration and weights, 64 hex digits."""
    text = f"{type(coder).__qualname__} {coder.config!r}"
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(coder.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return found.hexdigest()
