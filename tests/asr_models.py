"""Tiny models of random weights that hear speech and judge texts: what they say means nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

if TYPE_CHECKING:
    from pathlib import Path

SPECIALS = (
    "startoftranscript", "translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"
)  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_ctc(folder: Path) -> Path:
    """A wav2vec 2.0 for CTC over letters."""
    folder.mkdir()
    vocabulary = {"<pad>": 0, "|": 1, **{letter: number for number, letter in enumerate(LETTERS, 2)}, "<unk>": 28}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16, 16),
        conv_kernel=(80, 20),
        conv_stride=(40, 16),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():  # untrained weights would give one letter all the time
        model.lm_head.weight *= 100
    model.save_pretrained(folder)
    return folder


def write_whisper(folder: Path) -> Path:
    """A Whisper of English alone, whose words are letters; its transcripts have 20 of these at most."""
    folder.mkdir()
    # Letters before all other bytes, so that what is heard can be read.
    others = sorted(set(ByteLevel.alphabet()) - set(LETTERS))
    vocabulary = {letter: number for number, letter in enumerate([*LETTERS, *others, "<|endoftext|>"])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    specials = [f"<|{name}|>" for name in SPECIALS]
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<|endoftext|>", *specials)}
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=8,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_target_positions=448,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        init_std=1.0,
    )
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():  # one of the letters is always likeliest
        model.proj_out.weight[len(LETTERS) :] = 0
    config = model.generation_config  # its `update` leaves out what it does not know, such as the first two
    config._from_model_config = False  # or it is made anew at each call
    config.is_multilingual = False
    config.no_timestamps_token_id = ids["<|notimestamps|>"]
    config.begin_suppress_tokens = None
    config.max_length = 24
    model.save_pretrained(folder)
    return folder


def write_text_lm(folder: Path) -> Path:
    """A GPT-2 over bytes; its tokenizer has a BOS that it does not add by itself."""
    folder.mkdir()
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([LETTERS], vocab_size=257, special_tokens=["<|endoftext|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        initializer_range=0.5,
    )  # fmt: skip
    GPT2LMHeadModel(config).eval().save_pretrained(folder)
    return folder
