"""report: one HTML file that tells how a coder was trained: its curves, its weights, its settings. Needs no network and no script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay import charts, registry, store
from assay.coders.base import SparseCoder
from assay.errors import DamagedFile
from assay.formats import native
from assay.shapes import Float, Tensor

TEMPLATE = Path(__file__).parent / "data" / "report.html.j2"
KNOWN = {"step", "tokens", "loss", "fvu", "l0", "dead", "lr", "grad_norm", "pressure", "gamma", "held_out_fvu", "held_out_l0"}
KNOWN |= {"density", "tokens_per_second", "peak_memory", "stopped"}
"""What rows hold besides the terms of the loss."""
SAMPLE = 2048  # decoder rows whose nearest neighbour is looked for
FREQUENCIES: dict[float, str] = {0.5: "never", 2: "10⁻⁶", 4: "10⁻⁵", 6: "10⁻⁴", 8: ".001", 10: ".01", 12: ".1", 14: "1"}
"""Edges of the bins of `Row.density`."""


Cells = tuple[str, str, str]
"""Name, value, and what the value means."""


@dataclass(frozen=True)
class Chart:
    """A picture and what to make of it; without a picture, why there is none."""

    title: str
    says: str
    svg: str = ""


@dataclass(frozen=True)
class Run:
    """All that a coder's directory says."""

    name: str
    coder: SparseCoder[Any]
    architecture: str
    rows: list[dict[str, Any]]
    about: Mapping[str, Any]
    made: Mapping[str, Any]
    inputs: Mapping[str, Any]

    def series(self, key: str) -> charts.Series | None:
        """(vectors seen, value) wherever a row has a finite number under `key`."""
        found = [(row["tokens"], row[key]) for row in self.rows if _number(row.get(key))]
        return ([x for x, _ in found], [y for _, y in found]) if found else None

    def last(self, key: str) -> float | None:
        """The latest finite value."""
        found = self.series(key)
        return found[1][-1] if found else None

    @property
    def terms(self) -> list[str]:
        """Names of the loss's terms."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key not in KNOWN))

    @property
    def wanted_l0(self) -> float | None:
        """What L0 was asked of the training, or is fixed by the architecture."""
        return (self.about.get("train") or {}).get("l0") or self.coder.wanted_l0


def write(directory: Path) -> Path:
    """Write report.html beside a finished coder (`coders/NAME` of a store, or what `assay.save` wrote) and give its path.

    Equal directories give equal bytes. Raises MissingFile and DamagedFile as loading the coder does.
    """
    path = Path(directory) / "report.html"
    store.write_atomic(path, html(Path(directory)))
    return path


def html(directory: Path) -> str:
    """The report as text."""
    import jinja2

    run = read(directory)
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    sections = {
        "Quality": list(_curves(run)),
        "Training": list(_course(run)),
        "Latents": list(_latents(run)),
        "Weights": list(_weights(run)),
    }
    return page.render(
        name=run.name, about=_about(run), tiles=_tiles(run), warnings=list(_warnings(run)), sections=sections, tables=_tables(run)
    )  # fmt: skip


def read(directory: Path) -> Run:
    """What a coder's directory says. A missing manifest, train.jsonl or speed.jsonl leaves parts of the report out."""
    manifest = store.read_manifest(directory) if (directory / "manifest.json").exists() else {}
    return Run(
        name=directory.resolve().name, coder=native.read(directory), architecture=native.describe(directory)["architecture"],
        rows=_rows(directory / "train.jsonl") + _rows(directory / "speed.jsonl"), about=manifest.get("about", {}), made=manifest.get("made", {}),
        inputs=manifest.get("inputs", {}),
    )  # fmt: skip


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a training; none where the file is missing."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        try:
            row = json.loads(line)
            rows.append(row | {"tokens": float(row["tokens"])})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DamagedFile(f"{path}, line {number} is no row of a training ({error}). Train the coder again.") from None
    return rows


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _about(run: Run) -> str:
    known = registry.CODERS.summary(run.architecture) if run.architecture in registry.CODERS else run.architecture
    c = run.coder
    return f"{known} {c.d_in:,} numbers in, {c.d_sae:,} latents ({c.d_sae / c.d_in:.3g} times as many), {c.d_out:,} out."


