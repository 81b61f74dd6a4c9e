"""Mfcc against its definition written out in numpy, frame by frame, in float64."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.encoder.mfcc import Mfcc


def speechlike(num_samples: int, seed: int = 0) -> Tensor:
    """A harmonic sound whose loudness and pitch wander, over faint noise: [S] float32."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(num_samples) / 16_000
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 1.3 * time_s)) / 16_000
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 30))
    loudness = 0.1 * (1 + np.sin(2 * np.pi * 3.1 * time_s))
    return torch.from_numpy(loudness * voice + 1e-3 * rng.standard_normal(num_samples)).float()


def naive_cepstra(wav: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kaldi's MFCC by the book: one window, one FFT bin, one mel triangle, one cosine at a time."""
    mel_edges = [
        1127 * math.log(1 + 20 / 700) + i * 1127 * (math.log(1 + 8000 / 700) - math.log(1 + 20 / 700)) / 24
        for i in range(25)
    ]
    sample, bins = np.arange(512), np.arange(257)
    dft = np.exp(-2j * np.pi * np.outer(bins, sample) / 512)
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    cepstra = []
    for start in range(0, len(wav) - 400 + 1, 160):
        window = wav[start : start + 400] - wav[start : start + 400].mean()
        emphasized = [window[0] - 0.97 * window[0]] + [window[i] - 0.97 * window[i - 1] for i in range(1, 400)]
        padded = np.concatenate([np.array(emphasized) * povey, np.zeros(112)])
        power = np.abs(dft @ padded) ** 2
        log_energy = []
        for left, center, right in zip(mel_edges, mel_edges[1:], mel_edges[2:], strict=False):
            energy = 0.0
            for k in range(257):
                mel = 1127 * math.log(1 + k * 31.25 / 700)
                if left < mel <= center:
                    energy += power[k] * (mel - left) / (center - left)
                elif center < mel < right:
                    energy += power[k] * (right - mel) / (right - center)
            log_energy.append(math.log(max(energy, 2**-23)))
        cepstrum = []
        for c in range(13):
            scale = math.sqrt((1 if c == 0 else 2) / 23)
            value = scale * sum(log_energy[m] * math.cos(math.pi * c * (m + 0.5) / 23) for m in range(23))
            cepstrum.append(value * (1 + 11 * math.sin(math.pi * c / 22)))
        cepstra.append(cepstrum)
    return np.array(cepstra)


def naive_deltas(features: NDArray[np.float64]) -> NDArray[np.float64]:
    last = len(features) - 1
    return np.array(
        [
            sum(n * (features[min(t + n, last)] - features[max(t - n, 0)]) for n in (1, 2)) / (2 * (1 + 4))
            for t in range(last + 1)
        ]
    )


def naive_mfcc(wav: NDArray[np.float64]) -> NDArray[np.float64]:
    cepstra = naive_cepstra(wav)
    deltas = naive_deltas(cepstra)
    at_100_hz = np.concatenate([cepstra, deltas, naive_deltas(deltas)], axis=1)
    return np.array([at_100_hz[4 * f : 4 * f + 4].mean(axis=0) for f in range(len(at_100_hz) // 4)])


@torch.inference_mode()
@pytest.mark.parametrize("num_samples", [880, 4_321, 8_000])
def test_agrees_with_the_definition(num_samples: int) -> None:
    wav = speechlike(num_samples)
    expected = naive_mfcc(wav.double().numpy())
    np.testing.assert_allclose(Mfcc()(wav[None])[0].numpy(), expected, atol=2e-3, rtol=1e-4)


@torch.inference_mode()
def test_batch_of_equal_lengths_equals_alone() -> None:
    wavs = torch.stack([speechlike(5_000, seed) for seed in range(3)])
    batched = Mfcc()(wavs)
    for index in range(3):
        torch.testing.assert_close(batched[index : index + 1], Mfcc()(wavs[index : index + 1]))


@torch.inference_mode()
def test_same_clip_gives_the_same_bits() -> None:
    wav = speechlike(8_000)[None]
    assert torch.equal(Mfcc()(wav), Mfcc()(wav)), "features must not be random"


@torch.inference_mode()
@pytest.mark.parametrize("num_samples", [880, 881, 1_519, 1_520, 1_521, 16_000, 23_456])
def test_num_frames_is_what_comes_out(num_samples: int) -> None:
    features = Mfcc()(speechlike(num_samples)[None])
    assert features.shape == (1, Mfcc.num_frames(num_samples), Mfcc.feature_dim)


def test_num_frames_counts_whole_groups_of_four_windows() -> None:
    for num_samples in range(6_000):
        num_windows = max(0, (num_samples - 400) // 160 + 1)
        assert Mfcc.num_frames(num_samples) == num_windows // 4, f"{num_samples} samples"
    assert Mfcc.num_frames(Mfcc.min_samples) == 1
    assert Mfcc.num_frames(Mfcc.min_samples - 1) == 0


@torch.inference_mode()
def test_official_chunk_has_as_many_frames_as_hubert_at_25_hz() -> None:
    assert Mfcc.num_frames(1_600_000) == 2_499


@torch.inference_mode()
@pytest.mark.parametrize("level", [0.0, 0.5, 1e-20])
def test_silence_and_constants_are_finite_and_alike(level: float) -> None:
    features = Mfcc()(torch.full((1, 4_000), level))
    assert features.isfinite().all()
    torch.testing.assert_close(features, Mfcc()(torch.zeros(1, 4_000)), msg="a constant has no sound in it")


@torch.inference_mode()
def test_full_scale_is_finite() -> None:
    wav = torch.tensor([1.0, -1.0]).repeat(4_000)[None]
    assert Mfcc()(wav).isfinite().all()
