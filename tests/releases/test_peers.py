"""The catalogue against SAELens' own, where ASSAY_PEERS names a Python that has it: names, repositories, paths and L0 to the letter."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter

import pytest

from assay.errors import UnknownName
from assay.releases import catalogue

PEERS = os.environ.get("ASSAY_PEERS")
READ = """
import importlib.util, json, pathlib, yaml
home = pathlib.Path(importlib.util.find_spec("sae_lens").submodule_search_locations[0])
data = yaml.load((home / "pretrained_saes.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
rows = [[r, v["repo_id"], s["id"], str(s["path"]), s.get("l0")] for r, v in data.items() for s in v["saes"]]
print(json.dumps(rows))
"""


@pytest.mark.skipif(not PEERS, reason="ASSAY_PEERS names no Python with SAELens")
def test_what_saelens_lists_is_here_to_the_letter():
    rows = json.loads(subprocess.run([str(PEERS), "-c", READ], check=True, capture_output=True, text=True).stdout)
    ours = {(name, id_): e for name in {r[0] for r in rows} for e in _entries(name) for id_ in (e.id, *e.also)}
    assert len(rows) == 13_857
    absent, different, alike = Counter(), [], 0
    for release, repo, id_, path, l0 in rows:
        e = ours.get((release, id_))
        if e is None:
            absent["checkpoint" if "_step_" in id_ else release] += 1
            continue
        alike += 1
        if (e.repo, e.path) != (repo, path) or l0 not in (None, e.l0):
            different.append((release, id_, l0, e.l0))
    assert alike == 13_304
    assert different == [("gemma-scope-9b-pt-res-canonical", "layer_20/width_524k/canonical", 78, 48.0)], "whose path says 48"
    assert absent.pop("checkpoint") == 504
    assert sum(absent.values()) == 49


def _entries(release: str) -> list[catalogue.Entry]:
    try:
        return list(catalogue.entries(release))
    except UnknownName:
        return []
