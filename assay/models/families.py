"""Families: where blocks, attention, MLP, norms and head are in a Hugging Face model, as a vocabulary of names.

The vocabulary proposes a place for each site; `models/invariants.py` then measures whether the place means what the site's name
says. So a family unknown here works where its names are usual and its arithmetic holds, and is refused where not.
To teach Assay a family, add its names to the tuples below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from assay.errors import BadInput
from assay.models.base import KINDS, Site
from assay.models.taps import Tap

PARENTS = ("model", "language_model", "text_model", "transformer", "gpt_neox", "decoder", "backbone")
BLOCKS = ("layers", "h", "blocks")
ATTENTION = ("self_attn", "attn", "attention", "self_attention")
PROJECTION = ("o_proj", "c_proj", "out_proj", "dense", "wo", "attention.out_proj")  # the last is GPT-Neo's inner module
MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn")
MLP_BARE = ("fc1", "fc2")  # OPT: two linear maps directly on the block
FINAL_NORM = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f", "f")
POST_ATTENTION = (
    "post_self_attn_layernorm",
    "post_attention_layernorm",
)  # a post-norm only where a post-norm follows the MLP too
POST_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")
PRE_MLP_SANDWICH = ("pre_feedforward_layernorm", "post_attention_layernorm")  # the second: GLM-4
PRE_MLP = ("post_attention_layernorm", "ln_2", "ffn_norm", "norm_2", "final_layer_norm")  # the last: OPT


@dataclass(frozen=True)
class Structure:
    """What the vocabulary finds in a model."""

    blocks: nn.ModuleList
    taps: dict[Site, Tap]
    missing: dict[Site, str]
    """Sites without a tap, and why."""
    projections: dict[int, list[nn.Module]]
    """By layer: what leads from attn_z to attn_out (output projection, then the post-norm where there is one)."""
    tail: list[nn.Module]
    """What leads from the last residual stream to the head: final norm, and OPT's output projection."""
    head: nn.Module | None


def structure(model: nn.Module) -> Structure:
    """Find the sites of `model`. `BadInput` where not even the list of blocks is found."""
    path, parent, blocks = _block_list(model)
    taps: dict[Site, Tap] = {}
    missing: dict[Site, str] = {}
    projections: dict[int, list[nn.Module]] = {}
    for i, block in enumerate(blocks):
        found = _block(block, f"{path}.{i}")
        taps |= {Site(kind, i): tap for kind, tap in found.items()}
        missing |= {Site(kind, i): _why(kind, block, found) for kind in KINDS if kind not in found}
        if "attn_z" in found:
            steps = [found["attn_z"].module, found["attn_out"].module]
            projections[i] = steps if steps[1] is _first(block, POST_ATTENTION)[1] else steps[:1]
    tail = [m for m in (_first(parent, FINAL_NORM)[1], getattr(parent, "project_out", None)) if isinstance(m, nn.Module)]
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    return Structure(blocks, taps, missing, projections, tail, head)


def _block_list(model: nn.Module) -> tuple[str, nn.Module, nn.ModuleList]:
    """Path, parent and list of the blocks: the nearest to the root, through text-model names only."""
    queue: list[tuple[str, nn.Module]] = [("", model)]
    for path, module in queue:  # grows while it is read: breadth first
        for name in BLOCKS:
            found = getattr(module, name, None)
            if isinstance(found, nn.ModuleList) and len(found):
                return path + name, module, found
        children = ((name, getattr(module, name, None)) for name in PARENTS)
        queue += [(f"{path}{name}.", child) for name, child in children if isinstance(child, nn.Module)]
    raise BadInput(
        f"Found no list of transformer blocks in a {type(model).__name__}: looked for {', '.join(BLOCKS)} "
        f"below {', '.join(PARENTS)}. Is it a causal language model? New names go into assay/models/families.py."
    )


def _first(module: nn.Module, names: tuple[str, ...]) -> tuple[str, nn.Module | None]:
    """The first of the (dotted) `names` that is a module below `module`."""
    for name in names:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, nn.Module):
            return name, found
    return "", None


def _block(block: nn.Module, path: str) -> dict[str, Tap]:
    """The taps of one block, by kind."""
    taps = {"resid_pre": Tap(block, path, "in"), "resid_post": Tap(block, path, "out")}

    def add(kind: str, name: str, module: nn.Module | None, side: Any, in_place: bool = False) -> None:
        if module is not None:
            taps[kind] = Tap(module, f"{path}.{name}", side, in_place)

    attn_name, attn = _first(block, ATTENTION)
    mlp_name, mlp = _first(block, MLP)
    out_name, out = mlp_name, mlp
    if mlp is None and all(_first(block, (name,))[1] is not None for name in MLP_BARE):
        (mlp_name, mlp), (out_name, out) = (_first(block, (name,)) for name in MLP_BARE)
    post_mlp_name, post_mlp = _first(block, POST_MLP)
    if attn is not None:
        z_name, z = _first(attn, PROJECTION)
        add("attn_z", f"{attn_name}.{z_name}", z, "in")
    add("attn_out", attn_name, attn, "out")
    add("mlp_in", mlp_name, mlp, "in")
    add("mlp_out", out_name, out, "out")
    if post_mlp is None:
        mid_name, mid = _first(block, PRE_MLP)
    else:  # Gemma 2 and 3, OLMo 2, GLM-4: what is added to the residual stream comes out of the post-norms
        post_attn_name, post_attn = _first(block, POST_ATTENTION)
        add("attn_out", post_attn_name, post_attn, "out")
        add("mlp_out", post_mlp_name, post_mlp, "out")
        mid_name, mid = _first(block, tuple(n for n in PRE_MLP_SANDWICH if n != post_attn_name))
        if mid is None:  # OLMo 2: the MLP reads the residual stream itself
            mid_name, mid = mlp_name, mlp
    add("resid_mid", mid_name, mid if mlp is not None else None, "in", in_place=True)
    return taps


def _why(kind: str, block: nn.Module, found: dict[str, Tap]) -> str:
    """Why a block has no tap of a kind."""
    if kind == "resid_mid" and {"attn_out", "mlp_out"} <= found.keys():
        if sum("norm" in type(child).__name__.lower() for child in block.children()) == 1:
            return PARALLEL
    return f"no module of a {type(block).__name__} was recognised as that place; its names are not in assay/models/families.py"


PARALLEL = "attention and MLP of this family work in parallel on the same residual stream, so there is nothing between them"