def _tiles(run: Run) -> list[Cells]:
    """The numbers that are looked at first: of held-out vectors where there are any."""
    held, fvu, l0 = run.last("held_out_fvu") is not None, run.last("held_out_fvu"), run.last("held_out_l0")
    where = "on held-out vectors, as saved" if held else "on the last training batch"
    fvu, l0 = (fvu, l0) if held else (run.last("fvu"), run.last("l0"))
    wanted = f", wanted: {run.wanted_l0:.4g}" if run.wanted_l0 else ""
    made, dead, gamma, rate = run.made, run.last("dead"), run.last("gamma"), run.last("tokens_per_second")
    memory = run.last("peak_memory") or made.get("peak_memory")
    tiles = [
        ("FVU", fvu, ".3f", f"share of the variance that is lost {where}; 0 is perfect, 1 is no better than the mean"),
        ("L0", l0, ".4g", f"latents active at once {where}{wanted}"),
        ("Dead", dead, ".1%", "latents that have stopped firing; below a few percent is good"),
        ("γ", gamma, ".3f", "length of the reconstruction against the best one; 1 is right, below 1 is too short"),
        ("Vectors", run.last("tokens"), ",.0f", "that it learnt from"),
        ("Time", made.get("seconds"), ",.0f", "seconds, with all coders that were trained over the same stream"),
        ("Speed", rate, ",.0f", "vectors a second at the end, all coders of the run together"),
        ("Memory", memory and memory / 1e6, ",.0f", "MB at the peak"),
    ]  # fmt: skip
    return [(name, format(value, form), says) for name, value, form, says in tiles if value is not None]


def _warnings(run: Run) -> Iterator[str]:
    """What a careful reader would stop at."""
    dead, gamma, l0, fvu = (run.last(key) for key in ("dead", "gamma", "held_out_l0", "fvu"))
    held = run.last("held_out_fvu")
    if dead is not None and dead > 0.1:
        yield f"{dead:.0%} of the latents are dead. A higher learning rate, AuxK or resampling, or fewer latents may help."
    if gamma is not None and abs(gamma - 1) > 0.05:
        yield f"γ = {gamma:.3f}: reconstructions are {'too short' if gamma < 1 else 'too long'} on average."
    if l0 is not None and run.wanted_l0 and abs(l0 / run.wanted_l0 - 1) > 0.1:
        yield f"L0 is {l0:.4g} at inference, {run.wanted_l0:.4g} was wanted."
    if held is not None and fvu is not None and held > 1.2 * fvu + 0.01:
        yield f"FVU is {held:.3f} on held-out vectors and {fvu:.3f} on training ones: it has learnt vectors by heart, or L0 differs."


def _tables(run: Run) -> dict[str, list[Cells]]:
    config, train = registry.CODERS, Path(__file__).parent / "training" / "config.py"
    helps = {s.name: s.doc for s in config.settings(run.architecture)} if run.architecture in config else {}
    shared = {s.name: s.doc for s in registry.settings(train, "TrainConfig")} if train.exists() else {}
    c = run.coder
    coder = {"architecture": run.architecture, "parameters": sum(p.numel() for p in c.parameters())}
    coder |= {k: getattr(c.config, k) for k in c.config.__dataclass_fields__} | {"seed": c.seed}
    data = {k: v for k, v in run.about.items() if k not in ("architecture", "config", "kind", "train")}
    tables = {
        "Coder": _flat(coder, helps), "Training": _flat(run.about.get("train") or {}, shared),
        "Data": _flat({**data, **run.inputs}, {}), "Made with": _flat(run.made, {}),
    }  # fmt: skip
    return {title: rows for title, rows in tables.items() if rows}


def _flat(data: Mapping[str, Any], helps: Mapping[str, str], before: str = "") -> list[Cells]:
    """Rows of nested data; names of what lies deeper are joined by dots."""
    rows = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            rows += _flat(value, helps, f"{before}{key}.")
        elif value is not None:
            rows.append((f"{before}{key}", _plain(value), helps.get(key, "")))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _chart(
    run: Run, title: str, names: Mapping[str, str], y: str, says: str, *, unit: float = 1.0, **how: Any
) -> Chart:  # fmt: skip
    """Columns over time, in units of `unit`, under the names that people know them by; or a sentence where there are none."""
    found = {}
    for key, label in names.items():
        if points := run.series(key):
            found[label] = (points[0], [value / unit for value in points[1]])
    if found:
        return Chart(title, says, charts.lines(title, found, y=y, **how))
    reason = f"the rows of this training have no {' or '.join(names)}" if run.rows else "no rows of a training"
    return Chart(title, f"Not shown: {reason}.")


