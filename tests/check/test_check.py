"""Ground truth for `assay check`: on the embedded model each fault is planted and must be named; the right coder passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import assay
from assay.activations.forward import read_rows
from assay.check import Fit, Said, check
from assay.check.expected import expected
from assay.check.judging import Report, Trial, clearest, dubious
from assay.check.ways import Use
from assay.coders.transcoder import regression
from assay.corpora import load
from assay.corpora.pack import PackConfig, tokenise
from assay.errors import BadInput
from assay.formats import building
from assay.models.base import Site
from assay.models.embedded import TINY
from assay.randomness import generator
from assay.results import Score
from assay.store import Store
from tests.releases.test_published import ours

SITE, WIDTH = Site("resid_post", 1), 128
VECTORS = 500


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The tiny model, held-out rows with and without BOS, and vectors of the other part of the text."""
    home = tmp_path_factory.mktemp("check")
    for i, part in enumerate((TINY / "austen.txt").read_text(encoding="utf-8").split("\n\n")[:200]):
        (home / f"{i}.txt").write_text(part, encoding="utf-8")
    model, corpus, store = assay.model("tiny"), load(str(home)), Store(home / "store")

    def rows(split, bos):
        return tokenise(corpus, model.tokenizer, PackConfig(context=64, bos=bos, split=split), store)

    text = rows("train", "always")
    sites = [SITE, Site("mlp_in", 1), Site("mlp_out", 1)]
    x = dict(zip(sites, read_rows(model, text, np.arange(len(text.tokens)), sites, batch_rows=16, dtype=torch.float32)))
    return model, rows("held_out", "always"), rows("held_out", "never"), x


class Altered:
    """A model whose activations are changed on their way out."""

    def __init__(self, model, change):
        self.model, self.change = model, change

    def __getattr__(self, name):
        return getattr(self.model, name)

    def run(self, tokens, *args, **settings):
        run = self.model.run(tokens, *args, **settings)
        run.read = {site: self.change(x, tokens) for site, x in run.read.items()}
        return run


class Sunk:
    """A model whose first token is an attention sink from some layer on, 200 times as long and of its own direction, in rows without BOS."""

    def __init__(self, model, layer):
        self.model, self.layer = model, layer

    def __getattr__(self, name):
        return getattr(self.model, name)

    def run(self, tokens, *args, **settings):
        run = self.model.run(tokens, *args, **settings)
        bare = tokens[:, 0] != self.model.tokenizer.bos_token_id
        for site in run.read:
            if site.layer >= self.layer:
                x = run.read[site].clone()
                x[bare, 0] = (200 * x.std() * torch.randn(x.shape[-1], generator=generator("sink"))).to(x)
                run.read[site] = x
        return run


def learnt(x, architecture="topk", **settings):
    coder = assay.new(architecture, d_in=WIDTH, d_sae=WIDTH, **settings)
    for _ in assay.train({"c": coder}, assay.Tensors(x), assay.TrainConfig(tokens=30_000, batch=256, lr=2e-3, log_every=1000)):
        pass
    return coder.eval()


@pytest.fixture(scope="module")
def topk(bench):
    """As many latents as inputs: square matrices, which nothing but a check tells from their transposes."""
    return learnt(bench[3][SITE], k=16)


@pytest.fixture(scope="module")
def threshold(bench, topk):
    """The same weights behind one threshold: a coder whose L0 depends on what it reads."""
    plain = building.plain(topk)
    x = bench[3][SITE][:4000]
    pre = (x - plain.b_dec) @ plain.W_enc + plain.b_enc
    at = torch.quantile(pre[:1000].flatten(), 1 - 16 / WIDTH)
    return building.coder(replace(plain, gate="jumprelu", k=None, threshold=at.expand(WIDTH).clone()))


