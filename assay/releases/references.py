"""references: from what a person writes to a coder's files: RELEASE/ID, hf:owner/name/path[@revision], or a path on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.errors import BadInput, MissingFile
from assay.releases import catalogue
from assay.releases.hub import safe, source

if TYPE_CHECKING:
    from assay.coders.base import SparseCoder

HUB = "hf:"
WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")
EXTRA = re.compile(r"(sparsity|optimizer|lr_scheduler|trainer_state|activations_store_state|rank_\d+_state|state)(?:[._].*)?")
"""Names of files with numbers that are no coder's."""
COMPANION = re.compile(
    r"(cfg|config|hyperparams|eval_results|results|conf|final_config|manifest)\.(json|yaml|yml)|.*_eval_results\.json"
)
MOST = 8  # names in a message


@dataclass(frozen=True, kw_only=True)
class Located:
    """A coder's files on this machine, and what is known of them beside what they say."""

    path: Path
    """Directory or file, to be read."""
    origin: dict[str, Any] = field(default_factory=dict)
    """repo, revision, and the release's reference; empty for a path."""
    about: dict[str, Any] = field(default_factory=dict)
    """Model and site, where the files may not say."""
    scale: float | None = None
    l0: float | None = None
    """As the release says."""
    note: str | None = None
    beside: tuple[Path, ...] = ()
    """Files that are no part of the coder: results."""

    @property
    def ref(self) -> str:
        """Where it is from, in one word."""
        return self.origin.get("reference") or str(self.path)


def named(ref: str) -> bool:
    """Whether a text is meant as a reference to a release or a repository, rather than as a path or a name in a store."""
    return ref.startswith(HUB) or ("/" in ref and catalogue.known(ref.partition("/")[0]))


def locate(ref: str | Path, mirror: str | Path | None = None) -> Located:
    """A coder's files, fetched where they are not here. `mirror`: a directory with owner/name/…, instead of the hub."""
    text = str(ref)
    if isinstance(ref, Path) or Path(text).exists() or not named(text):
        path = Path(text).expanduser()
        if not path.exists():
            raise MissingFile(
                f"{text} does not exist, and names no release. Give a path, RELEASE/ID from `assay list releases`, or hf:owner/name/path."
            )
        return Located(path=path, beside=_results(path if path.is_dir() else path.parent))
    return _from_hub(text, mirror) if text.startswith(HUB) else _from_release(catalogue.find(text), mirror)


def read(
    located: Located, dialect: str | None = None, *, scale: Any = None, k: int | None = None, layer: int | None = None
) -> tuple[SparseCoder[Any], dict[str, Any]]:
    """The coder, and what its files and its release say of it; what the files say counts more. Under `imported`, where it is from."""
    from assay import formats
    from assay.store import file_hash

    hints = {"k": k, "layer": layer, "scale": located.scale if scale is None else scale}
    coder, said = formats.read(located.path, dialect, **hints)
    if "imported" not in said:
        files = {name: file_hash(located.path / name) for name in ("config.json", "weights.safetensors")}
        said = said | {"imported": {"format": formats.NATIVE, "files": files, "notes": []}}
    notes = [n for n in said["imported"]["notes"] if "--model" not in n or "model" not in located.about]
    imported = said["imported"] | located.origin | {"notes": [*notes, *filter(None, [located.note])]}
    return coder, located.about | said | {"imported": imported}


def _from_release(entry: catalogue.Entry, mirror: str | Path | None) -> Located:
    here = source(entry.repo, None, mirror, entry.url and f"{entry.url}/{entry.path}")
    paths = here.get(entry.needed, entry.beside)
    about: dict[str, Any] = {"model": {"name": entry.model}}
    if entry.site and "." in entry.site and entry.predicts is None:
        about["site"] = entry.site
    return Located(
        path=_place(paths[0], entry.needed[0], entry.path), about=about, scale=entry.scale, l0=entry.l0, note=entry.note,
        origin={"reference": entry.ref, "repo": entry.repo, "revision": here.revision}, beside=_among(paths),
    )  # fmt: skip


def _from_hub(ref: str, mirror: str | Path | None) -> Located:
    """hf:owner/name/path/in/it@revision, where the path may be missing."""
    whole, _, revision = ref.removeprefix(HUB).lstrip("/").partition("@")
    parts = whole.strip("/").split("/")
    if len(parts) < 2:
        raise BadInput(
            f"{ref!r} names no repository. Write hf:owner/name, with /path/in/it and @revision where they are needed."
        )
    repo, path = "/".join(parts[:2]), "/".join(parts[2:])
    here = source(repo, revision or None, mirror)
    names = here.listing(safe(path) if path else "")
    weights = _weights(names, path, ref)
    above = {weights.rpartition("/")[0], path, path.rpartition("/")[0]}
    around = names if path and path != weights else [*names, *_siblings(here, weights)]
    beside = [n for n in around if n.rpartition("/")[0] in above and COMPANION.fullmatch(n.rpartition("/")[2])]
    if path and path != weights:
        beside += [f"{path.rpartition('/')[0]}/{name}".lstrip("/") for name in ("config.json", "config.yaml")]
    twin = weights.replace("W_enc_", "W_dec_")  # of a layer of a cross-layer transcoder
    paths = here.get([weights, *({twin} & set(around) - {weights})], list(dict.fromkeys(beside)))
    origin = {"reference": ref, "repo": repo, "revision": here.revision}
    return Located(path=_place(paths[0], weights, path), origin=origin, beside=_among(paths))


def _siblings(here: Any, weights: str) -> list[str]:
    """Companions of a file that was named itself."""
    folder = weights.rpartition("/")[0]
    names = here.listing(folder)
    return [n for n in names if n.rpartition("/")[0] == folder]


def _weights(names: Sequence[str], path: str, ref: str) -> str:
    """The one file of weights among names."""
    found = [n for n in names if n.endswith(WEIGHTS) and not EXTRA.fullmatch(n.rpartition("/")[2])]
    if len(found) == 1:
        return found[0]
    if not found:
        there = ", ".join(names[:MOST]) or "nothing"
        raise MissingFile(f"{ref} holds no coder: no file ends in {', '.join(WEIGHTS)}. There: {there}.")
    some = ", ".join(found[:MOST]) + (" …" if len(found) > MOST else "")
    raise BadInput(f"{ref} holds {len(found)} files of weights. Name one coder's directory or file: {some}.")


def _place(file: Path, name: str, path: str) -> Path:
    """The path of a repository on this machine, from that of a file in it."""
    for _ in range(name.count("/") + 1 - (path.count("/") + 1 if path else 0)):
        file = file.parent
    return file


def _among(paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(p for p in paths if _is_results(p))


def _results(directory: Path) -> tuple[Path, ...]:
    return tuple(sorted(p for p in directory.glob("*.json") if _is_results(p)))


def _is_results(path: Path) -> bool:
    return path.name in ("eval_results.json", "results.json") or path.name.endswith("_eval_results.json")
