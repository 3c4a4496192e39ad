"""upload: a coder of the store as files for the hub: weights in a format, results.json, a model card; and the way there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import codec, formats
from assay.errors import BadInput
from assay.releases.card import Subject, card, shared
from assay.releases.hub import REPO, endpoint, hub_errors, safe
from assay.results import Record
from assay.store import file_hash, write_atomic

if TYPE_CHECKING:
    import torch

    from assay.coders.base import SparseCoder

CARD, RESULTS = "README.md", "results.json"
LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+ -]{0,60}")


def prepare(
    directory: Path, coder: SparseCoder[Any], name: str, manifest: Mapping[str, Any], records: Sequence[Record], repo: str, *,
    format: str = formats.NATIVE, licence: str | None = None, path: str = "", dtype: torch.dtype | None = None,
) -> list[str]:  # fmt: skip
    """Write all files of a coder that are to go to `repo`; what its format cannot keep, in words.

    Nothing of this machine goes along: of paths in manifests and records only the last part is kept.
    """
    if not REPO.fullmatch(repo):
        raise BadInput(f"{repo!r} names no repository. Write owner/name.")
    if licence is not None and not LICENCE.fullmatch(licence):
        raise BadInput(f"{licence!r} is no licence's name. Write e.g. mit, apache-2.0, cc-by-4.0.")
    if path:
        safe(path)
    about = shared(dict(manifest["about"]))
    if text := about.get("text"):
        about["packing"] = {fact: text[fact] for fact in ("context", "bos") if fact in text}
    kept = (
        {fact: about[fact] for fact in ("model", "site", "packing") if about.get(fact)} if format == formats.NATIVE else about
    )
    lost = formats.write(coder, directory, format, kept, dtype)
    if records:
        write_atomic(directory / RESULTS, codec.to_json({"records": [codec.to_data(_bare(r)) for r in records]}) + "\n")
    files = {
        p.relative_to(directory).as_posix(): {"sha256": file_hash(p), "bytes": p.stat().st_size}
        for p in sorted(directory.rglob("*")) if p.is_file() and p.name != CARD
    }  # fmt: skip
    subject = Subject(
        name=name, repo=repo, path=path, format=format, licence=licence, records=records, files=files,
        manifest={"about": about, "made": manifest["made"]},
    )  # fmt: skip
    write_atomic(directory / CARD, card(subject))
    return lost


def _bare(record: Record) -> Record:
    """A record without its numbers of single latents, and without paths."""
    details = {name: value for name, value in record.details.items() if name != "latents"}
    return replace(record, about=shared(record.about), config=shared(record.config), details=shared(details))


def push(directory: Path, repo: str, *, path: str = "", private: bool = False, message: str | None = None) -> str:
    """Upload a directory, into a repository that is made where there is none. The address of the commit."""
    from huggingface_hub import HfApi

    with hub_errors(repo):
        api = HfApi(endpoint=endpoint())
        api.create_repo(repo, exist_ok=True, private=private or None)
        done = api.upload_folder(
            repo_id=repo, folder_path=directory, path_in_repo=path or None, commit_message=message or f"Add {directory.name}"
        )
    return str(done.commit_url)