def _curves(run: Run) -> Iterator[Chart]:
    """How good the coder became."""
    wanted = run.wanted_l0
    yield _chart(
        run, "Loss and its terms", {"loss": "loss"} | {t: t for t in run.terms}, "loss (scaled activations)",
        "What is minimised, and the weighted terms it is the sum of. It should fall fast, then flatten; spikes that do not heal "
        "ask for a lower learning rate. Losses of different architectures cannot be compared; FVU can.",
    )  # fmt: skip
    yield _chart(
        run, "Fraction of variance unexplained (FVU)", {"fvu": "training batch", "held_out_fvu": "held-out, as saved"}, "FVU",
        "The share of the activations' variance that the reconstruction misses: 0 is perfect, 1 no better than the mean. The two "
        "should run together; a held-out curve above the other means learning by heart, or another L0 at inference. Read it with L0.",
    )  # fmt: skip
    yield _chart(
        run, "Active latents (L0)", {"l0": "training batch", "held_out_l0": "held-out, as saved"}, "latents a vector",
        "How many latents speak at once. Fewer are easier to understand, more reconstruct better. It should settle well before the end.",
        mark=(wanted, "wanted") if wanted else None,
    )  # fmt: skip
    yield _chart(
        run, "Dead latents", {"dead": "dead"}, "share of latents",
        "Latents that have not fired for a long time: wasted width. Near 0 is good. It cannot rise before `dead_after` vectors are seen.",
        log=False,
    )  # fmt: skip
    yield _chart(
        run, "Reconstruction bias (γ)", {"gamma": "γ"}, "γ",
        "Length of the reconstruction against the length that would fit best. 1 is right; below 1 it shrinks, as L1 penalties make it.",
        mark=(1.0, "unbiased"), log=False, zero=False,
    )  # fmt: skip


def _course(run: Run) -> Iterator[Chart]:
    """How the training went."""
    yield _chart(
        run, "Learning rate", {"lr": "learning rate"}, "learning rate",
        "As scheduled: it rises in the warm-up and falls to 0 at the end.", log=False,
    )  # fmt: skip
    yield _chart(
        run, "Gradient norm", {"grad_norm": "gradient norm"}, "norm before clipping",
        "How hard the loss pulls at the weights. Steady or falling is healthy; growth or tall spikes announce trouble.",
    )  # fmt: skip
    if run.series("pressure"):
        yield _chart(
            run, "Pressure on sparsity", {"pressure": "pressure"}, "factor",
            "What the controller multiplied the sparsity penalty by, to meet the wanted L0. A flat end means that it has settled.",
        )  # fmt: skip
    yield _chart(
        run, "Throughput", {"tokens_per_second": "speed"}, "vectors a second",
        "Of the whole run, with all its coders. Dips are checkpoints, or a machine that does other work.", log=False,
    )  # fmt: skip
    yield _chart(
        run, "Peak memory", {"peak_memory": "memory"}, "MB",
        "The most that was in use up to then. Steady growth over a long run is a leak.", unit=1e6, log=False,
    )  # fmt: skip


def _latents(run: Run) -> Iterator[Chart]:
    """How often latents fire, and from where on."""
    rows = [row for row in run.rows if row.get("density")]
    title, moved = "Firing frequency", "Firing frequency over time"
    if not rows:
        yield Chart(title, "Not shown: the rows of this training have no density.")
    else:
        last = rows[-1]["density"]
        window = rows[-1]["tokens"] - (rows[-2]["tokens"] if len(rows) > 1 else 0)
        says = (
            f"Latents by the share of vectors on which they fire, counted over the last {window:,.0f}: what is rarer than one in as many "
            f"shows as never. {last[0]:,} of {sum(last):,} never fired, {sum(last[12:]):,} fire on more than a tenth. A hump between 10⁻⁵ "
            "and .01 is healthy; much at the right end means dense latents, which seldom have one meaning."
        )
        yield Chart(title, says, charts.steps(title, last, FREQUENCIES, x="share of vectors on which a latent fires"))
    if len(rows) > 1:
        cells = np.array([row["density"] for row in rows])
        svg = charts.strip(moved, cells, (rows[0]["tokens"], rows[-1]["tokens"]), FREQUENCIES, y="share of vectors")
        yield Chart(
            moved, "The same histogram, upright, at each moment; darker means more latents. It should come to rest.", svg
        )
    theta = getattr(run.coder.folded(), "threshold", None)
    what = "Thresholds θ"
    if theta is None:
        yield Chart(what, f"Not shown: {run.architecture} has no thresholds at inference.")
        return
    says = "A latent speaks where its pre-activation exceeds its θ. One hump is usual; a far tail is latents that rarely speak."
    yield _spread(what, theta.detach().reshape(-1), "θ, in units of the pre-activation", says)


