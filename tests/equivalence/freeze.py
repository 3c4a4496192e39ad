"""Write tests/equivalence/frozen/: one training step of each source, as values and gradients. Run where the peers are installed:

python -m venv peers && peers/bin/pip install torch==2.13.0 && peers/bin/pip install sae-lens==6.54.12 eai-sparsify==1.3.3
peers/bin/pip install --no-deps dictionary-learning==0.1.0
peers/bin/python tests/equivalence/freeze.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peers
import published
import torch

HERE = Path(__file__).parent / "frozen"
D_IN, D_SAE, N = 6, 16, 8


def weights(extra: tuple[str, ...] = (), *, free: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a coder that is neither fresh nor symmetric. Those of a free decoder have rows of lengths between .5 and 1.5."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    W_dec = normal(D_SAE, D_IN)
    W_dec = W_dec / W_dec.norm(dim=1, keepdim=True)
    made = {"W_enc": W_dec.T + 0.2 * normal(D_IN, D_SAE), "b_enc": 0.1 * normal(D_SAE), "b_dec": 0.2 * normal(D_IN)}
    made["W_dec"] = W_dec * (0.5 + torch.rand(D_SAE, 1, generator=random)) if free else W_dec
    if "r_mag" in extra:
        made |= {"r_mag": 0.3 * normal(D_SAE), "b_mag": 0.1 * normal(D_SAE)}
    if "threshold" in extra or "log_threshold" in extra:
        theta = 0.1 + 0.4 * torch.rand(D_SAE, generator=random)
        made |= {"threshold": theta} if "threshold" in extra else {"log_threshold": theta.log()}
    return made


def case(
    recipe: str, architecture: str, made: dict[str, torch.Tensor], *, dead: tuple[int, ...] = (), **more: Any
) -> peers.Case:
    """What both sides are given. Dead latents have weak encoders, so that they are not among the largest."""
    x = torch.randn(N, D_IN, generator=torch.Generator().manual_seed(1)) + 0.3
    if dead:
        made["W_enc"][:, list(dead)] *= 0.05
        made["b_enc"][list(dead)] = 0.01
    return {
        "recipe": recipe, "architecture": architecture, "d_in": D_IN, "d_sae": D_SAE, "dead": list(dead), "settings": {},
        "x": x.tolist(), "weights": {k: v.tolist() for k, v in made.items()},
    } | more  # fmt: skip


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    dead, few, widths, thirds = (1, 4, 7, 10, 13), (1, 4), [4, 8, 16], "1/4,1/2,1"
    k = {"settings": {"k": 3}}
    nested = {"settings": {"k": 3, "fractions": thirds}, "widths": widths}
    ours, theirs = "saelens-6", "dictionary-learning"
    frozen = {
        "saelens_relu": peers.sae_lens(case(ours, "relu", weights(free=True))),
        "saelens_gated": peers.sae_lens(case(ours, "gated", weights(("r_mag",), free=True))),
        "saelens_topk": peers.sae_lens(case(ours, "topk", weights(free=True), dead=dead, **k)),
        "saelens_topk_few_dead": peers.sae_lens(case(ours, "topk", weights(free=True), dead=few, **k)),
        "saelens_batch_topk": peers.sae_lens(case(ours, "batch_topk", weights(free=True), dead=dead, **k)),
        "saelens_matryoshka": peers.sae_lens(case(ours, "matryoshka", weights(free=True), dead=dead, **nested)),
        "saelens_jumprelu": peers.sae_lens(
            case(ours, "jumprelu", weights(("threshold",), free=True), settings={"bandwidth": 0.4})
        ),
        "saelens_matching_pursuit": peers.sae_lens(
            case(ours, "matching_pursuit", {n: v for n, v in weights().items() if n in ("W_dec", "b_dec")}, **k)
        ),
        "dictionary_learning_relu": peers.dictionary_learning(case(theirs, "relu", weights())),
        "dictionary_learning_p_anneal": peers.dictionary_learning(case(theirs, "p_anneal", weights())),
        "dictionary_learning_gated": peers.dictionary_learning(case(theirs, "gated", weights(("r_mag",)))),
        "dictionary_learning_topk": peers.dictionary_learning(case(theirs, "topk", weights(), dead=dead, **k)),
        "dictionary_learning_batch_topk": peers.dictionary_learning(case(theirs, "batch_topk", weights(), dead=dead, **k)),
        "dictionary_learning_matryoshka": peers.dictionary_learning(case(theirs, "matryoshka", weights(), **nested)),
        "dictionary_learning_jumprelu": peers.dictionary_learning(
            case(theirs, "jumprelu", weights(("threshold",)), settings={"bandwidth": 0.18, "target_l0": 4.0})
        ),
        "dictionary_learning_schedules": peers.dictionary_learning_schedules(),
        "sparsify_topk": peers.sparsify(case("openai", "topk", weights(), dead=dead, **k)),
        "openai_topk": published.openai(case("openai", "topk", weights(), dead=dead, settings={"k": 3, "k_aux": 3})),
        "gemma_scope_jumprelu": published.gemma_scope(
            case("gemma-scope", "jumprelu", weights(("threshold",)), settings={"bandwidth": 0.4, "sparsity": 0.02})
        ),
        "anthropic_apr24_relu": published.anthropic_april(case("anthropic-apr24", "relu", weights(free=True))),
        "anthropic_jan25_jumprelu": published.anthropic_january(
            case("anthropic-jan25", "jumprelu", weights(("log_threshold",), free=True))
        ),
    }
    HERE.mkdir(exist_ok=True)
    for name, found in frozen.items():
        (HERE / f"{name}.json").write_text(json.dumps(rounded(found)) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Ten digits: gradients from finite differences have no more."""
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