@pytest.fixture(scope="module")
def said(bench, threshold):
    """What the coder with a threshold does, where it is right."""
    given = check(threshold, bench[0], bench[1], SITE, vectors=VECTORS).given
    return Said(l0=given.l0, fvu=given.fvu, source="before")


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_the_right_coder_passes(bench, topk, threshold, said, seed):
    nothing = check(topk, bench[0], bench[1], SITE, vectors=VECTORS, seed=seed)
    assert (nothing.verdict, nothing.cause, nothing.doubt) == ("plausible", None, None)
    assert nothing.given.vectors >= VECTORS
    assert 0.2 < nothing.given.fvu < 0.5
    assert check(threshold, bench[0], bench[1], SITE, said=said, vectors=VECTORS, seed=seed).verdict == "passes"


@pytest.mark.parametrize("wrong", ["mlp_out.1", slow("attn_out.2")])
def test_a_wrong_site_is_named(bench, topk, threshold, wrong):
    for coder in (topk, threshold):
        report = check(coder, bench[0], bench[1], wrong, vectors=VECTORS)
        assert report.verdict == "fails"
        assert report.cause is not None
        assert (report.cause.cause, report.cause.what) == ("site", "at resid_post.1")
        assert "--site resid_post.1" in report.cause.mend


def test_a_neighbouring_layer_is_named_by_its_l0(bench, threshold, said):
    report = check(threshold, bench[0], bench[1], "resid_post.2", said=replace(said, fvu=None), vectors=VECTORS)
    found = report.cause or report.doubt
    assert report.verdict in ("fails", "doubtful")
    assert found is not None
    assert found.what == "at resid_post.1"


def test_missing_bos_that_figures_hardly_feel_is_doubted(bench, topk, threshold, said):
    for coder in (topk, threshold):
        report = check(coder, bench[0], bench[2], SITE, said=said, vectors=VECTORS)
        assert (report.verdict, report.cause) == ("doubtful", None), "L0 and FVU are what is said"
        assert report.doubt is not None
        assert (report.doubt.cause, report.doubt.mend) == ("bos", "say --bos always")
        assert report.first is not None
        assert report.first[0] > 1.3 * report.first[1]


def test_bos_is_named_where_the_figures_feel_it(bench, threshold, said):
    """A coder that never saw a sink."""
    model = Sunk(bench[0], 1)
    assert check(threshold, model, bench[1], SITE, said=said, vectors=VECTORS).verdict == "passes"
    report = check(threshold, model, bench[2], SITE, said=said, vectors=VECTORS)
    assert report.verdict == "fails"
    assert [(t.cause, t.mend) for t in report.causes] == [("bos", "say --bos always")]


@pytest.mark.parametrize("wrong", ["resid_post.3", slow("resid_post.2")])
def test_a_sink_at_a_wrong_site_does_not_hide_the_site(bench, threshold, said, wrong):
    """Without BOS there are sinks at the wrong site, and none at the right one: first tokens speak for BOS, the others for the site."""
    report = check(threshold, Sunk(bench[0], 2), bench[2], wrong, said=replace(said, fvu=None), vectors=VECTORS)
    assert report.verdict == "fails"
    assert report.cause is not None
    assert (report.cause.cause, report.cause.what) == ("site", "at resid_post.1")


def rescaled(coder, factor):
    """A coder of vectors so many times as long."""
    plain = building.plain(coder)
    return building.coder(replace(building.plain(building.coder(plain.with_scale(factor))), threshold=plain.threshold))


def test_a_second_fault_is_doubted_once_the_first_is_mended(bench, threshold, said):
    report = check(rescaled(threshold, 0.05), Sunk(bench[0], 1), bench[2], SITE, said=replace(said, fvu=None), vectors=VECTORS)
    assert report.verdict == "fails"
    assert [t.cause for t in report.causes] == ["scale"]
    assert report.doubt is not None
    assert report.doubt.cause == "bos", "which the figures feel too little to name it as a cause"
    assert report.doubt.fit.fvu == pytest.approx(said.fvu, rel=0.2), "with both mended"


