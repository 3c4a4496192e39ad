"""Rows hold exactly the corpus's tokens: nothing doubled, lost or invented, whatever the layout and the tokenizer."""

from __future__ import annotations

import numpy as np
import pytest

from assay.corpora.base import Document
from assay.corpora.pack import PackConfig, tokenise
from assay.corpora.rows import held_out
from assay.errors import BadInput, UnknownName

BOS, EOS, PAD, TURN = range(4)


# --- packed rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", ["auto", "always", "never"])
@pytest.mark.parametrize("name", ["plain", "llama", "bare"])
def test_packed_rows_hold_the_documents_tokens_in_order(store, request, name, bos, Listed, texts, ids):
    tokenizer = request.getfixturevalue(name)
    if (name, bos) == ("bare", "always"):
        with pytest.raises(BadInput, match=r"tokenizer has no BOS.*'auto' or 'never'"):
            tokenise(Listed(texts(9)), tokenizer, PackConfig(bos=bos), store)
        return
    corpus = Listed(texts(60))
    made = tokenise(corpus, tokenizer, PackConfig(context=32, bos=bos), store)
    starts = bos == "always" or (bos == "auto" and name == "llama")
    assert made.tokens.shape == made.mask.shape == made.document.shape == (len(made), 32)
    assert [made.tokens.dtype, made.mask.dtype, made.document.dtype] == [np.int32, np.bool_, np.int32]

    # the text, and nothing but the text, under the mask
    whole = [(token, i) for i, text in enumerate(corpus.texts) for token in ids(tokenizer, text)]
    got = list(zip(made.tokens[made.mask].tolist(), made.document[made.mask].tolist()))
    assert got == whole[: len(got)]
    assert made.n_tokens == len(got) == made.mask.sum()
    assert len(whole) - len(got) == made.packing.remainder < 32

    # outside it: BOS at the start of each row when asked for, EOS between documents, nothing else
    assert (made.document == -1).tolist() == (~made.mask).tolist()
    outside = np.argwhere(~made.mask)
    firsts = [(r, c) for r, c in outside if c == 0 and starts]
    between = [(r, c) for r, c in outside if c > 0 or not starts]
    assert len(firsts) == (len(made) if starts else 0)
    assert all(made.tokens[r, c] == BOS for r, c in firsts)
    assert all(made.tokens[r, c] == EOS for r, c in between)
    documents = len(set(made.document[made.mask].tolist()))
    assert len(between) in ((0,) if name == "bare" else (documents - 1, documents))
    assert made.packing.documents == documents
    assert (made.packing.bos, made.packing.eos) == (BOS if starts else None, None if name == "bare" else EOS)


def test_batches_leave_no_trace(store, plain, Listed, texts, ids):
    given = texts(1500)  # more than one batch
    made = tokenise(Listed([given[0], "", *given[1:]]), plain, PackConfig(context=64), store)
    stream = [i for text in given for i in (*ids(plain, text), EOS)]
    assert made.tokens.ravel().tolist() == stream[: 64 * len(made)]
    assert 1 not in made.document  # a document without tokens
    assert made.document.max() == 1500


def test_special_ids_inside_the_text_are_text(store, plain, Listed, ids):
    text = "before </s> after <pad> end " * 20
    made = tokenise(Listed([text, text]), plain, PackConfig(context=16), store)
    assert EOS in made.tokens[made.mask]
    assert made.tokens[made.mask].tolist() == (ids(plain, text) * 2)[: made.n_tokens]


# --- a row for each document -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "llama", "bare"])
def test_documents_are_rows_cut_or_padded(store, request, name, Listed, texts, ids):
    tokenizer = request.getfixturevalue(name)
    given = texts(40)
    made = tokenise(Listed(given), tokenizer, PackConfig(context=24, layout="documents"), store)
    start = int(name == "llama")
    pad = {"plain": EOS, "llama": PAD, "bare": 0}[name]
    assert len(made) == 40
    for row, text in enumerate(given):
        expected = ids(tokenizer, text)[: 24 - start]
        assert made.tokens[row].tolist() == [BOS] * start + expected + [pad] * (24 - start - len(expected))
        assert made.mask[row].tolist() == [False] * start + [True] * len(expected) + [False] * (24 - start - len(expected))
        assert set(made.document[row][made.mask[row]].tolist()) == {row}
    assert made.packing.truncated == sum(len(ids(tokenizer, text)) > 24 - start for text in given) > 0
    assert (made.packing.pad, made.packing.eos, made.labels) == (pad, None, None)


