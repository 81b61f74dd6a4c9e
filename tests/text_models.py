"""Tokenizers of text LMs, made here: a byte-level BPE (as GPT-2's and OPT's) and one with word starts (as LLaMA's)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (
    "the quick brown fox jumps over the lazy dog",
    "she sells sea shells by the sea shore on the other side of the river",
    "one two three four five six seven eight nine ten",
    "it's a café where naïve people don't pay",
)


def write_tokenizer(
    folder: Path, kind: Literal["bytes", "word_starts"] = "bytes", vocab_size: int = 320, rows: int | None = None
) -> Path:
    """Writes a tokenizer of transformers, and beside it, if `rows` are given, a config.json of a table with so many."""
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=False))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
        alphabet = sorted({character for line in TEXT for character in line} | set("abcdefghijklmnopqrstuvwxyz\u2581"))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(str(folder))
    if rows is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": "opt", "vocab_size": rows}))
    return folder
