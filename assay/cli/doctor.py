"""assay doctor: check this machine, the cache, the store, and a model's sites.

For example:
    assay doctor                     versions, device, threads, space, what is in the store
    assay doctor --verify            also compare every file of the store with its hash
    assay doctor --model smollm2     also check what the model's sites mean

Exit code 1 when a check fails.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from assay import provenance
from assay.cli.flags import COMMON, MACHINE, Common, Machine, about
from assay.cli.output import show
from assay.cli.progress import progress
from assay.errors import AssayError, BadInput

if TYPE_CHECKING:
    from assay.store import Store

Row = dict[str, Any]
app = App(name="doctor", help=about(__doc__))


@app.default
def doctor(
    *,
    model: str | None = None,
    model_dtype: str | None = None,
    verify: Annotated[bool, Parameter(negative="")] = False,
    machine: Machine = MACHINE,
    common: Common = COMMON,
) -> None:
    """
    Parameters
    ----------
    model
        A model whose sites are to be checked: smollm2, a directory, a hub id.
    model_dtype
        Number type to load it in. Left out: its checkpoint's.
    verify
        Compare every file in the store with its hash.
    """
    rows = [*_machine(machine), *_cache(), *_store(common, verify)]
    if model is not None:
        with progress("doctor", common) as display:
            rows += _model(model, model_dtype, machine, display)
    show(rows, common)
    if bad := [str(row["check"]) for row in rows if row["ok"] is False]:
        raise BadInput(f"Not in order: {', '.join(bad)}.")


def _row(check: str, ok: bool, detail: object) -> Row:
    return {"check": check, "ok": ok, "detail": str(detail)}


def _machine(machine: Machine) -> Iterator[Row]:
    import torch

    yield _row("assay", True, f"{provenance.package_version()} ({provenance.git_commit() or 'no checkout'})")
    yield _row("python", True, f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield _row("versions", True, ", ".join(f"{name} {version}" for name, version in provenance.versions().items()))
    try:
        device = machine.torch_device()
    except BadInput as error:
        yield _row("device", False, error)
        device = "cpu"
    else:
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
        yield _row("device", True, f"{device} ({name})")
    yield _row("threads", True, f"{torch.get_num_threads()} of {os.cpu_count()} cores")
    yield _row("bfloat16", True, _bfloat16(device))


def _bfloat16(device: str) -> str:
    """Whether bfloat16 is fast here, not merely possible."""
    import torch

    if device.startswith("cuda"):
        return "in hardware" if torch.cuda.is_bf16_supported(including_emulation=False) else "emulated: prefer float32"
    if device != "cpu":
        return "depends on the device"
    found = torch.backends.cpu.get_cpu_capability()
    fast = torch.cpu._is_avx512_bf16_supported() if hasattr(torch.cpu, "_is_avx512_bf16_supported") else None
    return f"{'in hardware' if fast else 'emulated' if fast is False else 'unknown'} ({found})"


def _cache() -> Iterator[Row]:
    from assay import assets

    home = assets.cache_dir()
    place = next(p for p in (home.absolute(), *home.absolute().parents) if p.exists())
    usable = place.is_dir() and os.access(place, os.W_OK)
    yield _row(
        "cache", usable, f"{home}, {_free(home)}" if usable else f"{home} cannot be written: set ASSAY_CACHE to another place"
    )


def _free(path: Any) -> str:
    place = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return f"{shutil.disk_usage(place).free / 1e9:.1f} GB free"


def _store(common: Common, verify: bool) -> Iterator[Row]:
    from assay.cli.source import HERE, open_store

    root = common.store or HERE
    if not root.exists():
        yield _row("store", True, f"{root} does not exist yet, {_free(root)}")
        return
    try:
        store = open_store(common, create=False)
    except AssayError as error:
        yield _row("store", False, error)
        return
    yield _row("store", os.access(store.root, os.W_OK), f"{store.root}, {_free(store.root)}")
    yield from _entries(store, verify)


def _entries(store: Store, verify: bool) -> Iterator[Row]:
    from assay import passes
    from assay.store import KINDS
    from assay.store import verify as verify_entry

    for kind in KINDS:
        names = store.names(kind)
        drafts = sorted(p.name for p in (store.root / kind).glob(".*.part")) if (store.root / kind).exists() else []
        unfinished = f", {len(drafts)} unfinished (the same command resumes them)" if drafts else ""
        if names or drafts:
            yield _row(kind, True, f"{len(names)}{unfinished}")
        for name in names if verify else ():
            check = passes.verify if kind == "passes" else verify_entry
            if kind == "results":
                continue  # single files, written whole or not at all; reading them checks them
            try:
                check(store.path(kind, name))
            except AssayError as error:
                yield _row(f"{kind}/{name}", False, error)


def _model(ref: str, dtype: str | None, machine: Machine, display: Any) -> list[Row]:
    from assay.cli.source import open_model

    model = open_model(ref, dtype, machine, display)
    rows = [_row("model", True, f"{model.name}: {model.n_layers} blocks, {model.dtype}, {len(model.sites())} sites")]
    return rows + [_row(f"model: {check.name}", check.ok, check.detail) for check in model.check()]
