"""Folder: a package directory as a registry. File name = key, first docstring line = summary, one public class a file.

Nothing is imported to list names, summaries or settings: they are read from the source text, so the command line stays fast.
Other packages add entries through an entry-point group of the folder's name ("assay.coders", "assay.evals", …).
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, make_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from assay.errors import UnknownName

NOT_ENTRIES = {"__init__", "base"}
TYPES = {"int": int, "float": float, "str": str, "bool": bool, "Literal": Literal, "tuple": tuple, "None": None}


@dataclass(frozen=True)
class Setting:
    """One field of a configuration: what `--help`, the docs and the command line know of it."""

    name: str
    type: Any
    default: Any
    doc: str

    @property
    def required(self) -> bool:
        return self.default is MISSING


class Folder:
    """The entries of a package directory, e.g. `Folder("assay.coders", "architecture")`.

    An entry whose module assigns `TAG = "baseline"` is listed by `names(tag="baseline")`. `also` names the folder's other modules.
    """

    def __init__(self, package: str, noun: str, *, also: tuple[str, ...] = ()):
        self.package = package
        self.noun = noun
        self.also = set(also)

    @cached_property
    def home(self) -> Path:
        """The package's directory."""
        spec = importlib.util.find_spec(self.package)
        assert spec is not None and spec.submodule_search_locations, f"{self.package} is not a package"
        return Path(next(iter(spec.submodule_search_locations)))

    @cached_property
    def files(self) -> dict[str, Path]:
        """Source file of each entry, by key."""
        keys = (p for p in sorted(self.home.glob("*.py")) if p.stem not in NOT_ENTRIES | self.also)
        found = {p.stem: p for p in keys if not p.stem.startswith("_")}
        for name, point in self._points.items():
            other = importlib.util.find_spec(point.value.split(":")[0])
            if other is not None and other.origin:
                found[name] = Path(other.origin)
        return found

    @cached_property
    def _points(self) -> dict[str, importlib.metadata.EntryPoint]:
        """What other packages add; looked up once, since that reads the metadata of every installed package."""
        return {point.name: point for point in importlib.metadata.entry_points(group=self.package)}

    def names(self, tag: str | None = None) -> list[str]:
        """All keys, or those whose module says `TAG = tag`."""
        return [key for key in self.files if tag is None or constant(self.files[key], "TAG") == tag]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __contains__(self, key: object) -> bool:
        return key in self.files

    def _path(self, key: str) -> Path:
        if key not in self.files:
            raise UnknownName.among(self.noun, key, self.files)
        return self.files[key]

    def summary(self, key: str) -> str:
        """First line of the module's docstring."""
        return self.doc(key).split("\n")[0]

    def doc(self, key: str) -> str:
        """The whole docstring of the module."""
        return docstring(self._path(key))

    def settings(self, key: str) -> list[Setting]:
        """Fields of the entry's configuration class (the one whose name ends in `Config`), bases first."""
        path = self._path(key)
        config = next((c for c in classes(path) if c.name.endswith("Config")), None)
        base = self.home / "base.py"
        known = {c.name: c for p in (base, path) if p.exists() for c in classes(p)}
        if config is None:  # the entry adds nothing to the folder's base configuration
            config = next((c for c in classes(base) if c.name.endswith("Config")), None) if base.exists() else None
        return _fields(config, known) if config else []

    def presets(self, key: str) -> dict[str, dict[str, Any]]:
        """Named settings of an entry: its module's `PRESETS = {"paper": {"tokens": 409_600}, …}`."""
        return constant(self._path(key), "PRESETS") or {}

    def load(self, key: str) -> Any:
        """The entry's public class. This is what imports."""
        path = self._path(key)
        if key in self._points:
            found = self._points[key].load()
            return _public_class(found) if hasattr(found, "__path__") or not isinstance(found, type) else found
        return _public_class(importlib.import_module(f"{self.package}.{path.stem}"))


def _public_class(module: Any) -> Any:
    own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    public = [c for c in own if not c.__name__.startswith("_") and not c.__name__.endswith("Config")]
    marked = [c for c in public if hasattr(c, "Config")] or public
    assert len(marked) == 1, f"{module.__name__} must hold one public class, found {[c.__name__ for c in public]}"
    return marked[0]


@cache
def tree(path: Path) -> ast.Module:
    """Parsed source of a file, read once."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def docstring(path: Path) -> str:
    """Docstring of a source file. Where triple quotes open the file only they are parsed: help shows many of these."""
    text = path.read_text(encoding="utf-8")
    opening = text.split('"""', 2)
    if len(opening) == 3 and not opening[0]:
        return inspect.cleandoc(ast.literal_eval(f'"""{opening[1]}"""')).strip()
    return (ast.get_docstring(tree(path)) or "").strip()


def classes(path: Path) -> list[ast.ClassDef]:
    """Top-level classes of a file, as source."""
    return [node for node in tree(path).body if isinstance(node, ast.ClassDef)]


def constant(path: Path, name: str) -> Any:
    """Value of a top-level literal assignment `name = …`, or None."""
    for node in tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(t, ast.Name) and t.id == name for t in targets) and node.value is not None:  # type: ignore[union-attr]
            return ast.literal_eval(node.value)  # type: ignore[union-attr]
    return None


def settings(path: Path, name: str) -> list[Setting]:
    """Fields of the dataclass `name` in a source file, without importing it."""
    known = {c.name: c for c in classes(path)}
    return _fields(known[name], known)


def _fields(node: ast.ClassDef, known: dict[str, ast.ClassDef]) -> list[Setting]:
    found: dict[str, Setting] = {}
    for base in node.bases:
        name = ast.unparse(base).split("[")[0]
        if name in known:
            found |= {s.name: s for s in _fields(known[name], known)}
    for i, item in enumerate(node.body):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        after = node.body[i + 1] if i + 1 < len(node.body) else None
        is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
        doc = " ".join(str(after.value.value).split()) if is_doc else ""  # type: ignore[union-attr]
        if "ClassVar" in ast.unparse(item.annotation):
            continue
        kind = eval(ast.unparse(item.annotation), {"__builtins__": {}}, dict(TYPES))  # our own source, a closed vocabulary
        default = MISSING if item.value is None else ast.literal_eval(item.value)
        found[item.target.id] = Setting(item.target.id, kind, default, doc)
    return list(found.values())


def as_dataclass(name: str, rows: list[Setting], annotate: Any = None) -> type:
    """A stand-in dataclass with the same fields as `rows`; `annotate(setting)` may decorate each type."""
    spec = []
    for s in rows:
        kind = annotate(s) if annotate else s.type
        spec.append((s.name, kind) if s.required else (s.name, kind, field(default=s.default)))
    return make_dataclass(name, spec, kw_only=True, frozen=True)


CODERS = Folder("assay.coders", "architecture", also=("composed", "dictionary", "latents", "linear", "losses"))
EVALS = Folder("assay.evals", "eval", also=("needs",))
CORPORA = Folder("assay.corpora", "corpus", also=("pack", "rows", "documents", "local", "prompt"))
FORMATS = Folder("assay.formats", "format", also=("building", "files", "plain", "torch_zip"))
