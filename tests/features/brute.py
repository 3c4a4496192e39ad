"""A recount of everything a harvest counts, the slow and obvious way: dense codes, loops over latents and tokens."""

from __future__ import annotations

from collections import Counter

import numpy as np

from assay.features import bins, chance
from assay.features.collector import Shape
from assay.features.stretch import Codes, Stretch


def random_text(rows: int, context: int, seed: int, vocabulary: int = 12):
    """Tokens, mask and documents of rows: BOS first, documents of any length that run over rows, EOS between them, some padding."""
    from assay.corpora.pack import Tokens

    random = np.random.default_rng(seed)
    ids = random.integers(2, vocabulary, (rows, context)).astype(np.int32)
    mask, flat, number = np.ones((rows, context), np.bool_), np.zeros(rows * context, np.int32), 0
    for i in range(rows * context):
        if random.random() < 0.07:
            number += 1
            mask.reshape(-1)[i] = False
        flat[i] = number
    mask[:, 0] = False
    mask[rows // 2, context // 2 :] = False
    return Tokens.from_arrays(np.where(mask, ids, 1), mask, flat.reshape(rows, context))


def random_codes(text, d_sae: int, seed: int, density: float = 0.1) -> np.ndarray:
    """Dense codes [tokens, d_sae] of the counted tokens: latents of all densities, some dead, with many equal values."""
    random = np.random.default_rng(seed)
    n = int(text.mask.sum())
    often = random.random(d_sae) ** 3 * 3 * density
    often[:2] = 0.0, 0.9
    z = np.exp(random.normal(0, 2, (n, d_sae))).astype(np.float32)
    coarse = random.random(d_sae) < 0.5
    z[:, coarse] = np.ceil(z[:, coarse])  # ties
    return np.where(random.random((n, d_sae)) < often, z, np.float32(0))


def sparse(z: np.ndarray) -> Codes:
    row, column = z.nonzero()
    return Codes.of(z[row, column], column, np.r_[0, np.cumsum((z != 0).sum(1))], z.shape[1])


def pieces(text, z: np.ndarray, cuts):
    """(stretch, codes) of some groups of rows."""
    counts = np.asarray(text.mask).sum(1)
    ends = np.cumsum(counts)
    for rows in cuts:
        places = np.concatenate([np.arange(ends[r] - counts[r], ends[r]) for r in rows])
        yield Stretch.of(text, np.asarray(rows)), sparse(z[places])


class Recount:
    """What is true of one latent."""

    def __init__(self, text, z: np.ndarray, latent: int, shape: Shape):
        self.text, self.shape, self.latent, self.z = text, shape, latent, z
        self.position = np.flatnonzero(np.asarray(text.mask).reshape(-1))
        self.document = np.asarray(text.document).reshape(-1)
        self.ids = np.asarray(text.tokens).reshape(-1)
        self.values = {int(p): float(v) for p, v in zip(self.position, z[:, latent]) if v}

    def window(self, position: int) -> tuple[int, int]:
        """Walk to either side as long as row and document stay."""
        context, start, stop = self.text.tokens.shape[1], position, position + 1
        same = lambda p: p // context == position // context and self.document[p] == self.document[position]  # noqa: E731
        while start > 0 and position - start < self.shape.before and same(start - 1):
            start -= 1
        while stop < len(self.document) and stop - position <= self.shape.after and same(stop):
            stop += 1
        return start, stop

    def inside(self, position: int) -> tuple[list[int], list[float]]:
        start, stop = self.window(position)
        at = [p - start for p in range(start, stop) if p in self.values]
        return at, [float(np.float16(self.values[start + a])) for a in at]

    def top(self) -> list[int]:
        """The best place of each document, then the best documents."""
        best: dict[int, int] = {}
        for p, v in sorted(self.values.items()):
            if (d := int(self.document[p])) not in best or v > self.values[best[d]]:
                best[d] = p
        return sorted(best.values(), key=lambda p: (-self.values[p], p))[: self.shape.top]

    def peak(self) -> tuple[int, float]:
        tokens = [int(self.ids[p]) for p in self.top()]
        token = Counter(tokens).most_common(1)[0][0]  # the first of equally common ones
        return token, tokens.count(token) / len(tokens)

    def histogram(self) -> list[int]:
        return np.histogram(list(self.values.values()), bins.edges())[0].tolist()

    def intervals(self, edges: np.ndarray) -> list[list[int]]:
        """All active positions of each interval."""
        found: list[list[int]] = [[] for _ in range(10)]
        for p, v in self.values.items():
            found[max(k for k in range(10) if v >= edges[k])].append(p)
        return found

    def drawn(self, edges: np.ndarray) -> list[list[int]]:
        """Those with the lowest numbers of chance."""

        def dice(p: int) -> int:
            first = chance.mixed(np.array([p]), "drawn")
            return int(chance.both(first, np.array([self.latent], np.uint32))[0])

        return [sorted(sorted(some, key=lambda p: (dice(p), p))[: self.shape.drawn]) for some in self.intervals(edges)]

    def partners(self) -> tuple[dict[int, float], dict[int, float]]:
        """(correlation, co-activation share) of all other latents that are ever active together with this one."""
        own, correlation, share = self.z[:, self.latent].astype(np.float64), {}, {}
        for other in range(self.z.shape[1]):
            their = self.z[:, other].astype(np.float64)
            together = int(((own != 0) & (their != 0)).sum())
            if other != self.latent and together:
                share[other] = together / int((own != 0).sum())
                correlation[other] = float(np.corrcoef(own, their)[0, 1])
        return correlation, share
