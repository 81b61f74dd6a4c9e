"""How fast text becomes shards, beside its tokenizer alone and beside transformers' own.

    python benchmarks/pack_text.py [--quick] [--json]

Text is paragraphs of Python's own documentation (`pydoc_data`), drawn again and again, a document a line; the tokenizer
is a byte-level BPE of 8,192 tokens, trained on it. Everything runs in one process and one thread, and is measured in
seconds of the processor, so that other work on the machine does not count. Tokens a second of

    pack      `twist pack-text`: read, tokenize, shuffle over all documents, write shards with index and checksums
    encode    tokenizers' encode_batch on the same documents in memory: no way of packing is faster
    users     transformers' tokenizer on batches of 1,000 documents, tokens written as .npy: what a script does

`pack` and `encode` once more of short documents (`short_...`): stretches of 6 to 16 words.
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc_data.topics
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tokenizers
import torch

from benchmarks.machine import machine
from model.lm.text_tokenizer import read_tokenizer, tokenizer_of_process
from pipeline.text.config import TextConfig, TextCorpus
from pipeline.text.make_tokenizer import make_tokenizer
from pipeline.text.pack_text import pack_text
from pipeline.text_shards import open_text

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_TOKENS = 8192
BATCH = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 MB of text in place of 64: seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    result = measure(4_000_000 if arguments.quick else 64_000_000)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:30} {value:,.4g}")


def measure(num_bytes: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    documents = draw_documents(num_bytes)
    short = cut_short(documents, num_bytes // 10)
    with tempfile.TemporaryDirectory() as beside:
        folder = Path(beside)
        make_tokenizer(folder / "tokenizer", documents[: len(documents) // 10], NUM_TOKENS)
        tokenizer_of_process(str(folder / "tokenizer")).encode(documents[:10])  # loaded, and its code warm
        num_tokens, pack_s, encode_s = pack_and_encode(documents, folder, "long")
        num_short, short_pack_s, short_encode_s = pack_and_encode(short, folder, "short")
        users_s = processor_s(lambda: as_users_do(folder / "tokenizer", documents, folder / "npy"))
    figures = {
        "text_mb": num_bytes / 1e6,
        "documents": len(documents),
        "tokens": num_tokens,
        "pack_tokens_per_s": num_tokens / pack_s,
        "pack_mb_per_s": num_bytes / 1e6 / pack_s,
        "encode_tokens_per_s": num_tokens / encode_s,
        "users_tokens_per_s": num_tokens / users_s,
        "short_documents": len(short),
        "short_tokens": num_short,
        "short_pack_documents_per_s": len(short) / short_pack_s,
    }
    ratios = {
        "pack_over_encode": encode_s / pack_s,
        "pack_over_users": users_s / pack_s,
        "short_pack_over_encode": short_encode_s / short_pack_s,
    }
    return {"ratios": ratios, "figures": figures, "machine": machine(tokenizers=tokenizers.__version__)}


def pack_and_encode(documents: list[str], folder: Path, name: str) -> tuple[int, float, float]:
    """The tokens of documents, and the seconds that it takes to pack them, and only to tokenize them."""
    text, run = folder / f"{name}.txt", str(folder / name)
    text.write_text("\n".join(documents) + "\n")
    config = TextConfig(str(folder / "tokenizer"), (TextCorpus(str(text), document="line"),))
    pack_s = processor_s(lambda: pack_text(run, config, lambda *_: None))
    num_tokens = int(np.sum(open_text(f"{run}/text").manifest["num_tokens"].to_numpy()))
    encode = tokenizer_of_process(str(folder / "tokenizer")).encode
    encode_s = processor_s(lambda: [encode(documents[at : at + BATCH]) for at in range(0, len(documents), BATCH)])
    return num_tokens, pack_s, encode_s


def cut_short(documents: list[str], num_bytes: int) -> list[str]:
    """Stretches of 6 to 16 words of documents, of so many bytes together."""
    rng = random.Random(0)
    short, drawn = [], 0
    while drawn < num_bytes:
        words = rng.choice(documents).split()
        start = rng.randrange(max(1, len(words) - 16))
        short.append(" ".join(words[start : start + rng.randint(6, 16)]))
        drawn += len(short[-1].encode()) + 1
    return short


def draw_documents(num_bytes: int) -> list[str]:
    """Paragraphs, each on one line, of so many bytes together."""
    rng = random.Random(0)
    texts = pydoc_data.topics.topics.values()
    known = [" ".join(one.split()) for text in texts for one in text.split("\n\n") if len(one.split()) > 5]
    documents, drawn = [], 0
    while drawn < num_bytes:
        documents.append(rng.choice(known))
        drawn += len(documents[-1].encode()) + 1
    return documents


def processor_s(work: Callable[[], object]) -> float:
    """Seconds of the processor that something takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def as_users_do(tokenizer_folder: Path, documents: list[str], folder: Path) -> None:
    tokenizer = read_tokenizer(str(tokenizer_folder))
    folder.mkdir()
    for at in range(0, len(documents), BATCH):
        ids = tokenizer(documents[at : at + BATCH], add_special_tokens=False)["input_ids"]
        np.save(folder / f"{at:09d}.npy", np.concatenate([np.array(one, np.uint16) for one in ids]))


if __name__ == "__main__":
    main()