def test_pad_tokens_of_the_text_count_and_those_of_the_padding_do_not(store, llama, Listed):
    made = tokenise(Listed(["a <pad>", "<pad> b"]), llama, PackConfig(context=8, layout="documents"), store)
    assert [(made.tokens[r][made.mask[r]] == PAD).sum() for r in range(2)] == [1, 1]
    assert ((made.tokens == PAD) & ~made.mask).sum() > 0


def test_labels_come_along_in_documents_and_not_in_packed(store, plain, Listed, texts):
    corpus = Listed([Document(t, i % 3) for i, t in enumerate(texts(20))], classes=("a", "b", "c"))
    made = tokenise(corpus, plain, PackConfig(context=16, layout="documents"), store)
    assert made.labels.tolist() == [i % 3 for i in range(20)]
    assert made.labels.dtype == np.int64
    assert made.classes == ("a", "b", "c")
    packed = tokenise(corpus, plain, PackConfig(context=16), store)
    assert packed.labels is None
    assert packed.classes == ()
    corpus.texts[7], corpus.fingerprint = "no label", "another"
    with pytest.raises(BadInput, match="some have none"):
        tokenise(corpus, plain, PackConfig(context=16, layout="documents"), store)


# --- chat -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["packed", "documents"])
@pytest.mark.parametrize("bos", ["auto", "always", "never"])
def test_chat_never_doubles_bos(store, llama, bos, layout, Listed, texts, ids):
    given = texts(30)
    made = tokenise(Listed(given), llama, PackConfig(context=128, chat=True, bos=bos, layout=layout), store)
    turns = [[TURN, *ids(llama, f"user: {text}"), EOS] for text in given]
    assert made.tokens[made.mask].tolist() == [i for turn in turns for i in turn][: made.n_tokens]
    assert (made.tokens == BOS).sum() == (0 if bos == "never" else len(made))
    assert (made.tokens[:, 1:] != BOS).all()
    assert made.packing.config.chat


def test_a_bos_that_opens_turns_is_part_of_the_template(store, Listed, texts, ids, tokenizer_of, template):
    smol = tokenizer_of(chat=template)  # writes BOS in its template, adds none of itself
    given = texts(30)
    made = tokenise(Listed(given), smol, PackConfig(context=32, chat=True), store)
    turns = [[BOS, TURN, *ids(smol, f"user: {text}"), EOS] for text in given]
    assert made.mask.all()
    assert made.tokens.ravel().tolist() == [i for turn in turns for i in turn][: made.n_tokens]
    with pytest.raises(BadInput, match="rows would hold it twice"):
        tokenise(Listed(given), smol, PackConfig(context=32, chat=True, bos="always"), store)
    single = tokenise(Listed(given), smol, PackConfig(context=128, chat=True, bos="always", layout="documents"), store)
    assert (single.tokens == BOS).sum(1).tolist() == [1] * 30
    assert not single.mask[:, 0].any()


def test_chat_needs_a_template(store, plain, Listed, texts, template):
    with pytest.raises(BadInput, match=r"no chat template.*chat=False"):
        tokenise(Listed(texts(3)), plain, PackConfig(chat=True), store)


def test_the_chat_template_is_part_of_the_name(store, Listed, texts, tokenizer_of, template):
    one, other = tokenizer_of(chat=template), tokenizer_of(chat=template.replace("|turn|", "|pad|"))
    config = PackConfig(context=16, chat=True)
    assert tokenise(Listed(texts(9)), one, config, store).path != tokenise(Listed(texts(9)), other, config, store).path


def test_a_literal_bos_at_the_start_of_a_text_is_not_doubled(store, llama, Listed, texts):
    made = tokenise(Listed(["<s>" + t for t in texts(5)]), llama, PackConfig(context=64, layout="documents"), store)
    assert (made.tokens == BOS).sum(1).tolist() == [1] * 5


# --- split and size -----------------------------------------------------------------------------------------------------------