@pytest.mark.parametrize("factor", [0.05, slow(20.0)])
def test_a_wrong_scale_is_named_with_its_factor(bench, threshold, said, factor):
    report = check(rescaled(threshold, factor), bench[0], bench[1], SITE, said=replace(said, fvu=None), vectors=VECTORS)
    assert report.verdict == "fails"
    assert report.cause is not None
    assert report.cause.cause == "scale"
    assert float(report.cause.mend.split("--scale ")[1].split(",")[0]) == pytest.approx(1 / factor, rel=0.35)


@pytest.mark.parametrize("name", ["W_enc", slow("W_dec")])
def test_a_square_matrix_the_wrong_way_round_is_named(bench, topk, name):
    twin = topk.clone().eval()
    with torch.no_grad():
        getattr(twin, name).copy_(getattr(topk, name).T.clone())
    report = check(twin, bench[0], bench[1], SITE, vectors=VECTORS)
    assert report.verdict == "fails"
    assert report.cause is not None
    assert (report.cause.cause, report.cause.what) == ("orientation", f"{name} transposed")
    assert report.cause.fit.fvu == pytest.approx(check(topk, bench[0], bench[1], SITE, vectors=VECTORS).given.fvu, rel=1e-4)


@pytest.mark.slow
def test_vectors_that_its_library_normalises_are_named(bench, topk):
    """Lengths of the model's vectors differ from token to token; the coder was taught without them. One scale for all does not mend it."""
    factor = 20 * torch.exp(torch.randn(2000, generator=generator("lengths")))
    length = float(bench[3][SITE].norm(dim=-1).mean())
    coder = building.coder(building.plain(topk).with_scale(length / WIDTH**0.5))  # of vectors of length √d
    model = Altered(bench[0], lambda x, tokens: x * factor[tokens][..., None])
    report = check(coder, model, bench[1], SITE, vectors=VECTORS)
    found = report.cause or report.doubt
    assert report.verdict in ("fails", "doubtful")
    assert found is not None
    assert found.cause == "norm"


def test_b_dec_that_is_taken_off_or_not_is_named(bench, threshold, said):
    offset = 3.0 * torch.randn(WIDTH, generator=generator("offset"))
    plain = building.plain(threshold)
    moved = replace(plain, b_dec=plain.b_dec + offset)
    model = Altered(bench[0], lambda x, tokens: x + offset)
    assert check(building.coder(moved), model, bench[1], SITE, said=said, vectors=VECTORS).verdict == "passes"
    wrong = check(building.coder(replace(moved, centred=False)), model, bench[1], SITE, said=said, vectors=VECTORS)
    assert wrong.verdict == "fails"
    assert wrong.cause is not None
    assert (wrong.cause.cause, wrong.cause.what) == ("centring", "b_dec taken off the input")


@pytest.fixture(scope="module")
def skip(bench):
    """A transcoder that is all skip path: the regression of the MLP's output from its input."""
    x, y = bench[3][Site("mlp_in", 1)], bench[3][Site("mlp_out", 1)]
    coder = assay.new("skip_transcoder", d_in=WIDTH, d_sae=WIDTH, of="topk", settings="k=4")
    M = regression(x, y)
    with torch.no_grad():
        coder.W_skip.copy_(M)
        coder.inner.W_dec.mul_(1e-6)
        coder.inner.b_dec.copy_(y.mean(0) - x.mean(0) @ M)
    return coder.eval()


@pytest.mark.slow
def test_a_transcoder_is_checked_between_its_sites(bench, skip):
    right = check(skip, bench[0], bench[1], "mlp_in.1", predicts="mlp_out.1", vectors=VECTORS)
    assert (right.verdict, right.cause) == ("plausible", None)
    wrong = check(skip, bench[0], bench[1], "mlp_in.2", predicts="mlp_out.2", vectors=VECTORS)
    assert wrong.verdict in ("fails", "doubtful")
    found = wrong.cause or wrong.doubt
    assert found is not None
    assert found.what == "at mlp_in.1 to mlp_out.1"
    twin = skip.clone().eval()
    with torch.no_grad():
        twin.W_skip.copy_(skip.W_skip.T.clone())
    turned = check(twin, bench[0], bench[1], "mlp_in.1", predicts="mlp_out.1", vectors=VECTORS)
    assert turned.cause is not None
    assert turned.cause.what == "W_skip transposed"


