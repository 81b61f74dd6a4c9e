"""A vocoder with a source: its sines, F0 that it follows, batched = alone, streamed = whole, files, and refusals."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from model.pitch.nccf import track
from model.training import checkpoint_steps
from model.vocoder import synthesizer
from model.vocoder.batches import Conditions, VocoderBatches, validation_clips
from model.vocoder.checkpoint import load_melody, load_vocoder, save_vocoder
from model.vocoder.config import VocoderConfig
from model.vocoder.melody import LOWEST_HZ, Melody
from model.vocoder.source import HarmonicSource
from model.vocoder.stream import VocoderStream, look_ahead_frames
from model.vocoder.synthesizer import Synthesizer, Utterance
from model.vocoder.trainer import train_vocoder
from model.vocoder.vocoder import Vocoder
from model.vocoder.widening import widened
from pipeline.errors import TwistError
from pipeline.speaking.voice import load_voice
from tests.model.coded_melodies import pitch_model_of
from tests.model.labelled_melodies import FACTS, LabelledMelodies
from tests.model.labelled_tones import HOP_SAMPLES
from tests.model.vocoder.test_trainer import NETWORK, Killed, assert_same_run, at_step, kill, small_config

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEANS_HZ = (220.0, 110.0)
# Of a mean of 200 Hz: 150, 200, 300 Hz, and a code without a voice.
PITCH = pitch_model_of([(-50.0, True), (0.0, True), (100.0, True), (0.0, False)])
SHAPE = dataclasses.replace(NETWORK, num_f0_tokens=4, f0_hop_size=640, model_in_dim=16, source_harmonics=6)
SPEAKING = dataclasses.replace(SHAPE, multispkr="from the run", num_speakers=2, model_in_dim=24)


def random_vocoder(config: VocoderConfig = SHAPE) -> Vocoder:
    """Weights large enough for each layer to be heard."""
    torch.manual_seed(0)
    vocoder = Vocoder(config)
    with torch.no_grad():
        for name, parameter in vocoder.named_parameters():
            if name.startswith(("ups", "resblocks", "conv_p")):
                parameter.normal_(0, 0.15)
    return vocoder.for_inference(torch.float32, torch.device("cpu"))


def glide(num_frames: int, lowest_hz: float = 120.0, highest_hz: float = 260.0) -> torch.Tensor:
    """F0 that rises and falls, with gaps, [1, F, 4]."""
    times = np.arange(num_frames * 4) / (num_frames * 4)
    hertz = lowest_hz + (highest_hz - lowest_hz) * 0.5 * (1 - np.cos(4 * np.pi * times))
    hertz[(times * 5 % 1) > 0.8] = 0
    return torch.from_numpy(hertz.astype(np.float32)).reshape(1, num_frames, 4)


def told(num_frames: int, seed: int = 0) -> dict[str, torch.Tensor]:
    codes = torch.randint(4, (1, num_frames), generator=torch.Generator().manual_seed(seed))
    return {"pitch_codes": codes, "f0_hz": glide(num_frames)}


def frames_of(num_frames: int) -> torch.Tensor:
    return torch.randint(4, (1, num_frames), generator=torch.Generator().manual_seed(1))


def test_without_a_source_a_vocoder_is_what_it_was() -> None:
    """No weight more, and the others begin with the same values whether there is a source or not."""
    torch.manual_seed(3)
    plain = Vocoder(dataclasses.replace(SHAPE, source_harmonics=None)).state_dict()
    torch.manual_seed(3)
    sourced = Vocoder(SHAPE).state_dict()
    assert not any(name.startswith("source") for name in plain)
    assert {name for name in sourced if not name.startswith("source")} == set(plain)
    assert all(torch.equal(weight, sourced[name]) for name, weight in plain.items())


def test_sines_are_those_of_a_sum_over_samples() -> None:
    f0_hz = torch.cat([glide(30), glide(30, 900.0, 2500.0)])
    made, cycles = HarmonicSource(SHAPE).sines(f0_hz)
    per_sample = np.repeat(f0_hz.flatten(1).numpy().astype(np.float64), HOP_SAMPLES // 4, axis=1)
    phase = np.cumsum(per_sample, axis=1) / 16_000
    for number in range(1, 7):
        expected = np.sin(2 * np.pi * number * phase) * (per_sample > 0) * (number * per_sample < 8000)
        np.testing.assert_allclose(made[:, number - 1].numpy(), expected, atol=2e-5)
    assert not made[1, 3:][:, per_sample[1] > 2000].any(), "sines above half the sample rate would be heard as others"
    np.testing.assert_allclose(cycles.numpy(), phase[:, -1], rtol=1e-12)
    steps = made[0, 0].diff().abs()[np.flatnonzero((per_sample[0, 1:] > 0) & (per_sample[0, :-1] > 0))]
    assert steps.max() < 2 * np.pi * 260 / 16_000, "the phase jumps"


def test_sines_go_on_where_they_were() -> None:
    source, f0_hz = HarmonicSource(SHAPE), glide(40)
    whole, _ = source.sines(f0_hz)
    cycles, pieces = None, []
    for piece in torch.split(f0_hz, [1, 0, 7, 32], dim=1):
        made, cycles = source.sines(piece, cycles)
        pieces.append(made)
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, rtol=0, atol=1e-5)
    # An hour later they are as exact.
    late, _ = source.sines(f0_hz, torch.tensor([700_000.0], dtype=torch.float64))
    torch.testing.assert_close(late, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rates", [((8, 8, 5), (16, 16, 11)), ((5, 4, 4, 4), (11, 8, 8, 8)), ((320,), (320,))])
def test_each_stage_is_given_as_many_steps_as_it_has(rates: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape = dataclasses.replace(SHAPE, upsample_rates=rates[0], upsample_kernel_sizes=rates[1])
    source = HarmonicSource(shape)
    sines, _ = source.sines(glide(9))
    rate = 1
    for stage, up in enumerate(rates[0]):
        rate *= up
        assert source(sines, stage).shape == (1, 32 >> (stage + 1), 9 * rate)


def f0_likeness(vocoder: Vocoder, num_frames: int, **more: torch.Tensor) -> tuple[float, float]:
    """The correlation of log F0 that is heard with what was given, and the share of voiced frames that are 5% off."""
    f0_hz = glide(num_frames)
    conditions = {"pitch_codes": torch.zeros(1, num_frames, dtype=torch.int64), "f0_hz": f0_hz, **more}
    wav = vocoder(torch.zeros(1, num_frames, dtype=torch.int64), **conditions)[0].detach().numpy()
    heard = track(wav / np.abs(wav).max() * 0.5, num_frames * 4)
    given = f0_hz.flatten().numpy()
    both = (heard > 0) & (given > 0)
    assert both.sum() > 0.5 * (given > 0).sum(), f"{both.sum()} of {(given > 0).sum()} frames are voiced"
    logs = np.log(heard[both]), np.log(given[both])
    return float(np.corrcoef(*logs)[0, 1]), float((np.abs(logs[0] - logs[1]) > 0.05).mean())


def test_even_an_untrained_vocoder_follows_f0() -> None:
    torch.manual_seed(0)
    correlation, share_off = f0_likeness(Vocoder(SHAPE).eval(), 100)
    assert correlation > 0.9 and share_off < 0.1
    silent = random_vocoder()
    for parameter in silent.source.parameters():  # type: ignore[union-attr]
        parameter.zero_()
    wav = silent(frames_of(50), **told(50))
    assert torch.equal(wav, silent(frames_of(50), **{**told(50), "f0_hz": torch.zeros(1, 50, 4)})), "only sines tell F0"


@dataclass(frozen=True)
class Sung(LabelledMelodies):
    """Buzzes of 150, 200 or 300 Hz, or noise, as codes say; units tell nothing of them."""

    melody_of_clips: Melody = Melody(PITCH, (200.0,))  # noqa: RUF009 - immutable

    @property
    def melody(self) -> Melody:
        return self.melody_of_clips

    @property
    def speakers(self) -> tuple[str, ...]:
        return ()

    def conditions(self, index: int) -> Conditions:
        return dataclasses.replace(super().conditions(index), f0_mean_hz=200.0)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        wav, units = super().__getitem__(index)
        codes = np.repeat(self.conditions(index).codes["pitch"], 2)[: len(units)]
        hertz = np.repeat(np.array([150.0, 200.0, 300.0, 0.0])[codes], HOP_SAMPLES)
        phase = np.cumsum(hertz) / 16_000
        buzz = sum(np.sin(2 * np.pi * number * phase) / number for number in range(1, 9)) * (hertz > 0)
        noise = np.random.default_rng(index).standard_normal(len(hertz)) * (hertz == 0)
        wav[: len(hertz)] = 0.15 * buzz + 0.02 * noise
        return wav, units


SUNG_FACTS = {"pitch": dataclasses.replace(FACTS["pitch"], num_codes=4)}
CLIPS = Sung(facts={**FACTS, **SUNG_FACTS})
VALIDATION = Sung((44, 50, 60), fingerprint="more of it", facts={**FACTS, **SUNG_FACTS})


def test_a_crop_has_the_f0_of_its_frames() -> None:
    config = small_config(model=SHAPE)
    seen = set()
    for index in range(4):
        batch = VocoderBatches(CLIPS, config)[index]
        f0_hz, codes = batch.conditions["f0_hz"], batch.conditions["pitch_codes"]
        assert f0_hz.shape == (4, 10, 1)
        expected = torch.tensor([150.0, 200.0, 300.0, 0.0])[codes]
        torch.testing.assert_close(f0_hz[..., 0], expected)
        seen |= set(f0_hz.flatten().tolist())
    assert seen == {0.0, 150.0, 200.0, 300.0}


def test_a_little_training_makes_a_voice_that_follows_f0(tmp_path: Path) -> None:
    config = small_config(
        model=SHAPE, num_steps=40, discriminator_start=40, peak_lr=3e-3, batch_size=8, validate_every=40
    )
    result = train_vocoder(config, CLIPS, VALIDATION, "codebook", str(tmp_path))
    vocoder, _ = load_vocoder(Path(result.checkpoint))
    correlation, share_off = f0_likeness(vocoder.eval(), 100)
    assert correlation > 0.9 and share_off < 0.1
    (clip, *_) = validation_clips(VALIDATION, config)
    melody = load_melody(Path(result.checkpoint))
    assert melody is not None and melody.means_hz == (200.0,)
    codes = clip.conditions["pitch_codes"].numpy()
    np.testing.assert_array_equal(melody.f0_hz(codes, 2, 200.0), clip.conditions["f0_hz"].numpy())


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    settings = small_config(model=SHAPE, checkpoint_every=3, validate_every=4)
    train_vocoder(settings, CLIPS, VALIDATION, "codebook", str(tmp_path / "whole"))
    with pytest.raises(Killed):
        train_vocoder(settings, CLIPS, VALIDATION, "codebook", str(tmp_path / "killed"), at_step(8, kill))
    train_vocoder(settings, CLIPS, VALIDATION, "codebook", str(tmp_path / "killed"))
    assert_same_run(tmp_path / "killed", tmp_path / "whole", 10)
    names = {path.name for path in Path(checkpoint_steps.step_folder(str(tmp_path / "whole"), 10)).iterdir()}
    assert {"pitch.json", "pitch.safetensors"} <= names


def test_a_vocoder_of_units_may_be_the_beginning() -> None:
    """With a source it says the same at first, whatever F0 is, and has a gradient for what that does."""
    torch.manual_seed(0)
    given = Vocoder(NETWORK)
    wide = widened(given, SHAPE)
    frames = frames_of(30)
    wav = wide(frames, **told(30))
    torch.testing.assert_close(wav, given(frames), rtol=0, atol=1e-6)
    torch.autograd.backward(wav.square().sum())
    assert wide.source is not None
    assert all(conv.weight.grad.abs().max() > 0 for conv in wide.source.convs)  # type: ignore[union-attr, operator]


def utterances() -> list[Utterance]:
    generator = np.random.default_rng(2)
    made = []
    for number, length in enumerate((9, 1, 23, 0, 14, 2)):
        durations = generator.integers(1, 4, size=length).astype(np.uint16) if number % 2 == 0 else None
        num_codes = length if durations is None else -(-int(durations.sum()) // 2)
        codes = generator.integers(4, size=num_codes).astype(np.uint16)
        units = generator.integers(4, size=length).astype(np.uint16)
        made.append(Utterance(units, durations, number % 2, pitch_codes=codes))
    return made


def test_batched_equals_alone_and_chunks_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder, melody = random_vocoder(SPEAKING), Melody(PITCH, MEANS_HZ)
    alone = Synthesizer(vocoder, melody=melody)(utterances())
    for frames_per_batch in (1, 60, 10_000):
        batched = Synthesizer(vocoder, frames_per_batch, melody)(utterances())
        for number, (one, other) in enumerate(zip(alone, batched, strict=True)):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-6, err_msg=f"utterance {number}")
    monkeypatch.setattr(synthesizer, "FRAMES_PER_CHUNK_ON_CPU", 5)
    for one, other in zip(alone, Synthesizer(vocoder, melody=melody)(utterances()), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)
    higher = Synthesizer(vocoder, melody=Melody(PITCH, (330.0, 110.0)))(utterances())
    is_other = [not np.array_equal(one, other) for one, other in zip(alone, higher, strict=True)]
    assert is_other == [True, False, True, False, True, False], "each speaker has a mean of its own"


@pytest.mark.parametrize("sizes", [(1,), (2, 5, 1), (60,)])
def test_streamed_equals_in_one_piece(sizes: tuple[int, ...]) -> None:
    vocoder, frames, conditions = random_vocoder(), frames_of(60), told(60)
    whole = vocoder(frames, **conditions)[0].numpy()
    stream, pieces, start, number = VocoderStream(vocoder), [], 0, 0
    while start < 60:
        chunk = slice(start, start + sizes[number % len(sizes)])
        units = frames[0, chunk].numpy().astype(np.uint16)
        codes = {name: value[0, chunk] for name, value in conditions.items()}
        pieces.append(stream.push(units, np.ones(len(units), np.uint16), codes))
        start, number = chunk.stop, number + 1
        lag_samples = look_ahead_frames(vocoder.config) * HOP_SAMPLES
        assert sum(map(len, pieces)) >= min(start, 60) * HOP_SAMPLES - lag_samples, "sines make it wait"
    pieces.append(stream.finish())
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=2e-6)


def test_what_lies_behind_a_row_changes_nothing() -> None:
    vocoder, conditions = random_vocoder(), told(20)
    rows = frames_of(20).repeat(2, 1)
    given = {name: value.repeat(2, *([1] * (value.ndim - 1))) for name, value in conditions.items()}
    wav = vocoder(rows, torch.tensor([20, 7]), **given)
    assert not wav[1, 7 * HOP_SAMPLES :].any()
    short = {name: value[:, :7] for name, value in conditions.items()}
    torch.testing.assert_close(wav[1, : 7 * HOP_SAMPLES], vocoder(rows[:1, :7], **short)[0], rtol=0, atol=2e-6)


def test_f0_is_what_codes_say_around_a_mean() -> None:
    melody = Melody(PITCH, (200.0,))
    codes = np.array([0, 0, 2, 2, 3, 3, 1])
    np.testing.assert_array_equal(melody.f0_hz(codes, 2, 240.0)[:, 0], [190, 190, 340, 340, 0, 0, 240])
    assert melody.f0_hz(codes, 2, 60.0)[0] == LOWEST_HZ
    assert melody.f0_hz(codes[:0], 2, 60.0).shape == (0, 1)
    finer = Melody(pitch_model_of([(-50.0, True), (0.0, True), (100.0, True), (0.0, False)], 4), (200.0,))
    assert finer.f0_hz(codes, 2, 200.0).shape == (7, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folder_is_read_back(tmp_path: Path, dtype: torch.dtype) -> None:
    vocoder = random_vocoder(SPEAKING)
    save_vocoder(vocoder, tmp_path, "codebook", dtype, code_fingerprints={"pitch": "p"}, melody=Melody(PITCH, MEANS_HZ))
    voice = load_voice(tmp_path, device="cpu")
    loaded, melody = load_vocoder(tmp_path)[0], load_melody(tmp_path)
    assert loaded.config == SPEAKING and melody is not None and melody.means_hz == MEANS_HZ
    codes = np.random.default_rng(0).integers(4, size=40)
    np.testing.assert_array_equal(melody.f0_hz(codes, 2, 200.0), Melody(PITCH, MEANS_HZ).f0_hz(codes, 2, 200.0))
    assert voice.num_codes == {"pitch": 4} and voice.code_fingerprints == {"pitch": "p"}
    plain = tmp_path / "plain"
    plain.mkdir()
    save_vocoder(random_vocoder(NETWORK), plain, "codebook")
    assert load_melody(plain) is None


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for changes, words in (
        ({"num_f0_tokens": None, "model_in_dim": 8}, "source_harmonics is 6; it must be null without num_f0_tokens"),
        ({"source_harmonics": 0}, "source_harmonics is 0; it must be 1 to 256"),
        ({"source_harmonics": 1000}, "it must be 1 to 256"),
        ({"upsample_rates": (64, 64, 8), "upsample_kernel_sizes": (64, 64, 8)}, "lasts more than 16384 samples"),
        ({"multispkr": "_", "embedder_params": {"a": 1}, "model_in_dim": 24}, "null where speakers are vectors"),
    ):
        with pytest.raises(TwistError, match=words):
            dataclasses.replace(SHAPE, **changes)  # type: ignore[arg-type]
    vocoder = random_vocoder()
    codes = {"pitch_codes": torch.zeros(1, 5, dtype=torch.int64)}
    with pytest.raises(TwistError, match="needs a f0_hz"):
        vocoder(frames_of(5), **codes)
    with pytest.raises(TwistError, match="takes no f0_hz"):
        random_vocoder(NETWORK)(frames_of(5), f0_hz=glide(5))
    with pytest.raises(TwistError, match="codes are streamed beside units with durations"):
        VocoderStream(vocoder).push(np.zeros(3, np.uint16))
    for means in ((), (0.0,), (float("nan"),)):
        with pytest.raises(TwistError, match="must be above 0"):
            Melody(PITCH, means)
    melody = Melody(PITCH, (200.0,))
    for changes, words in (
        ({"f0_hop_size": 960}, "do not go evenly into 3 frames of 320 samples"),
        ({"num_f0_tokens": 5}, "takes 5 codes of pitch, but its pitch tokenizer has 4"),
        ({"multispkr": "_", "num_speakers": 2, "model_in_dim": 24}, "has 2 speakers, but a mean F0 of 1"),
    ):
        with pytest.raises(TwistError, match=words):
            melody.require_fit(dataclasses.replace(SHAPE, **changes))  # type: ignore[arg-type]

    save_vocoder(vocoder, tmp_path, "codebook", melody=melody)
    config: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())
    for means_hz, words in ((None, "says no f0_means_hz"), ([200.0, 1.0], "mean F0 of 2"), (["a"], "says no f0_means")):
        (tmp_path / "config.json").write_text(json.dumps({**config, "f0_means_hz": means_hz}))
        with pytest.raises(TwistError, match=words):
            load_voice(tmp_path, device="cpu")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pitch.safetensors").unlink()
    with pytest.raises(TwistError, match=r"no pitch tokenizer \(there is no pitch.safetensors in it\)"):
        load_voice(tmp_path, device="cpu")
