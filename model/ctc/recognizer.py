"""A CTC model of transformers (wav2vec 2.0, HuBERT, WavLM, ...): audio to log-probabilities of its letters.

Long audio is heard in windows with some more on both sides, which is then left out, as MMS aligns it. Only windows of
equal length share a batch, so that there is no padding, and what is heard does not depend on the rest of the batch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from model.artefacts import local_path
from model.device import Device, pick_device
from model.foreign_config import read_content, refuse_hostile
from model.weights_file import refuse_not_finite
from pipeline.errors import TwistError
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

WINDOW_S, CONTEXT_S = 30, 3
SAMPLES_PER_BATCH = {"cpu": SAMPLE_RATE_HZ * 40, "cuda": SAMPLE_RATE_HZ * 480}


@dataclass(frozen=True)
class _Window:
    """Samples to hear, and which of their frames count."""

    clip: int
    start: int
    stop: int
    first_frame: int
    num_frames: int | None  # None: all that follow


class Recognizer:
    """A loaded model.

    Attributes:
        num_units: How many units the model tells apart, C.
        alphabet: The index of each letter among the model's units.
        blank: The index of CTC's blank.
        separator: The index of what stands between words; None if nothing does.
        hop_samples: Samples from one frame to the next.
    """

    def __init__(self, folder: Path, device: Device) -> None:
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, Wav2Vec2CTCTokenizer

        self.device = pick_device(device)
        refuse_hostile(read_content(folder))
        settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(folder, **settings)
        model = AutoModelForCTC.from_pretrained(folder, use_safetensors=True, **settings)
        refuse_not_finite(model.state_dict(), folder)
        self._model = model.float().eval().to(self.device)
        self._normalizes = bool(AutoFeatureExtractor.from_pretrained(folder, **settings).do_normalize)
        self.num_units = int(config.vocab_size)
        self.blank = int(config.pad_token_id)
        self.hop_samples = int(math.prod(config.conv_stride))
        self._receptive_field_samples = 1
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self._receptive_field_samples = (self._receptive_field_samples - 1) * stride + kernel
        tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(folder, local_files_only=True)
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.separator = vocabulary.get(tokenizer.word_delimiter_token)
        self.alphabet = {
            letter: index
            for letter, index in vocabulary.items()
            if len(letter) == 1 and index not in (self.blank, self.separator)
        }
        if not self.alphabet:
            raise ValueError("its vocabulary has no single letters")

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip of so many samples."""
        frames: int = (num_samples - self._receptive_field_samples) // self.hop_samples + 1
        return max(0, frames)

    @torch.inference_mode()
    def __call__(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """Clips [S] at 16 kHz -> log-probabilities [F, C] on the model's device."""
        heard: list[dict[int, Tensor]] = [{} for _ in wavs]
        by_length: dict[int, list[_Window]] = defaultdict(list)
        for clip, wav in enumerate(wavs):
            for window in self._windows(clip, len(wav)):
                by_length[window.stop - window.start].append(window)
        for length, windows in by_length.items():
            size = max(1, SAMPLES_PER_BATCH[self.device.type] // length)
            for first in range(0, len(windows), size):
                batch = windows[first : first + size]
                stacked = torch.stack([wavs[window.clip][window.start : window.stop] for window in batch])
                log_probs = self._hear(stacked.to(self.device))
                for window, frames in zip(batch, log_probs, strict=True):
                    frames = frames[window.first_frame :]
                    heard[window.clip][window.start] = frames[: window.num_frames]
        return [torch.cat([windows[start] for start in sorted(windows)]) for windows in heard]

    def _windows(self, clip: int, num_samples: int) -> list[_Window]:
        window = WINDOW_S * SAMPLE_RATE_HZ // self.hop_samples * self.hop_samples
        context = CONTEXT_S * SAMPLE_RATE_HZ // self.hop_samples * self.hop_samples
        windows: list[_Window] = []
        for start in range(0, num_samples, window):
            first = max(0, start - context)
            # What is left of the clip is heard with its last whole window, if it is little.
            is_last = num_samples - start <= window + context
            stop = num_samples if is_last else start + window + context
            frames = None if is_last else window // self.hop_samples
            windows.append(_Window(clip, first, stop, (start - first) // self.hop_samples, frames))
            if is_last:
                break
        return windows

    def _hear(self, wavs: Tensor) -> Tensor:
        """wavs [B, S] -> [B, F, C]."""
        if self._normalizes:
            # As transformers' feature extractor of wav2vec 2.0 does.
            variance, mean = torch.var_mean(wavs, dim=1, keepdim=True, correction=0)
            wavs = (wavs - mean) / torch.sqrt(variance + 1e-7)
        log_probs: Tensor = self._model(wavs).logits.float().log_softmax(dim=-1)
        return log_probs


def load_recognizer(path: str, device: Device = "auto") -> Recognizer:
    """Loads a model from its folder, local or s3://.

    Raises:
        TwistError: there is no CTC model of transformers with a vocabulary of letters, or no such device.
        RunError: it cannot be fetched from S3.
    """
    folder = local_path(path)
    if not (folder / "config.json").is_file():
        raise TwistError(f"{path} holds no CTC model of transformers: it has no config.json")
    try:
        return Recognizer(folder, device)
    except TwistError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TwistError(f"{path} cannot be loaded as a CTC model of transformers: {reason[:300]}") from error
