"""evaluate: shared passes, resuming, independence of coders, labelled data; on a real tiny model that reads its own samples."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from assay import coders, passes, results
from assay.coders.base import Batch
from assay.corpora.base import Document
from assay.corpora.pack import Tokens
from assay.errors import BadInput, DamagedFile, NotFinite, WidthMismatch
from assay.evals.core import Core, CoreConfig
from assay.evals.sparse_probing import SparseProbing, SparseProbingConfig
from assay.evaluate import choose, evaluate
from assay.models import HFModel
from assay.models.base import Site
from assay.splice import ablate, splice

SITE = Site("resid_post", 1)
WIDTH = 16


def make_model() -> HFModel:
    config = LlamaConfig(
        vocab_size=61, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=64, initializer_range=0.4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    letters = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{chr(97 + i): 3 + i for i in range(26)}}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HFModel(LlamaForCausalLM(config), fast, name="tiny-llama")


def make_text(model) -> Tokens:
    """40 rows that the model wrote itself, so that its clean loss is the lowest: BOS, two documents a row, some padding."""
    start = torch.ones(40, 1, dtype=torch.long)
    written = model.generate(start, new_tokens=15, do_sample=True, seed=0, eos_token_id=None)
    ids = torch.cat([start, written], 1).numpy()
    mask = np.ones(ids.shape, dtype=bool)
    mask[:, 0], mask[::5, 12:] = False, False
    document = np.arange(40)[:, None] * 2 // 3 + (np.arange(16) > 8)
    return Tokens.from_arrays(ids, mask, document)


def vectors(model, text) -> torch.Tensor:
    x = model.run(torch.from_numpy(np.array(text.tokens)).long(), read=[SITE])[SITE]
    return x[torch.from_numpy(np.array(text.mask))]


def make_coders(model, text) -> dict:
    batch = Batch.of(vectors(model, text))
    made = {
        "identity": coders.new("identity", d_in=WIDTH, d_sae=2 * WIDTH),
        "topk": coders.new("topk", d_in=WIDTH, d_sae=48, k=5),
        "random": coders.new("random", d_in=WIDTH, d_sae=64, k=4),
    }
    for coder in made.values():
        coder.initialise(batch)
        coder.eval()
    return made


@pytest.fixture(scope="module")
def model() -> HFModel:
    return make_model()


@pytest.fixture(scope="module")
def text(model) -> Tokens:
    return make_text(model)


@pytest.fixture(scope="module")
def some(model, text) -> dict:
    return make_coders(model, text)


def core(tokens: int = 10_000) -> Core:
    return Core(CoreConfig(tokens=tokens))


def scored(records) -> list:
    return [(r.coder, r.key, r.scores, r.details) for r in records]


def test_perfect_coder_recovers_all_and_others_less(model, text, some, store):
    records = {r.coder: r for r in evaluate(some, ["core"], model=model, site=SITE, text=text, store=store)}
    for ablation in ("mean", "zero"):
        assert records["identity"].value(f"loss_recovered[ablation={ablation}]") == pytest.approx(1, abs=1e-4)
    assert records["identity"].value("kl") == pytest.approx(0, abs=1e-6)
    assert records["identity"].value("fvu") == pytest.approx(0, abs=1e-8)
    assert records["random"].value("loss_recovered[ablation=mean]") < 0.99
    assert records["identity"].value("ce_loss_clean") < records["identity"].value("ce_loss_ablated[ablation=mean]")
    assert records["topk"].about["architecture"] == "topk"
    assert records["random"].about["baseline"]
    assert not records["topk"].about["baseline"]


def test_coder_that_says_the_mean_recovers_nothing(model, text, store):
    """An identity coder without a gain gives its b_dec; with the mean of the measured text that is mean ablation."""
    coder = coders.new("identity", d_in=WIDTH, d_sae=2 * WIDTH)
    coder.initialise(Batch.of(vectors(model, text)))
    coder.gain.zero_()
    (record,) = evaluate({"mean": coder}, [core()], model=model, site=SITE, text=text, store=store)
    assert record.value("loss_recovered[ablation=mean]") == pytest.approx(0, abs=1e-4)
    assert record.value("fvu") == pytest.approx(1, abs=1e-5)


def test_losses_by_naive_loops(model, text, some, store):
    """Cross-entropy and KL of every pass, position by position: t counts when t and t + 1 are text of one document."""
    (record,) = evaluate({"topk": some["topk"]}, [core()], model=model, site=SITE, text=text, store=store)
    x = vectors(model, text)
    views = {"clean": model, "spliced": splice(model, {SITE: some["topk"]}), "ablated": ablate(model, SITE, x.mean(0))}
    ids, mask = torch.from_numpy(np.array(text.tokens)).long(), torch.from_numpy(np.array(text.mask))
    logp = {name: view.run(ids, mask=mask).logits.double().log_softmax(-1) for name, view in views.items()}
    ce, kl, n = dict.fromkeys(views, 0.0), 0.0, 0
    for row in range(len(text)):
        for t in range(15):
            if mask[row, t] and mask[row, t + 1] and text.document[row, t] == text.document[row, t + 1]:
                n += 1
                for name in views:
                    ce[name] -= float(logp[name][row, t, ids[row, t + 1]])
                p = logp["clean"][row, t]
                kl += float((p.exp() * (p - logp["spliced"][row, t])).sum())
    assert record.details["predicted"] == n
    assert record.value("ce_loss_clean") == pytest.approx(ce["clean"] / n, rel=1e-5)
    assert record.value("ce_loss_spliced") == pytest.approx(ce["spliced"] / n, rel=1e-5)
    assert record.value("ce_loss_ablated[ablation=mean]") == pytest.approx(ce["ablated"] / n, rel=1e-5)
    assert record.value("kl") == pytest.approx(kl / n, rel=1e-4)
    expected = (ce["ablated"] - ce["spliced"]) / (ce["ablated"] - ce["clean"])
    assert record.value("loss_recovered[ablation=mean]") == pytest.approx(expected, rel=1e-4)


def test_small_pieces_give_the_same(model, text, some, store, tmp_path, monkeypatch):
    """Splitting vocabulary and batches for memory changes rounding at most."""
    (whole,) = evaluate({"topk": some["topk"]}, [core()], model=model, site=SITE, text=text, store=store)
    monkeypatch.setattr(passes, "SOFTMAX_ENTRIES", 61 * 3)
    monkeypatch.setattr(passes, "LOGITS_BYTES", 16 * 61 * 4 * 2)
    (parts,) = evaluate({"topk": some["topk"]}, [core()], model=model, site=SITE, text=text, store=type(store)(tmp_path / "b"))
    for a, b in zip(whole.scores, parts.scores, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-4, abs=1e-6), a.spec


class Counted:
    """A model that counts full passes, and may die at one."""

    def __init__(self, model, die_at=None):
        self._model, self._die_at, self.full, self.stopped = model, die_at, 0, 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def run(self, tokens, read=(), edit=None, *, stop_after=None, **others):
        if stop_after is None and tokens.shape[1] > 1:
            self.full += 1
        elif stop_after is not None:
            self.stopped += 1
        if self._die_at is not None and self.full + self.stopped > self._die_at:
            raise KeyboardInterrupt
        return self._model.run(tokens, read, edit, stop_after=stop_after, **others)


def test_passes_are_shared_and_kept(model, text, some, store):
    chunks = 3  # 40 rows in chunks of 16
    first = Counted(model)
    evaluate(some, [core()], model=first, site=SITE, text=text, store=store)
    assert (first.stopped, first.full) == (chunks, chunks * (3 + len(some)))
    again = Counted(model)
    evaluate(some, [core()], model=again, site=SITE, text=text, store=store)
    assert (again.stopped, again.full) == (0, 0)
    more = Counted(model)
    new = coders.new("pca", d_in=WIDTH, d_sae=8, k=4)
    evaluate(some | {"pca": new}, [core()], model=more, site=SITE, text=text, store=store)
    assert (more.stopped, more.full) == (0, chunks * 2)  # a clean pass and its own


def test_scores_do_not_depend_on_company(model, text, some, store, tmp_path):
    together = evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    for record in together:
        other = type(store)(tmp_path / record.coder)
        alone = evaluate({record.coder: some[record.coder]}, [core()], model=model, site=SITE, text=text, store=other)
        assert scored(alone) == scored([record])


def test_other_needs_do_not_change_scores(model, text, some, store, tmp_path):
    """Two evals with needs of different size share passes, but each sees its own text and mean."""
    one = {"topk": some["topk"]}
    small, large = evaluate(one, [core(100), core()], model=model, site=SITE, text=text, store=store)
    assert small.details["tokens"] < large.details["tokens"]
    for tokens, record in ((100, small), (10_000, large)):
        other = type(store)(tmp_path / str(tokens))
        assert scored(evaluate(one, [core(tokens)], model=model, site=SITE, text=text, store=other)) == scored([record])


@pytest.mark.parametrize("die_at", [0, 2, 3, 8, 14, 20])
def test_killed_and_resumed_gives_the_same(model, text, some, store, tmp_path, die_at):
    fresh = evaluate(some, [core()], model=model, site=SITE, text=text, store=type(store)(tmp_path / "fresh"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(some, [core()], model=Counted(model, die_at), site=SITE, text=text, store=store)
    assert results.load(store) == []
    resumed = evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    assert scored(resumed) == scored(fresh)


def test_killed_between_scores_keeps_the_finished(model, text, some, store, monkeypatch):
    seen = []

    def stop_at_second(done, total, unit):
        if unit == "scores" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(some, [core()], model=model, site=SITE, text=text, store=store, progress=stop_at_second)
    kept = results.load(store)
    assert [r.coder for r in kept] == ["identity"]
    monkeypatch.setattr(Core, "run", lambda self, coder, given, real=Core.run: seen.append(coder) or real(self, coder, given))
    evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    assert len(seen) == 2


def test_again(model, text, some, store):
    one = {"topk": some["topk"]}

    def run(again, tokens=10_000):
        return evaluate(one, [core(tokens)], model=model, site=SITE, text=text, store=store, again=again)[0]

    first = run("missing")
    assert run("missing").made == first.made
    assert run("always").scores == first.scores
    assert run("never", tokens=100).details["tokens"] == first.details["tokens"]  # any record of this eval will do
    assert run("missing", tokens=100).details["tokens"] < first.details["tokens"]
    renamed = evaluate({"b": some["topk"]}, [core()], model=model, site=SITE, text=text, store=store)[0]
    assert (renamed.coder, renamed.key) == ("b", first.key)


def test_other_text_is_another_record(model, text, some, store):
    one = {"topk": some["topk"]}
    (first,) = evaluate(one, [core()], model=model, site=SITE, text=text, store=store)
    half = Tokens.from_arrays(text.tokens[:20], text.mask[:20], text.document[:20])
    (second,) = evaluate(one, [core()], model=model, site=SITE, text=half, store=store)
    assert first.key != second.key
    assert first.setting != second.setting
    assert len(results.load(store, "core")) == 2


def test_damaged_chunk_is_named(model, text, some, store):
    evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    for file in (store.root / "passes").rglob("00001.safetensors"):
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DamagedFile, match=r"00001\.safetensors is truncated"):
        evaluate(some, [core()], model=model, site=SITE, text=text, store=store, again="always")


def test_altered_chunk_is_refused(model, text, some, store):
    """A flipped bit that leaves a readable file would give wrong numbers without the seal."""
    evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    for path in sorted((store.root / "passes").glob("*/00001.safetensors")):
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(DamagedFile, match=r"does not match the sha256 it carries.*Delete"):
        evaluate(some, [core()], model=model, site=SITE, text=text, store=store, again="always")


def test_bad_input(model, text, some, store):
    narrow = {"narrow": coders.new("topk", d_in=12, d_sae=24, k=3)}
    with pytest.raises(WidthMismatch, match="width 16"):
        evaluate(narrow, [core()], model=model, site=SITE, text=text, store=store)
    with pytest.raises(BadInput, match="held-out text"):
        evaluate(some, [core()], model=model, site=SITE, store=store)
    nothing = Tokens.from_arrays(text.tokens, np.zeros_like(text.mask))
    with pytest.raises(BadInput, match="no tokens"):
        evaluate(some, [core()], model=model, site=SITE, text=nothing, store=store)
    with pytest.raises(BadInput, match="labelled corpus"):
        evaluate(some, ["sparse_probing"], model=model, site=SITE, store=store)
    assert not (store.root / "passes").exists()


def test_nan_says_where(model, text, some, store):
    class Poisoned(Counted):
        def run(self, tokens, read=(), **rest):
            out = self._model.run(tokens, read, **rest)
            for x in out.read.values():
                x[0, 3, 7] = float("nan")
            return out

    with pytest.raises(NotFinite, match=re.escape(f"site {SITE}")):
        evaluate(some, [core()], model=Poisoned(model), site=SITE, text=text, store=store)


SCRIPT = """
import importlib.util, sys
import torch
spec = importlib.util.spec_from_file_location("here", sys.argv[1])
here = importlib.util.module_from_spec(spec)
sys.modules["here"] = here
spec.loader.exec_module(here)
torch.set_num_threads(1)
model = here.make_model()
text = here.make_text(model)
from assay.store import Store
print("ready", flush=True)
here.evaluate(here.make_coders(model, text), [here.core()], model=model, site=here.SITE, text=text, store=Store(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_ten_times_and_resumed(model, text, some, store, tmp_path):
    """kill -9 at ten random moments of one evaluation; what is resumed scores the same as what was left alone."""
    fresh = evaluate(some, [core()], model=model, site=SITE, text=text, store=type(store)(tmp_path / "fresh"))
    dice = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, __file__, str(store.root)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline().strip() == "ready"
        time.sleep(dice.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    resumed = evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    assert scored(resumed) == scored(fresh)
    # read, clean, two ablations, three coders: all processes agree on keys
    assert len(list((store.root / "passes").iterdir())) == 7


# ---- labelled data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Letters:
    """Class 0 texts have many a, class 1 many b; the first text occurs again, and one text has both labels."""

    name: str = "letters"
    fingerprint: str = "00000000000000aa"
    classes: tuple[str, ...] = ("a", "b")

    def documents(self):
        rng = np.random.default_rng(0)
        texts = [("ab"[i % 2] * 6 + "".join(rng.choice(list("cdefgh"), size=6)), i % 2) for i in range(160)]
        for text, label in [*texts, texts[0], (texts[1][0], 0)]:
            yield Document(text, label)


def test_choose_splits_unique_texts_in_balance():
    chosen = choose(Letters(), 60, 40)
    texts = [d.text for d in chosen.documents()]
    assert len(texts) == len(set(texts)) == 100
    assert chosen.train.sum() == 60
    for side in (chosen.train, ~chosen.train):
        assert chosen.labels[side].mean() == 0.5
    assert [d.label for d in chosen.documents()] == chosen.labels.tolist()
    assert chosen.leak == pytest.approx(2 / 162)
    assert chosen.conflicts == 2
    again = choose(Letters(), 60, 40)
    assert (again.numbers == chosen.numbers).all()
    assert (again.train == chosen.train).all()
    assert choose(Letters(), 60, 38).fingerprint != chosen.fingerprint


def test_choose_takes_less_of_too_little():
    chosen = choose(Letters(), 1000, 1000)
    assert chosen.train.sum() == pytest.approx((~chosen.train).sum(), abs=2)
    assert 150 <= len(chosen.numbers) <= 160


def test_choose_refuses_unlabelled_and_single_class():
    class Plain(Letters):
        def documents(self):
            return (Document(d.text) for d in super().documents())

    class Single(Letters):
        def documents(self):
            return (Document(d.text, 0) for d in super().documents())

    with pytest.raises(BadInput, match="no label"):
        choose(Plain(), 10, 10)
    with pytest.raises(BadInput, match="1 class"):
        choose(Single(), 10, 10)


def test_probing_end_to_end(model, some, store):
    probing = SparseProbing(SparseProbingConfig(datasets="letters", train=60, test=60, context=13, k="1,2"))
    two = {k: some[k] for k in ("identity", "topk")}
    records = evaluate(two, [probing], model=model, site=SITE, store=store, labelled={"letters": Letters()})
    for record in records:
        assert record.value("accuracy[k=all,on=activations]") > 0.95
        assert record.inputs["letters"] == Letters().fingerprint
    assert records[0].value("accuracy[k=all,on=latents]") > 0.95
    one = evaluate(
        {"topk": two["topk"]}, [probing], model=model, site=SITE, store=store, labelled=lambda name: Letters(), again="always"
    )
    assert scored(one) == scored(records[1:])
