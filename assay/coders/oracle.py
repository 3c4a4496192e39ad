"""Oracle: the true features of a planted source, told apart by orthogonal matching pursuit. What perfect learning would reach.

`Oracle.of(source.directions, source.offset, k)` knows the dictionary, not the codes: it takes the feature most correlated with what
is left, fits all chosen ones anew by least squares (Pati et al. 1993), and stops when nothing is left or after k. What it still misses
is lost to superposition, not to learning. Without a truth its directions are random.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from assay.coders.base import Batch, Code, CoderConfig
from assay.coders.dictionary import FixedDictionary
from assay.coders.latents import Latents
from assay.coders.linear import unit_rows
from assay.randomness import generator
from assay.shapes import Float, Tensor

TAG = "baseline"


@dataclass(frozen=True, kw_only=True)
class OracleConfig(CoderConfig):
    k: int | None = None
    """Features per token at most; as many as dimensions when left out."""
    tolerance: float = 0.01
    """A token needs no more features once none correlates with the rest by this part of its length."""


class Oracle(FixedDictionary[OracleConfig]):
    Config = OracleConfig

    def __init__(self, config: OracleConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        random = generator("coder", type(self).__name__, seed)
        self.W_dec.copy_(unit_rows(torch.randn(self.d_sae, self.d_in, generator=random)))

    @classmethod
    def of(
        cls, directions: Float[Tensor, "latents d"], offset: Float[Tensor, " d"] | float = 0.0, k: int | None = None
    ) -> Oracle:
        """The oracle of a source with these true features."""
        latents, d = directions.shape
        coder = cls(OracleConfig(d_in=d, d_sae=latents, k=k))
        coder.W_dec.copy_(unit_rows(directions))
        coder.b_dec.copy_(torch.as_tensor(offset).expand(d))
        return coder.to(directions.device)

    def initialise(self, batch: Batch) -> None:
        """Nothing: what it knows, no data teach."""

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        self.check_width(x)
        flat = (x - self.b_dec).reshape(-1, self.d_in)
        steps = min(self.k or self.d_in, self.d_in, self.d_sae)
        z = orthogonal_pursuit(flat.double(), self.W_dec.double(), steps, self.config.tolerance).to(x.dtype)
        return Code(Latents.from_dense(z.reshape(*x.shape[:-1], self.d_sae)), self.b_dec, scale=self.gain)


@torch.no_grad()
def orthogonal_pursuit(x: Float[Tensor, "n d"], rows: Float[Tensor, "m d"], k: int, tolerance: float) -> Float[Tensor, "n m"]:
    """Codes of `x` in at most k of the unit `rows` each, by least squares on those chosen; what comes out negative is 0."""
    z = x.new_zeros(len(x), len(rows))
    live, left, chosen = torch.arange(len(x), device=x.device), x, torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
    least = tolerance * x.norm(dim=1)
    for _ in range(k):
        best, row = (left @ rows.T).max(1)
        go = best > least[live]
        live, chosen = live[go], torch.cat([chosen[go], row[go, None]], 1)
        if not len(live):
            break
        atoms = rows[chosen]
        gram = atoms @ atoms.mT + 1e-9 * torch.eye(
            chosen.shape[1], dtype=x.dtype, device=x.device
        )  # of two rows that are equal
        values = torch.linalg.solve(gram, (atoms @ x[live, :, None]))[..., 0]
        left = x[live] - (values[:, None] @ atoms)[:, 0]
        z[live[:, None], chosen] = values
    return z.clamp_min(0)
