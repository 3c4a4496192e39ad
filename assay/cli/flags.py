"""Flags: from the fields of configuration classes, read as source text, to the options of a command. Numbers as people write them."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter

import assay
from assay import registry
from assay.errors import BadInput

F = TypeVar("F", bound=Callable[..., None])
GROUPS = {name: Group(name, sort_key=i) for i, name in enumerate(("Coder", "Source", "Text", "Training", "Gathering"), 1)}
GENERAL = Group("General", sort_key=99)
SUFFIXES = {"": 0, "k": 1, "m": 2, "b": 3, "g": 3, "t": 4}
NUMBER = re.compile(r"(\d[\d_,]*(?:\.\d+)?(?:e\+?\d+)?)([kmbgt]?)", re.IGNORECASE)


def count(text: str) -> int:
    """A number of tokens or vectors: 4096, 500k, 1.5M, 2B, 1e9. k is 1000."""
    return _whole(text, 1000)


def width(text: str) -> int:
    """A number of latents: 4096, 16k, 1M. k is 1024, as the field writes widths: 16k = 16384."""
    return _whole(text, 1024)


def _whole(text: str, k: int) -> int:
    found = NUMBER.fullmatch(text.strip())
    if found:
        value = float(found[1].replace("_", "").replace(",", "")) * k ** SUFFIXES[found[2].lower()]
        if value == int(value):
            return int(value)
    raise BadInput(f"{text!r} is no whole number. Write e.g. 4096, 16k, 1.5M, 2B or 1e9.")


def short(value: int, k: int = 1000) -> str:
    """The shortest way to write a number that `count` (or, with k = 1024, `width`) reads back."""
    for suffix, power in (("B", 3), ("M", 2), ("k", 1)):
        if value and value % k**power == 0:
            return f"{value // k**power}{suffix}"
    return str(value)


def _number(read: Callable[[str], int], k: int, metavar: str) -> Parameter:
    return Parameter(
        converter=lambda kind, tokens: read(tokens[0].value),
        show_default=lambda value: None if value is None else short(value, k),
        metavar=metavar,
        n_tokens=1,
    )


COUNT, WIDTH = _number(count, 1000, "COUNT"), _number(width, 1024, "WIDTH")
Count = Annotated[int, COUNT]
Width = Annotated[int, WIDTH]


def large(name: str) -> Parameter | None:
    """How a setting is written that holds a large number: on the command line, and as text in run files."""
    if name == "d_sae":
        return WIDTH
    return COUNT if name == "dead_after" or name.endswith("tokens") else None


@Parameter(name="*", group=GENERAL)
@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes."""

    store: Annotated[Path | None, Parameter(env_var="ASSAY_STORE", metavar="DIRECTORY")] = None
    """Where everything is kept. Left out: ./assay-store."""
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Print one JSON document instead of tables; no progress."""
    quiet: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """No progress, no notes; results and errors only."""
    debug: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Show the traceback of an error."""

    @property
    def silent(self) -> bool:
        return self.json or self.quiet


@Parameter(name="*", group=GENERAL)
@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where numbers are computed. Part of no key and no file: it changes speed, not meaning."""

    device: Annotated[str, Parameter(metavar="DEVICE")] = "auto"
    """cpu, cuda, cuda:1, mps. auto: cuda where there is one, else cpu."""
    threads: Annotated[int | None, Parameter(metavar="N")] = None
    """CPU threads. Left out: what torch chooses."""

    def torch_device(self) -> str:
        """Set the threads and give the device's name. `BadInput` where there is no such device."""
        import torch

        if self.threads is not None:
            if self.threads < 1:
                raise BadInput(f"--threads is {self.threads}; at least 1 is needed.")
            torch.set_num_threads(self.threads)
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).split("\n")[0]
            raise BadInput(f"--device {self.device} cannot be used here ({reason}). Try cpu.") from None
        return self.device


AGAIN_HELP = "missing: do what is not done yet. always: do it anew, and replace. never: keep whatever is there."
Again = Literal["missing", "always", "never"]
AGAIN = Annotated[Again, Parameter(group=GENERAL, show_choices=False, help=AGAIN_HELP)]
COMMON, MACHINE = Common(), Machine()
"""The defaults, to stand in signatures."""


