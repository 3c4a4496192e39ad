"""assay export: coders in the formats of other libraries: SAELens, dictionary_learning, sparsify, Gemma Scope, OpenAI.

For example:
    assay export topk-k32 --format saelens --out exported/topk-k32
    assay export topk-k32 --format dictionary_learning --out exported/trainer_0
    assay export matryoshka --format saelens --out exported/m --dtype bfloat16
    assay export gemma-scope-2b-pt-res/layer_12/width_16k/canonical --format saelens --out exported/gs

What a format has no place for is folded into the weights where that leaves the coder's codes as they are (scales, centring, BatchTopK's
threshold), said where it gets lost, and refused where it cannot be written: see the page on formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from assay.cli.flags import COMMON, Common, about
from assay.cli.output import note, show
from assay.cli.reading import FORMAT, READING, Reading, opened
from assay.errors import BadInput

CODER = Parameter(help="A coder's name in the store; its files, of any format; RELEASE/ID; or hf:owner/name/path.")
app = App(name="export", help=about(__doc__))


@app.default
def export(
    coder: Annotated[str, CODER], /, *, format: Annotated[str, Parameter(metavar="FORMAT")], out: Path,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None, read_as: FORMAT = None, reading: Reading = READING, common: Common = COMMON,
) -> None:  # fmt: skip
    """
    Parameters
    ----------
    format
        saelens, dictionary_learning, sparsify, gemma_scope, gemma_scope_2, circuit_tracer or openai.
    out
        Directory to write; new or empty.
    dtype
        Number type of the weights. Left out: as they were imported, float32 for coders trained here.
    read_as
        The format of its files, where they leave it open: see `assay list formats`.
    """
    import torch

    from assay import formats
    from assay.cli.source import HERE

    formats.dialect(format)  # a wrong name before anything is read
    located, one, said = opened(coder, common.store or HERE, reading, read_as)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there and not empty. Give --out a new directory.")
    lost = formats.write(one, out, format, said, getattr(torch, dtype) if dtype else None)
    row = {"coder": located.name, "format": format, "files": ", ".join(sorted(p.name for p in out.iterdir())), "in": str(out)}
    show([row], common, data=row | {"lost": lost})
    for line in lost:
        note(f"not kept: {line}", common)
