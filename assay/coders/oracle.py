"""Oracle: the true features of a planted source, told apart by orthogonal matching pursuit. What perfect learning would reach.

`Oracle.of(source.directions, source.offset)` knows the dictionary, not the codes: it takes the feature most correlated with what is
left, fits all chosen ones anew by least squares (Pati et al. 1993), and stops where nothing is left. So it has about as many latents
active as there are features. What it still misses is lost to superposition, not to learning. Without a truth its directions are random.
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
ENTRIES = 1 << 23
"""Numbers of chosen directions that are laid out at once."""


@dataclass(frozen=True, kw_only=True)
class OracleConfig(CoderConfig):
    k: int | None = None
    """Features per token at most; half as many as dimensions when left out, more than can be told apart."""
    tolerance: float = 0.01
    """Features below this part of a token's length are not there: neither sought in what is left, nor kept."""


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
        steps = min(self.k or max(1, self.d_in // 2), self.d_sae)
        pieces = flat.split(max(1, ENTRIES // (steps * self.d_in)))
        z = torch.cat([orthogonal_pursuit(piece, self.W_dec, steps, self.config.tolerance) for piece in pieces])
        return Code(Latents.from_dense(z.reshape(*x.shape[:-1], self.d_sae)), self.b_dec, scale=self.gain)


@torch.no_grad()
def orthogonal_pursuit(x: Float[Tensor, "n d"], rows: Float[Tensor, "m d"], k: int, tolerance: float) -> Float[Tensor, "n m"]:
    """Codes of `x` in at most k of the unit `rows` each, by least squares on those chosen; 0 where that gives less than `tolerance`."""
    z, live, left = x.new_zeros(len(x), len(rows)), torch.arange(len(x), device=x.device), x
    chosen = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
    least = tolerance * x.norm(dim=1)
    for _ in range(k):
        best, row = (left @ rows.T).max(1)
        go = best > least[live]
        live, chosen = live[go], torch.cat([chosen[go], row[go, None]], 1)
        if not len(live):
            break
        atoms, wanted = rows[chosen].double(), x[live].double()
        gram = atoms @ atoms.mT
        gram.diagonal(dim1=1, dim2=2).add_(1e-9)  # two rows may be equal
        values = torch.linalg.solve(gram, atoms @ wanted[..., None])[..., 0]
        left = (wanted - (values[:, None] @ atoms)[:, 0]).to(x.dtype)
        z[live[:, None], chosen] = values.to(x.dtype)
    return torch.where(z > least[:, None], z, 0.0)
