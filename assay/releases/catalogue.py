"""catalogue: releases of coders, as rules in catalogue.toml, unrolled into the coders that they name.

A coder of a release is written RELEASE/ID, for example gemma-scope-2b-pt-res/layer_12/width_16k/canonical.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import inf, log2
from pathlib import Path
from typing import Any

from assay import codec
from assay.errors import BadInput, UnknownName

FILE = Path(__file__).with_name("catalogue.toml")
CANONICAL = 100  # the L0 that canonical coders are closest to; of two as close the sparser, or the one that a * marks
NEAR = 0.05  # a width that is so close to a power of two is one: 65k is 65536, 1m is 1048576
RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One coder of a release."""

    release: str
    id: str
    repo: str
    path: str
    """From the repository's root: its directory, or its file."""
    format: str
    model: str
    site: str | None
    predicts: str | None
    """The site that a transcoder predicts."""
    layer: int | None
    d_sae: int | None
    l0: float | None
    """As the release says; None where we do not know."""
    scale: float | None
    """Activations times this are what the weights read."""
    note: str | None
    url: str | None
    """Where it lies instead of on the hub."""
    also: tuple[str, ...] = ()
    """Other ids of it."""

    @property
    def ref(self) -> str:
        """What a person types."""
        return f"{self.release}/{self.id}"

    @property
    def needed(self) -> tuple[str, ...]:
        """Its files, from the repository's root."""
        return tuple(name for name, optional in files(self.format, self.path) if not optional)

    @property
    def beside(self) -> tuple[str, ...]:
        """Files that belong to it where they are there."""
        return tuple(name for name, optional in files(self.format, self.path) if optional)