def about(doc: str | None) -> str:
    """Help of a command from its module's docstring `assay NAME: summary …`."""
    text = (doc or "").partition(": ")[2]
    return flowing(text[:1].upper() + text[1:])


def flowing(doc: str) -> str:
    """A docstring without the line breaks of its source, so that a terminal of any width can break its lines; examples stay."""
    parts = doc.split("\n\n")
    return "\n\n".join(part if "\n " in part else " ".join(part.split()) for part in parts)


def config(
    path: str,
    name: str,
    *,
    group: str,
    drop: Collection[str] = (),
    rename: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> list[inspect.Parameter]:
    """Options from the fields of the configuration class `name` in a source file of this package."""
    rows = registry.settings(Path(assay.__file__).parent / path, name)
    return options(rows, group=group, drop=drop, rename=rename, defaults=defaults)


def options(
    rows: Collection[registry.Setting],
    *,
    group: str,
    drop: Collection[str] = (),
    rename: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> list[inspect.Parameter]:
    """Options from settings. `rename` gives flags another name, `defaults` another default, `prefix` writes --PREFIX.NAME."""
    found = []
    for s in rows:
        if s.name in drop:
            continue
        flag = (rename or {}).get(s.name, s.name).replace("_", "-")
        flag = f"--{prefix}.{flag}" if prefix else f"--{flag}"
        name = f"{prefix}__{s.name}" if prefix else s.name
        marks = [mark for mark in (large(s.name),) if mark]
        default = (defaults or {}).get(s.name, inspect.Parameter.empty if s.required else s.default)
        place = GROUPS.get(group) or Group(group, sort_key=50)
        quiet: dict[str, Any] = {"show_default": False} if default in (None, (), False) else {}
        type_ = s.type | None if default is None and s.default is not None else s.type
        kind = Annotated[(type_, *marks, Parameter(name=flag, help=s.doc, group=place, negative_iterable=(), **quiet))]
        found.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default))
    return found


def takes(*groups: list[inspect.Parameter]) -> Callable[[F], F]:
    """Give a function `f(…, **given)` these options; they come in `given`, all of them, defaults filled in.

    A parameter `said` of the function hears the names of those that were on the command line.
    """
    extra = [parameter for group in groups for parameter in group]
    defaults = {p.name: p.default for p in extra if p.default is not p.empty}

    def decorate(function: F) -> F:
        hints = typing.get_type_hints(function, include_extras=True)
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        wants, own = any(p.name == "said" for p in own), [p for p in own if p.name != "said"]
        own = [p.replace(annotation=hints[p.name]) for p in own]

        def command(*args: Any, **given: Any) -> None:
            said = {"said": frozenset(given) & {p.name for p in extra}} if wants else {}
            function(*args, **(defaults | given | said))

        command.__doc__, command.__name__ = function.__doc__, function.__name__
        last = [p for p in own if p.name in ("common", "machine")]
        rest = [p for p in own if p not in last]
        command.__signature__ = inspect.Signature([*rest, *extra, *last])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*rest, *extra, *last]}
        return command  # type: ignore[return-value]

    return decorate


def listed(text: str | None) -> list[str] | None:
    """Names separated by commas, not those within brackets: `accuracy[k=1,on=latents]` is one."""
    return re.split(r",(?![^\[]*\])", text) if text else None


def pick(given: Mapping[str, Any], parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """The part of `given` that belongs to one configuration class."""
    return {p.name: given[p.name] for p in parameters if p.name in given}


def named(given: Mapping[str, Any], *groups: list[inspect.Parameter]) -> dict[str, Any]:
    """What was given, by the names of the flags (without the dashes): what a resolved configuration holds."""
    found = {}
    for parameter in (p for group in groups for p in group):
        flag = next(mark.name for mark in reversed(parameter.annotation.__metadata__) if mark.name)
        found[flag[0].removeprefix("--")] = given.get(parameter.name)
    return found
