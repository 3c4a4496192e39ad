"""plain: a coder as bare numbers, into which every dialect is read and from which every dialect is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal

import torch

from assay.errors import BadInput, DamagedFile, NotFinite
from assay.formats.files import finite
from assay.shapes import Float, Tensor

Gate = Literal["relu", "topk", "jumprelu", "gated", "batch_topk", "matryoshka", "matching_pursuit"]


@dataclass(frozen=True, kw_only=True)
class Plain:
    """pre = (n(x) − b_dec) @ W_enc + b_enc, without b_dec unless `centred`; z = gate(pre); x̂ = n⁻¹(z @ W_dec + b_dec) + x @ W_skip.

    All tensors are float32, finite and of shapes that fit: `Plain.of` sees to it.
    """

    gate: Gate
    """relu: relu(pre). topk: its k largest of each vector. jumprelu: where pre > threshold. batch_topk, matryoshka: the same, with one
    threshold. gated: relu(e^r_mag (pre − b_enc) + b_mag), where pre > 0. matching_pursuit: one after another in k steps, W_enc = W_decᵀ."""
    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    centred: bool
    transcodes: bool = False
    """It predicts another site than it reads."""
    k: int | None = None
    threshold: Float[Tensor, ...] | None = None
    """One number a latent, or one in all."""
    r_mag: Float[Tensor, " d_sae"] | None = None
    b_mag: Float[Tensor, " d_sae"] | None = None
    W_skip: Float[Tensor, "d_in d_out"] | None = None
    groups: tuple[int, ...] = ()
    """Of a matryoshka: sizes of the groups of latents between its prefixes."""
    norm: Literal["none", "layer", "length"] = "none"
    """n: what is done to each vector, as in the architecture `normalised`."""
    weighed: bool = False
    """topk, batch_topk, matryoshka: chosen by pre times the length of the decoder row, in which units thresholds are too."""
    widths: tuple[int, ...] = ()
    """Of a crosscoder: width of each of the sites that lie side by side in x and x̂."""
    tolerance: float = 0.0
    residual: float = 0.0
    repeats: bool = True
    """When a matching pursuit stops, as in the architecture of that name."""

    @classmethod
    def of(cls, where: Path, **given: Any) -> Plain:
        """From tensors of a file of any number type, checked. `where` is named in errors."""
        for name, value in given.items():
            if isinstance(value, Tensor):
                small = value.ndim < 2  # copied, or else a bias holds the whole file
                given[name] = value.detach().to(torch.float32, copy=small)
        for name in ("W_enc", "W_dec"):
            if given[name].ndim != 2:
                raise DamagedFile(f"{where}: {name} has shape {tuple(given[name].shape)}; a matrix was expected.")
        (d_in, d_sae), d_out = given["W_enc"].shape, given["W_dec"].shape[1]
        if not d_in * d_sae * d_out:
            raise DamagedFile(f"{where}: a coder of {d_in} inputs, {d_sae} latents and {d_out} outputs is empty.")
        shapes = {"W_dec": (d_sae, d_out), "b_dec": (d_out,), "W_skip": (d_in, d_out)}
        for name, value in given.items():
            if not isinstance(value, Tensor):
                continue
            wanted = shapes.get(name, (d_in, d_sae) if name == "W_enc" else (d_sae,))
            if tuple(value.shape) not in ((wanted, ()) if name == "threshold" else (wanted,)):
                raise DamagedFile(f"{where}: {name} has shape {tuple(value.shape)}; {wanted} fits the other tensors.")
            if not finite(value):
                raise NotFinite(f"{where}: {name} holds NaN or infinity. The coder cannot be used.")
        most = max(d_in, d_sae) if given["gate"] == "matching_pursuit" else d_sae
        if (k := given.get("k")) is not None and not 1 <= k <= most:
            raise DamagedFile(f"{where}: k must lie between 1 and the {most} latents, got {k}.")
        if (given.get("centred") or given.get("norm", "none") != "none") and d_in != d_out:
            raise DamagedFile(f"{where}: a coder from {d_in} to {d_out} numbers can be neither centred nor normalised.")
        return cls(**given)

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1]

    @property
    def thresholds(self) -> Float[Tensor, " d_sae"]:
        """One number a latent, also where the file has one in all."""
        assert self.threshold is not None
        return self.threshold.expand(self.d_sae).clone()

    def with_centring(self, centred: bool) -> Plain:
        """The same function, with b_dec taken off the input or not. What changes is rounded once, from double precision."""
        if centred == self.centred:
            return self
        if self.d_in != self.d_out:
            raise BadInput("A transcoder's b_dec cannot be taken off its input.")
        moved = product(self.b_dec, self.W_enc) * (1 if centred else -1)
        changed = {"b_enc": (self.b_enc.double() + moved).float()}
        if self.b_mag is not None and self.r_mag is not None:
            changed["b_mag"] = (self.b_mag.double() + self.r_mag.double().exp() * moved).float()
        return replace(self, centred=centred, **changed)

    def with_norms(self, norms: Float[Tensor, " d_sae"]) -> Plain:
        """The same function, decoder rows divided by `norms`, by which pre-activations, thresholds and latents are multiplied."""
        safe = torch.where(norms > 0, norms, torch.ones_like(norms))
        given = {"W_enc": self.W_enc * safe, "b_enc": self.b_enc * safe, "W_dec": self.W_dec / safe[:, None]}
        if self.b_mag is not None:
            given["b_mag"] = self.b_mag * safe
        if self.threshold is not None:
            given["threshold"] = self.threshold * safe
        return replace(self, **given)

    def unweighed(self) -> Plain:
        """The same choice with decoder rows of length 1; their lengths go into the latents."""
        return replace(self.with_norms(self.W_dec.norm(dim=1)), threshold=self.threshold, weighed=False)

    def with_scale(self, scale: float | Sequence[float]) -> Plain:
        """A coder of x · scale as one of x; latents keep their size. A crosscoder may have one number a site."""
        each = [scale] if isinstance(scale, int | float) else list(scale)
        if not all(0 < one < inf for one in each):
            raise BadInput(f"scale must be positive, got {scale}.")
        if len(each) not in (1, len(self.widths)):
            raise BadInput(f"{len(each)} scales were said for {max(1, len(self.widths))} sites.")
        if self.norm != "none":
            raise BadInput("This coder brings each vector to its own scale: leave scale out.")
        if self.gate == "matching_pursuit":  # its latents are in units of x: what is tied cannot be scaled at one end alone
            return replace(self, b_dec=self.b_dec / each[0], residual=self.residual / each[0])
        by = torch.tensor(each) if len(each) == 1 else torch.tensor(each).repeat_interleave(torch.tensor(self.widths))
        theta = self.threshold / each[0] if self.weighed and self.threshold is not None else self.threshold
        return replace(self, W_enc=self.W_enc * by[:, None], W_dec=self.W_dec / by, b_dec=self.b_dec / by, threshold=theta)

    def with_whitening(
        self, mean: Float[Tensor, " d_in"], M: Float[Tensor, "d_in d_in"], inverse: Float[Tensor, "d_in d_in"]
    ) -> Plain:
        """A coder of (x − mean) @ M, whose x̂ goes back by M's inverse, as one of x; latents keep their size."""
        whole = self.W_skip is None and self.norm == "none" and not self.transcodes and self.gate != "matching_pursuit"
        if not whole or self.weighed:
            raise BadInput("A coder of this kind cannot take a whitening of its inputs into its weights.")
        mean, W_enc = mean.double(), M.double() @ self.W_enc.double()
        changed = {} if self.centred else {"b_enc": (self.b_enc.double() - mean @ W_enc).float()}
        if not self.centred and self.b_mag is not None and self.r_mag is not None:
            changed["b_mag"] = (self.b_mag.double() - self.r_mag.double().exp() * (mean @ W_enc)).float()
        b_dec = (self.b_dec.double() @ inverse.double() + mean).float()
        return replace(
            self, W_enc=W_enc.float(), W_dec=(self.W_dec.double() @ inverse.double()).float(), b_dec=b_dec, **changed
        )

    def as_jumprelu(self) -> Plain:
        """The same function with one threshold a latent. TopK has none: what it keeps depends on the other latents."""
        if self.gate == "topk":
            raise BadInput(
                "A TopK coder is no JumpReLU coder. `assay surgery convert` makes one of the same L0, which is another function."
            )
        if self.weighed:
            norms = self.W_dec.norm(dim=1)
            return replace(self, weighed=False, threshold=self.thresholds / norms.where(norms > 0, 1.0)).as_jumprelu()
        bare = {"k": None, "groups": (), "r_mag": None, "b_mag": None, "gate": "jumprelu"}
        if self.gate == "relu":
            return replace(self, **bare, threshold=torch.zeros(self.d_sae))
        if self.gate != "gated":
            return replace(self, **bare, threshold=self.thresholds)
        assert self.r_mag is not None and self.b_mag is not None
        gain = self.r_mag.exp()
        theta = self.b_mag - gain * self.b_enc
        return replace(self, **bare, threshold=theta, W_enc=self.W_enc * gain, b_enc=self.b_mag)

    def to(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Its tensors by name in another number type, thresholds excepted, which stay float32."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: value.to(torch.float32 if name == "threshold" else dtype).contiguous()
            for name, value in found.items() if isinstance(value, Tensor)
        }  # fmt: skip


def product(b: Float[Tensor, " d"], W: Float[Tensor, "d n"]) -> Float[Tensor, " n"]:
    """b @ W in double precision, a block of columns at a time: W is never held twice over."""
    return torch.cat([b.double() @ columns.double() for columns in W.split(1024, dim=1)])


def cross_layer(W_dec: Float[Tensor, "d_sae n d"], b_dec: Float[Tensor, " d"]) -> tuple[Tensor, Tensor]:
    """W_dec and b_dec of what one layer of a cross-layer transcoder writes to n layers, these side by side.

    b_dec is that of the first layer alone: so the parts that all layers write to one add up to what the transcoder says of it.
    """
    d_sae, n, d = W_dec.shape
    return W_dec.reshape(d_sae, n * d), torch.cat([b_dec, b_dec.new_zeros((n - 1) * d)])