def _weights(run: Run) -> Iterator[Chart]:
    """What the weights look like."""
    W_dec, W_enc = run.coder.W_dec.detach().flatten(1).float(), getattr(run.coder, "W_enc", None)
    norms = W_dec.norm(dim=1)
    yield _spread("Decoder norms", norms, "‖row of W_dec‖", "How long the latents' directions are, where their length is free.")
    if isinstance(W_enc, Tensor) and W_enc.shape[-1] == len(W_dec):
        yield _spread(
            "Encoder norms", W_enc.detach().float().flatten(0, -2).norm(dim=0), "‖column of W_enc‖",
            "How strongly latents read their input. A hump near 0 is latents that were never used.",
        )  # fmt: skip
    else:
        yield Chart("Encoder norms", f"Not shown: {run.architecture} has no encoder matrix.")
    title, values = "Spectrum of the decoder", spectrum(W_dec)
    share = values**2 / values.square().sum()
    rank = float(torch.exp(-(share * share.clamp_min(1e-30).log()).sum()))
    yield Chart(
        title,
        f"Singular values of W_dec, largest first. A flat curve means that latents point everywhere; a steep one that they crowd into "
        f"few directions. Effective rank (exponential of the entropy): {rank:.1f} of {len(values)}.",
        charts.lines(title, {"singular value": (list(range(1, len(values) + 1)), values.tolist())}, y="singular value", x="rank"),
    )  # fmt: skip
    live = W_dec[norms > 0]
    if len(live) < 2 or live.shape[1] < 2:
        return
    title, nearest = "Nearest neighbours", neighbours(live)
    chance, close = chance_neighbour(*live.shape), int((nearest > 0.9).sum())
    yield Chart(
        title,
        f"For each latent{f' of a sample of {SAMPLE:,}' if len(live) > SAMPLE else ''}, the cosine with the decoder row most like its "
        f"own. Random directions have about {chance:.2f}. A bump near 1 is latents learnt twice: {close:,} of {len(nearest):,} are above .9.",
        charts.histogram(title, nearest.numpy(), x="cosine with the nearest other row", mark=(chance, "random directions")),
    )  # fmt: skip


def _spread(title: str, values: Tensor, x: str, says: str) -> Chart:
    """A histogram, or a sentence where all values are alike."""
    values = values.float().cpu()
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-3 * abs(high):
        return Chart(title, f"All {len(values):,} are alike: {high:.4g}.")
    return Chart(
        title,
        f"{says} From {low:.3g} to {high:.3g}, median {float(values.median()):.3g}.",
        charts.histogram(title, values.numpy(), x=x),
    )


def spectrum(W: Float[Tensor, "rows d"]) -> Float[Tensor, " m"]:
    """Singular values, largest first, by way of the smaller of the two Gram matrices."""
    gram = W.double()
    gram = gram.T @ gram if W.shape[0] > W.shape[1] else gram @ gram.T
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()


def neighbours(W: Float[Tensor, "rows d"], sample: int = SAMPLE) -> Float[Tensor, " m"]:
    """The largest cosine of each row (or of `sample` rows, evenly spaced) with any other."""
    unit = torch.nn.functional.normalize(W, dim=1)
    chosen = torch.linspace(0, len(W) - 1, min(sample, len(W)), dtype=torch.float64).round().long()
    best = []
    for part in chosen.split(256):
        cosines = unit[part] @ unit.T
        cosines[torch.arange(len(part)), part] = -2.0
        best.append(cosines.amax(1))
    return torch.cat(best).clamp(-1, 1)


def chance_neighbour(rows: int, d: int) -> float:
    """Median of the largest cosine of a direction with `rows` − 1 random ones in d dimensions: (1 + cos)/2 is a Beta variable."""
    from scipy.stats import beta

    return float(2 * beta.ppf(0.5 ** (1 / (rows - 1)), (d - 1) / 2, (d - 1) / 2) - 1)