def test_a_coder_of_another_width_is_of_another_model(bench):
    with pytest.raises(BadInput, match=r"reads 64.*has width 128.*of another model"):
        check(assay.new("topk", d_in=64, d_sae=128, k=4), bench[0], bench[1], SITE)


def test_a_fault_that_is_not_tried_is_noticed_and_not_named(bench, topk):
    plain = building.plain(topk)
    shuffled = building.coder(replace(plain, W_enc=plain.W_enc.roll(1, 1).contiguous()))
    report = check(shuffled, bench[0], bench[1], SITE, vectors=VECTORS)
    assert (report.verdict, report.cause) == ("fails", None)


NOWHERE = Use(coder=assay.new("topk", d_in=8, d_sae=16, k=4), reads=SITE, predicts=SITE)


def fit(fvu, l0=16.0):
    return Fit(l0=l0, fvu=fvu, usual=fvu, bias=1.0, vectors=100)


def site(fvu, l0=16.0):
    return Trial(cause="site", what="there", mend="say so", fit=fit(fvu, l0), use=NOWHERE)


def judged(said, given, trials):
    cause = clearest(said, given, trials)
    doubt = None if cause else dubious(said, given, trials)
    return Report(said=said, given=given, trials=trials, causes=[cause] if cause else [], doubt=doubt)


@pytest.mark.parametrize(
    ("said", "given", "other", "verdict"),
    [
        (Said(), fit(0.3), site(0.29), "plausible"), (Said(), fit(0.3), site(0.26), "doubtful"), (Said(), fit(0.3), site(0.1), "fails"),
        (Said(), fit(0.9), site(0.95), "fails"), (Said(l0=16), fit(0.3), site(0.4), "passes"), (Said(l0=16), fit(0.3, 40), site(0.4), "fails"),
        (Said(l0=80), fit(0.3), site(0.3, 80), "fails"), (Said(l0=16, fvu=0.28), fit(0.3), site(0.2), "passes"),
        (Said(l0=16, fvu=0.1), fit(0.3), site(0.4), "fails"), (Said(l0=20, fvu=0.28), fit(0.3, 14), site(0.28, 20), "doubtful"),
    ],
)  # fmt: skip
def test_verdicts(said, given, other, verdict):
    assert judged(said, given, [other]).verdict == verdict


def test_of_causes_about_as_good_one_at_the_same_site_is_named():
    there, here = replace(site(0.28), far=True), replace(site(0.3), cause="scale")
    assert clearest(Said(), fit(1.2), [there, here]) is here
    assert clearest(Said(), fit(1.2), [there, replace(here, fit=fit(0.4))]) is there


def test_what_is_expected_comes_from_who_published_else_from_here_else_from_k():
    coder = assay.new("topk", d_in=8, d_sae=16, k=4)
    assert expected(coder, [], []) == Said(l0=4.0, source="its k")
    assert expected(coder, [], [ours()]) == Said(l0=40.0, fvu=0.3, source="measured here")
    theirs = ours(scores=[Score(metric="l0", value=82.0), Score(metric="explained_variance_legacy", value=0.75)])
    assert expected(coder, [theirs], [ours()]) == Said(l0=82.0, fvu=0.25, source="published")
    broken = ours(scores=[Score(metric="l0", value=82.0), Score(metric="explained_variance_saebench_0_6", value=1.2)])
    assert expected(coder, [broken], []) == Said(l0=82.0, source="published"), "an explained variance above 1 says nothing"
    assert expected(assay.new("relu", d_in=8, d_sae=16), [], []) == Said()
