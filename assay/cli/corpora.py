"""assay corpora: texts: what there is, what is in one, and copies for work without a network.

For example:
    assay corpora list                                       embedded texts and the labelled sets of sae-probes
    assay corpora check probe:92 labelled:mine.csv:text:job  documents, classes, copies, contradictions
    assay corpora fetch hub:fancyzhx/ag_news:::text:label --out texts --documents 20k

See the page on corpora for the references. What is fetched is a Parquet file and the reference to type for it.
"""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from assay.cli.flags import COMMON, Common, Count, about
from assay.cli.output import note, show
from assay.cli.progress import progress
from assay.errors import AssayError, BadInput

app = App(name="corpora", help=about(__doc__))


@app.command(name="list")
def list_(*, common: Common = COMMON) -> None:
    """Embedded texts, and the labelled sets of sae-probes, which are fetched when they are not here."""
    from assay.corpora.embedded import SUMMARIES
    from assay.corpora.labelled import probe_files, probe_kinds

    rows = [{"name": name, "kind": "text", "summary": text} for name, text in SUMMARIES.items()]
    kinds = probe_kinds()
    for stem in probe_files():
        number, _, tag = stem.partition("_")
        kind = kinds[stem].partition(" ")[0].lower()
        if kind != "continuous":
            rows.append({"name": f"probe:{number}", "kind": f"labelled, {kind}", "summary": tag.replace("_", " ")})
    show(rows, common)


@app.command
def check(*refs: str, documents: Count | None = None, common: Common = COMMON) -> None:
    """Read corpora once and say what is in them. Fails when one cannot be read.

    Parameters
    ----------
    refs
        References, as for `--corpus`.
    documents
        Read at most so many of each.
    """
    from assay import corpora
    from assay.corpora.local import survey

    if not refs:
        raise BadInput("Name at least one corpus, e.g. assay corpora check probe:92.")
    rows, bad = [], 0
    for ref in refs:
        with progress(f"check {ref}", common) as display:
            try:
                found = survey(corpora.load(ref), documents, display)
            except AssayError as error:
                bad += 1
                rows.append({"corpus": ref, "problem": str(error)})
                continue
        classes = ", ".join(f"{name} {n:,}" for name, n in found.classes.items())
        rows.append({
            "corpus": ref, "documents": found.documents, "characters": found.characters, "longest": found.longest,
            "copies": found.copies, "contradicting": found.contradicting, "leak": round(found.leak, 4), "classes": classes or None,
        })  # fmt: skip
    show(rows, common)
    if bad:
        raise BadInput(f"{bad} of {len(refs)} corpora cannot be read: see above.")


@app.command
def fetch(*refs: str, out: Path, documents: Count | None = None, common: Common = COMMON) -> None:
    """Copy corpora into Parquet files, for work without a network.

    Parameters
    ----------
    refs
        References, as for `--corpus`; of the hub with its columns of text and labels.
    out
        Folder of the copies.
    documents
        At most so many of each.
    """
    from assay import corpora
    from assay.corpora.local import save

    if not refs:
        raise BadInput("Name at least one corpus, e.g. assay corpora fetch hub:fancyzhx/ag_news:::text:label --out texts.")
    opened = {ref: corpora.load(ref) for ref in refs}  # a wrong name before the first download
    rows = []
    for ref, corpus in opened.items():
        with progress(f"fetch {ref}", common) as display:
            path, reference = save(corpus, out, documents, display)
        rows.append({"corpus": ref, "MB": round(path.stat().st_size / 1e6, 1), "reference": reference})
    show(rows, common)
    note("Type the references where the original ones stood.", common)
