"""qwen_scope: Qwen Scope's TopK coders of Qwen 3: one file a layer, layerN.sae.pt; k, width and model stand in the release's name.

SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer12.sae.pt, also inside the hub's cache. Both matrices lie the other way round than in SAELens
(W_enc has one row a latent); b_dec is not taken off the input. Where the path does not say k, `k` has to. Read only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from assay.errors import BadInput, DamagedFile
from assay.formats import torch_zip
from assay.formats.base import Found, Hints, facts
from assay.formats.files import damage, taken
from assay.formats.plain import Plain

NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")
FILE = re.compile(r"layer(\d{1,3})\.sae\.pt")
RELEASE = re.compile(r"SAE-Res-([\w.-]+?)-W(\d+)K-L0_(\d+)")


def detect(path: Path) -> bool:
    return path.is_file() and FILE.fullmatch(path.name) is not None


def read(path: Path, hints: Hints) -> Found:
    state, layer = torch_zip.state_of(path), FILE.fullmatch(path.name)
    release = RELEASE.search(path.absolute().as_posix())
    k = hints.k if hints.k is not None else int(release[3][:9]) if release else None
    if k is None:
        raise BadInput(
            f"{path}: how many latents it keeps stands in the release's name, which this path has not. Say k= or --k."
        )
    given: dict[str, Any] = dict(zip(NAMES, taken(state, path, *NAMES)))
    dtype = given["W_enc"].dtype
    with damage(path):
        for name in ("W_enc", "W_dec"):
            given[name] = given[name].T
        plain = Plain.of(path, gate="topk", k=k, centred=False, **given)
    if release and int(release[2][:9]) * 1024 != plain.d_sae:
        raise DamagedFile(f"{path}: its release has {int(release[2][:9]) * 1024} latents, the file {plain.d_sae}.")
    about = facts(model=release[1] if release else None, reads=f"resid_post.{layer[1]}" if layer else None)
    notes = () if release else ("its path names no release, so the model is not known: say --model",)
    return Found(plain=plain, files=(path,), dtype=dtype, about=about, notes=notes)
