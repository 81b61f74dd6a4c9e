"""Encoders turn 16 kHz clips into frames of features, which the codebook turns into units.

1. Each clip is checked: one dimension, finite, long enough for one frame.
2. If the settings or the checkpoint say so, the whole clip is scaled: to a level (level.py), or, HuBERT only, to zero
   mean and unit variance.
3. A clip longer than `max_chunk_s` is cut into chunks of that length, each encoded as a clip of its own. This is
   what textlesslib, GSLM and fairseq do at 1,600,000 samples, and no frame crosses a cut: 100 s give 2499 frames at
   25 Hz, not 2500. A last chunk too short for a frame gives none.
4. Chunks run through the network: one at a time and unpadded on the CPU, in batches for HuBERT on a GPU. Either way
   a clip's features do not depend on the other clips.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Protocol

import torch
from torch import Tensor

from model.artefacts import local_path
from model.device import pick_device
from model.encoder.config import EncoderConfig
from model.encoder.hubert_batches import SAMPLES_PER_BATCH_ON_GPU, HubertBatches
from model.encoder.hubert_checkpoint import load_hubert
from model.encoder.level import at_level, level_dbfs_of
from model.encoder.mfcc import Mfcc
from model.training import checkpoint
from pipeline.errors import TwistError
from pipeline.records import SAMPLE_RATE_HZ


class Encoder(Protocol):
    """Turns clips into features; made by `load_encoder`."""

    sample_rate_hz: int
    """Samples per second of the clips (16000)."""
    hop_samples: int
    """Samples per frame (640: 25 Hz)."""
    feature_dim: int
    """Values per frame, D."""
    min_samples: int
    """Samples in the shortest clip that gives a frame."""
    fingerprint: str
    """sha256 (hex) of everything that changes features: kind, weights, shape, layer, dtype, scaling, chunks."""

    @property
    def device(self) -> torch.device:
        """The device that features are returned on."""
        ...

    def num_frames(self, num_samples: int) -> int:
        """Frames in a clip of `num_samples`; 0 if it is too short."""
        ...

    def encode(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """Clips [S] float32 at 16 kHz in [-1, 1] -> features [F, D] float32 on `device`, F = `num_frames(S)`.

        Raises:
            TwistError: a clip shorter than `min_samples`, or with a NaN or infinite sample.
        """
        ...

    def describe(self) -> dict[str, object]:
        """Facts about the encoder that a reader of the units needs, as JSON values."""
        ...


def load_encoder(config: EncoderConfig) -> Encoder:
    """Loads the encoder that `config` describes, onto its device.

    Raises:
        TwistError: no such device or layer, chunks shorter than a frame, or a checkpoint that cannot be loaded.
        RunError: the checkpoint cannot be fetched.
    """
    device = pick_device(config.device)
    if config.name == "mfcc":
        mfcc = Mfcc().to(device)
        return ClipEncoder(
            config,
            device=device,
            features=lambda wavs: [mfcc(wav[None].to(device))[0] for wav in wavs],
            num_frames=mfcc.num_frames,
            normalize_eps=None,
            level_dbfs=level_dbfs_of(config),
            hop_samples=mfcc.hop_samples,
            min_samples=mfcc.min_samples,
            feature_dim=mfcc.feature_dim,
            frontend=mfcc.settings(),
        )
    assert config.path is not None
    model, do_normalize, normalize_eps = load_hubert(checkpoint.checked(local_path(config.path)))
    normalize = do_normalize if config.normalize is None else config.normalize
    shape = model.config
    if config.layer > shape.num_hidden_layers:
        raise TwistError(
            f"encoder layer is {config.layer}, but the model at {config.path} has {shape.num_hidden_layers} layers"
        )
    frontend = {**asdict(shape), "weights_sha256": _sha256(model.state_dict())}  # before inference rounds the weights
    model.for_inference(torch.bfloat16 if config.dtype == "bfloat16" else torch.float32, device)
    frames_per_batch = SAMPLES_PER_BATCH_ON_GPU // shape.hop_samples if device.type == "cuda" else None
    return ClipEncoder(
        config,
        device=device,
        features=HubertBatches(model, config.layer, device, frames_per_batch),
        num_frames=shape.num_frames,
        normalize_eps=normalize_eps if normalize else None,
        level_dbfs=None if normalize else level_dbfs_of(config),
        hop_samples=shape.hop_samples,
        min_samples=shape.receptive_field_samples,
        feature_dim=shape.hidden_size,
        frontend=frontend,
    )


class ClipEncoder:
    """An Encoder around a network; the top of this file lists its steps.

    Args:
        config: the encoder's settings.
        device: the network's device.
        features: wavs [S] on the CPU -> features [F, D] float32 of each, on `device`.
        num_frames: S -> F for one chunk.
        level_dbfs: the level that clips are scaled to; None: no scaling.
        normalize_eps: added to the variance when clips are scaled to zero mean and unit variance; None: no scaling.
        hop_samples: samples per frame.
        min_samples: the smallest S that gives a frame.
        feature_dim: D.
        frontend: everything in the network that its features depend on, as JSON values.
    """

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(
        self,
        config: EncoderConfig,
        *,
        device: torch.device,
        features: Callable[[Sequence[Tensor]], list[Tensor]],
        num_frames: Callable[[int], int],
        normalize_eps: float | None,
        level_dbfs: float | None,
        hop_samples: int,
        min_samples: int,
        feature_dim: int,
        frontend: Mapping[str, object],
    ) -> None:
        self.config = config
        self.hop_samples = hop_samples
        self.min_samples = min_samples
        self.feature_dim = feature_dim
        self._device = device
        self._features = features
        self._num_chunk_frames = num_frames
        self._normalize_eps = normalize_eps
        self._level_dbfs = level_dbfs
        self._max_chunk_samples = round(config.max_chunk_s * SAMPLE_RATE_HZ)
        if self._max_chunk_samples < min_samples:
            raise TwistError(
                f"encoder max_chunk_s is {config.max_chunk_s} ({self._max_chunk_samples} samples), too short for one "
                f"frame of {config.name}; it must be at least {min_samples / SAMPLE_RATE_HZ} s"
            )
        changes_features = {
            "name": config.name,
            "layer": config.layer if config.name == "hubert" else None,
            "dtype": config.dtype,
            "normalize_eps": normalize_eps,
            "max_chunk_samples": self._max_chunk_samples,
            "frontend": frontend,
        }
        if level_dbfs is not None:  # encoders without a level keep the fingerprint that they had before there was one
            changes_features["level_dbfs"] = level_dbfs
        self.fingerprint = hashlib.sha256(json.dumps(changes_features, sort_keys=True).encode()).hexdigest()

    @property
    def device(self) -> torch.device:
        return self._device

    def num_frames(self, num_samples: int) -> int:
        num_full_chunks, num_last_samples = divmod(num_samples, self._max_chunk_samples)
        return num_full_chunks * self._num_chunk_frames(self._max_chunk_samples) + self._num_chunk_frames(
            num_last_samples
        )

    @torch.inference_mode()
    def encode(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        for index, wav in enumerate(wavs):
            self._check(wav, f"clip {index} of {len(wavs)}")
        chunks_by_clip = [self._chunks(wav) for wav in wavs]
        features = iter(self._features([chunk for chunks in chunks_by_clip for chunk in chunks]))
        return [torch.cat([next(features) for _ in chunks]) for chunks in chunks_by_clip]

    def describe(self) -> dict[str, object]:
        return {
            "name": self.config.name,
            "path": self.config.path,
            "layer": self.config.layer if self.config.name == "hubert" else None,
            "dtype": self.config.dtype,
            "normalize": self._normalize_eps is not None,
            "level_dbfs": self._level_dbfs,
            "max_chunk_s": self.config.max_chunk_s,
            "sample_rate_hz": self.sample_rate_hz,
            "hop_samples": self.hop_samples,
            "min_samples": self.min_samples,
            "frame_rate_hz": self.sample_rate_hz / self.hop_samples,
            "feature_dim": self.feature_dim,
            "fingerprint": self.fingerprint,
        }

    def _check(self, wav: Tensor, which: str) -> None:
        assert wav.ndim == 1 and wav.dtype == torch.float32, f"{which}: {wav.dtype} {list(wav.shape)}, not float32 [S]"
        if len(wav) < self.min_samples:
            raise TwistError(
                f"{which} has {len(wav)} samples, too few for one frame of {self.config.name}: "
                f"leave out clips under {self.min_samples} samples ({self.min_samples / SAMPLE_RATE_HZ} s)"
            )
        # A finite sum proves that all samples are finite, in a tenth of the time of checking each one.
        if not wav.sum().isfinite() and not wav.isfinite().all():
            first = int((~wav.isfinite()).nonzero()[0])
            raise TwistError(f"{which} has a NaN or infinite sample, the first at {first / SAMPLE_RATE_HZ:.3f} s")

    def _chunks(self, wav: Tensor) -> list[Tensor]:
        """wav [S] -> scaled chunks for the network; a last one too short for a frame is left out."""
        if self._level_dbfs is not None:
            wav = at_level(wav, self._level_dbfs)
        if self._normalize_eps is not None:
            wav = (wav - wav.mean()) / (wav.var(correction=0) + self._normalize_eps).sqrt()
        return [chunk for chunk in torch.split(wav, self._max_chunk_samples) if len(chunk) >= self.min_samples]


def _sha256(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
