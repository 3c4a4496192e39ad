"""Writes assay/formats/saebench/schemas.json from a copy of sae-bench: its JSON Schemas without titles, descriptions and defaults.

python -m pip download --no-deps --no-binary :all: sae-bench==0.6.0
python tests/equivalence/saebench_schemas.py sae_bench-0.6.0.tar.gz
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "assay/formats/saebench/schemas.json"
PREFIX = "eval_output_schema_"
KEPT = ("type", "properties", "required", "items", "anyOf", "$ref", "$defs", "additionalProperties")


def bare(schema: Any) -> Any:
    """A schema without what does not constrain."""
    if isinstance(schema, list):
        return [bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key in (k for k in KEPT if k in schema):
        inner = schema[key]
        named = key in ("properties", "$defs")
        found[key] = (
            {name: bare(part) for name, part in inner.items()} if named else inner if key == "required" else bare(inner)
        )
    return found


def read(archive: Path) -> dict[str, Any]:
    """The bare schemas of a source archive, by `eval_type_id`."""
    with tarfile.open(archive) as tar:
        files = {Path(m.name).name: m for m in tar.getmembers() if m.name.endswith(".json") and PREFIX in m.name}
        return {
            name.removeprefix(PREFIX).removesuffix(".json"): bare(json.load(tar.extractfile(member)))  # type: ignore[arg-type]
            for name, member in sorted(files.items())
        }


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(schema)}" for name, schema in read(Path(sys.argv[1])).items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
