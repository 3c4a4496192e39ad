"""SAEDashboard and our harvest on one SAE, one model, the same tokens, in one process: run in an environment that has both.

    PYTHONPATH=. ENVIRONMENT/bin/python -m benchmarks._sae_dashboard

SAEDashboard makes one batch of 128 latents, as it does by default, and its time grows with the number of batches; ours makes all latents.
Model and SAE have random weights: time does not depend on what they mean. Processor time of one thread.
"""

from __future__ import annotations

import json
import tempfile
import time
from typing import Any

import numpy as np
import torch

D, LATENTS, K, VOCABULARY, ROWS, CONTEXT, BATCH = 128, 4096, 32, 5000, 512, 128, 128
HOOK, SITE = "blocks.2.hook_resid_post", "resid_post.2"


def language_model(folder: str) -> Any:
    """Four layers of TransformerLens, and a tokenizer that it accepts."""
    from sae_lens import HookedSAETransformer
    from tokenizers import Tokenizer, models
    from transformer_lens import HookedTransformerConfig
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0"))
    special = {"bos_token": "t1", "eos_token": "t2", "pad_token": "t3", "add_bos_token": True}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    shape = {"n_layers": 4, "d_model": D, "n_ctx": CONTEXT, "d_head": 32, "n_heads": 4, "d_mlp": 4 * D, "d_vocab": VOCABULARY}
    config = HookedTransformerConfig(**shape, act_fn="gelu", seed=0)
    return HookedSAETransformer(config, tokenizer=PreTrainedTokenizerFast.from_pretrained(folder))


class Seen:
    """That model as Assay sees one."""

    name, fingerprint, tokenizer, n_layers, dtype, vocabulary = "toy", "0" * 16, None, 4, torch.float32, VOCABULARY
    device = torch.device("cpu")

    def __init__(self, model: Any):
        self.model = model

    def d(self, site: Any) -> int:
        return D

    def run(self, tokens: torch.Tensor, read: Any = (), **others: Any) -> Any:
        from assay.models.base import Run

        _, cache = self.model.run_with_cache(tokens, stop_at_layer=3, names_filter=HOOK)
        return Run({read[0]: cache[HOOK]})

    def unembed(self, directions: torch.Tensor) -> torch.Tensor:
        return directions @ self.model.W_U


def theirs(model: Any, rows: torch.Tensor, tokens: torch.Tensor) -> tuple[float, Any]:
    """Seconds of one batch of latents, and what came out."""
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    sae = TopKSAE(TopKSAEConfig(d_in=D, d_sae=LATENTS, k=K, rescale_acts_by_decoder_norm=True))  # rows have norm 1
    sae.cfg.metadata.hook_name = HOOK
    sae.W_dec.data, sae.W_enc.data = rows.clone(), rows.T.clone()
    config = SaeVisConfig(hook_point=HOOK, features=list(range(BATCH)), minibatch_size_features=BATCH, minibatch_size_tokens=64)
    begun = time.process_time()
    data = SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)
    return time.process_time() - begun, data


def ours(model: Any, rows: torch.Tensor, tokens: torch.Tensor, folder: str) -> tuple[float, Any]:
    """Seconds of all latents, and what came out."""
    from assay import coders, features, provenance
    from assay.corpora.pack import Tokens
    from assay.harvest import Place, harvest
    from assay.store import Store

    coder = coders.new("topk", d_in=D, d_sae=LATENTS, k=K).eval()
    coder.W_dec.data, coder.W_enc.data = rows.clone(), rows.T.clone()
    text, store = Tokens.from_arrays(tokens.numpy()), Store(folder)
    with store.draft("tokens", text.fingerprint) as draft:
        draft.finish(inputs={}, about={}, made=provenance.made())
    begun = time.process_time()
    harvest({"a": coder}, Seen(model), text, {"a": Place.at(SITE)}, store=store)  # type: ignore[dict-item]
    return time.process_time() - begun, features.open(store, "a")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = language_model(f"{folder}/tokenizer")
        rows = torch.nn.functional.normalize(torch.randn(LATENTS, D, generator=torch.Generator().manual_seed(0)), dim=1)
        tokens = torch.from_numpy(np.minimum(np.random.default_rng(0).zipf(1.2, (ROWS, CONTEXT)), VOCABULARY - 1)).long()
        mine, found = ours(model, rows, tokens, f"{folder}/store")
        took, data = theirs(model, rows, tokens)
        said = [data.feature_data_dict[i].acts_histogram_data.title for i in range(3)]
        print("densities:", said, [f"{100 * found.columns['density'][i]:.3f}%" for i in range(3)])
        each = {"sae_dashboard": took / BATCH, "assay": mine / LATENTS}
        print(
            json.dumps(
                {"seconds a latent": each, "tokens": tokens.numel(), "ratio": round(each["sae_dashboard"] / each["assay"])}
            )
        )


if __name__ == "__main__":
    main()
