"""baselines: coders that learnt nothing, or all but their directions, as sparse as those that did: what every score is held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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
from assay.sweep import run_key, save_baseline, sweep
from assay.train import TrainConfig
from assay.train import train as learn

SAMPLE = 16_384
PIECE = 2048
NO_LEVEL = {"permuted_decoder", "oracle"}
TRAINED = "frozen_decoder"
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
    train: TrainConfig | None = None,
) -> dict[str, SparseCoder[Any]]:
    """Baselines for coders trained on `source`: `pca-k32`, `random-k32`, `identity-k32` … for each L0 among them (to within 5 %), and
    `permuted-NAME` for each coder. Only a planted source, whose truth is known, has an `oracle`; it is as sparse as the truth.

    `names` are architectures, all baselines when left out; `UnknownName` for another. A dictionary that has fewer latents than a
    coder's L0 has no twin and is left out. `train` is how `frozen_decoder-k32` … learn, at best as the coders did; without it there
    are none. With a `store` they are kept there as coders, under the names that are given back, with `about` in their manifests;
    what an earlier call made stays.
    """
    known = registry.CODERS.names(tag="baseline")
    truth = source if isinstance(source, PlantedSource) else None
    left_out = {name for name, there in (("oracle", truth), (TRAINED, train)) if there is None}
    wanted = [name for name in known if name not in left_out] if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise UnknownName.among("baseline", name, known)
    if "oracle" in wanted and truth is None:
        raise BadInput("An oracle knows the true features, and only planted sources have such. Leave it out of the baselines.")
    found: dict[str, SparseCoder[Any]] = {}
    frozen: dict[str, SparseCoder[Any]] = {}
    if set(wanted) - NO_LEVEL:
        x = sample(source, seed)
        widest = _levels((sparsity(coder, x), coder.d_sae) for coder in coders.values())
        kinds = [kind for kind in wanted if kind not in NO_LEVEL | {TRAINED}]
        fitted = {f"{kind}-k{k}": _fitted(kind, x, k, widest[k], seed) for kind in kinds for k in sorted(widest)}
        found = {name: coder for name, coder in fitted.items() if coder is not None}
        if TRAINED in wanted:
            if train is None:
                raise BadInput(
                    "The encoder of a frozen decoder is trained. Pass train=TrainConfig(…), at best that of the coders."
                )
            frozen = {f"{TRAINED}-k{k}": _frozen(source, k, widest[k], seed).to(x.device) for k in sorted(widest)}
    if "oracle" in wanted and truth is not None:
        found["oracle"] = Oracle.of(truth.directions, truth.offset)
    if "permuted_decoder" in wanted:
        found |= {f"permuted-{n}": PermutedDecoder.of(c, native.architecture_of(c), seed=seed) for n, c in coders.items()}
    found = {name: coder.eval() for name, coder in found.items()}
    kept = found if store is None else dict(_keep(n, c, source, store, about or {}) for n, c in found.items())
    return kept | (_learnt(frozen, source, train, store, about or {}) if train and frozen else {})


def _levels(found: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Levels of L0, ascending, and the widest coder of each. One that is less than 5 % above another joins it."""
    levels: dict[int, int] = {}
    for k, d_sae in sorted(found):
        near = next((kept for kept in levels if k <= NEAR * kept), k)
        levels[near] = max(levels.get(near, 0), d_sae)
    return levels


def _fitted(kind: str, x: Float[Tensor, "n d_in"], k: int, d_sae: int, seed: int) -> SparseCoder[Any] | None:
    """A fixed dictionary of k latents a token, or None where it has fewer than k."""
    latents = d_sae if kind == "random" else 2 * x.shape[1]  # both signs of each component or neuron
    if k > latents:
        return None
    coder = architectures.new(kind, d_in=x.shape[1], d_sae=latents, k=k, seed=seed).to(x.device)
    coder.initialise(Batch.of(x))
    return coder


def _frozen(source: ActivationSource, k: int, d_sae: int, seed: int) -> SparseCoder[Any]:
    """A TopK coder whose decoder stays as its seed makes it."""
    return architectures.new(
        TRAINED, d_in=source.d_in, d_out=source.d_out, d_sae=d_sae, of="topk", settings=f"k={k}", seed=seed
    )


def _learnt(
    coders: dict[str, SparseCoder[Any]], source: ActivationSource, how: TrainConfig, store: Store | None, about: Mapping[str, Any]
) -> dict[str, SparseCoder[Any]]:  # fmt: skip
    """Train coders over one stream. In a store those that are there are left as they are, and an interrupted training goes on."""
    how = replace(how, l0=None, revive="own", fine_tune=False)  # k is given, and nothing but its own AuxK can revive it
    if store is None:
        for _ in learn(coders, source, how):
            pass
        return coders
    identity = {name: run_key({"": coder}, source, how) for name, coder in coders.items()}
    named = {_name(n, identity[n], store): n for n in coders}
    missing = {name: coders[n] for name, n in named.items() if not store.has("coders", name)}
    if missing:
        sweep(
            missing, source, how, store, about=dict(about) | {"identities": {name: identity[named[name]] for name in missing}}
        )
    device = next(iter(coders.values())).W_dec.device
    return {name: native.read(store.path("coders", name), device=device) for name in named}


def _name(name: str, identity: str, store: Store) -> str:
    """The name of a coder in the store; where it is taken by another, with the first digits of its identity."""
    for candidate in (name, f"{name}-{identity[:6]}"):
        if not store.has("coders", candidate):
            return candidate
        about = store.manifest("coders", candidate)["about"]
        if identity in (about.get("identity"), about.get("identities", {}).get(candidate)):
            return candidate
    raise BadInput(f"{store.root} has other coders named {name!r} and {candidate!r}. Remove one of them.")


def _keep(
    name: str, coder: SparseCoder[Any], source: ActivationSource, store: Store, about: Mapping[str, Any]
) -> tuple[str, SparseCoder[Any]]:
    """Save a baseline; where its name is taken by other contents, under the name with the first digits of its hash."""
    identity = coder_hash(coder)
    name = _name(name, identity, store)
    if not store.has("coders", name):
        facts = {"source": source.describe(), "identity": identity} | dict(about)
        save_baseline(name, coder, store, about=facts, inputs={"activations": source.fingerprint})
    return name, coder
