"""passes: forward passes over held-out text that all coders share: site activations, and losses clean, ablated and spliced.

Text is read in chunks of a few rows, in one fixed random order; each kind of pass keeps each chunk's result in a file of its own:
STORE/passes/<key>/00000.safetensors, key = hash of (model, site, text, what stands at the site). So a killed run goes on where it
was, a coder added later costs its own passes and the clean one's logits, and no number depends on which other coders are measured
along. No block of the model before the site runs twice: what was read there is where all other passes begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assay import codec
from assay.activations.forward import read_rows
from assay.errors import BadInput
from assay.models.base import Model, Site
from assay.passes.files import chunk_name, load, save
from assay.passes.reference import Reference
from assay.progress import Progress, silent
from assay.shapes import Bool, Float, Int, Tensor
from assay.splice import ablate
from assay.store import Store, digest, require_space, write_atomic

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

CHUNK_ROWS = 16
PIECE = 1024  # vectors handed out at once
LOGITS_BYTES = 2**28  # of one forward pass
VERSION = 4  # counts the meaning of the stored numbers
READ = {"pass": "read"}
BEHIND = {"pass": "clean, behind the last block"}
CLEAN = {"pass": "clean"}
ZERO = {"pass": "zero-ablated"}
ZERO_EVERYWHERE = {"pass": "zero-ablated, special positions too"}


@dataclass
class Text:
    """At least `tokens` real tokens of held-out text (all of it when shorter), and a model that reads them at a site."""

    model: Model
    site: Site
    text: Tokens
    tokens: int
    store: Store
    progress: Progress = silent
    rows: list[np.ndarray] = field(init=False)
    """Row numbers of each chunk."""
    _blank: dict[Model, str] = field(init=False, default_factory=dict)
    """Views with a constant at the site: at the positions of text, or everywhere."""
    _rows_alike: dict[Model, Tensor | None] = field(init=False, default_factory=dict)
    """Logits [1, s, v] of any row that has nothing but the constant, by view; None where they are not alike."""

    def __post_init__(self) -> None:
        order, seen = self.text.order(0, 0), 0
        self.rows = []
        for start in range(0, len(order), CHUNK_ROWS):
            if seen >= self.tokens:
                break
            self.rows.append(np.sort(order[start : start + CHUNK_ROWS]))
            seen += int(np.asarray(self.text.mask[self.rows[-1]]).sum())
        if not seen:
            raise BadInput("The held-out text has no tokens. Give more text, or a larger held-out share.")

    def batch(self, rows: np.ndarray) -> tuple[Int[Tensor, "b s"], Bool[Tensor, "b s"], Bool[Tensor, "b s"]]:
        """(tokens, mask, positions whose next token counts) of some rows, on the model's device."""
        tokens = torch.from_numpy(np.asarray(self.text.tokens[rows]).astype(np.int64))
        mask = torch.from_numpy(np.asarray(self.text.mask[rows]).copy())
        return (
            tokens.to(self.model.device),
            mask.to(self.model.device),
            torch.from_numpy(self.counted(rows)).to(self.model.device),
        )

    def counted(self, rows: np.ndarray) -> Bool[np.ndarray, "b s"]:
        """True at t when t and t + 1 are both real text of one document: then the loss of predicting t + 1 counts."""
        mask, document = np.asarray(self.text.mask[rows]), np.asarray(self.text.document[rows])
        out = np.zeros_like(mask)
        out[:, :-1] = mask[:, :-1] & mask[:, 1:] & (document[:, :-1] == document[:, 1:])
        return out

    @cached_property
    def documents(self) -> np.ndarray:
        """Numbers of the documents in all chunks, sorted."""
        return np.unique(np.concatenate([self.text.document[r][self.text.mask[r]] for r in self.rows]))

    @cached_property
    def predicted(self) -> np.ndarray:
        """Document (place in `documents`) of each predicted token, in the order of the losses."""
        found = [np.asarray(self.text.document[r])[self.counted(r)] for r in self.rows]
        return np.searchsorted(self.documents, np.concatenate(found))

    # ---- activations at the site -------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Run the model up to the site over every chunk that has not been read yet."""
        folder = self._folder(READ)
        missing = [i for i in range(len(self.rows)) if not (folder / chunk_name(i)).exists()]
        need = sum(self._size(i) for i in missing)
        require_space(
            self.store.root, need * self.model.d(self.site) * 4, f"Keeping the activations of {need:,} held-out tokens"
        )
        done = sum(self._size(i) for i in range(len(self.rows))) - need
        for i in missing:
            mask, reached = self._reached(i)
            x = read_rows(
                self.model, self.text, self.rows[i], [self.site], batch_rows=CHUNK_ROWS, device="cpu", keep=reached
            )[0]  # fmt: skip
            real = torch.from_numpy(mask[reached])
            save(folder / chunk_name(i), {"x": x[real], "special": x[~real]})
            done += int(real.sum())
            self.progress(done, done + need, "tokens read")

    def _reached(self, i: int) -> tuple[Bool[np.ndarray, "b s"], Bool[np.ndarray, "b s"]]:
        """(mask of a chunk, what must be read there): special tokens too, where passes can begin with what was read at the site."""
        mask = np.asarray(self.text.mask[self.rows[i]])
        if self.site.kind != "resid_post":
            return mask, mask
        return mask, np.logical_or.accumulate(mask[:, ::-1], axis=1)[:, ::-1]  # nothing depends on what follows the last token

    def _stream(self, i: int) -> Float[Tensor, "b s d"] | None:
        """The residual stream of a chunk's rows as it was read at the site; None where passes cannot begin there."""
        if self.site.kind != "resid_post":
            return None
        found = load(self._folder(READ) / chunk_name(i))
        mask, reached = self._reached(i)
        whole = found["x"].new_zeros(*mask.shape, found["x"].shape[-1])
        whole[torch.from_numpy(mask)] = found["x"]
        whole[torch.from_numpy(reached & ~mask)] = found["special"]
        return whole.to(self.model.device)

    def vectors(self) -> Iterator[tuple[Float[Tensor, "n d"], np.ndarray]]:
        """(activations in fp32, place of their document in `documents`) of all real tokens."""
        folder = self._folder(READ)
        for i, rows in enumerate(self.rows):
            x = load(folder / chunk_name(i))["x"]
            document = np.searchsorted(self.documents, np.asarray(self.text.document[rows])[np.asarray(self.text.mask[rows])])
            for start in range(0, len(x), PIECE):
                yield x[start : start + PIECE].float(), document[start : start + PIECE]

    @cached_property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean of all real tokens' activations, fp32 on the CPU."""
        total, n = torch.zeros(self.model.d(self.site), dtype=torch.float64), 0
        for x, _ in self.vectors():
            total, n = total + x.double().sum(0), n + len(x)
        return (total / n).float()

    # ---- losses ------------------------------------------------------------------------------------------------------------

    def run(self, spliced: Mapping[str, Model], *, special: bool = False) -> None:
        """Every pass that is not stored yet: clean, mean- and zero-ablated, and each view of the model in `spliced`, by its key.

        `special`: also with zeros at special positions too.
        """
        asked = self._views(spliced, special)
        views = {self._folder(what): view for what, view in asked}
        for folder, (what, _) in zip(views, asked, strict=True):
            if not (folder / "what.json").exists():
                write_atomic(folder / "what.json", codec.to_json(self._about(what)))
        jobs = [(i, [f for f in views if not (f / chunk_name(i)).exists()]) for i in range(len(self.rows))]
        total = sum(len(missing) * self._size(i) for i, missing in jobs)
        done = 0
        for i, missing in jobs:
            for tokens in self._chunk(i, {folder: views[folder] for folder in missing}) if missing else ():
                done += tokens
                self.progress(done, total, "tokens passed")

    def losses(self, what: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """(cross-entropy, KL from clean) of each predicted token under one kind of pass: CLEAN, ZERO, `mean_ablated` …"""
        folder = self._folder(what)
        chunks = [load(folder / chunk_name(i)) for i in range(len(self.rows))]
        return torch.cat([c["ce"] for c in chunks]).numpy(), torch.cat([c["kl"] for c in chunks]).numpy()

    @property
    def mean_ablated(self) -> dict[str, Any]:
        """What the mean-ablated pass is called: its mean is part of the name."""
        return {"pass": "mean-ablated", "mean": digest(self.mean.tolist())[:16]}

    def _views(self, spliced: Mapping[str, Model], special: bool) -> list[tuple[dict[str, Any], Model]]:
        ablated: list[tuple[dict[str, Any], Model]] = [
            (self.mean_ablated, ablate(self.model, self.site, self.mean)), (ZERO, ablate(self.model, self.site))
        ]  # fmt: skip
        self._blank = {view: "text" for _, view in ablated}
        if special:
            ablated.append((ZERO_EVERYWHERE, ablate(self.model, self.site, special=True)))
            self._blank[ablated[-1][1]] = "everywhere"
        return [(CLEAN, self.model), *ablated, *((through(key), view) for key, view in spliced.items())]

    @torch.no_grad()
    def _chunk(self, i: int, views: Mapping[Path, Model]) -> Iterator[int]:
        """Make and save the files of one chunk; yields the tokens of each pass as it is done."""
        found: dict[Path, list[tuple[Tensor, Tensor]]] = {folder: [] for folder in views}
        stream, behind = self._stream(i), self._behind(i)
        kept: list[Tensor] = []
        for places in np.split(np.arange(len(self.rows[i])), range(self.batch_rows, len(self.rows[i]), self.batch_rows)):
            tokens, mask, counted = self.batch(self.rows[i][places])
            start = None if stream is None else (self.site, stream[places])
            last = Site("resid_post", self.model.n_layers - 1)
            if behind is not None:
                clean = self.model.run(tokens, mask=mask, start=(last, behind[places]))
            else:
                clean = self.model.run(tokens, [last], mask=mask, start=start)
                kept.append(clean[last][counted])
            assert clean.logits is not None
            reference = Reference(clean.logits, tokens, counted)
            for folder, view in views.items():
                logits = None if view is self.model else self._logits(view, tokens, mask, start)
                found[folder].append(reference.losses(logits))
                yield int(mask.sum())
        if kept:
            save(self._folder(BEHIND) / chunk_name(i), {"x": torch.cat(kept).cpu()})
        for folder, parts in found.items():
            ce, kl = (torch.cat(p).cpu() for p in zip(*parts, strict=True))
            save(folder / chunk_name(i), {"ce": ce, "kl": kl})

    def _behind(self, i: int) -> Float[Tensor, "b s d"] | None:
        """What left the last block in an earlier clean pass over a chunk, at positions that count, so that its logits are had for
        one product; None where there was none."""
        path = self._folder(BEHIND) / chunk_name(i)
        if not path.exists():
            return None
        x, counted = load(path)["x"], torch.from_numpy(self.counted(self.rows[i]))
        whole = x.new_zeros(*counted.shape, x.shape[-1])
        whole[counted] = x
        return whole.to(self.model.device)

    def _logits(
        self,
        view: Model,
        tokens: Int[Tensor, "b s"],
        mask: Bool[Tensor, "b s"],
        start: tuple[Site, Float[Tensor, "b s d"]] | None,
    ) -> Float[Tensor, "b s v"]:
        """Logits of a view. Where a constant stands at every position of the residual stream nothing depends on the tokens any more:
        such rows are all alike, and one of them is run, once for the whole text."""
        kind = self._blank.get(view)
        if kind is None or start is None:
            return _run(view, tokens, mask, start)
        alike = torch.ones_like(mask[:, 0]) if kind == "everywhere" else mask.all(1)
        if not alike.any():
            return _run(view, tokens, mask, start)
        site, x = start
        if view not in self._rows_alike:
            whole = torch.ones_like(mask[:1])
            two = [_run(view, row, whole, (site, x[:1])) for row in (tokens[:1], tokens[:1].flip(1))]
            self._rows_alike[view] = two[0] if torch.equal(*two) else None
        row = self._rows_alike[view]
        if row is None:  # a model whose later blocks look at the tokens again
            return _run(view, tokens, mask, start)
        if alike.all():
            return row.expand(len(tokens), -1, -1)
        logits = row.repeat(len(tokens), 1, 1)
        logits[~alike] = _run(view, tokens[~alike], mask[~alike], (site, x[~alike]))
        return logits

    @cached_property
    def batch_rows(self) -> int:
        """Rows of one forward pass with logits: a function of context and vocabulary alone, so that bits repeat."""
        tokens, _, _ = self.batch(self.rows[0][:1])
        logits = self.model.run(tokens[:, :1]).logits
        assert logits is not None
        return max(1, min(CHUNK_ROWS, LOGITS_BYTES // (tokens.shape[1] * logits.shape[-1] * logits.element_size())))

    def _size(self, i: int) -> int:
        return int(np.asarray(self.text.mask[self.rows[i]]).sum())

    def _about(self, what: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "version": VERSION, "model": self.model.fingerprint, "dtype": str(self.model.dtype), "site": str(self.site),
            "tokens": self.text.fingerprint, "chunk": CHUNK_ROWS, "what": dict(what),
        }  # fmt: skip

    def _folder(self, what: Mapping[str, Any]) -> Path:
        return self.store.path("passes", digest(self._about(what))[:16])


def _run(
    view: Model, tokens: Int[Tensor, "b s"], mask: Bool[Tensor, "b s"], start: tuple[Site, Float[Tensor, "b s d"]] | None
) -> Float[Tensor, "b s v"]:
    logits = view.run(tokens, mask=mask, start=start).logits
    assert logits is not None
    return logits


def through(key: str) -> dict[str, Any]:
    """What the pass spliced with the coder of hash `key` is called."""
    return {"pass": "spliced", "coder": key}
