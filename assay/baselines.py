"""baselines: coders that learnt nothing by gradient, at the sparsity of coders that did: what every score must be held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from assay import coders as architectures
from assay import registry
from assay.activations.base import ActivationSource
from assay.activations.truth import PlantedSource
from assay.coders.base import Batch, SparseCoder
from assay.coders.oracle import Oracle
from assay.coders.permuted_decoder import PermutedDecoder
from assay.errors import BadInput, UnknownName
from assay.formats import native
from assay.shapes import Float, Tensor
from assay.splice import coder_hash, home, inference
from assay.store import Store
from assay.sweep import save_baseline

SAMPLE = 16_384
PIECE = 2048
NOT_FITTED = {"permuted_decoder", "oracle"}
NEAR = 1.05  # comparisons at matched L0 interpolate, and reach 10 % beyond the ends


def sample(source: ActivationSource, seed: int = 0, size: int = SAMPLE) -> Float[Tensor, "n d_in"]:
    """`size` vectors to measure L0 on and to fit baselines to; fewer where one pass of the source has fewer."""
    return next(iter(source.batches(min(size, source.tokens or size), seed))).x.float()


def sparsity(coder: SparseCoder[Any], x: Float[Tensor, "n d_in"]) -> int:
    """Mean L0 over `x`, rounded, at least 1."""
    with inference(coder), torch.no_grad():
        active = sum(coder.encode(part.to(home(coder, x.device))).latents.l0().sum().item() for part in x.split(PIECE))
    return max(1, round(active / len(x)))


def matched(
    coders: Mapping[str, SparseCoder[Any]],
    source: ActivationSource,
    names: Sequence[str] | None = None,
    *,
    store: Store | None = None,
    about: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, SparseCoder[Any]]:
    """Baselines for coders trained on `source`: `pca-k32`, `random-k32` … for each L0 among them (to within 5 %), and
    `permuted-NAME` for each coder. Only a planted source, whose truth is known, has an `oracle`; it is as sparse as the truth.

    `names` are architectures, all baselines when left out; `UnknownName` for another. A dictionary that has fewer latents than a
    coder's L0 has no twin and is left out. With a `store` they are kept there as coders, under the names that are given back, with
    `about` in their manifests; what an earlier call made stays.
    """
    known = registry.CODERS.names(tag="baseline")
    truth = source if isinstance(source, PlantedSource) else None
    wanted = [name for name in known if truth or name != "oracle"] if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise UnknownName.among("baseline", name, known)
    if "oracle" in wanted and truth is None:
        raise BadInput("An oracle knows the true features, and only planted sources have such. Leave it out of the baselines.")
    found: dict[str, SparseCoder[Any]] = {}
    if set(wanted) - NOT_FITTED:
        x = sample(source, seed)
        widest = _levels((sparsity(coder, x), coder.d_sae) for coder in coders.values())
        fitted = {f"{kind}-k{k}": _fitted(kind, x, k, widest[k], seed) for kind in wanted for k in sorted(widest)}
        found = {name: coder for name, coder in fitted.items() if coder is not None}
    if "oracle" in wanted and truth is not None:
        found["oracle"] = Oracle.of(truth.directions, truth.offset)
    if "permuted_decoder" in wanted:
        found |= {f"permuted-{n}": PermutedDecoder.of(c, native.architecture_of(c), seed=seed) for n, c in coders.items()}
    found = {name: coder.eval() for name, coder in found.items()}
    return found if store is None else dict(_keep(n, c, source, store, about or {}) for n, c in found.items())


def _levels(found: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Levels of L0, ascending, and the widest coder of each. One that is less than 5 % above another joins it."""
    levels: dict[int, int] = {}
    for k, d_sae in sorted(found):
        near = next((kept for kept in levels if k <= NEAR * kept), k)
        levels[near] = max(levels.get(near, 0), d_sae)
    return levels


def _fitted(kind: str, x: Float[Tensor, "n d_in"], k: int, d_sae: int, seed: int) -> SparseCoder[Any] | None:
    """A fixed dictionary of k latents a token, or None where it has fewer than k."""
    if kind in NOT_FITTED:
        return None
    latents = d_sae if kind == "random" else 2 * x.shape[1]  # both signs of each component or neuron
    if k > latents:
        return None
    coder = architectures.new(kind, d_in=x.shape[1], d_sae=latents, k=k, seed=seed).to(x.device)
    coder.initialise(Batch.of(x))
    return coder


def _keep(
    name: str, coder: SparseCoder[Any], source: ActivationSource, store: Store, about: Mapping[str, Any]
) -> tuple[str, SparseCoder[Any]]:
    """Save a baseline; where its name is taken by other contents, under the name with the first digits of its hash."""
    identity = coder_hash(coder)
    for candidate in (name, f"{name}-{identity[:6]}"):
        if not store.has("coders", candidate):
            facts = {"source": source.describe(), "identity": identity} | dict(about)
            save_baseline(candidate, coder, store, about=facts, inputs={"activations": source.fingerprint})
        if store.manifest("coders", candidate)["about"].get("identity") == identity:
            return candidate, coder
    raise BadInput(f"{store.root} has other coders named {name!r} and {candidate!r}. Remove one of them.")
