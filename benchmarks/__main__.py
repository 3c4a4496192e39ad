"""python -m benchmarks [NAME …]: run the named benchmarks, or all. What follows the first option goes to the one that is named."""

from __future__ import annotations

import importlib
import sys
from itertools import takewhile
from pathlib import Path


def main() -> None:
    here = Path(__file__).parent
    names = sorted(p.stem for p in here.glob("*.py") if not p.stem.startswith("_"))
    asked = list(takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    options = sys.argv[1 + len(asked) :]
    for name in asked:
        if name not in names:
            sys.exit(f"No benchmark named {name!r}. Known: {', '.join(names)}.")
    if options and len(asked) != 1:
        sys.exit(f"Options are for one benchmark: name it before {options[0]}.")
    for name in asked or names:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n## {name}: {(module.__doc__ or '').splitlines()[0]}\n", flush=True)
        if options:
            module.main(options)
        else:
            module.main()


if __name__ == "__main__":
    main()
