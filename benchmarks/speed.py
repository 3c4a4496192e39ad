"""A training step of ours, of the peers and of the floor, side by side in one run on the same data.

    python -m benchmarks speed                              all of it; rewrites the tables in docs/speed.md
    python -m benchmarks speed --quick                      some minutes, printed only
    python -m benchmarks speed --only topk --shape small    one comparison; the others stay as they were measured before
    python -m benchmarks speed --device cuda                d_in 2304, d_sae 65536, k 80, bf16

`make bench-setup` makes the peers' environment; a peer that is not there is left out.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks._rounds import PEERS, ROOT, Spec, compare, machine, milliseconds, ours, ratio

PAGE = ROOT / "docs" / "speed.md"
KEPT = Path(__file__).with_suffix(".json")
SPARSE, DENSE = 0.02, 0.5  # shares of active latents, for architectures whose L0 a penalty decides
ROWS: dict[str, tuple[str, float | None]] = {
    "topk": ("topk", None),
    "batch_topk": ("batch_topk", None),
    "matryoshka": ("matryoshka", None),
    "relu": ("relu", SPARSE),
    "jumprelu": ("jumprelu", SPARSE),
    "gated": ("gated", SPARSE),
    "p_anneal": ("p_anneal", SPARSE),
    "relu, dense": ("relu", DENSE),
    "jumprelu, dense": ("jumprelu", DENSE),
    "gated, dense": ("gated", DENSE),
    "p_anneal, dense": ("p_anneal", DENSE),
}
VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "Assay": ((), {}),
    "Assay, bfloat16 candidates": (("topk", "batch_topk", "matryoshka"), {"candidates": "bfloat16"}),
}
"""Ours: for which architectures (all where none is named), with which settings of coder or training."""
RIVALS = ("sparsify", "overcomplete", "dictionary_learning", "SAELens")
FLOORS = ("floor", "floor, dense")


def contenders(row: str, shape: Spec, device: str) -> dict[str, tuple[Spec, Path]]:
    """Who is measured for a row of the table, and with which Python."""
    architecture, share = ROWS[row]
    common: Spec = {"architecture": architecture, "shape": shape, "share": share, "device": device}
    common |= {"dtype": "bf16", "batches": 4} if device == "cuda" else {}
    found = {name: ({"contender": name, **common}, ours()) for name in FLOORS}
    for name, (only, settings) in VARIANTS.items():
        if not only or architecture in only:
            found[name] = ({"contender": name, "settings": settings, **common}, ours())
    return found | {name: ({"contender": name, **common}, PEERS) for name in RIVALS}


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shape, few rows, two rounds; writes nothing")
    parser.add_argument("--only", action="append", choices=ROWS, help="a row of the table; may be given again")
    parser.add_argument("--shape", action="append", choices=("tiny", "small", "large", "gpu"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int)
    asked = parser.parse_args(arguments)
    from benchmarks._data import SHAPES

    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    for size in asked.shape or (["gpu"] if asked.device == "cuda" else ["small"] if asked.quick else ["small", "large"]):
        for row in asked.only or rows_of(size, asked.quick):
            print(f"{size} {row} …", flush=True)
            rounds = asked.rounds or (2 if asked.quick else 5)
            found = compare(contenders(row, asdict(SHAPES[size]), asked.device), rounds, 0.5 if asked.quick else 1.5)
            kept.setdefault(size, {})[row] = {"machine": machine(), "shape": asdict(SHAPES[size]), **found}
            print(table({row: kept[size][row]}), flush=True)
            if not asked.quick and size in ("small", "large", "gpu"):
                KEPT.write_text(json.dumps(rounded(kept), indent=1) + "\n", encoding="utf-8")
                keep(kept)


def rows_of(size: str, quick: bool) -> list[str]:
    """Rows that are measured where none is named: dense ones at the small shape alone, where they take minutes."""
    if quick:
        return ["topk", "batch_topk", "relu"]
    return [row for row in ROWS if size in ("tiny", "small") or "dense" not in row]


def table(rows: dict[str, Any]) -> str:
    """Markdown: milliseconds a step, and what they are of ours."""
    variants = [v for v in VARIANTS if any("wall" in r["contenders"].get(v, {}) for r in rows.values())]
    heads = [
        "",
        "L0",
        "floor",
        *variants,
        *RIVALS,
        "÷ floor",
        "fastest peer ÷",
        "SAELens ÷",
        "memory, GB (ours / fastest peer's)",
    ]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for row, r in rows.items():
        found, clock = r["contenders"], r["clock"]
        low, best = fastest(r, FLOORS), fastest(r, RIVALS)
        cells = [row + (" \\*" if clock == "cpu" else ""), _l0(found), _cell(found.get(low), clock)]
        cells += [_cell(found.get(name), clock) for name in (*variants, *RIVALS)]
        mine = [found[v] for v in variants if "wall" in found.get(v, {})]
        cells.append(_ratios(ratio(v, found.get(low), clock) for v in mine))
        cells += [_ratios(ratio(found.get(rival), v, clock) for v in mine) for rival in (best, "SAELens")]
        held = [f"{found[name]['memory'] / 1e9:.2f}" for name in ("Assay", best) if "memory" in found.get(name, {})]
        lines.append("| " + " | ".join([*cells, " / ".join(held)]) + " |")
    return "\n".join(lines) + "\n"


def fastest(r: dict[str, Any], names: Iterable[str]) -> str:
    """Who of them takes the least time; of the two floors: with many active latents, dense products do."""
    ms = {name: milliseconds(r["contenders"].get(name, {}), r["clock"]) for name in names}
    return min((name for name in ms if ms[name]), key=lambda name: ms[name] or 0, default="")


def _cell(found: dict[str, Any] | None, clock: str) -> str:
    if not found or "wall" not in found:
        return "not installed" if (found or {}).get("missing") == "not installed" else "–"
    ms = milliseconds(found, clock) or 0
    return f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def _l0(found: dict[str, dict[str, Any]]) -> str:
    """At the end, of all that took part."""
    ends = sorted({round(f["l0"]) for f in found.values() if "l0" in f})
    return "–".join(str(end) for end in dict.fromkeys((ends[0], ends[-1])))


def _ratios(values: Iterable[float | None]) -> str:
    return ", ".join(f"{value:.2f}" for value in values if value)


def parts(r: dict[str, Any]) -> str:
    """Markdown: the parts of the floor, and how far ours is above them."""
    lines = ["| part of the floor | ms |", "| --- | --- |"]
    lines += [f"| {name} | {1e3 * t[r['clock']]:.1f} |" for name, t in r["contenders"]["floor"]["parts"].items()]
    return "\n".join(lines) + "\n"


def keep(kept: dict[str, Any]) -> None:
    """Put what was measured where the docs show it."""
    for size, rows in kept.items():
        ordered = {row: rows[row] for row in ROWS if row in rows}
        content = about(ordered) + "\n" + table(ordered)
        if "topk" in ordered and "parts" in ordered["topk"]["contenders"]["floor"]:
            content += "\nFloor of `topk`:\n\n" + parts(ordered["topk"])
        mark(size, content)


def mark(name: str, content: str) -> None:
    """Write `content` between two marks of the page."""
    text = PAGE.read_text(encoding="utf-8")
    text, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: m[1] + content + m[2], text, flags=re.DOTALL)
    assert count == 1, f"{PAGE} has no place for {name}"
    PAGE.write_text(text, encoding="utf-8")


def about(rows: dict[str, Any]) -> str:
    """One paragraph: machine, versions, dates, how much rounds differ."""
    last = max(rows.values(), key=lambda r: r["machine"]["date"])
    m, s = last["machine"], last["shape"]
    found = [f for r in rows.values() for f in r["contenders"].items() if "wall" in f[1]]
    versions = sorted({f"{name} {f['version']}" for name, f in found if f.get("version") and name in RIVALS})
    dates = sorted({r["machine"]["date"] for r in rows.values()})
    apart = [
        max(f[r["clock"]]) / min(f[r["clock"]]) - 1 for r in rows.values() for f in r["contenders"].values() if "wall" in f
    ]
    loads = [x for r in rows.values() for x in r["load"]]
    return (
        f"d_in {s['d_in']}, d_sae {s['d_sae']}, k {s['k']}, batch {s['batch']}. {m['processor']}, {m['cores']} cores, "
        f"{found[0][1]['threads']} threads, {m['memory_gb']} GB; torch {m['torch']}, {', '.join(versions) or 'no peers'}; "
        f"{' to '.join(dates[:: max(1, len(dates) - 1)])}; {min(r['rounds'] for r in rows.values())} rounds, whose slowest and fastest "
        f"differ by {100 * statistics.median(apart):.0f} % (median); load of the machine {min(loads):.1f} to {max(loads):.1f}.\n"
    )


def rounded(what: Any) -> Any:
    """Numbers to five digits, so that the file can be read."""
    if isinstance(what, dict):
        return {k: rounded(v) for k, v in what.items()}
    if isinstance(what, list):
        return [rounded(v) for v in what]
    return float(f"{what:.5g}") if isinstance(what, float) else what


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
