"""Output: tables that fit the terminal, plain aligned text where there is none, and JSON."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from assay.cli.flags import Common

GAP = 2
WIDEST = 60  # characters of text in one cell where there is no terminal to fit
NOT_PROSE = re.compile(r"\S*\d\S*|\bto\b")


def show(rows: Sequence[Mapping[str, Any]], common: Common, *, data: Any = None, empty: str = "Nothing.") -> None:
    """Print rows as a table, or with `--json` as JSON (`data` instead of the rows, where it says more)."""
    if common.json:
        print_json(rows if data is None else data)
    elif not rows:
        print(empty)
    else:
        print(table(rows, terminal_width() if sys.stdout.isatty() else None, bold=sys.stdout.isatty()))


def note(text: str, common: Common) -> None:
    """A sentence for people, which is no result: on stderr, and not with `--quiet` or `--json`."""
    if not common.silent:
        print(text, file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """One JSON document on stdout; what is not finite becomes null."""
    print(json.dumps(_finite(data), indent=2, ensure_ascii=False, default=str))


def terminal_width() -> int:
    """Columns of the terminal; `COLUMNS` overrides."""
    return max(40, shutil.get_terminal_size().columns)


def table(rows: Sequence[Mapping[str, Any]], width: int | None, *, bold: bool = False) -> str:
    """Aligned columns. Prose wraps to fit `width`; names and numbers never do: columns that do not fit go below, beside the first."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = {name: [_text(row.get(name)) for row in rows] for name in names}
    numeric = {name for name in names if all(isinstance(row.get(name), int | float | None) for row in rows)}
    widths = {name: max(map(len, (name, *cells[name]))) for name in names}
    prose = [name for name in names if any(len(NOT_PROSE.sub("", cell).split()) > 3 for cell in cells[name])]
    for name in sorted(prose, key=lambda n: -widths[n]):
        if width is None or sum(widths.values()) + GAP * (len(names) - 1) > width:
            spare = WIDEST if width is None else width - sum(w + GAP for n, w in widths.items() if n != name)
            widths[name] = min(widths[name], max(spare, _least(name, cells[name], widths[name])))
    panels = [_panel(part, cells, widths, numeric, bold) for part in _parts(names, widths, width)]
    return "\n\n".join("\n".join(lines) for lines in panels)


def _least(name: str, cells: Sequence[str], widest: int) -> int:
    """Width that a text column keeps: its longest word, but not more than 24."""
    return min(widest, max(len(name), min(24, max((len(word) for cell in cells for word in cell.split()), default=1))))


def _parts(names: list[str], widths: Mapping[str, int], width: int | None) -> list[list[str]]:
    """The columns of each panel; the first column leads every one."""
    parts, used = [[names[0]]], widths[names[0]]
    for name in names[1:]:
        if width is not None and used + GAP + widths[name] > width and len(parts[-1]) > 1:
            parts.append([names[0]])
            used = widths[names[0]]
        parts[-1].append(name)
        used += GAP + widths[name]
    return parts


def _panel(
    names: list[str], cells: Mapping[str, list[str]], widths: Mapping[str, int], numeric: set[str], bold: bool
) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        parts = [t.rjust(widths[n]) if n in numeric else t.ljust(widths[n]) for n, t in zip(names, texts)]
        return (" " * GAP).join(parts).rstrip()

    head = line(names)
    lines = [f"\x1b[1m{head}\x1b[0m" if bold else head]
    for i in range(len(cells[names[0]])):
        wrapped = [
            textwrap.wrap(cells[n][i], widths[n], break_on_hyphens=False) if len(cells[n][i]) > widths[n] else [cells[n][i]]
            for n in names
        ]
        for j in range(max(len(w) for w in wrapped)):
            lines.append(line([w[j] if j < len(w) else "" for w in wrapped]))
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if data == data and abs(data) != float("inf") else None
    if isinstance(data, Mapping):
        return {str(k): _finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(v) for v in data]
    return data
