"""Log-mel spectrograms: filters as librosa's and transformers', frames where they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from model.vocoder.mel import FLOOR, LogMel, mel_filters
from model.vocoder.mel_config import MelConfig

CONFIGS = (MelConfig(), MelConfig(n_fft=512, hop_samples=128, num_mels=40, max_hz=None), MelConfig(2048, 300, 100))


def filters_of_transformers(config: MelConfig) -> np.ndarray:
    return mel_filter_bank(  # type: ignore[no-any-return]
        config.n_fft // 2 + 1,
        config.num_mels,
        0.0,
        config.max_hz or config.sample_rate_hz / 2,
        config.sample_rate_hz,
        norm="slaney",
        mel_scale="slaney",
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_filters_are_those_of_transformers(config: MelConfig) -> None:
    np.testing.assert_allclose(mel_filters(config).numpy(), filters_of_transformers(config).T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS)
def test_spectrogram_is_that_of_transformers(config: MelConfig) -> None:
    generator = np.random.default_rng(0)
    wav = generator.standard_normal(6000).astype(np.float32) * np.linspace(0, 0.3, 6000, dtype=np.float32)
    hop, n_fft = config.hop_samples, config.n_fft
    padding = (n_fft - hop) // 2
    padded = np.pad(wav, (padding, n_fft - hop - padding), mode="reflect")
    theirs = spectrogram(
        padded,
        window_function(n_fft, "hann"),
        n_fft,
        hop,
        power=1.0,
        center=False,
        mel_filters=filters_of_transformers(config),
        mel_floor=FLOOR,
        log_mel="log",
    )
    ours = LogMel(config)(torch.from_numpy(wav)[None])[0].numpy()
    assert ours.shape == (config.num_mels, len(wav) // hop)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_a_tone_is_loudest_in_its_band_and_its_frames() -> None:
    times_s = np.arange(16_000) / 16_000
    wav = np.where(times_s >= 0.5, np.sin(2 * np.pi * 1000 * times_s), 0).astype(np.float32)
    config = MelConfig()
    mel = LogMel(config)(torch.from_numpy(wav)[None])[0].numpy()
    (band,) = {int(frame.argmax()) for frame in mel[:, 40:].T}
    middle_hz = np.arange(513) * 16_000 / 1024
    assert abs(middle_hz[mel_filters(config)[band].argmax()] - 1000) < 40
    assert mel[:, :25].max() < -8 < 0 < mel[:, 40:].max()


def test_silence_has_a_gradient() -> None:
    wav = torch.zeros(1, 4000, requires_grad=True)
    (LogMel(MelConfig())(wav) - torch.randn(1, 80, 15)).abs().mean().backward()
    assert wav.grad is not None and wav.grad.isfinite().all()
