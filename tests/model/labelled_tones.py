"""Clips for pretraining whose units are audible: each unit is its own tone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from model.encoder.hubert_config import HubertConfig
from model.encoder.pretrain_config import PretrainConfig
from model.vocoder.batches import CodeFacts, Conditions
from pipeline.records import LabelClock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.vocoder.melody import Melody

NUM_UNITS = 4
HOP_SAMPLES = 320
# 50 Hz; the smallest network that has every component.
NETWORK = HubertConfig(
    conv_dim=(16, 16, 16),
    conv_kernel=(10, 8, 8),
    conv_stride=(5, 8, 8),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)


@dataclass(frozen=True)
class LabelledTones:
    """Clips of these numbers of frames at 50 Hz, each unit four frames long."""

    frames_per_clip: tuple[int, ...] = (40, 40, 44, 44, 48, 48, 52, 52, 60, 60, 60, 80)
    codebook_size: int = NUM_UNITS
    clock: LabelClock = field(default_factory=lambda: LabelClock(HOP_SAMPLES, 400, 1_600_000))
    fingerprint: str = "tones"

    @property
    def codes(self) -> dict[str, CodeFacts]:
        return {}

    @property
    def speakers(self) -> tuple[str, ...]:
        return ()

    @property
    def melody(self) -> Melody | None:
        return None

    def conditions(self, _: int) -> Conditions:
        return Conditions({})

    @property
    def num_samples(self) -> NDArray[np.int64]:
        return np.array([num_frames * HOP_SAMPLES + 80 for num_frames in self.frames_per_clip])

    def __len__(self) -> int:
        return len(self.frames_per_clip)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        generator = np.random.default_rng(index)
        num_frames = self.frames_per_clip[index]
        units = np.repeat(generator.integers(self.codebook_size, size=-(-num_frames // 4)), 4)[:num_frames]
        hertz = 300 * 2.0 ** np.repeat(units, HOP_SAMPLES)
        wav = np.zeros(int(self.num_samples[index]), np.float32)
        wav[: len(hertz)] = 0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / 16_000)
        return wav + 0.01 * generator.standard_normal(len(wav), np.float32), units.astype(np.uint16)


def small_config(**changes: object) -> PretrainConfig:
    """Ten steps with every kind of randomness; nothing is scheduled before the last."""
    settings: dict[str, object] = {
        "model": NETWORK,
        "batch_size": 4,
        "crop_s": 0.9,
        "num_steps": 10,
        "peak_lr": 2e-3,
        "warmup_steps": 2,
        "mask_share": 0.5,
        "mask_span_frames": 4,
        "unmasked_weight": 0.5,
        "feature_gradient_scale": 1.0,
        "embedding_dim": 16,
        "dropout": 0.1,
        "layer_drop": 0.3,
        "validate_every": 1000,
        "checkpoint_every": 1000,
        "log_every": 1,
        "device": "cpu",
        **changes,
    }
    return PretrainConfig(**settings)  # type: ignore[arg-type]
