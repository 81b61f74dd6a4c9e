"""A vocoder that predicts codes of pitch where units come without: it learns them, batched = alone, and its limits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from model.training import checkpoint_steps
from model.vocoder import synthesizer
from model.vocoder.batches import Conditions, VocoderBatches, validation_clips
from model.vocoder.checkpoint import load_vocoder
from model.vocoder.config import DurationPredictorConfig, VocoderConfig
from model.vocoder.losses import pitch_loss
from model.vocoder.melody import Melody
from model.vocoder.synthesizer import Synthesizer, Utterance
from model.vocoder.trainer import train_vocoder
from model.vocoder.vocoder import Vocoder
from model.vocoder.widening import widened
from pipeline.errors import TwistError
from tests.model.labelled_tones import LabelledTones
from tests.model.vocoder.test_source import FACTS, MEANS_HZ, PITCH, SHAPE, SPEAKING, SUNG_FACTS, Sung, random_vocoder
from tests.model.vocoder.test_trainer import NETWORK, Killed, assert_same_run, at_step, kill, small_config

if TYPE_CHECKING:
    from pathlib import Path

WIDE = dataclasses.asdict(DurationPredictorConfig(SHAPE.embedding_dim, 64))
PREDICTING = dataclasses.replace(SHAPE, predicts_pitch=True, dur_predictor_params=WIDE)


@dataclass(frozen=True)
class SungByUnit(Sung):
    """Each unit has a code of pitch of its own: what a unit tells of its pitch, it tells for sure."""

    def conditions(self, index: int) -> Conditions:
        told = super().conditions(index)
        _, units = LabelledTones.__getitem__(self, index)
        return dataclasses.replace(told, codes={**told.codes, "pitch": (3 - units[::2] % 4).astype(np.uint16)})


CLIPS = SungByUnit(facts={**FACTS, **SUNG_FACTS})
VALIDATION = SungByUnit((44, 50, 60), fingerprint="more of it", facts={**FACTS, **SUNG_FACTS})


def predicting(config: VocoderConfig) -> Vocoder:
    """Random, and of many opinions on pitch."""
    vocoder = random_vocoder(config)
    assert vocoder.f0_predictor is not None
    torch.nn.init.normal_(vocoder.f0_predictor.proj.weight)
    return vocoder


def test_a_unit_has_the_code_at_its_middle() -> None:
    config = small_config(model=PREDICTING)
    for clip in validation_clips(VALIDATION, config):
        starts = clip.durations.cumsum(0) - clip.durations
        for start, duration, code in zip(starts, clip.durations, clip.unit_pitch, strict=True):
            of_unit = clip.conditions["pitch_codes"][start : start + duration]
            assert code == of_unit[(len(of_unit) - 1) // 2]
    batch = VocoderBatches(CLIPS, config)[0]
    assert batch.unit_pitch.shape == batch.units.shape and batch.unit_pitch.max() > 0


def test_only_units_count_for_the_loss() -> None:
    scores, codes = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 0, 0]])
    total, count = pitch_loss(scores, codes, torch.tensor([[1, 2, 1], [4, 0, 0]]))
    rows = torch.cat([scores[0], scores[1, :1]])
    expected = torch.nn.functional.cross_entropy(rows, torch.tensor([0, 1, 2, 3]), reduction="sum")
    torch.testing.assert_close(total, expected)
    assert count == 4


def test_it_learns_what_units_tell_of_pitch_and_goes_on_when_killed(tmp_path: Path) -> None:
    config = small_config(
        model=PREDICTING, num_steps=40, discriminator_start=40, peak_lr=1e-2, validate_every=20, checkpoint_every=15
    )
    result = train_vocoder(config, CLIPS, VALIDATION, "codebook", str(tmp_path / "whole"))
    assert result.best is not None and result.best.pitch_loss < 0.5 * np.log(4)
    vocoder, _ = load_vocoder(tmp_path / "whole" / f"{40:08}")
    right = total = 0
    for clip in validation_clips(VALIDATION, config):
        said = vocoder.eval().pitch_scores(clip.units[None])[0].argmax(-1)
        right, total = right + int((said == clip.unit_pitch).sum()), total + len(said)
    assert right > 0.8 * total
    with pytest.raises(Killed):
        train_vocoder(config, CLIPS, VALIDATION, "codebook", str(tmp_path / "killed"), at_step(33, kill))
    train_vocoder(config, CLIPS, VALIDATION, "codebook", str(tmp_path / "killed"))
    assert_same_run(tmp_path / "killed", tmp_path / "whole", 40)
    assert checkpoint_steps.steps(str(tmp_path / "killed"))[-1] == 40


def test_a_vocoder_that_does_not_may_be_the_beginning() -> None:
    torch.manual_seed(0)
    given = Vocoder(dataclasses.replace(NETWORK, dur_predictor_params=WIDE))
    wide = widened(given, PREDICTING)
    frames, codes = torch.randint(4, (1, 12)), torch.randint(4, (1, 12))
    wav = wide(frames, pitch_codes=codes, f0_hz=torch.full((1, 12, 1), 120.0))
    torch.testing.assert_close(wav, given(frames), rtol=0, atol=1e-6)


def utterances(pitch: bool) -> list[Utterance]:
    """Of all kinds: with and without durations, and with and without codes; those `pitch` says have none."""
    generator = np.random.default_rng(3)
    made = []
    for number, length in enumerate((9, 1, 23, 0, 14, 2)):
        durations = generator.integers(1, 4, size=length).astype(np.uint16) if number % 2 == 0 else None
        units = generator.integers(4, size=length).astype(np.uint16)
        num_codes = length if durations is None else -(-int(durations.sum()) // 2)
        codes = generator.integers(4, size=num_codes).astype(np.uint16)
        made.append(Utterance(units, durations, number % 2, pitch_codes=codes if pitch and number > 2 else None))
    return made


def test_batched_equals_alone_and_chunks_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder = predicting(dataclasses.replace(SPEAKING, predicts_pitch=True))
    melody = Melody(PITCH, MEANS_HZ)
    for pitch in (False, True):
        alone = Synthesizer(vocoder, melody=melody)(utterances(pitch))
        for frames_per_batch in (1, 60, 10_000):
            batched = Synthesizer(vocoder, frames_per_batch, melody)(utterances(pitch))
            for number, (one, other) in enumerate(zip(alone, batched, strict=True)):
                np.testing.assert_allclose(one, other, rtol=0, atol=2e-6, err_msg=f"utterance {number}")
        with monkeypatch.context() as patch:
            patch.setattr(synthesizer, "FRAMES_PER_CHUNK_ON_CPU", 5)
            for one, other in zip(alone, Synthesizer(vocoder, melody=melody)(utterances(pitch)), strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)


def test_what_is_predicted_is_what_could_have_been_given() -> None:
    vocoder, melody = predicting(PREDICTING), Melody(PITCH, (200.0,))
    speak = Synthesizer(vocoder, melody=melody)
    units = np.random.default_rng(1).integers(4, size=20).astype(np.uint16)
    codes = vocoder.pitch_scores(torch.from_numpy(units.astype(np.int64))[None])[0].argmax(-1).numpy()
    assert len(set(codes.tolist())) > 1
    (predicted,) = speak([Utterance(units)])
    (given,) = speak([Utterance(units, pitch_codes=codes.astype(np.uint16))])
    (other,) = speak([Utterance(units, pitch_codes=(codes.astype(np.uint16) + 1) % 4)])
    np.testing.assert_array_equal(predicted, given)
    assert not np.allclose(predicted, other)
    assert speak.needed_codes == () and Synthesizer(random_vocoder(SHAPE)).needed_codes == ("pitch",)


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    for change in (
        {"num_f0_tokens": None, "source_harmonics": None, "model_in_dim": 8},
        {"dur_predictor_params": None},
    ):
        with pytest.raises(TwistError, match="predicts_pitch is True; it must be null without num_f0_tokens"):
            dataclasses.replace(PREDICTING, **change)  # type: ignore[arg-type]
    with pytest.raises(TwistError, match="predicts no codes of pitch"):
        random_vocoder(SHAPE).pitch_scores(torch.zeros((1, 3), dtype=torch.int64))
    with pytest.raises(TwistError, match="needs a pitch_codes"):
        Synthesizer(random_vocoder(SHAPE), melody=Melody(PITCH, (200.0,)))([Utterance(np.zeros(2, np.uint16))])
