"""assay steer: continue a text while latents of a coder are added to, clamped, ablated or scaled.

For example:
    assay steer topk-k32 --latent 123 --by 8 "My favourite place is"
    assay steer topk-k32 --latent 123 --latent 7 --by 8 --by -3 --strength 0 --strength 0.5 --strength 1 "My favourite place is"
    assay steer topk-k32 --latent 123 --operation ablate --positions prompt "The Golden Gate"

A row for each strength: 0 is the model as it is, 1 the steering as asked for. KL is how far the next token's distribution moves, in nats, mean
over the unsteered continuation; perplexity is that of the continuation to the unsteered model. What the coder misses of an activation is
kept, and special tokens are left alone. Model and site are those that the coder was trained on; flags say otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from assay.cli.flags import COMMON, MACHINE, Common, Machine, about, config, pick, takes
from assay.cli.output import note, show
from assay.cli.progress import progress
from assay.errors import BadInput

SAMPLING = config("models/streaming.py", "Sampling", group="Continuation")
ORIGIN = config(
    "cli/origin.py", "Flags", group="Model and text (left out: the coder's own)", drop=("corpus", "context", "held_out")
)
app = App(name="steer", help=about(__doc__))


@app.default
@takes(ORIGIN, SAMPLING)
def steer(
    coder: str,
    prompt: str,
    /,
    *,
    latent: Annotated[list[int], Parameter(negative=())],
    by: Annotated[list[float] | None, Parameter(negative=())] = None,
    operation: Literal["add", "clamp", "ablate", "scale"] = "add",
    positions: Literal["all", "prompt", "generated"] = "all",
    strength: Annotated[list[float] | None, Parameter(negative=())] = None,
    special: Annotated[bool, Parameter(negative="")] = False,
    machine: Machine = MACHINE,
    common: Common = COMMON,
    **given: Any,
) -> None:
    """
    Parameters
    ----------
    coder
        A coder's name in the store, or its directory.
    prompt
        The text to continue.
    latent
        A latent's number; several times for several latents.
    by
        For add and clamp an activation, for scale a factor: one for each latent, or one for all.
    operation
        add: --by on top of the activation. clamp: --by instead of it. ablate: 0 instead of it. scale: --by times it.
    positions
        Tokens that are steered.
    strength
        How strongly: 0 not at all, 1 as the rest says; several times for several rows. Left out: 0 and 1.
    special
        Steer special tokens too.
    """
    from assay.models.streaming import Sampling
    from assay.studies.steer import Steering

    values = _each(latent, by, operation)
    steerings = [Steering(latent=i, operation=operation, value=v, positions=positions) for i, v in zip(latent, values)]
    sampling = Sampling(**pick(given, SAMPLING))
    rows = _swept(coder, prompt, steerings, strength or [0.0, 1.0], sampling, special, pick(given, ORIGIN), machine, common)
    show(rows, common)


def _each(latents: Sequence[int], by: Sequence[float] | None, operation: str) -> list[float]:
    """A value for each latent."""
    if operation == "ablate":
        return [0.0] * len(latents)
    if by is None or len(by) not in (1, len(latents)):
        said = "none" if by is None else str(len(by))
        raise BadInput(
            f"--operation {operation} needs a --by for each --latent, or one for all; got {said} for {len(latents)}."
        )
    return list(by) * len(latents) if len(by) == 1 else list(by)


def _swept(
    ref: str, text: str, steerings: Sequence[Any], strengths: Sequence[float], sampling: Any, special: bool, said: dict[str, Any],
    machine: Machine, common: Common,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each strength."""
    import torch

    from assay.cli.origin import Flags, Origin, elsewhere, read_coders
    from assay.cli.source import open_model, open_store, said_of
    from assay.corpora.prompt import prompt, special_ids
    from assay.studies.steer import Point, sweep

    coders, manifests = read_coders([ref], open_store(common, create=False))
    origin = Origin.of(manifests, Flags(**said), reads=False)
    for line in elsewhere(manifests, said["site"]):
        note(line, common)
    with progress("steer", common) as display:
        model = open_model(origin.model, origin.model_dtype, machine, display)
        ((_, coder),) = coders.items()
        begun = prompt(model.tokenizer, text, bos=origin.packing.get("bos", "auto"), chat=origin.packing.get("chat", False))
        tokens, left = torch.from_numpy(begun.ids)[None], () if special else special_ids(model.tokenizer)
        rows, coder = [], coder.to(model.device).eval().requires_grad_(False)
        for one in sweep(model, coder, origin.site, tokens, steerings, strengths, sampling, special=left):
            if isinstance(one, Point):
                continuation = model.tokenizer.decode(one.ids)
                rows.append({"strength": one.strength, "KL": one.kl, "perplexity": one.perplexity, "text": continuation})
            else:
                display(round(100 * one), 100, "percent")
    note(f"{said_of(model)}. {begun.begins}", common)
    return rows
