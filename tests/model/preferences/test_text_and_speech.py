"""A model of text and speech is tuned on its speech; one that says pitch and style too is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.lm.speech_lm import cold_start, load_speech_lm
from model.lm.vocab import Vocabulary
from model.preferences.dpo import ending_log_probs
from model.preferences.pair_batches import TokenizedPairs
from model.preferences.trainer import tune
from model.preferences.tune_config import TuneConfig
from pipeline.errors import TwistError
from tests.model.preferences.conftest import OPT
from tests.text_models import write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from model.preferences.pair_shards import PairDataset

TEXT_SIZE = 320
MIXED = Vocabulary(20, offset=TEXT_SIZE + 2, text_size=TEXT_SIZE, codebook_fingerprint="codebook-1")
CONFIG = TuneConfig(
    batch_size=8, max_units=60, num_steps=30, peak_lr=1e-2, warmup_steps=2, validate_every=15, device="cpu"
)


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    """A model of 320 ids of text, [TEXT], [SPEECH] and 20 units, with its tokenizer."""
    folder = tmp_path / "mixed"
    cold_start(OPT, MIXED, seed=0).save_pretrained(folder)
    write_tokenizer(folder, vocab_size=TEXT_SIZE)
    return str(folder)


def plain_log_prob(model: Any, prompt: list[int], ending: list[int]) -> float:
    """The ending behind [SPEECH] and the prompt, a sequence by itself, among all ids."""
    ids = torch.tensor([[TEXT_SIZE + 1, *prompt, *ending]])
    with torch.no_grad():
        of_next = model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1).gather(1, ids[0, 1:, None])
    return float(of_next[-len(ending) :].sum())


def test_endings_are_of_speech(mixed: str, pairs: PairDataset) -> None:
    model, vocabulary = load_speech_lm(mixed)
    tokenized = TokenizedPairs(pairs, "train", vocabulary, 60)
    with torch.no_grad():
        found = ending_log_probs(model.eval(), tokenized.micro_batch([2, 5]))
    plain = AutoModelForCausalLM.from_pretrained(mixed).eval()
    of_id = {pair.pair_id: pair for pair in pairs.pairs("train")}
    for place, index in enumerate([2, 5]):
        prompt, chosen, rejected = (
            [int(unit) + TEXT_SIZE + 2 for unit in part] for part in of_id[tokenized.ids[index]].parts
        )
        assert found.chosen[place].item() == pytest.approx(plain_log_prob(plain, prompt, chosen), abs=1e-3)
        assert found.rejected[place].item() == pytest.approx(plain_log_prob(plain, prompt, rejected), abs=1e-3)


def test_it_learns_and_keeps_its_text(mixed: str, pairs: PairDataset, tmp_path: Path) -> None:
    result = tune(CONFIG, mixed, pairs.uri, str(tmp_path / "tuned"))
    assert result.best is not None
    assert result.best.gain_accuracy > 0.75
    assert result.best.accuracy > result.initial.accuracy
    tuned, vocabulary = load_speech_lm(result.checkpoint)
    assert vocabulary == MIXED
    assert tuned.get_input_embeddings().weight.shape[0] == TEXT_SIZE + 22
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (mixed, result.checkpoint))
    assert after("the quick fox")["input_ids"] == before("the quick fox")["input_ids"]
    assert after.convert_tokens_to_ids(["[Text]", "[Speech]", "[Hu0]"]) == [TEXT_SIZE, TEXT_SIZE + 1, TEXT_SIZE + 2]


def test_pitch_and_style_are_refused(pairs: PairDataset, tmp_path: Path) -> None:
    expressive = Vocabulary(
        20,
        offset=TEXT_SIZE + 2,
        text_size=TEXT_SIZE,
        codebook_fingerprint="codebook-1",
        num_pitch=6,
        num_style=4,
        pitch_offset=TEXT_SIZE + 22,
    )
    folder = str(tmp_path / "expressive")
    cold_start(OPT, expressive, seed=0).save_pretrained(folder)
    with pytest.raises(TwistError, match="says pitch and style beside units"):
        tune(CONFIG, folder, pairs.uri, str(tmp_path / "tuned"))