def latents(width: str) -> int:
    """A width as releases write it: 16k is 16384, 65k 65536, 1m 1048576, 80k 81920, 24576 itself."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([km]?)", width.strip().lower())
    if found is None:
        raise BadInput(f"{width!r} is no width. Write e.g. 16k, 65k, 1m or 24576.")
    if not found[2]:
        return int(float(found[1]))
    size = float(found[1]) * 1000 ** " km".index(found[2])
    power = 2 ** round(log2(size))
    return power if abs(power / size - 1) < NEAR else int(float(found[1]) * 1024 ** " km".index(found[2]))


@cache
def layouts() -> dict[str, list[str]]:
    """Files of a coder of each format, as the catalogue has them."""
    return dict(_data()["layouts"])


def files(format: str, path: str) -> list[tuple[str, bool]]:
    """(file, from the repository's root, and whether it may be missing) of a coder of a format at a path."""
    return [(_file(name.removesuffix("?"), path), name.endswith("?")) for name in layouts()[format]]


def _file(name: str, path: str) -> str:
    old, arrow, new = name.partition(" -> ")
    if arrow:
        return path.replace(old, new)
    if name.startswith("../"):
        return "/".join(filter(None, (path.rpartition("/")[0], name[3:])))
    return path if name == "." else f"{path}/{name}"


def releases() -> list[str]:
    """Names of all releases."""
    return list(_specs())


def known(name: str) -> bool:
    """Whether a release has this name, or had it elsewhere."""
    return name in _specs() or name in _aliases()


def entries(release: str | None = None) -> Iterator[Entry]:
    """All coders, or those of one release. `UnknownName` where there is no such release."""
    if release is None:
        for name in releases():
            yield from entries(name)
        return
    name = _aliases().get(release, release)
    if name not in _specs():
        raise UnknownName.among("release", release, [*releases(), *_aliases()], more="`assay list releases` has them all.")
    for spec, row in _specs()[name]:
        found = [(_entry(name, spec, values), values) for values in _values(spec, row)]
        found = [(entry, values) for entry, values in found if entry.id not in spec.get("except", ())]
        yield from _named(found, spec["canonical"]) if spec.get("canonical") else (entry for entry, _ in found)


def find(ref: str) -> Entry:
    """The coder that RELEASE/ID names. `UnknownName` says which ids there are."""
    release, _, wanted = ref.partition("/")
    wanted = wanted.strip("/")
    there = list(entries(release))
    for entry in there:
        if wanted in (entry.id, *entry.also):
            return entry
        if "*" in entry.id and (found := re.fullmatch(re.escape(entry.id).replace(r"\*", r"(\d{1,3})"), wanted)):
            return _numbered(entry, found[1])
    ids = [name for entry in there for name in (*entry.also, entry.id)]
    close = sorted(ids, key=lambda name: _alike(name, wanted), reverse=True)[:3]
    raise UnknownName(
        f"{release} has no coder named {wanted!r}. Closest: {', '.join(close)}. `assay list releases {release} --all` lists them."
    )


def _alike(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def search(
    name: str | None = None, *, model: str | None = None, layer: int | None = None, site: str | None = None,
    width: str | None = None, l0: tuple[float, float] | None = None,
) -> list[Entry]:  # fmt: skip
    """Coders for which all that is given holds. `name`: part of a release's or a repository's name. `model`: hub id, or its last part. `site`: a kind,
    or a site of one layer, read or predicted. `l0`: from and to; coders whose L0 is not known are left out. `UnknownName` for a name or a
    model that no release has."""
    wide = None if width is None else latents(width)
    low, high = l0 or (-inf, inf)

    def fits(e: Entry) -> bool:
        return (
            (model is None or model.lower() in _names_of(e.model.lower()))
            and (layer is None or e.layer == layer or "*" in e.id)
            and (site is None or any(p in (site, f"{site}.{e.layer}") for p in (e.site, e.predicts)))
            and (wide is None or e.d_sae == wide)
            and (l0 is None or (e.l0 is not None and low <= e.l0 <= high))
        )

    word = (name or "").lower()
    named = [r for r in releases() if not word or any(word in text.lower() for text in (r, _repo(r), _aliases_of(r)))]
    if not named:
        raise UnknownName.among("release", str(name), releases())
    if model is not None and model.lower() not in (n.lower() for m in models() for n in _names_of(m)):
        there = {_names_of(m)["/" not in model] for m in models()}
        raise UnknownName.among(
            "model with coders", model, there, more="`assay list releases` says which model each release is for."
        )
    return [e for r in named for e in entries(r) if fits(e)]


def models() -> list[str]:
    """Hub ids of all models that coders are for."""
    every = ((spec.get("model", row.get("model")), row) for specs in _specs().values() for spec, row in specs)
    return list(dict.fromkeys(model.format_map(row) for model, row in every))


def _names_of(model: str) -> tuple[str, str]:
    """What a model may be called: its hub id, or the last part of it."""
    return model, model.rpartition("/")[2]


def _repo(release: str) -> str:
    spec, row = _specs()[release][0]
    return spec["repo"].format_map(row)


def _aliases_of(release: str) -> str:
    return " ".join(alias for alias, name in _aliases().items() if name == release)


# ---- rules -----------------------------------------------------------------------------------------------------------------------

Spec = Mapping[str, Any]
Row = Mapping[str, Any]
Values = Mapping[str, Any]


@cache
def _data() -> dict[str, Any]:
    return codec.read_toml(FILE)


@cache
def _specs() -> dict[str, list[tuple[Spec, Row]]]:
    """By release: its rules, each with the row that it is repeated for."""
    found: dict[str, list[tuple[Spec, Row]]] = {}
    for release in _data()["release"]:
        base = {key: value for key, value in release.items() if key != "part"}
        for row in _data()["rows"][base["each"]] if "each" in base else [{}]:
            for part in release.get("part", [{}]):
                spec = base | part
                if row.get("as") not in spec.get("without", ()) and row.get("as") in spec.get("only", (row.get("as"),)):
                    found.setdefault(spec["name"].format_map(row), []).append((spec, row))
    return found


@cache
def _aliases() -> dict[str, str]:
    return {alias: name for name, specs in _specs().items() for alias in specs[0][0].get("aliases", ())}


def _values(spec: Spec, row: Row) -> Iterator[dict[str, str]]:
    """What stands in the braces, for one coder after another: the row, and one combination."""
    if "grid" in spec:
        for width, text in spec["grid"].items():
            for layer, _, l0s in (part.partition(":") for part in text.split(";")):
                for l0 in l0s.split():
                    yield {**row, "width": width, "layer": layer.strip(), "l0": l0.rstrip("*"), "chosen": l0[-1]}
        return
    over = {name: _words(text.format_map(row)) for name, text in spec["over"].items()}
    for combination in product(*over.values()):
        yield {**row, **dict(zip(over, combination))}


def _words(text: str) -> list[str]:
    """Words, ranges written out: "0-2 7" is 0, 1, 2 and 7."""
    found: list[str] = []
    for word in text.split():
        ends = RANGE.fullmatch(word)
        found += [str(i) for i in range(int(ends[1]), int(ends[2]) + 1)] if ends else [word]
    return found


def _entry(release: str, spec: Spec, values: Values) -> Entry:
    def text(key: str) -> str:
        template = spec.get(key, values.get(key))
        return template.format_map(values) if template else ""

    id_, width = text("id"), values["width"] if "{width}" in spec["id"] else text("width")
    number = str(values.get("layer", spec.get("layer", "")))
    return Entry(
        release=release, id=id_, repo=text("repo"), path=text("path") or id_, format=spec["format"], model=text("model"),
        site=_site(text("site"), number), predicts=_site(text("predicts"), number),
        layer=int(number) if number.isdecimal() else None, d_sae=latents(width) if width else None,
        l0=_l0(spec, values), scale=_one(spec, "scale", values), note=spec.get("note"), url=spec.get("url"),
        also=(text("also"),) if "also" in spec else (),
    )  # fmt: skip


def _site(kind: str, layer: str) -> str | None:
    """A site of ours; what is none has a dot or begins with hook_, and stays as it is."""
    return kind or None if "." in kind or kind.startswith("hook_") or not kind else f"{kind}.{layer}"


def _l0(spec: Spec, values: Values) -> float | None:
    if "ramp" in spec:
        low, high = spec["ramp"][values["variant"].split("_")[0]]
        return float(int(low + (high - low) * min(1.0, 3 * int(values["layer"]) / values["depth"])))
    if "l0" in values and "l0" not in spec:
        return float(values["l0"])
    return _one(spec, "l0", values)


def _one(spec: Spec, key: str, values: Values) -> float | None:
    """A number of a rule: one for all its coders, one for each layer, or the row's."""
    given = spec.get(key)
    if isinstance(given, list):
        given = given[_words(spec["over"]["layer"]).index(values["layer"])]
    elif isinstance(given, str):
        given = given.format_map(values)
    return None if given is None else float(given)


def _named(found: Sequence[tuple[Entry, Values]], canonical: str) -> Iterator[Entry]:
    """Entries of a grid; of each layer and width the canonical one has that id too."""
    best: dict[str, tuple[tuple[bool, float, float], Entry]] = {}
    for entry, values in found:
        name, l0 = canonical.format_map(values), entry.l0 or 0.0
        rank = values["chosen"] != "*", abs(l0 - CANONICAL), l0
        best[name] = min(best.get(name, (rank, entry)), (rank, entry), key=lambda pair: pair[0])
    names = {entry.id: name for name, (_, entry) in best.items()}
    for entry, _ in found:
        yield replace(entry, also=(*entry.also, names[entry.id])) if entry.id in names else entry


def _numbered(entry: Entry, number: str) -> Entry:
    """An entry of any layer, of this one."""

    def put(text: str | None) -> str | None:
        return text and text.replace("*", number)

    return replace(
        entry,
        id=put(entry.id) or "",
        path=put(entry.path) or "",
        site=put(entry.site),
        predicts=put(entry.predicts),
        layer=int(number),
    )
