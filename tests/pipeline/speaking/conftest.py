"""A run whose units the embedded vocoder speaks, with a tiny speech LM."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from model.encoder.config import EncoderConfig
from model.lm.speech_lm import cold_start
from model.lm.vocab import Vocabulary
from pipeline.shards import open_dataset
from pipeline.units.config import CodebookConfig

if TYPE_CHECKING:
    from collections.abc import Callable

OPT = {
    "model_type": "opt",
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "max_position_embeddings": 1024,
}


@pytest.fixture(scope="session")
def spoken_run(make_run: Callable[..., Path]) -> Path:
    """A finished run of the embedded tokenizer, with a checkpoint; tests only read it."""
    run = make_run(
        encoder=EncoderConfig(name="hubert", path="hubert-tiny-25hz", layer=3),
        codebook=CodebookConfig(num_units=100, path="hubert-tiny-25hz-km100"),
    )
    vocabulary = Vocabulary.of_dataset(open_dataset(str(run / "shards")))
    checkpoint = run / "checkpoints" / "00000001"
    cold_start(OPT, vocabulary, seed=0).save_pretrained(checkpoint)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"config": {}, "progress": {"step": 1, "best_step": 1}}))
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(checkpoint.iterdir())}
    (checkpoint / "checksums.json").write_text(json.dumps(sums, indent=2) + "\n")
    return run
