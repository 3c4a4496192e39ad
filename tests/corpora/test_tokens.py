"""Rows in the store: made once, named by all their inputs, whole or not there, mapped and small to send."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from assay import codec
from assay.corpora import load
from assay.corpora.base import Document
from assay.corpora.pack import PackConfig, Tokens, tokenise
from assay.corpora.rows import tokenizer_hash
from assay.errors import Busy, DamagedFile
from assay.store import Store, entry_hash, read_manifest


def test_made_once_and_named_by_all_its_inputs(store, plain, llama, Listed, texts):
    class Counted(Listed):
        reads = 0

        def documents(self):
            Counted.reads += 1
            return super().documents()

    corpus, config = Counted(texts(50)), PackConfig(context=32)
    told = []
    one = tokenise(corpus, plain, config, store, lambda *told_: told.append(told_))
    two = tokenise(corpus, plain, config, store)
    assert Counted.reads == 1
    assert one.path == two.path == store.path("tokens", one.fingerprint)
    assert told[-1] == (one.n_tokens, None, "tokens")
    others = [
        tokenise(corpus, llama, config, store),
        tokenise(corpus, plain, PackConfig(context=33), store),
        tokenise(Counted(texts(50), fingerprint="another"), plain, config, store),
    ]
    assert len({one.fingerprint, *(o.fingerprint for o in others)}) == 4
    assert len(one.fingerprint) == 16
    manifest = read_manifest(one.path)
    assert manifest["inputs"] == {"corpus": corpus.fingerprint, "tokenizer": tokenizer_hash(plain)}
    assert manifest["about"]["n_tokens"] == one.n_tokens
    assert codec.from_data(type(one.packing), manifest["about"]) == one.packing


def test_the_tokenizers_hash_is_of_its_ids_not_of_its_last_call(tokenizer_of):
    tokenizer, same = tokenizer_of(), tokenizer_of()
    before = tokenizer_hash(tokenizer)
    tokenizer.pad_token = "<pad>"
    padded = tokenizer_hash(tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(tokenizer) == padded != before == tokenizer_hash(same)
    assert tokenizer_hash(tokenizer_of(habit=True)) != before


def test_tokens_are_mapped_read_only_and_small_to_pickle(store, plain, Listed, texts):
    made = tokenise(Listed(texts(200)), plain, PackConfig(context=32), store)
    assert all(isinstance(a, np.memmap) and not a.flags.writeable for a in (made.tokens, made.mask, made.document))
    assert made.tokens[np.array([3, 1])].flags.writeable  # choosing rows copies
    sent = pickle.dumps(made)
    assert len(sent) < 500
    back = pickle.loads(sent)
    assert np.array_equal(back.tokens, made.tokens)
    assert (len(back), back.config, back.fingerprint, back.n_tokens) == (
        len(made),
        made.config,
        made.fingerprint,
        made.n_tokens,
    )


@pytest.mark.parametrize("name", ["tokens.bin", "mask.bin", "document.bin"])
def test_damaged_rows_are_noticed(store, plain, name, Listed, texts):
    corpus, config = Listed(texts(50)), PackConfig(context=32)
    path = tokenise(corpus, plain, config, store).path
    good = (path / name).read_bytes()
    (path / name).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(DamagedFile, match=rf"{name}.*sha256"):
        tokenise(corpus, plain, config, store)
    (path / name).write_bytes(good[:-4])
    with pytest.raises(DamagedFile, match=rf"{name}.*{len(good) - 4} bytes, expected {len(good)}"):
        Tokens.open(path)
    (path / name).unlink()
    with pytest.raises(DamagedFile, match=rf"{name} is missing"):
        Tokens.open(path)


def test_an_interrupted_attempt_starts_over_and_gives_the_same_bytes(tmp_path, plain, Listed, texts):
    given = texts(1400)

    class Interrupted(Listed):
        def documents(self):
            yield from (Document(t) for t in given[:1200])
            raise KeyboardInterrupt

    config = PackConfig(context=32)
    store = Store(tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        tokenise(Interrupted(given), plain, config, store)
    (part,) = (tmp_path / "one" / "tokens").iterdir()
    assert (part / "tokens.bin").stat().st_size > 0
    (part / "stray").write_text("left by another version")
    assert store.names("tokens") == []
    again = tokenise(Listed(given), plain, config, store)
    straight = tokenise(Listed(given), plain, config, Store(tmp_path / "two"))
    assert entry_hash(again.path) == entry_hash(straight.path)
    assert list((tmp_path / "one" / "tokens").iterdir()) == [again.path]


def test_two_at_once_do_not_mix(store, plain, Listed, texts):
    corpus, config = Listed(texts(50)), PackConfig(context=32)
    inside, done = threading.Event(), threading.Event()

    class Slow(Listed):
        def documents(self):
            yield from super().documents()
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=tokenise, args=(Slow(corpus.texts), plain, config, store))
    thread.start()
    try:
        assert inside.wait(10)
        with pytest.raises(Busy, match="Another process"):
            tokenise(corpus, plain, config, store)
    finally:
        done.set()
        thread.join()
    assert tokenise(corpus, plain, config, store).n_tokens > 0


def test_order_is_a_permutation_named_by_seed_and_epoch():
    made = Tokens.from_arrays(np.zeros((100, 4), np.int32))
    orders = {(s, e): made.order(s, e) for s in (0, 1) for e in (0, 1, 2)}
    assert all(sorted(order.tolist()) == list(range(100)) for order in orders.values())
    assert len({tuple(order.tolist()) for order in orders.values()}) == 6
    assert np.array_equal(made.order(1, 2), orders[1, 2])
    assert Tokens.from_arrays(np.zeros((8, 4))).order(0, 0).tolist() == [2, 4, 3, 6, 5, 0, 1, 7]  # the same for ever


def test_rows_from_memory():
    mask = np.array([[False, True, True], [True, True, False]])
    made = Tokens.from_arrays(np.arange(6).reshape(2, 3), mask, labels=np.array([1, 0]), classes=("x", "y"))
    assert (len(made), made.n_tokens, made.path, made.config.context) == (2, 4, None, 3)
    assert made.document.tolist() == [[-1, 0, 0], [1, 1, -1]]
    back = pickle.loads(pickle.dumps(made))
    assert np.array_equal(back.tokens, made.tokens)
    assert back.labels.tolist() == [1, 0]
    assert made.fingerprint == Tokens.from_arrays(made.tokens, mask, labels=made.labels).fingerprint
    assert made.fingerprint != Tokens.from_arrays(made.tokens).fingerprint


# --- for real -------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path, plain):
    """The peak of a process that tokenises twenty times the text is that of one that tokenises it once."""
    plain.save_pretrained(tmp_path / "tokenizer")
    code = """
