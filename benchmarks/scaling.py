"""Step time and memory of TopK training against width, k, batch and number of coders, beside a cost model of five rates.

    python -m benchmarks scaling               all of it; rewrites docs/figures/scaling.svg and the table in docs/speed.md
    python -m benchmarks scaling --tiny        a trial in a minute, printed only

The rates are measured in the same run, at one shape: of the encoder product, of selection, of sparse products, of Adam's pass over
memory, and what a step costs whatever its size. Everything else is arithmetic.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._data import Shape
from benchmarks._rounds import ROOT, Spec, compare, machine, milliseconds, ours
from benchmarks.speed import mark, rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT = Path(__file__).with_suffix(".json")
FIGURE = ROOT / "docs" / "figures" / "scaling.svg"
HERE = Shape(768, 12288)
AXES: dict[str, tuple[int, ...]] = {
    "d_sae": (4096, 8192, 16384, 32768, 65536, 131072, 262144),
    "k": (8, 16, 32, 64, 128, 256),
    "batch": (512, 1024, 2048, 4096, 8192),
    "coders": (1, 2, 4, 8),
}
SMALL = Shape(512, 4096)  # of each coder of a sweep
SPARSE = ("decode", "gradient of latents", "gradient of W_dec", "gradient of W_enc")


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="toy shapes; writes nothing")
    parser.add_argument("--axis", action="append", choices=AXES, help="only these; may be given again")
    asked = parser.parse_args(arguments)
    at = Shape(64, 512, 8, 256) if asked.tiny else HERE
    small = Shape(64, 512, 8, 256) if asked.tiny else SMALL
    axes = {"d_sae": (256, 512, 1024), "k": (4, 8, 16), "batch": (128, 256, 512), "coders": (1, 2)} if asked.tiny else AXES
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() and not asked.tiny else {}
    kept |= {"machine": machine(), "rates": rates(at, small)}
    print({k: f"{v:.3g}" for k, v in kept["rates"].items()}, flush=True)
    for axis in asked.axis or axes:
        kept[axis] = [found for value in axes[axis] if (found := point(axis, value, at, small, kept["rates"]))]
        if not asked.tiny:
            KEPT.write_text(json.dumps(rounded(kept), indent=1) + "\n", encoding="utf-8")
    print(table(kept))
    if not asked.tiny and all(axis in kept for axis in AXES):
        import matplotlib

        from assay.figures.picture import write

        FIGURE.parent.mkdir(exist_ok=True)
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            write(figure(kept), FIGURE)
        mark("scaling", f"![Step time and memory against width, k, batch and coders](figures/{FIGURE.name})\n\n{table(kept)}")


def rates(at: Shape, small: Shape) -> dict[str, float]:
    """Five rates and two sizes, measured on the parts of the floor and on our own step at `at`, and on a step too small to matter."""
    trivial = replace(at, d_in=16, d_sae=64, k=4, batch=16)
    found = compare({"floor": _spec(at, "floor"), "Assay": _spec(at), "nothing": _spec(trivial)}, 5, 1.0)["contenders"]
    seconds = {name: part["cpu"] for name, part in found["floor"]["parts"].items()}
    weights = 2 * at.d_in * at.d_sae
    fixed = found["nothing"]["memory"]
    return {
        "flops": 2 * at.batch * at.d_in * at.d_sae / seconds["encoder product"],
        "selected": at.batch * at.d_sae / seconds["selection"],
        "gathered": len(SPARSE) * 4 * at.batch * at.k * at.d_in / sum(seconds[part] for part in SPARSE),
        "streamed": 28 * weights / seconds["Adam"],
        "fixed": (milliseconds(found["nothing"], "cpu") or 0) / 1e3,
        "fixed_memory": fixed,
        "held": max(found["Assay"]["memory"] - 16 * weights - fixed, 0) / (4 * at.batch * at.d_in),
    }


def model(s: Shape, coders: int, r: dict[str, float]) -> tuple[float, float]:
    """Seconds a step and bytes: products, selection, four sparse products, seven passes of Adam over weights, and what is fixed.

    Memory is that of weights, gradients and moments, what torch takes for a step of any size, and as many matrices [batch, d_in] as
    were held at the shape measured; nothing [batch, d_sae] ever exists.
    """
    weights = 2 * s.d_in * s.d_sae
    seconds = 2 * s.batch * s.d_in * s.d_sae / r["flops"] + s.batch * s.d_sae / r["selected"]
    seconds += len(SPARSE) * 4 * s.batch * s.k * s.d_in / r["gathered"] + 28 * weights / r["streamed"] + r["fixed"]
    return coders * seconds, coders * 16 * weights + r["fixed_memory"] + r["held"] * 4 * s.batch * s.d_in


def point(axis: str, value: int, at: Shape, small: Shape, r: dict[str, float]) -> dict[str, Any] | None:
    """One measurement beside the model's; None where memory does not allow it."""
    shape = small if axis == "coders" else replace(at, **{axis: value})
    seconds, size = model(shape, value if axis == "coders" else 1, r)
    if size > 0.6e9 * machine()["memory_gb"]:
        print(f"{axis} {value}: {size / 1e9:.1f} GB, too much here", flush=True)
        return None
    found = compare({"Assay": _spec(shape, coders=value if axis == "coders" else None)}, 3, 1.0)
    ours_ = found["contenders"]["Assay"]
    ms = {clock: milliseconds(ours_, clock) for clock in ("wall", "cpu")}
    print(f"{axis} {value}: {ms['cpu']:.1f} ms ({1e3 * seconds:.1f})", flush=True)
    return {"value": value, **ms, "memory": ours_["memory"], "model_ms": 1e3 * seconds, "model_memory": size}


