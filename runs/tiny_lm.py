"""How the embedded model `tiny` was made: a 1.05 M-parameter GPT-NeoX on Jane Austen's six novels, about 10 minutes on 2 cores.

    python runs/tiny_lm.py --text Rdata.rdb --out assay/data/tiny

The text is in the public domain. It comes from Debian's `r-cran-janeaustenr` 1.0.0 (CRAN's janeaustenr, from Project Gutenberg):

    apt-get download r-cran-janeaustenr && dpkg-deb -x r-cran-janeaustenr_*.deb x
    # --text x/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb

`--text` also takes plain text files, one a book, whose paragraphs are separated by blank lines. The last twentieth of each book
is never trained on; it is written to `austen.txt`, and the loss on it is printed.
Tokens: byte-level BPE, 1024 of them; `<|endoftext|>` = 0 is BOS, EOS and padding at once. Every training row of 128 starts with
it; inside rows it stands for one paragraph break in ten, so that the model also knows it as the seam between documents.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

EOT, VOCAB, CONTEXT, BATCH, PEAK = "<|endoftext|>", 1024, 128, 64, 4e-3
NOTE = "A NOTE ON THE TEXT"  # an editor's, behind Northanger Abbey: not in the public domain for certain, so not shipped


def lines_of_rdb(data: bytes) -> list[list[str]]:
    """The character vectors in an R lazy-load file: records of a 4-byte length and a zlib stream, each a serialised STRSXP."""
    vectors, at = [], 0
    while at < len(data):
        stream = zlib.decompressobj()
        raw = stream.decompress(data[at + 4 :])
        at = len(data) - len(stream.unused_data)
        here = raw.index(struct.pack(">I", 16), 14) + 4  # behind the header: type 16, a character vector
        (count,) = struct.unpack_from(">I", raw, here)
        here += 4
        lines = []
        for _ in range(count):
            (length,) = struct.unpack_from(">I", raw, here + 4)
            lines.append(raw[here + 8 : here + 8 + length].decode())
            here += 8 + length
        vectors.append(lines)
    return vectors


def books(paths: list[Path]) -> list[list[str]]:
    """Each book as its paragraphs, one line each."""
    texts = []
    for path in paths:
        data = path.read_bytes()
        texts += ["\n".join(v) for v in lines_of_rdb(data)] if path.suffix == ".rdb" else [data.decode()]
    return [[" ".join(p.split()) for p in re.split(r"\n\s*\n", text) if p.strip()] for text in texts]


def split(paragraphs: list[str], held_out: float = 0.05) -> tuple[list[str], list[str]]:
    """Paragraphs to train on, and the last part of the book."""
    left = (1 - held_out) * sum(map(len, paragraphs))
    for i, p in enumerate(paragraphs):
        if left < 0:
            return paragraphs[:i], paragraphs[i:]
        left -= len(p)
    raise SystemExit("The text is too short to hold out a part of it.")


def make_tokenizer(paragraphs: list[str]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[EOT], initial_alphabet=alphabet)
    bpe.train_from_iterator(["\n\n".join(paragraphs)], trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{EOT} $A", pair=f"{EOT} $A $B", special_tokens=[(EOT, 0)])
    settings = {"bos_token": EOT, "eos_token": EOT, "pad_token": EOT, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=CONTEXT, **settings)


def encode(tokenizer: PreTrainedTokenizerFast, paragraphs: list[str], seed: int) -> torch.Tensor:
    seams = np.random.default_rng(seed).random(len(paragraphs)) < 0.1
    text = "".join(p + (EOT if seam else "\n\n") for p, seam in zip(paragraphs, seams))
    return torch.tensor(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


@torch.no_grad()
def held_out_loss(model: GPTNeoXForCausalLM, stream: torch.Tensor) -> float:
    """Nats a token over whole rows of the stream, each behind a BOS."""
    rows = torch.nn.functional.pad(stream.unfold(0, CONTEXT - 1, CONTEXT - 1), (1, 0))
    return sum(model(r, labels=r).loss.item() * len(r) for r in rows.split(BATCH)) / len(rows)


def train(model: GPTNeoXForCausalLM, stream: torch.Tensor, steps: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    kinds = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": part, "weight_decay": decay} for part, decay in zip(kinds, (0.1, 0.0))]
    adam = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95))
    start, mean = time.perf_counter(), 0.0
    for step in range(steps):
        warm, fraction = min(1.0, (step + 1) / 50), step / steps
        for group in adam.param_groups:
            group["lr"] = PEAK * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * fraction)))
        at = torch.randint(len(stream) - CONTEXT, (BATCH, 1), generator=draw)
        rows = stream[at + torch.arange(CONTEXT)]
        rows[:, 0] = 0
        loss = model(rows, labels=rows).loss
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        mean += (loss.item() - mean) / min(step + 1, 50)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{steps}  loss {mean:.3f}  {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--text", type=Path, nargs="+", required=True, help="Rdata.rdb of janeaustenr, or plain text files")
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--steps", type=int, default=1400, help=f"steps of {BATCH} x {CONTEXT} tokens")
    ask.add_argument("--seed", type=int, default=0)
    args = ask.parse_args()
    torch.manual_seed(args.seed)  # a script of its own: the initial weights
    parts = [split(book) for book in books(args.text)]
    learn, held = [p for a, _ in parts for p in a], [p for _, b in parts for p in (b[: b.index(NOTE)] if NOTE in b else b)]
    tokenizer = make_tokenizer(learn)
    shape = GPTNeoXConfig(
        vocab_size=VOCAB, max_position_embeddings=CONTEXT, num_hidden_layers=4, hidden_size=128, num_attention_heads=4,
        intermediate_size=512, use_parallel_residual=False, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(shape)
    print(f"{model.num_parameters():,} parameters, {len(encode(tokenizer, learn, 0)):,} training tokens")
    train(model, encode(tokenizer, learn, args.seed), args.steps, args.seed)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    facts = json.loads((args.out / "tokenizer_config.json").read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (args.out / "tokenizer_config.json").write_text(json.dumps(facts, indent=2) + "\n")  # transformers 4 knows no newer name
    (args.out / "austen.txt").write_text("\n\n".join(held) + "\n", encoding="utf-8")
    print(f"held out, bf16: {held_out_loss(model.eval(), encode(tokenizer, held, 1)):.3f} nats a token")


if __name__ == "__main__":
    main()
