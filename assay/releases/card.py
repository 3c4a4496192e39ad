"""card: the model card of a coder, from its manifest and the records of its evals: what it is, how it was trained, what it scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.results import Record, Score, cell

ROWS = 60  # scores of one eval in the card; all are in results.json
LOADERS = {
    "saelens": 'from sae_lens import SAE\n\nsae = SAE.load_from_disk("DIRECTORY")',
    "dictionary_learning": 'from dictionary_learning.utils import load_dictionary\n\nae, config = load_dictionary("DIRECTORY", "cpu")',
    "sparsify": 'from sparsify import SparseCoder\n\nsae = SparseCoder.load_from_disk("DIRECTORY")',
}
"""How other libraries open a directory of theirs."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a card is of."""

    name: str
    repo: str
    path: str
    """Directory in the repository; empty for its root."""
    format: str
    licence: str | None
    manifest: Mapping[str, Any]
    """Of the store: about, made."""
    records: Sequence[Record]
    files: Mapping[str, Mapping[str, Any]]
    """By name: sha256 and bytes."""

    @property
    def ref(self) -> str:
        return "hf:" + "/".join(filter(None, (self.repo, self.path)))


def card(of: Subject) -> str:
    """README.md, with the hub's metadata at its head."""
    about, ours = of.manifest["about"], [r for r in of.records if not r.about.get("origin")]
    theirs = [r for r in of.records if r.about.get("origin")]
    parts = [
        _head(of), f"# {of.name}\n\n{_what(about)}", _facts(about, ours), _loading(of), _training(about, of.manifest["made"]),
        "".join(_scores(ours, "Evals")), "".join(_scores(theirs, "Published before, by others")), _files(of), _licence(of, about),
    ]  # fmt: skip
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def shared(value: Any) -> Any:
    """A value as it may leave this machine: of a path on it, only the last part."""
    if isinstance(value, Mapping):
        return {key: shared(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [shared(one) for one in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~", "./", "../")) else value


def _head(of: Subject) -> str:
    about = of.manifest["about"]
    base = shared((about.get("model") or {}).get("name")) or ""
    tags = ["sparse-autoencoder", "interpretability", "assay", str(about.get("architecture"))]
    lines = {"library_name": "assay", "license": of.licence, "base_model": base if base.count("/") == 1 else None, "tags": tags}
    return "---\n" + "\n".join(f"{key}: {json.dumps(value)}" for key, value in lines.items() if value) + "\n---"


def _what(about: Mapping[str, Any]) -> str:
    config, model = about.get("config") or {}, shared((about.get("model") or {}).get("name"))
    kind = "transcoder" if config.get("d_out") not in (None, config.get("d_in")) else "sparse autoencoder"
    at = f" at `{about['site']}`" if about.get("site") else ""
    of = f" of the activations{at} of {model}" if model else at
    return f"A `{about.get('architecture')}` {kind} with {config.get('d_sae'):,} latents{of}, made with [Assay](https://pypi.org/project/assay-sae)."


def _facts(about: Mapping[str, Any], ours: Sequence[Record]) -> str:
    config, core = about.get("config") or {}, [r for r in ours if r.eval == "core"]
    measured = {name: next((cell(s) for r in core if (s := r.score(name))), None) for name in ("l0", "fvu", "frac_alive")}
    rows = {
        "Architecture": about.get("architecture"), "Model": shared((about.get("model") or {}).get("name")),
        "Number type of the model": about.get("model_dtype"), "Site": about.get("site"), "Width of the site": config.get("d_in"),
        "Latents": config.get("d_sae"), "L0": measured["l0"], "FVU": measured["fvu"], "Share of latents alive": measured["frac_alive"],
    }  # fmt: skip
    more = {f"`{k}`": v for k, v in config.items() if k not in ("d_in", "d_out", "d_sae") and v is not None}
    return _table(("", ""), [(k, v) for k, v in (rows | more).items() if v is not None])


def _loading(of: Subject) -> str:
    text = f'## Loading\n\n```python\nimport assay  # pip install assay-sae\n\ncoder = assay.load("{of.ref}")\n```\n\n```sh\n'
    text += f"assay import {of.ref} --name {of.name}\nassay check {of.ref} --corpus demo\n```"
    if of.format in LOADERS:
        text += f"\n\nThe files are in the format of {of.format}, which opens them too:\n\n```python\n{LOADERS[of.format]}\n```"
    return text


def _training(about: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    if imported := about.get("imported"):
        origin = {k: shared(imported.get(k)) for k in ("reference", "repo", "revision", "format", "version", "dtype")}
        rows = [(k, v) for k, v in origin.items() if v] + [(f"sha256 of {k}", v) for k, v in imported["files"].items()]
        return "## Origin\n\nNot trained with Assay, but read from files of another library.\n\n" + _table(("", ""), rows)
    text, train = about.get("text") or {}, about.get("train") or {}
    if not train:
        return ""
    source = {k: shared(v) for k, v in text.items() if v is not None}
    found = "## Training\n\n" + _table(("Text", ""), source.items()) + "\n\n" + _table(("Setting", ""), shared(train).items())
    versions = ", ".join(f"{k} {v}" for k, v in (made.get("versions") or {}).items())
    took = f", {made['seconds']:.0f} s" if made.get("seconds") else ""
    git = f" (commit {made['git']})" if made.get("git") else ""
    return f"{found}\n\nAssay {made.get('package')}{git}, {made.get('at')}, on {made.get('device')}{took}; {versions}."


def _scores(records: Sequence[Record], title: str) -> Iterable[str]:
    if not records:
        return
    yield f"## {title}\n\nWith 95 % confidence intervals, where there are any. All scores, by data set too, are in `results.json`.\n\n"
    for r in records:
        shown = [s for s in r.scores if s.value is not None and "dataset" not in s.where][:ROWS]
        who = f", by {r.about['origin']}" if r.about.get("origin") else ""
        place = ", ".join(
            f"{k} `{v}`" for k, v in (("model", shared(r.about.get("model"))), ("site", r.about.get("site"))) if v
        )
        yield f"### {r.eval}, version {r.eval_version}{who}\n\n{place}; settings `{json.dumps(shared(r.config))}`\n\n"
        yield _table(("Metric", "Value", "n"), [(f"`{s.spec}`", _value(s), s.n) for s in shown]) + "\n\n"


def _value(score: Score) -> str:
    return cell(score)


def _files(of: Subject) -> str:
    rows = [(f"`{name}`", f"{entry['bytes']:,}", f"`{entry['sha256']}`") for name, entry in sorted(of.files.items())]
    return f"## Files\n\nFormat: {of.format}.\n\n" + _table(("File", "Bytes", "sha256"), rows)


def _licence(of: Subject, about: Mapping[str, Any]) -> str:
    model = shared((about.get("model") or {}).get("name"))
    said = f"The weights are under {of.licence}." if of.licence else "No licence was stated for the weights."
    return f"## Licence\n\n{said}" + (f" What they were learnt from, {model}, has terms of its own." if model else "")


def _table(head: tuple[str, ...], rows: Iterable[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join("–" if c is None else str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *(line(row) for row in rows)])
