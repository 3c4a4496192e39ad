"""The root of the command line: which commands there are. Adding one: a file here with an `app`, and its name in COMMANDS."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App

from assay import provenance, registry
from assay.cli.flags import about

COMMANDS = (
    "demo",
    "list",
    "gather",
    "train",
    "surgery",
    "import",
    "export",
    "push",
    "check",
    "eval",
    "harvest",
    "dashboards",
    "results",
    "steer",
    "serve",
    "page",
    "corpora",
    "assets",
    "doctor",
)
BUILT = ("eval",)
"""Commands whose flags depend on the words: their file has a `build(words)`."""
HELP = """\
Train sparse coders on the activations of language models, and measure them.

Start with `assay demo`. Every command has `--help`, and takes `--store`, `--json`, `--quiet` and `--debug`."""


def build(words: Sequence[str] = ()) -> App:
    """The app for these words. The command that is asked for is imported; of the others only the summary is read."""
    app = App(
        name="assay", help=HELP, version=provenance.package_version, help_format="plaintext", suppress_keyboard_interrupt=False
    )
    for command in COMMANDS:
        asked = command in words[:1]
        if asked and command in BUILT:
            app.command(importlib.import_module(f"assay.cli.{command}").build(words[1:]))
            continue
        app.command(f"assay.cli.{command}:app", name=command, help=None if asked else summary(command))
    return app


def summary(command: str) -> str:
    """First line of a command's docstring, without the `assay NAME: `."""
    tree = registry.tree(Path(__file__).with_name(f"{command}.py"))
    return about(ast.get_docstring(tree)).split("\n")[0]
