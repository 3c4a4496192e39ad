"""Formats: one dialect of coder file a module. `native` is our own; `load` opens all of them, by what the files hold."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import registry
from assay.errors import BadInput, MissingFile, UnknownName

if TYPE_CHECKING:
    import torch

    from assay.coders.base import SparseCoder
    from assay.formats.base import Dialect

NATIVE = "native"
Scale = float | Sequence[float] | None


def dialects() -> list[str]:
    """Names of the dialects of other libraries."""
    return [name for name in registry.FORMATS if name != NATIVE]


def dialect(name: str) -> Dialect:
    """The module of a dialect."""
    if name not in dialects():
        raise UnknownName.among("format", name, dialects())
    return importlib.import_module(f"assay.formats.{name}")  # type: ignore[return-value]


def known(path: Path) -> list[str]:
    """The formats that a directory or file may be of, `native` included."""
    if (path / "config.json").is_file() and (path / "weights.safetensors").is_file():
        return [NATIVE]
    found = [name for name in dialects() if dialect(name).detect(path)]
    return found or ([NATIVE] if (path / "config.json").is_file() else [])


def detect(path: Path) -> str:
    """The format of a directory or file, or an error that says what would have been known."""
    if not path.exists():
        raise MissingFile(f"{path} does not exist.")
    found = known(path)
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"{path} may be of several formats: {', '.join(found)}. Say which, by dialect= or --format.")
    if path.is_dir() and {p.name for p in path.iterdir()} == {"manifest.json"}:
        raise BadInput(
            f"{path.name} has no weights here: it was taken from an export of its pages (assay dashboards import). They can be looked at; "
            "to run it, import its weights under another name."
        )
    there = ", ".join(sorted(p.name for p in path.iterdir())[:12]) if path.is_dir() else "a file"
    raise BadInput(
        f"{path} is a coder of no known format ({there or 'an empty directory'}). Known: {', '.join(dialects())}, and Assay's own. "
        "See the page on formats for the files of each."
    )


def read(
    path: Path, name: str | None = None, *, scale: Scale = None, k: int | None = None, layer: int | None = None
) -> tuple[SparseCoder[Any], dict[str, Any]]:
    """The coder in files of any dialect, and what they say: model, site, and under `imported` where it is from."""
    from assay.formats import building, native
    from assay.formats.base import Hints
    from assay.store import file_hash

    name = name or detect(path)
    if name == NATIVE:
        return native.read(path), native.about(path)
    found = dialect(name).read(path, Hints(scale=scale, k=k, layer=layer))
    about, plain, scaled = found.about, found.plain, found.scaled
    origin = {
        "format": name, "path": str(path), "files": {file.name: file_hash(file) for file in found.files}, "version": found.version,
        "dtype": str(found.dtype).removeprefix("torch."), "notes": list(found.notes),
    }  # fmt: skip
    plain = found.plain
    del found  # what holds a coder's numbers is let go as soon as another does: there are at most two
    if scale is not None:
        origin["scale"] = scale
        plain = plain if scaled else plain.with_scale(scale)
    return building.coder(plain), {**about, "imported": origin}


def load(
    path: str | Path, dialect: str | None = None, *, scale: Scale = None, k: int | None = None, layer: int | None = None
) -> SparseCoder[Any]:
    """The coder in files of any dialect, found out from the files unless it is said.

    `scale`: what activations were multiplied by in training, where the files say that they were but not by what; of a crosscoder one
    number, or one a site. `k`: latents kept a token, where neither the files nor their path say it. `layer`: which one, where a file
    holds several.
    """
    return read(Path(path), dialect, scale=scale, k=k, layer=layer)[0]


def write(
    coder: SparseCoder[Any],
    directory: Path,
    name: str,
    about: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> list[str]:
    """Write a coder in a dialect; what got lost, in words. Number type: as it was imported, else float32."""
    import torch

    from assay.formats import base, building, native

    about = about or {}
    if name == NATIVE:
        native.write(coder, directory, dict(about))
        return []
    module = dialect(name)
    if not hasattr(module, "write"):
        raise BadInput(
            f"{name} is read, but not written. Written: {', '.join(n for n in dialects() if hasattr(dialect(n), 'write'))}."
        )
    said = getattr(torch, str((about.get("imported") or {}).get("dtype")), None)
    kept = said if isinstance(said, torch.dtype) else torch.float32
    plain, takes = building.plain(coder), getattr(module, "TAKES", ())
    if plain.widths and "sites" not in takes:
        raise BadInput(
            f"{name} has no crosscoders. Export to crosscoder or llamascopium, or each site's coder: Crosscoder.site."
        )
    if plain.gate == "matching_pursuit" and "pursuit" not in takes:
        raise BadInput(f"{name} has no matching pursuit. Export to saelens.")
    lost = []
    if plain.weighed and "weighed" not in takes:
        lost, plain = base.resized(plain.W_dec.norm(dim=1)), plain.unweighed()
    return [*lost, *module.write(plain, directory, about, dtype or kept)]
