"""Runs HuBERT over clips of any lengths: one by one on the CPU, in batches on a GPU.

Only many clips at once keep a GPU busy. Clips of similar length share a batch of limited size, which is as long as its
longest clip, rounded up so that batches come in few shapes. A clip's features do not depend on its batch (see
model/encoder/hubert.py) except for rounding in the last bits. The CPU gains nothing from batches and takes each clip
alone, where not even these bits change.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from model.encoder.hubert import HubertModel

# Eleven minutes, 16,384 frames at 25 Hz: 12 GiB at the first convolutions in float32, half of that in bfloat16.
SAMPLES_PER_BATCH_ON_GPU = 10 * 2**20
# The length of a batch in frames is rounded up to a multiple of this.
FRAMES_PER_LENGTH_STEP = 32


class HubertBatches:
    """Features of one layer for clips of any lengths.

    Args:
        model: ready for inference, on `device`.
        layer: the layer whose output is returned, counted from 1.
        device: where the model is.
        frames_per_batch: most frames in a batch, padding included (a longer clip gets a batch to itself); None: each
            clip alone, unpadded.
    """

    def __init__(self, model: HubertModel, layer: int, device: torch.device, frames_per_batch: int | None) -> None:
        self._model = model
        self._layer = layer
        self._device = device
        self._frames_per_batch = frames_per_batch
        # On a separate stream, copying the next batch overlaps with computing this one.
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """wavs [S] float32 on the CPU, each at least one frame long -> features [F, D] float32 on `device`."""
        # By default torch lets cuDNN round the inputs of float32 convolutions to TF32's ten bits of mantissa.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            if self._frames_per_batch is None:
                return [self._model(wav[None].to(self._device), self._layer)[0].float() for wav in wavs]
            return self._in_batches(wavs)

    def _in_batches(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        features: dict[int, Tensor] = {}
        for indices, num_batch_frames in self._batches([len(wav) for wav in wavs]):
            batch, num_samples = self._to_device(*self._stack([wavs[index] for index in indices], num_batch_frames))
            hidden = self._model(batch, self._layer, num_samples).float()
            for row, index in zip(hidden, indices, strict=True):
                features[index] = row[: self._model.config.num_frames(len(wavs[index]))]
        return [features[index] for index in range(len(wavs))]

    def _batches(self, lengths: Sequence[int]) -> Iterator[tuple[list[int], int]]:
        """Indices of the clips of each batch, longest first, and the batch's length in frames."""
        assert self._frames_per_batch is not None
        by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        start = 0
        while start < len(by_length):
            num_frames = self._model.config.num_frames(lengths[by_length[start]])
            num_frames = -(-num_frames // FRAMES_PER_LENGTH_STEP) * FRAMES_PER_LENGTH_STEP
            count = max(1, self._frames_per_batch // num_frames)
            yield by_length[start : start + count], num_frames
            start += count

    def _stack(self, wavs: Sequence[Tensor], num_frames: int) -> tuple[Tensor, Tensor]:
        """wavs [S] -> wav [B, S], shorter ones padded with zeros, and the length of each in samples [B]."""
        config = self._model.config
        # The most samples that give num_frames: the first group norm also reads samples past the last frame.
        num_samples = num_frames * config.hop_samples + config.receptive_field_samples - 1
        # Copies from pinned memory to the GPU do not block this thread, which can already stack the next batch.
        pinned = self._device.type == "cuda"
        stacked = torch.empty(len(wavs), num_samples, pin_memory=pinned)
        for row, wav in zip(stacked, wavs, strict=True):
            row[: len(wav)] = wav
            row[len(wav) :] = 0
        return stacked, torch.tensor([len(wav) for wav in wavs], pin_memory=pinned)

    def _to_device(self, *tensors: Tensor) -> list[Tensor]:
        with torch.cuda.stream(self._copies) if self._copies else contextlib.nullcontext():
            copies = [tensor.to(self._device, non_blocking=True) for tensor in tensors]
        if self._copies:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._copies)
            for copy in copies:
                copy.record_stream(computing)  # keeps its memory from being reused before the computation has read it
        return copies
