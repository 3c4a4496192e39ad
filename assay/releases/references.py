"""references: from what a person writes to a coder's files: RELEASE/ID, hf:owner/name/path[@revision], or a path on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.errors import BadInput, MissingFile
from assay.releases import catalogue
from assay.releases.hub import safe, source
from assay.store import Store, file_hash

if TYPE_CHECKING:
    from assay.coders.base import SparseCoder

HUB = "hf:"
WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")
MAIN = (
    "weights.safetensors", "sae_weights.safetensors", "sae_weights.pt", "sae.safetensors", "params.safetensors", "params.npz",
    "ae.pt", "sae.pt", "cc_weights.pt",
)  # fmt: skip
"""What formats call the weights, where they have one name for them. Beside such a file others are no coder's."""
EXTRA = re.compile(
    r"(sparsity|optimizer|lr_scheduler|trainer_state|activations_store_state|activation_whitening|rank_\d+_state|state)(?:[._].*)?"
)
"""Names of files with numbers that are no coder's."""
COMPANION = re.compile(
    r"(cfg|config|lm_config|hyperparams|activation_scaler|eval_results|results|conf|final_config|manifest)\.(json|yaml|yml)"
    r"|activation_whitening\.safetensors|.*_eval_results\.json"
)
"""What lies beside weights and belongs to them."""
ABOVE = {"sae.safetensors": ("config.json", 3), "final.safetensors": ("hyperparams.json", 1)}
"""By the name of the weights: what belongs to them in a directory above theirs, and how many may lie between."""
MOST = 8  # names in a message


@dataclass(frozen=True, kw_only=True)
class Located:
    """A coder's files on this machine, and what is known of them beside what they say."""

    path: Path
    """Directory or file, to be read."""
    stored: str | None = None
    """Its name, where it is of the store."""
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

    @property
    def name(self) -> str:
        """What results call it: its name in the store; else its directory, with the file where that was named; or its reference."""
        if self.stored:
            return self.stored
        here = Path(os.path.abspath(self.path))
        said = self.origin.get("reference", "").removeprefix(HUB)
        said = said or (f"{here.parent.name}-{here.stem}" if here.is_file() else here.name)
        return re.sub(r"[^\w.+=-]+", "-", said, flags=re.ASCII).lstrip(".-")[-200:]


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


def find(ref: str, home: str | Path, mirror: str | Path | None = None) -> Located:
    """As `locate`; but a coder's name in the store at `home`, where there is one, counts before a path without a slash."""
    home, there = Path(home).expanduser(), Path(ref).exists()
    if os.sep in ref or named(ref):
        return locate(ref, mirror)
    if (home / "store.toml").is_file():
        store = Store(home, create=False)
        if ref in store.names("coders") or not there:
            return Located(path=store.find("coders", ref), stored=ref)
    if not there:
        raise MissingFile(
            f"There is no {ref!r}: it is no path, and {home} is no store that could have a coder of this name. Give a path, --store or "
            "store=, RELEASE/ID from `assay list releases`, or hf:owner/name/path."
        )
    return locate(ref, mirror)


def hints(located: Located, dialect: str | None, *, scale: Any, k: int | None, layer: int | None) -> dict[str, Any]:
    """What a person says of what files may leave open, and else the release. Our own leave nothing open."""
    from assay import formats

    said = {"scale": scale, "k": k, "layer": layer}
    given = [f"{name}={value}" for name, value in said.items() if value is not None]
    if given and dialect in (None, formats.NATIVE) and formats.known(located.path) == [formats.NATIVE]:
        raise BadInput(
            f"{located.name} is in Assay's own format, which leaves nothing open; got {', '.join(given)}. That is said where files of other "
            "libraries are read: of a coder in the store, where it is imported again, with --again always."
        )
    return said | {"scale": located.scale if scale is None else scale}


def read(
    located: Located, dialect: str | None = None, *, scale: Any = None, k: int | None = None, layer: int | None = None
) -> tuple[SparseCoder[Any], dict[str, Any]]:
    """The coder, and what its files and its release say of it; what the files say counts more. Under `imported`, where it is from,
    and what a person said that the files left open. Of our own coders on this machine, all is as it is in the manifest."""
    from assay import formats

    coder, said = formats.read(located.path, dialect, **hints(located, dialect, scale=scale, k=k, layer=layer))
    if "imported" not in said and not located.origin:
        return coder, said
    if "imported" not in said:
        files = {name: file_hash(located.path / name) for name in ("config.json", "weights.safetensors")}
        said = said | {"imported": {"format": formats.NATIVE, "files": files, "notes": []}}
    notes = [n for n in said["imported"]["notes"] if "--model" not in n or "model" not in located.about]
    imported = said["imported"] | {name: n for name, n in (("k", k), ("layer", layer)) if n is not None} | located.origin
    imported |= {"notes": [*notes, *filter(None, [located.note])]}
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
    around = names if path != weights else [*names, *_siblings(here, weights)]
    twin = weights.replace("W_enc_", "W_dec_")  # of a layer of a cross-layer transcoder
    paths = here.get([weights, *({twin} & set(around) - {weights})], _beside(around, weights, path))
    origin = {"reference": ref, "repo": repo, "revision": here.revision}
    return Located(path=_place(paths[0], weights, path), origin=origin, beside=_among(paths))


def _siblings(here: Any, weights: str) -> list[str]:
    """Companions of a file that was named itself."""
    folder = weights.rpartition("/")[0]
    names = here.listing(folder)
    return [n for n in names if n.rpartition("/")[0] == folder]


def _beside(names: Sequence[str], weights: str, path: str) -> list[str]:
    """What belongs to a file of weights: among names, and in directories above, where it may be missing."""
    folder, _, file = weights.rpartition("/")
    own = f"{file.rpartition('.')[0]}_cfg.json"  # of a crosscoder as training leaves it
    split = [(n.rpartition("/")[0], n.rpartition("/")[2], n) for n in names]
    found = [n for home, name, n in split if home in (folder, path) and (COMPANION.fullmatch(name) or name == own)]
    wanted, levels = ABOVE.get(file, ("", 0))
    parts = folder.split("/") if folder else []
    found += ["/".join([*parts[: len(parts) - up], wanted]) for up in range(1, min(levels, len(parts)) + 1)]
    return list(dict.fromkeys(found))


def _weights(names: Sequence[str], path: str, ref: str) -> str:
    """The one file of weights among names: as formats look for it, in the directory itself first, and by the name that it has there."""
    from assay.formats.e2e_sae import SAMPLES

    found = [n for n in names if n.endswith(WEIGHTS) and not EXTRA.fullmatch(n.rpartition("/")[2])]
    found = [n for n in found if n.rpartition("/")[0] == path] or found
    found = [n for n in found if "W_dec_" not in n or n.replace("W_dec_", "W_enc_") not in found]
    if len(found) > 1:
        files = [n.rpartition("/")[2] for n in found]
        samples = [int(one[1]) if (one := SAMPLES.fullmatch(file)) else -1 for file in files]
        if min(samples) >= 0 and len({n.rpartition("/")[0] for n in found}) == 1:
            return found[samples.index(max(samples))]  # of one training the longest, as its dialect has it
        found = [n for n, file in zip(found, files) if file in MAIN] or found
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
