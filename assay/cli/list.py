"""assay list: what there is: architectures, evals, corpora, models, formats, assets.

Names to type elsewhere, each with a line about it. Other packages may add architectures and evals to these lists.
"""

from __future__ import annotations

from cyclopts import App

from assay import registry
from assay.cli.flags import COMMON, Common, about
from assay.cli.output import show
from assay.errors import UnknownName

KINDS = ("coders", "evals", "corpora", "models", "formats", "assets")
app = App(name="list", help=about(__doc__))


@app.default
def list_(kind: str, /, *, common: Common = COMMON) -> None:
    """
    Parameters
    ----------
    kind
        coders, evals, corpora, models, formats or assets.
    """
    if kind not in KINDS:
        raise UnknownName.among("list", kind, KINDS)
    show(entries(kind), common)


def entries(kind: str) -> list[dict[str, str]]:
    """Name and summary of everything of a kind."""
    folders = {"coders": registry.CODERS, "evals": registry.EVALS, "formats": registry.FORMATS}
    if kind in folders:
        folder = folders[kind]
        baselines = set(folder.names(tag="baseline"))
        rows = [{"name": key, "summary": folder.summary(key).partition(": ")[2] or folder.summary(key)} for key in folder]
        return [
            row | ({"kind": "baseline" if row["name"] in baselines else "trained"} if kind == "coders" else {}) for row in rows
        ]
    if kind == "corpora":
        from assay.corpora.embedded import SUMMARIES

        return [{"name": name, "summary": text} for name, text in SUMMARIES.items()]
    if kind == "models":
        from assay.models.embedded import EMBEDDED

        return [{"name": name, "licence": one.licence, "summary": one.summary} for name, one in EMBEDDED.items()]
    from assay.carriers import CARRIERS

    return [{"name": name, "licence": one.licence, "summary": one.summary} for name, one in CARRIERS.items()]
