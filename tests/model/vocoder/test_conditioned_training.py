"""Training a vocoder with codes of pitch and style and several speakers: crops, learning, resuming, and its files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from model.training import checkpoint_steps
from model.vocoder.batches import CodeFacts, VocoderBatches, validation_clips
from model.vocoder.checkpoint import code_fingerprints, load_vocoder
from model.vocoder.config import VocoderConfig
from model.vocoder.losses import duration_loss
from model.vocoder.mel import LogMel
from model.vocoder.trainer import train_vocoder
from model.vocoder.vocoder import Vocoder
from model.vocoder.widening import can_be_widened, widened
from pipeline.errors import TwistError
from pipeline.speaking.voice_names import VoiceNames
from tests.model.labelled_melodies import FACTS, LEVELS, SPEAKERS, LabelledMelodies
from tests.model.labelled_tones import HOP_SAMPLES
from tests.model.vocoder.test_trainer import NETWORK, Killed, assert_same_run, at_step, kill, small_config

if TYPE_CHECKING:
    pass

CLIPS = LabelledMelodies()
VALIDATION = LabelledMelodies((44, 50, 60), fingerprint="more melodies")
CONDITIONED = dataclasses.replace(
    NETWORK,
    num_f0_tokens=3,
    f0_hop_size=640,
    num_style_tokens=4,
    style_hop_size=8000,
    multispkr="from the run",
    num_speakers=2,
    model_in_dim=32,
)


def config(**changes: Any) -> Any:
    return small_config(**{"model": CONDITIONED, **changes})


def test_a_crop_has_the_codes_of_its_frames_and_its_speaker() -> None:
    batches = VocoderBatches(CLIPS, config())
    seen = set()
    for index in range(6):
        batch = batches[index]
        pitch, speaker = batch.conditions["pitch_codes"], batch.conditions["speaker"]
        assert pitch.shape == batch.conditions["style_codes"].shape == batch.frames.shape
        assert speaker.shape == (4,)
        for row in range(4):
            level = LEVELS[int(speaker[row])]
            assert abs(float(batch.wav[row].abs().max()) - level) < 0.1 * level, "the speaker is another clip's"
            for place in range(batch.frames.shape[1]):
                piece = batch.wav[row, place * HOP_SAMPLES : (place + 1) * HOP_SAMPLES]
                found_hz = torch.fft.rfft(piece, 3200).abs().argmax().item() * 5
                octave = int(pitch[row, place]) + 0.5 * (int(batch.frames[row, place]) > 1)
                assert abs(found_hz - 300 * 2**octave) < 30, f"at {found_hz} Hz the code says {octave} octaves"
                seen.add(int(pitch[row, place]))
    assert seen == {0, 1, 2}


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    settings = config(checkpoint_every=3, validate_every=4, sample_every=5, num_samples=1)
    train_vocoder(settings, CLIPS, VALIDATION, "codebook", str(tmp_path / "whole"))
    with pytest.raises(Killed):
        train_vocoder(settings, CLIPS, VALIDATION, "codebook", str(tmp_path / "killed"), at_step(8, kill))
    train_vocoder(settings, CLIPS, VALIDATION, "codebook", str(tmp_path / "killed"))
    assert_same_run(tmp_path / "killed", tmp_path / "whole", 10)
    folder = Path(checkpoint_steps.step_folder(str(tmp_path / "whole"), 10))
    assert code_fingerprints(folder) == {name: facts.fingerprint for name, facts in FACTS.items()}
    assert VoiceNames.beside(folder).speakers == SPEAKERS
    vocoder, fingerprint = load_vocoder(folder)
    assert fingerprint == "codebook" and vocoder.config == CONDITIONED
    other = LabelledMelodies(facts={**FACTS, "pitch": CodeFacts(25.0, 3, "another model")})
    with pytest.raises(TwistError, match="takes the codes of another model of pitch"):
        train_vocoder(config(init=str(folder)), other, VALIDATION, "codebook", str(tmp_path / "other"))


def test_every_code_and_speaker_is_learned(tmp_path: Path) -> None:
    """Rows of the tables that clips have change in training, and the audio changes with each of them."""
    settings = config(num_steps=6, discriminator_start=6, batch_size=8, peak_lr=1e-3, weight_decay=0.0)
    torch.manual_seed(settings.seed)
    before = Vocoder(CONDITIONED).state_dict()
    result = train_vocoder(settings, CLIPS, VALIDATION, "codebook", str(tmp_path))
    vocoder, _ = load_vocoder(Path(result.checkpoint))
    after = vocoder.state_dict()
    for name in ("f0_dict", "style_dict", "spkr"):
        change = (after[f"{name}.weight"] - before[f"{name}.weight"]).abs().amax(dim=1)
        assert (change > 1e-5).all(), f"{name}: {change}"
    (clip, *_) = validation_clips(VALIDATION, settings)
    conditions = {name: value[None] for name, value in clip.conditions.items()}
    wav = vocoder.eval()(clip.frames[None], **conditions)
    for name, other in (
        ("pitch_codes", (conditions["pitch_codes"] + 1) % 3),
        ("style_codes", (conditions["style_codes"] + 1) % 4),
        ("speaker", 1 - conditions["speaker"]),
    ):
        assert not torch.equal(vocoder(clip.frames[None], **{**conditions, name: other}), wav), name


def test_the_loss_has_a_gradient_for_each_table_and_all_that_occurs_in_it() -> None:
    settings = config(batch_size=8)
    torch.manual_seed(0)
    vocoder = Vocoder(CONDITIONED)
    batch = VocoderBatches(CLIPS, settings)[0]
    mel = LogMel(settings.mels[0])
    loss = (mel(vocoder(batch.frames, **batch.conditions)) - mel(batch.wav)).abs().mean()
    torch.autograd.backward(loss)
    for name, told in (("f0_dict", "pitch_codes"), ("style_dict", "style_codes"), ("spkr", "speaker")):
        gradient = vocoder.get_submodule(name).weight.grad
        assert isinstance(gradient, torch.Tensor)
        has_one = gradient.abs().amax(dim=1) > 0
        assert set(torch.nonzero(has_one)[:, 0].tolist()) == set(batch.conditions[told].flatten().tolist()), name


def test_each_frame_sounds_as_its_own_code_says() -> None:
    """Another code in one frame changes the audio there, and none that lies beyond what convolutions reach."""
    torch.manual_seed(0)
    vocoder = Vocoder(CONDITIONED).eval()
    frames, codes = torch.randint(4, (1, 60)), {"speaker": torch.tensor([0])}
    codes |= {"pitch_codes": torch.randint(3, (1, 60)), "style_codes": torch.randint(4, (1, 60))}
    wav = vocoder(frames, **codes)[0].reshape(60, HOP_SAMPLES)
    for name, number in (("pitch_codes", 3), ("style_codes", 4)):
        changed = codes[name].clone()
        changed[0, 30] = (changed[0, 30] + 1) % number
        is_other = (vocoder(frames, **{**codes, name: changed})[0].reshape(60, HOP_SAMPLES) != wav).any(dim=1)
        assert is_other[30] and not is_other[:20].any() and not is_other[41:].any(), name


def test_a_vocoder_of_units_alone_may_be_the_beginning(tmp_path: Path) -> None:
    """With codes and speakers added it says the same at first, whatever they are; then they take part."""
    first = train_vocoder(small_config(num_steps=3), CLIPS, VALIDATION, "codebook", str(tmp_path / "units"))
    (clip, *_) = validation_clips(VALIDATION, config())
    conditions = {name: value[None] for name, value in clip.conditions.items()}
    other = {**conditions, "pitch_codes": (conditions["pitch_codes"] + 1) % 3, "speaker": 1 - conditions["speaker"]}
    given = load_vocoder(Path(first.checkpoint))[0].eval()
    torch.manual_seed(1)
    wide = widened(given, CONDITIONED).eval()
    torch.testing.assert_close(wide(clip.frames[None], **conditions), given(clip.frames[None]), rtol=0, atol=1e-6)
    assert torch.equal(wide(clip.frames[None], **conditions), wide(clip.frames[None], **other))
    settings = config(init=first.checkpoint, num_steps=3, discriminator_start=3, peak_lr=1e-3)
    result = train_vocoder(settings, CLIPS, VALIDATION, "codebook", str(tmp_path / "wide"))
    trained = load_vocoder(Path(result.checkpoint))[0].eval()
    assert not torch.equal(trained(clip.frames[None], **conditions), trained(clip.frames[None], **other))
    shape = dataclasses.replace(CONDITIONED, upsample_initial_channel=64)
    with pytest.raises(TwistError, match="another shape"):
        train_vocoder(dataclasses.replace(settings, model=shape), CLIPS, VALIDATION, "codebook", str(tmp_path / "x"))
    assert not can_be_widened(CONDITIONED, dataclasses.replace(CONDITIONED, num_speakers=3))


def test_the_first_and_the_last_unit_of_a_clip_do_not_count() -> None:
    durations = torch.tensor([[9, 2, 3, 9, 0], [5, 4, 0, 0, 0], [7, 1, 7, 0, 0]])
    predicted = torch.log(durations.float() + 1)
    predicted[0, [0, 3]] += 10.0
    predicted[2, [0, 2]] += 10.0
    squared_error, count = duration_loss(predicted, durations)
    assert float(squared_error) == pytest.approx(0, abs=1e-9)
    assert int(count) == 2 + 2 + 1, "a clip of two units has no others"
    predicted[0, 2] += 2.0
    predicted[1, 0] += 1.0
    assert float(duration_loss(predicted, durations)[0]) == pytest.approx(5)


@pytest.mark.parametrize(
    ("facts", "changes", "words"),
    [
        ({}, {}, "num_f0_tokens is 3, but the run has no codes of pitch; run `twist pitch` on it"),
        ({**FACTS, "pitch": CodeFacts(25.0, 4, "x")}, {}, "but the run has 4 codes of pitch"),
        ({**FACTS, "style": CodeFacts(1.0, 4, "x")}, {}, "style_hop_size is 8000, but the run has 1 codes of style"),
        (FACTS, {"num_speakers": 1}, "num_speakers is 1, but the run has 2"),
    ],
)
def test_clips_that_do_not_fit_are_refused(
    tmp_path: Path, facts: dict[str, CodeFacts], changes: dict[str, Any], words: str
) -> None:
    clips = LabelledMelodies(facts=facts)
    model = dataclasses.replace(CONDITIONED, **changes)
    with pytest.raises(TwistError, match=words):
        train_vocoder(config(model=model), clips, VALIDATION, "codebook", str(tmp_path))


def test_a_published_config_may_have_codes_and_its_rates(tmp_path: Path) -> None:
    """SpiRit-LM EXPRESSIVE's: pitch lasts two frames, style twenty-five."""
    content = {
        **VocoderConfig().to_json(),
        "num_f0_tokens": 64,
        "f0_hop_size": 1280,
        "num_style_tokens": 100,
        "style_hop_size": 16_000,
        "code_hop_size": 640,
        "multispkr": "from_input_file",
        "num_speakers": 4,
        "model_in_dim": 512,
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    read = VocoderConfig.read(tmp_path / "config.json")
    assert read.frames_per_code == {"pitch": 2, "style": 25}
