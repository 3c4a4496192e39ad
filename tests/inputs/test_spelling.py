"""Words for absorption: one token each, in the prompt and where the activation is read; the seed decides which."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import assay
from assay.errors import BadInput
from assay.evals.absorption import Absorption, AbsorptionConfig
from assay.evals.needs import Spelling
from assay.inputs import spelling
from assay.inputs.base import Bench
from assay.inputs.spelling import SpellingSupply, Word, ask, draw, placed, prompts, vocabulary
from assay.models.base import Site

SITE = Site("resid_post", 1)
NEED = Spelling(words=260, examples=3, template="{word} has the first letter:", test=0.3, seed=0)


@pytest.fixture(scope="module")
def model():
    return assay.model("tiny", dtype="float32")


def supplied(need, model, store, site="resid_post.1"):
    supply = SpellingSupply(need, Bench(store, model, Site.parse(site)))
    cost = supply.cost()
    supply.gather({})
    return supply.given(""), supply, cost


def test_words_of_the_vocabulary(model):
    words = vocabulary(model.tokenizer)
    decoded = [model.tokenizer.decode([word.id]) for word in words]
    assert decoded == [word.text for word in words]
    assert all(w.text.strip().isascii() and w.text.strip().isalpha() and w.text[1:] == w.text[1:].strip() for w in words)
    assert any(w.text.startswith(" ") for w in words) and any(not w.text.startswith(" ") for w in words)
    entries = model.tokenizer.convert_ids_to_tokens(range(len(model.tokenizer)))
    assert len(words) == sum(e.replace("Ġ", "", 1).isalpha() and e.replace("Ġ", "", 1).isascii() for e in entries) - sum(
        e.replace("Ġ", "", 1).isalpha() and e.replace("Ġ", "", 1).isascii() for e in model.tokenizer.all_special_tokens
    )


def test_each_word_once_and_as_many_of_each_letter():
    words = [Word(form, i) for i, form in enumerate(["cat", "Cat", " cat", " Cat", "dog", " dog", "den", " cow", "cub", "zoo"])]
    drawn, train = draw(words, replace(NEED, words=52, test=0.5))
    assert len({w.text.strip().lower() for w in drawn}) == len(drawn)
    assert Counter(w.letter for w in drawn) == {2: 2, 3: 2, 25: 1}
    assert [
        sum(1 for w, t in zip(drawn, train, strict=True) if w.letter == 2 and t is np.bool_(side)) for side in (True, False)
    ] == [1, 1]
    everything, _ = draw(words, replace(NEED, words=None))
    assert {w.text.strip().lower() for w in everything} == {"cat", "dog", "den", "cow", "cub", "zoo"}
    forms = {draw(words, replace(NEED, words=None, seed=s))[0][0].text for s in range(20)}
    assert len(forms) > 2  # any of its forms


def test_prompts(model):
    asked = ask(model.tokenizer, NEED)
    text = asked.prompt
    *examples, last = text.split("\n")[1:]
    assert len(examples) == 3
    for line in examples:
        word, letter = line.split(" has the first letter: ")
        assert letter == word.strip()[0].upper()
        assert word != asked.words[0].text
        assert word in {w.text for w, t in zip(asked.words, asked.train, strict=True) if t}
    assert last == asked.words[0].text + " has the first letter:"


def test_no_word_is_its_own_example():
    words = [Word(a + "x", i) for i, a in enumerate("abcde")]
    train = np.array([True, True, True, True, False])
    for text, word in zip(prompts(words, train, replace(NEED, examples=3)), words, strict=True):
        lines = [line.split(" ")[0] for line in text.split("\n")[1:]]
        assert lines[-1] == word.text and len(set(lines)) == 4
        assert set(lines[:-1]) <= {w.text for w in words[:4]} - {word.text}


def activation(model, ids, place=-1):
    return model.run(torch.tensor([ids]), read=[SITE])[SITE][0, place].numpy()


def test_the_activation_is_that_of_the_word(model, store):
    data, supply, cost = supplied(NEED, model, store)
    rows, bos = supply.asked.rows, model.tokenizer.bos_token_id
    assert [model.tokenizer.decode([row[-1]]) for row in rows] == list(data.words)
    assert data.vectors[7] == pytest.approx(activation(model, [bos, *rows[7]]), abs=1e-4)
    whole = model.tokenizer(data.prompt).input_ids  # what follows the word does not change it
    assert whole[0] == bos and whole[1 : len(rows[0]) + 1] == rows[0] and len(whole) > len(rows[0]) + 1
    assert data.vectors[0] == pytest.approx(activation(model, whole, len(rows[0])), abs=1e-4)
    assert data.letters.tolist() == [ord(w.strip()[0].lower()) - 97 for w in data.words]
    assert cost.once == pytest.approx(sum(map(len, rows)) / 2)  # of four blocks, two
    assert cost.disk == data.vectors.nbytes


def test_any_site_and_any_template(model, store):
    other = replace(NEED, template="The word {word} begins with")
    data, supply, _ = supplied(other, model, store, "mlp_out.2")
    assert [model.tokenizer.decode([row[-1]]) for row in supply.asked.rows] == list(data.words)
    assert data.vectors.shape == (len(data.words), model.d("mlp_out.2"))


def test_no_bos_where_the_tokenizer_puts_none(model, store, monkeypatch):
    real = spelling.rules_of
    monkeypatch.setattr(spelling, "rules_of", lambda *a: real(*a)._replace(bos=None))
    data, supply, _ = supplied(NEED, model, store)
    assert data.vectors[3] == pytest.approx(activation(model, supply.asked.rows[3]), abs=1e-4)


def test_a_word_that_is_not_one_token_there_is_left_out(model):
    tokenizer = model.tokenizer
    there = vocabulary(tokenizer)[40]
    texts = ["\n" + "xylophonic: a", "\n" + there.text + ": a", "\n" + there.text + ": a"]
    words = [Word("xylophonic", 3), there, Word(there.text, there.id + 1)]
    found = placed(tokenizer, texts, words, "{word}: a")
    assert found[0] == [] and found[2] == []
    assert found[1][-1] == there.id


def test_the_seed_decides_and_nothing_else_does(model, store):
    first, _, _ = supplied(NEED, model, store)
    np.random.seed(5), torch.manual_seed(5)
    again, _, _ = supplied(NEED, model, assay.Store(store.root.parent / "other"))
    assert list(first.words) == list(again.words) and np.array_equal(first.vectors, again.vectors)
    assert first.prompt == again.prompt and np.array_equal(first.train, again.train)
    other = ask(model.tokenizer, replace(NEED, seed=1))
    assert [w.text for w in other.words] != list(first.words)


def test_what_cannot_be_asked_is_refused(model):
    for wrong, said in (
        ({"template": "first letter:"}, "must hold {word} once"),
        ({"template": "{word} {letter}"}, "no other braces"),
        ({"words": 10}, "less than one a letter"),
        ({"test": 1.0}, "between 0 and 1"),
        ({"examples": 5000}, "too few"),
    ):
        with pytest.raises(BadInput, match=said):
            ask(model.tokenizer, replace(NEED, **wrong))

    class Slow:
        is_fast, all_special_ids = False, ()

        def get_added_vocab(self):
            return {}

        def get_vocab(self):
            return model.tokenizer.get_vocab()

    with pytest.raises(BadInput, match="fast tokenizer"):
        ask(Slow(), NEED)


def test_evaluated_from_the_model_itself(model, store):
    coder = assay.new("random", d_in=128, d_sae=256, k=8)
    source = assay.Tensors(torch.randn(200, 128, generator=torch.Generator().manual_seed(0)))
    coder.initialise(next(source.batches(200, 0)))
    one = Absorption(AbsorptionConfig(words=520, examples=2, min_words=5, min_letters=1, min_probe_f1=0.0))
    records = assay.evaluate({"random": coder}, [one], model=model, site="resid_post.0", store=store)
    found = records[0]
    assert found.value("letters") > 5
    assert 0 < found.value("probe_f1") < 1
    assert 0 <= found.value("full_absorption") < 0.2
