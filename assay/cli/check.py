"""assay check: whether a coder does what its files or its release say, and if not, what is most likely wrong.

For example:
    assay check gemma-scope-2b-pt-res/layer_12/width_16k/canonical
    assay check theirs --model google/gemma-2-2b --site resid_post.12 --corpus demo
    assay check path/to/sae --l0 40 --fvu 0.2

L0 and FVU of some thousand tokens, beside what was published with the coder, measured here before, or said by --l0 and --fvu. Then each of
these is tried otherwise: the site, BOS, the scale and the norm of activations, matrices the other way round, b_dec taken off the input.
What fits clearly better is named. Exit code 1 where the coder fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from assay.cli.flags import COMMON, MACHINE, Common, Count, Machine, about, config, pick, takes
from assay.cli.output import note, show
from assay.cli.progress import progress
from assay.cli.reading import FORMAT, READING, Reading, opened
from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.check import Fit, Report, Said
    from assay.coders.base import SparseCoder
    from assay.releases.references import Located
    from assay.store import Store

CODER = Parameter(help="A coder's name in the store; its files, of any format; RELEASE/ID; or hf:owner/name/path.")
ORIGIN = config("cli/origin.py", "Flags", group="Source")
SHOWN = 6  # trials in the table
app = App(name="check", help=about(__doc__))


@app.default
@takes(ORIGIN)
def check_(
    coder: Annotated[str, CODER], /, *, l0: float | None = None, fvu: float | None = None, predict: str | None = None,
    tokens: Count = 2000, seed: int = 0, format: FORMAT = None, reading: Reading = READING,
    machine: Machine = MACHINE, common: Common = COMMON, **given: Any,
) -> None:  # fmt: skip
    """
    Parameters
    ----------
    l0
        The L0 that it should have. Left out: as was published with it, or measured here; of coders with a k that.
    fvu
        The FVU that it should have.
    predict
        Of a transcoder, the site that it predicts, where its files do not say.
    tokens
        Tokens to measure on.
    seed
        Draws them.
    format
        Its format, where the files leave it open: see `assay list formats`.
    """
    from assay.check import check
    from assay.cli.source import open_model, open_store, open_tokens

    store = open_store(common)
    located, one, facts = opened(coder, store.root, reading, format)
    said = _said(_expected(located, one, store), l0, fvu)
    origin, reads, predicts = _origin(coder, facts, given, predict)
    with progress("check", common) as display:
        model = open_model(origin.model, origin.model_dtype, machine, display)
        text = open_tokens(origin.corpus, origin.text("held_out", max(10 * tokens, 20_000)), model, store, display)
        one = one.to(model.device)
        report = check(one, model, text, reads, predicts=predicts, said=said, vectors=tokens, seed=seed, progress=display)
    _shown(report, common)
    if report.verdict == "fails":
        raise BadInput(_failure(coder, report))


def _expected(located: Located, coder: SparseCoder[Any], store: Store) -> Said:
    """What a coder should do: as was published with it, or measured here before."""
    from assay import results
    from assay.check.expected import expected
    from assay.evaluate import describe
    from assay.releases import published

    if name := located.stored:
        return expected(coder, results.load(store, "core", published.MARK + name), results.load(store, "core", name))
    records, _ = published.records(located.name, "", describe(coder), located)
    return expected(coder, records, [])


def _said(said: Said, l0: float | None, fvu: float | None) -> Said:
    from assay.check import Said

    if l0 is None and fvu is None:
        return said
    return Said(l0=said.l0 if l0 is None else l0, fvu=said.fvu if fvu is None else fvu, source="said here")


def _origin(name: str, facts: dict[str, Any], given: dict[str, Any], predict: str | None) -> tuple[Any, str, str | None]:
    """Model and text, the site that is read, and that which is predicted where it is another."""
    from assay.cli.origin import Flags, Origin
    from assay.formats.base import said_of

    said = said_of(facts)
    flags = pick(given, ORIGIN)
    flags["corpus"] = flags.get("corpus") or (None if facts.get("text") else "demo")
    if flags.get("site") is None and said["reads"] is not None:
        flags["site"] = said["reads"]
    origin = Origin.of({name: facts}, Flags(**flags), reads=True)
    predicts = predict or (said["predicts"] if flags["site"] == said["reads"] else None)
    return origin, origin.site, predicts if predicts != origin.site else None


def _shown(report: Report, common: Common) -> None:
    given = _row("as given", "", report.given)
    rows = [given, *(_row(t.what, t.cause, t.fit) for t in report.trials[:SHOWN])]
    said = report.said
    if said.l0 is not None or said.fvu is not None:
        rows.insert(0, {"use": said.source, "otherwise": "", "l0": said.l0, "fvu": said.fvu, "bias": None, "tokens": None})
    data = {
        "verdict": report.verdict, "said": vars(said), "given": vars(report.given), "first_token": report.first,
        "cause": report.cause and _row(report.cause.what, report.cause.cause, report.cause.fit),
        "doubt": report.doubt and _row(report.doubt.what, report.doubt.cause, report.doubt.fit),
        "trials": [_row(t.what, t.cause, t.fit) for t in report.trials],
    }  # fmt: skip
    show(rows, common, data=data)
    words = {
        "passes": "passes: L0 and FVU are what is said.", "plausible": "plausible: nothing is said of it, and nothing fits better.",
        "doubtful": "doubtful: something fits somewhat better.", "fails": "fails.",
    }  # fmt: skip
    note(words[report.verdict], common)
    if report.verdict == "doubtful" and report.doubt:
        note(
            f"{report.doubt.what}: FVU {report.doubt.fit.fvu:.3g}, L0 {report.doubt.fit.l0:.3g}. If so: {report.doubt.mend}.",
            common,
        )


def _row(use: str, cause: str, fit: Fit) -> dict[str, Any]:
    return {"use": use, "otherwise": cause, "l0": fit.l0, "fvu": fit.fvu, "bias": fit.bias, "tokens": fit.vectors}


def _failure(name: str, report: Report) -> str:
    """What is wrong, and what to do."""
    said, given = report.said, report.given
    should = ", ".join(f"{what} {value:.3g}" for what, value in (("L0", said.l0), ("FVU", said.fvu)) if value is not None)
    head = f"{name} has L0 {given.l0:.3g} and FVU {given.fvu:.3g}" + (f"; {said.source}: {should}." if should else ".")
    if (cause := report.cause) is None:
        return f"{head} Nothing that was tried explains it: check the model, its revision and its number type, and the text."
    more = "".join(
        f" And then: {t.cause}. {t.what}: L0 {t.fit.l0:.3g}, FVU {t.fit.fvu:.3g}: {t.mend}." for t in report.causes[1:]
    )
    if cause.cause == "bos" and report.first:
        return (
            f"{head} Likely cause: BOS. The first token of each row is off by {report.first[0]:.0%} of its square, {cause.what} by "
            f"{report.first[1]:.0%}: {cause.mend}.{more}"
        )
    return f"{head} Likely cause: {cause.cause}. {cause.what}: L0 {cause.fit.l0:.3g}, FVU {cause.fit.fvu:.3g}. If so: {cause.mend}.{more}"
