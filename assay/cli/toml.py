"""TOML: written here (the standard library only reads it), and read back as the flags of a command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App
from cyclopts.config import Dict

from assay.errors import BadInput

REPLAYED = ("gather", "eval", "harvest")
"""Commands whose `--config` file holds flags in a table of the command's name. (That of `train` is a run file.)"""


def text(tables: Mapping[str, Mapping[str, Any]], comment: str) -> str:
    """TOML of tables. None is left out: it is the default wherever it is allowed."""
    return f"# {comment}\n" + "".join(f"\n[{title}]\n{_lines(table)}" for title, table in tables.items())


def key(name: str) -> str:
    """A name as a TOML key: bare where it may be."""
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else json.dumps(name)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{key(name)} = {_value(value)}\n" for name, value in table.items() if value is not None)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(v) for v in value)}]"
    return repr(value)


def resolved(command: str, values: Mapping[str, Any]) -> str:
    """What `assay COMMAND --config FILE` takes to do the same again. `values` by the names of flags."""
    return text({command: values}, f"Again: assay {command} --config THIS-FILE")


def replay(app: App, words: Sequence[str]) -> None:
    """Where the words are `COMMAND … --config FILE …`, make the file's settings the defaults of the command's flags."""
    if not words or words[0] not in REPLAYED:
        return
    for word, following in zip(words, [*words[1:], ""]):
        name, equals, value = word.partition("=")
        if name == "--config":
            app.config = (_flags(words[0], Path(value if equals else following)),)


def _flags(command: str, path: Path) -> Dict:
    from assay import codec

    data = codec.read_toml(path)
    if set(data) != {command} or not isinstance(data[command], dict):
        raise BadInput(
            f"{path} holds {', '.join(f'[{t}]' for t in data) or 'nothing'}; `assay {command}` reads one table, [{command}]."
        )
    return Dict(data, source=str(path))
