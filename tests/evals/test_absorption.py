"""absorption on planted letters: what was absorbed is found, word by word; a coder without letters has nothing to absorb."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from assay import coders, statistics
from assay.activations import Tensors
from assay.coders.base import Batch
from assay.coders.latents import Latents as Codes
from assay.coders.permuted_decoder import PermutedDecoder
from assay.errors import BadInput
from assay.evals.absorption import PRESETS, Absorption, AbsorptionConfig
from assay.evals.needs import SpellingInput
from assay.probing.letters import (
    FORMULAS,
    LETTERS,
    Latents,
    Truth,
    absorbed,
    balance,
    choose,
    encoded,
    f1_score,
    nonnegative,
    one_vs_rest,
)
from assay.randomness import numpy_generator
from assay.train import TrainConfig, train

WORDS, OWN = 30, 3  # words of a letter; those of them with a direction of their own: one for training, two for the test
MANY = 8  # letters
USED = LETTERS[:MANY]
D = MANY * (1 + OWN) + 4
LETTER, OF_WORD, BIAS = 4.0, 3.0, 0.15
NAMES = "abcdefghijklmnopqrstuvwxyzABCD"


def directions(seed: int) -> np.ndarray:
    """Rows: letters, the words that have a direction, and four more."""
    return np.linalg.qr(numpy_generator("planted letters", seed).normal(size=(D, D)))[0]


@cache
def planted(seed: int = 0, families: bool = False, noise: float = 0.01) -> SpellingInput:
    """Each word is its letter's direction and noise; the first of each letter have a direction of their own beside it.

    `families`: every other word of the letter A has one of two more.
    """
    letter, number = np.repeat(np.arange(MANY), WORDS), np.tile(np.arange(WORDS), MANY)
    parts = noise * numpy_generator("noise", seed).normal(size=(len(letter), D))
    parts[np.arange(len(letter)), letter] += LETTER
    own = number < OWN
    parts[own, MANY + letter[own] * OWN + number[own]] += OF_WORD
    if families:
        parts[letter == 0, D - 2 + number[letter == 0] % 2] += OF_WORD
    return SpellingInput(
        words=[LETTERS[a] + NAMES[b] for a, b in zip(letter, number, strict=True)], letters=letter,
        train=(number == 0) | (number >= 10), vectors=(parts @ directions(seed)).astype(np.float32), prompt="", lost=0,
    )  # fmt: skip


def dictionary(seed: int = 0, left: float = 1.0, families: bool = False):
    """A latent a letter, a latent a word that has a direction, of which the letter's latent keeps the share `left`: the word's takes
    the rest. `families`: the letter A has two latents instead, one for every other word."""
    rows = directions(seed)
    letters, own, of = rows[:MANY].copy(), rows[MANY : MANY * (1 + OWN)], np.repeat(np.arange(MANY), OWN)
    given = (1 - left) * LETTER * letters[of] + OF_WORD * own
    lengths = np.linalg.norm(given, axis=1, keepdims=True)
    reads, writes = np.concatenate([letters, own * lengths / OF_WORD]), np.concatenate([letters, given / lengths])
    for word, letter in enumerate(of):
        reads[letter] -= (1 - left) * LETTER / OF_WORD * own[word]
    if families:
        both = LETTER * letters[0] + OF_WORD * rows[-2:]
        reads, writes = np.concatenate([reads, rows[-2:] * 5 / 3]), np.concatenate([writes, both / 5])
        reads[0] = 0
    coder = coders.new("relu", d_in=D, d_sae=len(reads))
    with torch.no_grad():
        coder.W_enc.copy_(torch.from_numpy(reads.T))
        coder.W_dec.copy_(torch.from_numpy(writes))
        coder.b_enc.fill_(-BIAS)  # above the noise
    return coder.eval()


@cache
def absorption(**config) -> Absorption:
    return Absorption(AbsorptionConfig(**{"min_letters": 5, "folds": 2, **config}))


def run(coder, data, **config):
    with torch.no_grad():
        scores, details = absorption(**config).run(coder, {"words": data})
    return {s.spec: s for s in scores}, details


def values(scores, *names):
    return [scores[name].value for name in names]


# ---- ground truth ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_letters_without_holes(seed):
    scores, details = run(dictionary(seed), planted(seed))
    full, fraction, older = values(scores, *FORMULAS[:3])
    assert full == fraction == 0
    assert older < 0.01
    assert scores["main_f1"].value > 0.99
    assert scores["main_share"].value > 0.93
    assert scores["probe_f1"].value > 0.99
    assert values(scores, "letters", "main_latents") == [MANY, 1]
    assert [details["letters"][a]["main_latents"] for a in USED] == [[i] for i in range(MANY)]


@pytest.mark.parametrize("seed", range(3))
def test_absorbed_words_are_found_one_by_one(seed):
    scores, details = run(dictionary(seed, left=0.0), planted(seed))
    for i, a in enumerate(USED):
        row = details["letters"][a]
        assert row["main_latents"] == [i]
        assert row["words_found"] == 9
        assert row["absorbed"] == {a + "b": MANY + OWN * i + 1, a + "c": MANY + OWN * i + 2}  # and by which latent
        for name in FORMULAS[:2]:
            assert scores[f"{name}[letter={a}]"].value == pytest.approx(2 / 9)
        assert scores[f"{FORMULAS[2]}[letter={a}]"].value == pytest.approx(2 / 9, abs=0.01)
    assert scores["full_absorption"].value == pytest.approx(2 / 9)
    assert scores["main_f1"].value == pytest.approx(2 * 7 / (7 + 9), abs=0.02)  # the holes: 7 of 9 words are told


@pytest.mark.parametrize("left", [0.5, 0.75])
def test_partial_absorption_by_hand(left):
    data = planted()
    scores, details = run(dictionary(left=left), data)
    length = np.hypot((1 - left) * LETTER, OF_WORD)
    main, other = left * LETTER - BIAS, (length - BIAS) * (1 - left) * LETTER / length
    share = other / (other + main)
    assert values(scores, "full_absorption") == [0]
    new, old = (details["units"][name]["f"][:2] for name in FORMULAS[1:3])
    if left == 0.5:
        assert other / LETTER > 0.4
        assert new == pytest.approx([share] * 2, abs=0.03)
    else:
        assert other / LETTER < 0.4  # too little to count
        assert new == [0, 0]
    assert old == pytest.approx([share] * 2, abs=0.03)
    assert details["units"]["main_share"]["f"][:2] == pytest.approx([main / LETTER] * 2, abs=0.03)


def test_absorption_grows_with_what_is_absorbed():
    data = planted()
    older = [run(dictionary(left=left), data)[0][FORMULAS[2]].value for left in (1.0, 0.75, 0.5, 0.0)]
    assert older == sorted(older)
    assert older[0] < 0.01 < older[1]


def test_split_letter_has_two_main_latents():
    data = planted(families=True)
    scores, details = run(dictionary(families=True), data, folds=4)
    first = details["letters"]["a"]
    assert sorted(first["main_latents"]) == [MANY * (1 + OWN), MANY * (1 + OWN) + 1]
    assert first["f1_by_latents"][0] == pytest.approx(2 / 3, abs=0.05)
    assert scores["main_latents[letter=a]"].value == 2
    assert scores["main_latents"].value == pytest.approx(1 + 1 / MANY)
    assert scores["full_absorption[letter=a]"].value == 0  # split is not absorbed


@pytest.mark.parametrize("seed", range(3))
def test_a_random_coder_scores_well_and_the_guards_tell(seed):
    data = planted(seed, noise=1.0)  # much else in the words
    x = torch.from_numpy(data.vectors)
    true, trained = dictionary(seed), coders.new("topk", d_in=D, d_sae=4 * MANY, k=2, seed=seed)
    true.W_enc.data.mul_(2.0), true.b_enc.data.fill_(-4.0)  # above the noise
    for _ in train({"trained": trained}, Tensors(x), TrainConfig(tokens=8_000, batch=80, lr=5e-3)):
        pass
    random = coders.new("random", d_in=D, d_sae=256, k=8, seed=seed)
    random.initialise(Batch.of(x))
    best, middle, worst = (run(coder.eval(), data)[0] for coder in (true, trained, random))
    assert worst["full_absorption"].value < 0.02
    for guard in ("main_f1", "main_share"):
        assert best[guard].value > middle[guard].value + 0.02
        assert middle[guard].value > worst[guard].value + 0.1
    assert (
        worst[FORMULAS[2]].value > 0.7 > best[FORMULAS[2]].value + 0.5
    )  # the older formula adds up small shares of unrelated latents


@pytest.mark.parametrize("seed", range(3))
def test_a_permuted_decoder_is_told_by_what_its_latents_write(seed):
    data = planted(seed)
    scores, _ = run(PermutedDecoder.of(dictionary(seed, left=0.0), "relu", seed=seed).eval(), data)
    assert scores["full_absorption"].value < 0.02
    assert scores["main_f1"].value > 0.8  # it reads as its original does
    assert scores["main_share"].value < 0.1


def test_a_dead_coder_scores_nothing():
    coder = dictionary()
    coder.b_enc.data.fill_(-100)
    scores, details = run(coder, planted())
    assert values(scores, "full_absorption", "absorption_fraction", "main_f1", "main_share") == [0, 0, 0, 0]
    assert details["letters"]["a"]["main_latents"] == []


# ---- each step -------------------------------------------------------------------------------------------------------------------


def by_definition(z, W_dec, p, x, main):
    """One word, as SAEBench 0.6 and 0.3 define it, in a loop."""
    cosine = [float(row @ p / np.linalg.norm(row)) for row in W_dec]
    share = [float(a * np.linalg.norm(row) * c) for a, row, c in zip(z, W_dec, cosine, strict=True)]
    total, by_main = float(x @ p), sum(share[i] for i in main)
    top = max(range(len(z)), key=lambda i: share[i])
    full = not any(z[i] >= 1e-8 for i in main) and cosine[top] >= 0.025 and total >= 0 and share[top] / total >= 0.4
    others = sorted((share[i] for i in range(len(z)) if i not in main and cosine[i] >= 0.1 and share[i] > 0), reverse=True)
    A = sum(others[:3])
    if by_main >= total or A / total < 0.4:
        fraction = 0.0
    elif by_main <= 0:
        fraction = 1.0
    else:
        part = min(A, total - by_main)
        fraction = min(max(part / (part + by_main), 0.0), 1.0)
    T = sum(share)
    older = 0.0 if by_main >= total or T <= 0 else min(max((T - by_main) / T, 0.0), 1.0)
    return float(full), fraction, older, min(max(by_main / total, 0.0), 1.0) if total > 0 else 0.0


def test_formulas_agree_with_their_definition_on_random_numbers():
    rng = numpy_generator("formulas")
    seen = np.zeros((2, 5), dtype=bool)
    for main in ([3], [0, 5], [], [1, 2, 3, 4]):
        W_dec, p = rng.normal(size=(12, 6)), rng.normal(size=6)
        p /= np.linalg.norm(p)
        z = rng.exponential(size=(400, 12)) * (rng.random((400, 12)) < 0.4)
        z[:200, main] = 0
        x = z @ W_dec * rng.uniform(0.3, 1.2, size=(400, 1)) + rng.normal(size=(400, 6)) * 0.5
        along = W_dec @ p
        found = absorbed(z, along, along / np.linalg.norm(W_dec, axis=1), main, x @ p)
        for i in range(400):
            expected = by_definition(z[i], W_dec, p, x[i], main)
            assert [found[name][i] for name in FORMULAS] == pytest.approx(expected, abs=1e-12)
            seen[0, :2] |= [expected[0] == 1, expected[0] == 0]
            seen[1] |= [expected[1] == 0, expected[1] == 1, 0 < expected[1] < 1, 0 < expected[2] < 1, expected[2] == 0]
    assert seen[0, :2].all() and seen[1].all()  # every branch was met


def test_probes_are_the_optimum_that_scikit_learn_finds():
    from sklearn.linear_model import LogisticRegression

    rng = numpy_generator("probes")
    x = rng.normal(size=(300, 20)) * np.geomspace(1, 100, 20)  # variances far apart, as in residual streams
    has = np.stack([x[:, 0] + rng.normal(size=300) > 1, x[:, 5] / 5 + rng.normal(size=300) > 2], axis=1)
    weights, bias = one_vs_rest(x, has, [0.02], scaled=False)[0]
    for j in range(2):
        theirs = LogisticRegression(C=1 / (300 * 0.02), class_weight="balanced", solver="newton-cholesky", tol=1e-8).fit(
            x, has[:, j]
        )
        assert weights[:, j] == pytest.approx(theirs.coef_[0], rel=2e-3, abs=2e-5)
        assert bias[j] == pytest.approx(theirs.intercept_[0], rel=2e-3, abs=1e-4)
    (by_unit, _), _ = one_vs_rest(7 * x, has, [0.02, 1.0])
    assert 7 * by_unit == pytest.approx(one_vs_rest(x, has, [0.02])[0][0], rel=1e-4)  # whatever the unit
    wide = rng.normal(size=(40, 60))
    theirs = LogisticRegression(C=1 / (40 * 0.1), class_weight="balanced", solver="newton-cholesky", tol=1e-8).fit(
        wide, has[:40, 0]
    )
    assert one_vs_rest(wide, has[:40, :1], [0.1], scaled=False)[0][0][:, 0] == pytest.approx(
        theirs.coef_[0], rel=2e-3, abs=2e-5
    )


def test_sparse_probe_meets_the_conditions_of_its_optimum():
    rng = numpy_generator("sparse probe")
    x = rng.exponential(size=(400, 15)) * (rng.random((400, 15)) < 0.3)
    has = x[:, 2] + 0.5 * x[:, 7] + 0.3 * rng.normal(size=400) > 0.8
    w = nonnegative(x, has, 0.01)
    assert (w >= 0).all() and w[2] == w.max() and (w == 0).any()
    centred, weigh, sign = x - x.mean(0), balance(has[:, None])[:, 0], np.where(has, 1.0, -1.0)
    bias = one_intercept(centred @ w, sign, weigh)
    slope = -(centred.T @ (weigh * sign / (1 + np.exp(sign * (centred @ w + bias))))) / 400
    assert slope[w > 1e-6] == pytest.approx(-0.01, abs=1e-4)
    assert (slope[w <= 1e-6] >= -0.01 - 1e-4).all()


def one_intercept(margin, sign, weigh):
    from scipy.optimize import brentq

    return brentq(lambda b: (weigh * sign / (1 + np.exp(sign * (margin + b)))).sum(), -50, 50)


def test_f1():
    has, guess = np.array([1, 1, 0, 0, 1], dtype=bool), np.array([1, 0, 1, 0, 1], dtype=bool)
    assert f1_score(has, guess) == pytest.approx(2 / 3)
    assert f1_score(has, guess, np.array([[1.0, 0, 0, 1, 1], [0, 2, 1, 0, 0]])) == pytest.approx([1, 0])
    assert f1_score(~guess & guess, ~guess & guess) == 0


@pytest.mark.parametrize("name", ["topk", "relu", "random", "identity"])
def test_latents_are_read_as_the_coder_has_them(name):
    settings = {
        "topk": {"k": 4, "d_sae": 32},
        "random": {"k": 4, "d_sae": 32},
        "relu": {"d_sae": 32},
        "identity": {"d_sae": 16},
    }[name]
    coder = coders.new(name, d_in=8, **settings)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    coder.initialise(Batch.of(x))
    with torch.no_grad():
        code = coder.eval().encode(x)
        z = encoded(coder, x).toarray()
        assert z == pytest.approx((code.z * code.scale).numpy(), rel=1e-6)
        assert z @ coder.W_dec.numpy() + code.base.numpy() == pytest.approx(coder.decode(code).numpy(), abs=1e-4)
        assert isinstance(code.latents, Codes)


# ---- what is chosen, and on what -------------------------------------------------------------------------------------------------


def test_nothing_is_chosen_on_test_words():
    data = planted(noise=1.0)
    vectors = data.vectors.copy()
    vectors[~data.train] = 3 * numpy_generator("other words").normal(size=(int((~data.train).sum()), D))
    spoilt = SpellingInput(**{**vars(data), "vectors": vectors})
    coder = coders.new("random", d_in=D, d_sae=64, k=8)
    coder.initialise(Batch.of(torch.from_numpy(data.vectors)))
    with torch.no_grad(), threadpool_limits(1):
        a, b = (Truth.of(d, folds=2, min_words=20, min_f1=0.6, seed=0) for d in (data, spoilt))
        of_a, of_b = (Latents(coder.eval(), t) for t in (a, b))
        assert a.strength == b.strength and a.f1 == b.f1
        assert np.array_equal(a.directions, b.directions)
        for part in (None, 0):
            assert of_a.ranked(4, part).tolist() == of_b.ranked(4, part).tolist()
        assert choose(of_a, 4, 10, 0.0) == choose(of_b, 4, 10, 0.0)


def test_a_coder_may_divide_lengths_as_it_likes():
    data, coder = planted(), dictionary(left=0.5)
    other = coder.clone().eval()
    factor = torch.logspace(-1, 1, coder.d_sae)
    with torch.no_grad():
        other.W_enc.mul_(factor), other.b_enc.mul_(factor), other.W_dec.div_(factor[:, None])
    a, b = (run(c, data)[0] for c in (coder, other))
    assert list(a) == list(b)
    assert [s.value for s in a.values()] == pytest.approx([s.value for s in b.values()], abs=1e-5)


def test_seed_decides_and_nothing_else_does():
    data, coder = planted(), dictionary(left=0.5)
    before = run(coder, data)
    torch.manual_seed(1), np.random.seed(1)
    one = Absorption(AbsorptionConfig(min_letters=5, folds=2))
    with torch.no_grad():
        one.run(dictionary(1), {"words": data})  # another coder before it, on the same probes
        after = one.run(coder, {"words": data})
    assert before == ({s.spec: s for s in after[0]}, after[1])
    other, _ = run(coder, data, seed=1)
    assert other["absorption_fraction"].low != before[0]["absorption_fraction"].low
    assert Absorption(AbsorptionConfig(seed=3)).needs()["words"].seed == 3


def test_too_few_letters_give_none_and_say_why():
    data = planted()
    noise = numpy_generator("no letters").normal(size=data.vectors.shape).astype(np.float32)
    hidden = SpellingInput(**{**vars(data), "vectors": np.where((data.letters < 5)[:, None], data.vectors, noise)})
    scores, details = run(dictionary(left=0.0), hidden, min_letters=6)
    for name in (*FORMULAS, "main_f1", "main_latents"):
        assert scores[name].value is None
        assert "5 of 26 letters can be used and 6 are needed" in scores[name].reason
    assert scores["letters"].value == 5
    assert scores["full_absorption[letter=a]"].value == pytest.approx(2 / 9)
    assert "the probe's F1 is 0." in details["left_out"]["g"]
    assert details["left_out"]["m"].startswith("0 training words")
    assert set(details["letters"]) == set(LETTERS[:5])
    enough, _ = run(dictionary(left=0.0), hidden)
    assert enough["full_absorption"].value == pytest.approx(2 / 9)
    none, _ = run(dictionary(), data, min_words=25)
    assert none["probe_f1"].value is None and none["letters"].value == 0


def test_no_decoder_directions_no_score():
    coder = dictionary()
    type(coder).linear, kept = False, type(coder).linear
    try:
        scores, details = run(coder, planted())
    finally:
        type(coder).linear = kept
    assert scores["full_absorption"].value is None
    assert "no decoder directions" in scores["full_absorption"].reason
    assert scores["probe_f1"].value > 0.9
    assert details["letters"] == {}


def test_intervals_and_units():
    scores, details = run(dictionary(left=0.0), planted())
    assert {s.metric for s in scores.values()} == set(Absorption.metrics)
    for s in scores.values():
        if s.metric not in ("letters", "main_latents"):
            assert s.low <= s.value <= s.high
            assert s.n
    width = {name: scores[name].high - scores[name].low for name in ("full_absorption", "full_absorption[letter=a]")}
    assert width["full_absorption[letter=a]"] > 0.4  # nine words
    assert 0.15 < width["full_absorption"] < 0.3  # of eight letters
    for name in FORMULAS:
        tree = {a: np.array(v) for a, v in details["units"][name].items()}
        assert statistics.tree_mean(tree) == pytest.approx(scores[name].value, abs=1e-6)


def test_settings():
    for wrong in ({"folds": 1}, {"min_words": 3}, {"max_latents": 0}, {"min_letters": 27}):
        with pytest.raises(BadInput, match="absorption needs"):
            Absorption(AbsorptionConfig(**wrong))
    for preset in PRESETS.values():
        assert Absorption(AbsorptionConfig(**preset)).needs()["words"].examples == 10
