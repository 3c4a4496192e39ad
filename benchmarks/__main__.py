"""python -m benchmarks [NAME …]: run the named benchmarks, or all."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> None:
    here = Path(__file__).parent
    names = sorted(p.stem for p in here.glob("*.py") if not p.stem.startswith("_"))
    chosen = sys.argv[1:] or names
    for name in chosen:
        if name not in names:
            sys.exit(f"No benchmark named {name!r}. Known: {', '.join(names)}.")
    for name in chosen:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n## {name}: {(module.__doc__ or '').splitlines()[0]}\n", flush=True)
        module.main()


if __name__ == "__main__":
    main()
