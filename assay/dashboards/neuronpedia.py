"""neuronpedia: a harvest as a bulk export of Neuronpedia, version 1, which its importer and other tools read.

    v1/MODEL/LAYER-SET/model.jsonl, release.jsonl, sourceset.jsonl, source.jsonl       a line each: whose latents these are
    v1/MODEL/LAYER-SET/{features,activations,explanations}/batch-N.jsonl.gz            1,024 latents a file

Keys are the columns of its database, as its own exports have them. What a harvest does not hold is null, an empty list where they keep lists.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.dashboards import shown
from assay.errors import BadInput
from assay.features import Example, Features, Latent
from assay.features.explanations import Explanation
from assay.formats.base import hook_of
from assay.models.pieces import Pieces
from assay.progress import Progress, silent
from assay.store import disk_errors, sync

BATCH = 1024
TOP = -1
"""binMin and binContains of rows that belong to no interval but are the strongest."""
CREATOR = "clkht01d40000jv08hvalcvly"
"""The account that Neuronpedia's own tools write where nobody is named; a new instance has it."""
METHODS = (
    "oai_token-act-pair", "oai_attention-head", "np_max-act", "np_max-act-logits", "np_acts-logits-general", "python-code", "eleuther_acts_top20",
)  # fmt: skip
"""Its kinds of explanation. Others it refuses: they go out without a kind."""
FEATURE = (
    "modelId", "layer", "index", "maxActApprox", "creatorId", "frac_nonzero", "freq_hist_data_bar_heights", "freq_hist_data_bar_values",
    "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "neuron_alignment_indices", "neuron_alignment_l1",
    "neuron_alignment_values", "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson",
    "correlated_features_indices", "correlated_features_l1", "correlated_features_pearson", "decoder_weights_dist", "neg_str", "neg_values",
    "pos_str", "pos_values", "sourceSetName", "topkCosSimIndices", "topkCosSimValues", "vector", "vectorLabel", "hookName",
    "vectorDefaultSteerStrength", "hasVector",
)  # fmt: skip
ACTIVATION = (
    "id", "modelId", "layer", "index", "creatorId", "dataIndex", "dataSource", "tokens", "maxValue", "minValue", "values", "maxValueTokenIndex",
    "dfaValues", "dfaMaxValue", "dfaTargetIndex", "lossValues", "binContains", "binMin", "binMax", "qualifyingTokenIndex",
)  # fmt: skip
EXPLANATION = (
    "id", "modelId", "layer", "index", "authorId", "description", "embedding", "typeName", "explanationModelName", "umap_x", "umap_y",
    "umap_cluster", "umap_log_feature_sparsity",
)  # fmt: skip
LISTS = frozenset(
    name for name in (*FEATURE, *ACTIVATION)
    if name.endswith(("_indices", "_l1", "_values", "_pearson", "_heights", "_str", "Indices", "Values", "_dist")) or name in ("vector", "tokens", "values")
)  # fmt: skip
"""Columns that hold lists: empty where there is nothing, for its pages go through them unasked."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a source is called there."""

    model: str
    """Id of the model: small letters, digits, - and _."""
    layer: int
    set: str
    """Source set: the same kind of coder on other layers has the same."""
    release: str
    creator: str = CREATOR
    """Id of an account."""

    def __post_init__(self) -> None:
        for field in ("model", "set", "release", "creator"):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", value := getattr(self, field)):
                raise BadInput(f"{value!r} cannot be the {field} there: letters, digits, - and _ only, at most 128.")

    @classmethod
    def of(cls, features: Features, **given: str | None) -> Names:
        """As the harvest says, but for what is given."""
        model = features.about.get("model") or {}
        own = {"model": str(model.get("name", "")).rpartition("/")[2].lower(), "set": features.coder, "release": features.coder}
        said = {k: re.sub(r"[^A-Za-z0-9_-]+", "-", v).strip("-_") or "unnamed" for k, v in own.items()}
        return cls(layer=shown.site(features).layer, **said | {k: v for k, v in given.items() if v is not None})

    @property
    def source(self) -> str:
        return f"{self.layer}-{self.set}"


