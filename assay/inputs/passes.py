"""Held-out text: activations at the site, and losses clean, ablated and with each coder spliced in (see `assay.passes`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assay import passes
from assay.coders.base import SparseCoder
from assay.evals.needs import Losses, Passes, PassesInput
from assay.inputs.base import Supply
from assay.inputs.cost import FLOAT, Cost, depth
from assay.splice import splice


class PassesSupply(Supply[Passes]):
    """Every pass is kept in the store, so that another coder costs its own passes only."""

    def fingerprint(self, coder: str) -> str:
        return self.bench.text.fingerprint

    def cost(self) -> Cost:
        bench = self.bench
        there, tokens, to_site = int(bench.text.mask.sum()), self.need.tokens, depth(bench.model, bench.site)
        tokens = min(tokens, there)
        ablations = 2 + self.need.special
        kept = 2 * bench.model.d(bench.site) * FLOAT[bench.dtype] + 8 * (1 + ablations + len(bench.coders))
        rest = 1 - to_site if bench.site.kind == "resid_post" else 1.0  # elsewhere no pass can begin at the site
        return Cost(once=tokens * (to_site + rest * (1 + ablations)), each=tokens * rest, disk=tokens * kept)

    def gather(self, coders: Mapping[str, SparseCoder[Any]]) -> None:
        bench = self.bench
        self.ready = passes.Text(bench.model, bench.site, bench.text, self.need.tokens, bench.store, bench.progress)
        self.ready.read()
        spliced = {key: splice(bench.model, {bench.site: coder}) for key, coder in coders.items()}
        self.ready.run(spliced, special=self.need.special)

    def given(self, coder: str) -> PassesInput:
        ready = self.ready
        return PassesInput(
            documents=len(ready.documents), vectors=ready.vectors, mean=ready.mean, document=ready.predicted,
            clean=Losses(*ready.losses(passes.CLEAN)), mean_ablated=Losses(*ready.losses(ready.mean_ablated)),
            zero_ablated=Losses(*ready.losses(passes.ZERO)), spliced=Losses(*ready.losses(passes.through(coder))),
            zero_everywhere=Losses(*ready.losses(passes.ZERO_EVERYWHERE)) if self.need.special else None,
        )  # fmt: skip