import sys, resource
from transformers import AutoTokenizer
from assay.corpora.base import Document
from assay.corpora.pack import PackConfig, tokenise
from assay.store import Store
class Many:
    name, classes = "many", ()
    fingerprint = sys.argv[1]
    def documents(self):
        for i in range(int(sys.argv[1])):
            yield Document(f"{i} " + "the quick brown fox " * 50)
made = tokenise(Many(), AutoTokenizer.from_pretrained(sys.argv[2]), PackConfig(), Store(sys.argv[3]))
print(made.n_tokens, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    runs = []
    for n in (3000, 60000):
        words = [sys.executable, "-c", code, str(n), str(tmp_path / "tokenizer"), str(tmp_path / "store")]
        runs.append(
            [int(x) for x in subprocess.run(words, check=True, capture_output=True, text=True, timeout=300).stdout.split()]
        )
    assert runs[1][0] > 15 * runs[0][0]
    assert runs[1][1] < 1.25 * runs[0][1]


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_and_the_next_gives_the_same_bytes(tmp_path, plain):
    plain.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{i} {"word " * 60}"}}\n' for i in range(30000)))
    code = """
import sys
from transformers import AutoTokenizer
from assay.corpora import load
from assay.corpora.pack import PackConfig, tokenise
from assay.store import Store
tell = lambda done, total, unit: print(done, flush=True)
print(tokenise(load(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[2]), PackConfig(), Store(sys.argv[3]), tell).path)
"""
    words = [sys.executable, "-c", code, str(tmp_path / "a.jsonl"), str(tmp_path / "tokenizer")]
    straight = subprocess.run([*words, str(tmp_path / "straight")], check=True, capture_output=True, text=True).stdout.split()[
        -1
    ]
    for kills in range(3):
        process = subprocess.Popen([*words, str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for _ in range(1 + 2 * kills):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert Store(tmp_path / "store").names("tokens") == []
    made = tokenise(load(tmp_path / "a.jsonl"), plain, PackConfig(), Store(tmp_path / "store"))
    assert entry_hash(made.path) == entry_hash(type(made.path)(straight))