def write(
    features: Features, pieces: Pieces, names: Names, directory: Path, said: Mapping[int, Sequence[Explanation]], progress: Progress = silent
) -> tuple[Path, dict[str, int]]:  # fmt: skip
    """(directory of the source, rows of each kind), written whole or not at all. One that is there already is never written over."""
    home = directory / "v1" / names.model / names.source
    if home.exists():
        raise BadInput(f"{home} is there already. Choose another --output or --set, or delete it.")
    part = home.with_name(f".{home.name}.{os.getpid()}.part")
    rows: dict[str, int] = dict.fromkeys(("features", "activations", "explanations"), 0)
    with disk_errors(part):
        try:
            for kind in rows:
                (part / kind).mkdir(parents=True)
            for name, row in about(features, names).items():
                (part / f"{name}.jsonl").write_text(_line(row), encoding="utf-8")
            for batch, start in enumerate(range(0, features.d_sae, BATCH)):
                ids = range(start, min(start + BATCH, features.d_sae))
                made = {
                    "features": (feature(features, pieces, names, i) for i in ids),
                    "activations": (row for i in ids for row in activations(features, pieces, names, i)),
                    "explanations": (row for i in ids for row in _explanations(names, said.get(i, ()))),
                }
                for kind, found in made.items():
                    rows[kind] += _batch(part / kind / f"batch-{batch}.jsonl.gz", found)
                progress(ids.stop, features.d_sae, "latents")
            os.rename(part, home)
            sync(home.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return home, rows


def feature(features: Features, pieces: Pieces, names: Names, i: int) -> dict[str, Any]:
    """A row of `features`."""
    row = features.latent(i)
    heights, edges = shown.bars(features, row)
    ends = row.logit_range if len(row.logit_range) == 2 else None
    logit_edges = np.linspace(float(ends[0]), float(ends[1]), len(row.logit_histogram) + 1) if ends is not None else np.zeros(0)
    return _full(FEATURE, names, i, {
        "maxActApprox": shown.number(row.max, 9), "creatorId": names.creator, "frac_nonzero": row.density, "sourceSetName": names.set,
        "freq_hist_data_bar_heights": heights, "freq_hist_data_bar_values": shown.centres(edges),
        "logits_hist_data_bar_heights": row.logit_histogram.tolist(), "logits_hist_data_bar_values": shown.centres(logit_edges),
        "topkCosSimIndices": row.neighbours.tolist(), "topkCosSimValues": shown.numbers(row.neighbour_cosines, 5),
        "correlated_features_indices": row.correlated.tolist(), "correlated_features_pearson": shown.numbers(row.correlations),
        "hookName": hook_of(features.about["site"]), "hasVector": False, **shown.logits(pieces, row),
    })  # fmt: skip


def activations(features: Features, pieces: Pieces, names: Names, i: int) -> Iterator[dict[str, Any]]:
    """Rows of `activations`: the strongest examples and those of intervals. Silent windows have no place there."""
    row = features.latent(i)
    kept = [e for e in features.examples(i) if e.group in ("top", "interval")]
    for n, one in enumerate(kept):
        tokens, values = shown.text(features, pieces, one)
        place = one.position - one.start
        peak = max(range(len(values)), key=lambda k: (values[k], k == place))
        yield _full(ACTIVATION, names, i, {
            "id": _id(names, "activation", i, n), "creatorId": names.creator, "tokens": tokens, "values": values, "maxValue": values[peak],
            "minValue": min(values), "maxValueTokenIndex": peak, "qualifyingTokenIndex": place, **_bin(row, one),
        })  # fmt: skip


def _bin(row: Latent, one: Example) -> dict[str, float | None]:
    """Ends of the interval that an example was drawn from, and the share of the active tokens that lie in it."""
    if one.interval is None:
        return {"binMin": TOP, "binMax": shown.number(row.max, 9), "binContains": TOP}
    low, high = row.interval_edges[one.interval : one.interval + 2].tolist()
    share = float(row.interval_counts[one.interval] / row.interval_counts.sum())
    return {"binMin": shown.number(low, 9), "binMax": shown.number(high, 9), "binContains": share}


def _explanations(names: Names, said: Sequence[Explanation]) -> Iterator[dict[str, Any]]:
    for n, one in enumerate(said):
        known = one.method in METHODS
        yield _full(EXPLANATION, names, one.latent, {
            "id": _id(names, "explanation", one.latent, n), "authorId": names.creator, "description": one.text,
            "typeName": one.method if known else None, "explanationModelName": (one.model or None) if known else None,
        })  # fmt: skip


def about(features: Features, names: Names) -> dict[str, dict[str, Any]]:
    """The four files of one line."""
    made, text = features.manifest["made"], features.text
    words = f"{features.coder}: {features.about['architecture']}, {features.d_sae} latents at {features.about['site']}"
    shared = {"creatorId": names.creator, "createdAt": made["at"], "visibility": "PUBLIC"}
    graphs = dict.fromkeys(("hasGraphs", "graphEnabled", "similarityMatrixEnabled"), False)
    return {
        "model": shared | dict.fromkeys(
            ("tlensId", "openRouterId", "dimension", "defaultSourceSetName", "defaultSourceId", "defaultGraphSourceSetName", "website")
        ) | {
            "id": names.model, "displayNameShort": names.model, "displayName": names.model, "thinking": False, "inferenceEnabled": False,
            "instruct": False, "layers": 0, "neuronsPerLayer": 0, "owner": "", "updatedAt": made["at"],
        },
        "release": shared | dict.fromkeys(("creatorEmail", "creatorNameShort", "defaultSourceId")) | {
            "name": names.release, "isNewUi": False, "featured": False, "description": words, "descriptionShort": names.release, "urls": [],
            "creatorName": "", "defaultSourceSetName": names.set, "defaultUmapSourceIds": [],
        },
        "sourceset": shared | graphs | dict.fromkeys(("creatorEmail", "defaultOfModelId", "defaultGraphModelId")) | {
            "modelId": names.model, "name": names.set, "hasDashboards": True, "allowInferenceSearch": False, "description": words, "type": "",
            "creatorName": "", "urls": [], "releaseName": names.release, "defaultRange": 1, "defaultShowBreaks": True, "showDfa": False,
            "showCorrelated": False, "showHeadAttribution": False, "showUmap": False,
        },
        "source": shared | dict.fromkeys((
            "saelensConfig", "saelensRelease", "saelensSaeId", "hfRepoId", "hfFolderId", "defaultOfModelId", "cosSimMatchModelId",
            "cosSimMatchSourceId",
        )) | {
            "id": names.source, "modelId": names.model, "hasDashboards": True, "inferenceEnabled": False, "setName": names.set,
            "hasUmap": False, "hasUmapLogSparsity": False, "hasUmapClusters": False, "num_prompts": len(text),
            "num_tokens_in_prompt": text.config.context, "dataset": text.packing.corpus,
            "notes": f"{features.path.name}, {features.n_tokens} tokens of text, Assay {made['package']}",
        },
    }  # fmt: skip


def _full(keys: Sequence[str], names: Names, i: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with all keys, in their order."""
    place = {"modelId": names.model, "layer": names.source, "index": str(i)}
    missing = {key: [] if key in LISTS else None for key in keys}
    return missing | place | dict(row)


def _id(names: Names, kind: str, i: int, n: int) -> str:
    """An id like those of its database, the same every time."""
    text = f"{names.model}/{names.source}/{i}/{kind}/{n}"
    return "c" + hashlib.sha256(text.encode()).hexdigest()[:24]


def _batch(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows one at a time; how many there were. Of none there is no file."""
    count = 0
    with path.open("wb") as raw:
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=5, mtime=0) as file:
            for row in rows:
                file.write(_line(row).encode())
                count += 1
        raw.flush()
        os.fsync(raw.fileno())
    if not count:
        path.unlink()
    return count


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
