"""Build the pages: the API's schema, the types made from it, checks, tests, both builds, and the stamp of what they were built from.

python web-ui/make.py            everything (Node 20 or later)
python web-ui/make.py --types    only the schema and the types, while at work on an answer's shape
python web-ui/make.py --check    nothing is built: does what is committed fit the sources? (no Node)
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
STATIC = HERE.parent / "assay" / "web" / "static"
SCHEMA, STAMP = HERE / "openapi.json", STATIC / "sources.sha256"
SOURCES = (
    "src",
    "index.html",
    "package.json",
    "package-lock.json",
    "vite.config.ts",
    "svelte.config.js",
    "tsconfig.json",
)


def schema() -> str:
    """The OpenAPI document of the application."""
    from assay.store import Store
    from assay.web.app import create
    from assay.web.shelf import Shelf

    with tempfile.TemporaryDirectory() as empty:
        document = create(Shelf(Store(Path(empty) / "store"))).openapi()
    document["info"]["version"] = "of this checkout"
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def sources() -> str:
    """sha256 over everything that the pages are built from, tests aside."""
    found = hashlib.sha256()
    for place in SOURCES:
        top = HERE / place
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if file.is_file() and not file.name.endswith(".test.ts"):
                found.update(f"{file.relative_to(HERE).as_posix()}\n".encode() + file.read_bytes())
    return found.hexdigest() + "\n"


def stale() -> list[str]:
    """What must be built again, and why."""
    found = []
    if not SCHEMA.exists() or SCHEMA.read_text(encoding="utf-8") != schema():
        found.append(f"{SCHEMA.name} is not the schema of today's API")
    if not STAMP.exists() or STAMP.read_text(encoding="utf-8") != sources():
        found.append("the built pages are not those of today's sources")
    return found


def run(*words: str) -> None:
    """npm, in this directory."""
    subprocess.run(["npm", *words], cwd=HERE, check=True)


def main(words: list[str]) -> int:
    if words == ["--check"]:
        found = stale()
        print("\n".join(f"{what}: run `make web` and commit." for what in found) or "The built pages are up to date.")
        return bool(found)
    if shutil.which("npm") is None:
        print("Building the pages needs Node 20 or later, with npm. Using Assay does not.")
        return 2
    if not (HERE / "node_modules").exists():
        run("ci", "--no-audit", "--no-fund")
    SCHEMA.write_text(schema(), encoding="utf-8")
    run("run", "--silent", "types")
    if words == ["--types"]:
        return 0
    run("run", "--silent", "check")
    run("test", "--silent")
    run("run", "--silent", "build")
    run("run", "--silent", "build", "--", "--mode", "single")
    STAMP.write_text(sources(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