def test_the_split_is_disjoint_complete_and_stable(store, plain, Listed, texts):
    given = texts(400)
    corpus = Listed(given + given[:50])  # copies fall on one side
    sides = {}
    for split in ("all", "train", "held_out"):
        made = tokenise(corpus, plain, PackConfig(context=16, layout="documents", split=split, held_out=0.25), store)
        sides[split] = made.document.max(1).tolist()
    assert sorted(sides["train"] + sides["held_out"]) == sides["all"] == list(range(450))
    assert 60 < len(sides["held_out"]) < 165
    held = {corpus.texts[i] for i in sides["held_out"]}
    assert not held & {corpus.texts[i] for i in sides["train"]}
    backwards = Listed(corpus.texts[::-1], fingerprint="backwards")
    again = tokenise(backwards, plain, PackConfig(context=16, layout="documents", split="held_out", held_out=0.25), store)
    assert {backwards.texts[i] for i in again.document.max(1)} == held
    assert [held_out("a text", share) for share in (0.4502, 0.4503)] == [False, True]  # where sha256 puts it, for ever
    assert [t for t in given if held_out(t, 0.1)] == [t for t in given if held_out(t, 0.1) and held_out(t, 0.25)]


@pytest.mark.parametrize("layout", ["packed", "documents"])
def test_max_tokens_is_a_bound_in_whole_rows(store, llama, layout, Listed, texts):
    whole = tokenise(Listed(texts(100)), llama, PackConfig(context=32, layout=layout), store)
    limit = 1000
    made = tokenise(Listed(texts(100)), llama, PackConfig(context=32, layout=layout, max_tokens=limit), store)
    assert limit - 31 < made.n_tokens <= limit
    assert np.array_equal(made.tokens, whole.tokens[: len(made)])
    assert made.packing.documents == len(np.unique(made.document[made.mask]))
    assert (made.packing.complete, whole.packing.complete) == (False, True)
    more = tokenise(Listed(texts(100)), llama, PackConfig(context=32, layout=layout, max_tokens=10**9), store)
    assert (more.n_tokens, more.packing.complete) == (whole.n_tokens, True)


def test_max_tokens_may_be_met_exactly_and_between_batches(store, plain, Listed, texts, ids):
    corpus = Listed(texts(1100))  # two batches
    whole = tokenise(corpus, plain, PackConfig(context=16, layout="documents"), store)
    upto = whole.mask.sum(1).cumsum()
    for rows, limit in ((7, upto[6]), (1024, upto[1023]), (1024, upto[1023] + 1), (1025, upto[1024])):
        made = tokenise(corpus, plain, PackConfig(context=16, layout="documents", max_tokens=int(limit)), store)
        assert (len(made), made.n_tokens, made.packing.documents) == (rows, upto[rows - 1], rows)
        assert made.packing.truncated == sum(len(ids(plain, t)) > 16 for t in corpus.texts[:rows])


def test_max_tokens_stops_reading(store, plain, Listed):
    read = []

    class Endless(Listed):
        def documents(self):
            for i in range(20_000):
                read.append(i)
                yield Document(f"text {i}")

    tokenise(Endless([]), plain, PackConfig(context=16, max_tokens=100), store)
    assert len(read) <= 2048


def test_too_little_text_says_how_much_there_was(store, plain, Listed, texts, ids):
    with pytest.raises(BadInput, match=r"corpus listed is empty"):
        tokenise(Listed([]), plain, PackConfig(), store)
    with pytest.raises(
        BadInput, match=r"held_out part of the corpus listed is empty: none of its 3 documents.*held_out=0\.001"
    ):
        tokenise(Listed(texts(3)), plain, PackConfig(split="held_out", held_out=0.001), store)
    n = sum(len(ids(plain, t)) for t in texts(3))
    with pytest.raises(BadInput, match=rf"shorter than one row: {n} tokens in 3 documents, and context=512"):
        tokenise(Listed(texts(3)), plain, PackConfig(context=512), store)
    with pytest.raises(BadInput, match=r"max_tokens=5 is less than the first row"):
        tokenise(Listed(texts(30)), plain, PackConfig(context=32, max_tokens=5), store)
    assert store.names("tokens") == []


@pytest.mark.parametrize(
    "wrong", [{"context": 1}, {"held_out": 1.0}, {"held_out": -0.1}, {"split": "held_out", "held_out": 0.0}, {"max_tokens": 0}]
)
def test_impossible_settings(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong)) if len(wrong) == 1 else "held_out"):
        PackConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"split": "trian"}, {"bos": "nevr"}, {"layout": "doc"}], ids=str)
def test_misspelt_rules_are_refused_before_anything_is_written(wrong):
    with pytest.raises(UnknownName, match=f"No value of {next(iter(wrong))} named"):
        PackConfig(**wrong)
