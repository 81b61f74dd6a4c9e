"""Small preference pairs and a model that has not learned to tell them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from model.lm.speech_lm import cold_start
from model.lm.vocab import Vocabulary
from model.preferences.pair_shards import PairDataset, PreferencePair, write_pair_shards

if TYPE_CHECKING:
    from pathlib import Path

INFO = {"num_units": 20, "frame_rate_hz": 25, "encoder": {}, "codebook": {"fingerprint": "codebook-1"}}
OPT: dict[str, Any] = {
    "model_type": "opt",
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 16,
    "max_position_embeddings": 64,
    "do_layer_norm_before": False,
    "dropout": 0.1,
}


def synthetic_pairs(num_train: int, num_validation: int, seed: int = 0) -> list[PreferencePair]:
    """The chosen ending goes up in steps of one, the rejected one in steps of three; lengths differ."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(num_train + num_validation):
        prompt = rng.integers(20, size=rng.integers(2, 12))
        starts, lengths = rng.integers(20, size=2), rng.integers(3, 14, size=2)
        chosen, rejected = (
            (start + step * np.arange(length)) % 20 for start, length, step in zip(starts, lengths, (1, 3), strict=True)
        )
        split = "train" if number < num_train else "validation"
        before, good, bad = (part.astype(np.uint16) for part in (prompt, chosen, rejected))
        pairs.append(PreferencePair(f"pair.{number}", split, before, good, bad, {"auto_bleu": 0.0}))
    return pairs


def write_pairs(uri: str, pairs: list[PreferencePair] | None = None, **info: Any) -> PairDataset:
    return write_pair_shards(uri, pairs or synthetic_pairs(60, 24), 25, {**INFO, **info})


@pytest.fixture
def pairs(tmp_path: Path) -> PairDataset:
    return write_pairs(str(tmp_path / "pairs"))


@pytest.fixture(scope="session", params=["units", "with end"])
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint's folder of a model without BOS and EOS, and of one with both."""
    vocabulary = Vocabulary(20, codebook_fingerprint="codebook-1")
    if request.param == "with end":
        vocabulary = Vocabulary(20, offset=2, bos_id=1, codebook_fingerprint="codebook-1")
    folder = tmp_path_factory.mktemp("reference") / "lm"
    cold_start(OPT, vocabulary, seed=0).save_pretrained(folder)
    return str(folder)