def _spec(shape: Shape, who: str = "Assay", coders: int | None = None) -> tuple[Spec, Path]:
    spec: Spec = {"contender": who, "architecture": "topk", "shape": asdict(shape), "batches": 4}
    return spec | ({} if coders is None else {"coders": coders}), ours()


def table(kept: dict[str, Any]) -> str:
    """Markdown: measured, predicted, and how far apart they are."""
    m, r = kept["machine"], kept["rates"]
    lines = [
        f"{m['processor']}, {m['cores']} cores, torch {m['torch']}, {m['date']}. Rates: {r['flops'] / 1e9:.0f} GFLOP/s, "
        f"{r['selected'] / 1e9:.2f} · 10⁹ values selected from a second, {r['gathered'] / 1e9:.1f} GB/s gathered, "
        f"{r['streamed'] / 1e9:.1f} GB/s streamed, {1e3 * r['fixed']:.1f} ms and {r['fixed_memory'] / 1e9:.2f} GB whatever a "
        f"step's size; {r['held']:.0f} matrices [batch, d_in] held at once.", "",
        "| | ms | model | error | GB | model | error |", "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for axis in AXES:
        for p in kept.get(axis, []):
            apart = f"{p['model_ms'] / p['cpu'] - 1:+.0%} | {p['memory'] / 1e9:.2f} | {p['model_memory'] / 1e9:.2f}"
            lines.append(
                f"| {axis} {p['value']} | {p['cpu']:.1f} | {p['model_ms']:.1f} | {apart} | {p['model_memory'] / p['memory'] - 1:+.0%} |"
            )
    return "\n".join(lines) + "\n"


def figure(kept: dict[str, Any]) -> Figure:
    """Above, milliseconds a step; below, gigabytes; measured as dots, the model as a line."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from assay.figures.base import COLOURS

    drawn = Figure(figsize=(11, 5), layout="constrained")
    for row, axes in enumerate(drawn.subplots(2, len(AXES), sharey="row")):
        (measured, modelled), unit = (("cpu", "model_ms"), 1.0) if not row else (("memory", "model_memory"), 1e9)
        for panel, axis in zip(axes, AXES, strict=True):
            values = [p["value"] for p in kept[axis]]
            panel.plot(values, [p[modelled] / unit for p in kept[axis]], color=COLOURS[1], linewidth=1.3, label="cost model")
            panel.plot(values, [p[measured] / unit for p in kept[axis]], "o", color=COLOURS[0], markersize=4, label="measured")
            panel.set(xscale="log", yscale="log", xlabel=axis if row else None)
            panel.minorticks_off()
            panel.set_xticks(values, [f"{v // 1024}k" if v >= 4096 else str(v) for v in values], fontsize=8)
            panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            panel.grid(alpha=0.25, linewidth=0.5)
        axes[0].set_ylabel("memory, GB" if row else "ms a step")
    drawn.axes[0].legend(frameon=False, fontsize="small")
    return drawn


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
