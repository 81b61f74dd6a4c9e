"""A pitch tokenizer: speech to codes of pitch at a fixed rate, and codes back to contours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.pitch import yaapt
from model.pitch.checkpoint import fingerprint_of, load_pitch_model, local_pitch_model
from model.pitch.contour import Contour, extract, features_of, method_of
from model.pitch.model_config import HOP_SAMPLES, Extractor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.pitch.vqvae import PitchVQVAE


class PitchTokenizer:
    """Turns speech into codes of pitch.

    Each clip passes through the network by itself, without padding: it is so small that a batch gains nothing, and a
    clip's codes cannot depend on the others.

    Args:
        model: The network, on the CPU.
        extractor: What F0 comes from; by default what the network was trained on.

    Raises:
        TwistError: the extractor is not installed.
    """

    def __init__(self, model: PitchVQVAE, extractor: Extractor | None = None) -> None:
        self.model = model
        self.extractor: Extractor = extractor or model.config.extractor
        if self.extractor == "yaapt":
            yaapt.require()
        self.rate_hz = model.config.rate_hz
        self.num_codes = model.config.num_codes
        self.hop_samples = model.config.frames_per_code * HOP_SAMPLES
        self.fingerprint = f"{fingerprint_of(model)}/{method_of(self.extractor)}"

    @property
    def min_samples(self) -> int:
        """Samples of the shortest clip that has a code."""
        return self.hop_samples

    def codes(self, wavs: Sequence[Tensor], means_hz: Sequence[float | None] | None = None) -> list[Tensor]:
        """The codes of clips.

        Args:
            wavs: [S] each, at 16 kHz.
            means_hz: The mean F0 that is taken from each clip's, that of its speaker say; None: that of the clip.

        Returns:
            For each clip int64 [P], P = S // hop_samples; of one without a voiced frame too.
        """
        means = means_hz or [None] * len(wavs)
        return [torch.from_numpy(self.codes_of(wav.numpy(), mean_hz)) for wav, mean_hz in zip(wavs, means, strict=True)]

    def codes_of(self, wav: NDArray[np.float32], mean_hz: float | None = None) -> NDArray[np.int64]:
        """The codes [P] of one clip [S]; see `codes`."""
        return self.codes_of_contour(extract(wav, self.extractor), mean_hz)

    @torch.inference_mode()
    def codes_of_contour(self, contour: Contour, mean_hz: float | None = None) -> NDArray[np.int64]:
        """The codes [P] of a contour of T frames, P = T // frames_per_code."""
        if len(contour) < self.model.config.frames_per_code:
            return np.zeros(0, np.int64)
        features = features_of(contour, self.model.config.features, mean_hz)
        codes = self.model.quantize(self.model.encode(torch.from_numpy(features)[None]))[0]
        return codes.numpy().copy()

    @torch.inference_mode()
    def contour(self, codes: NDArray[np.integer], mean_hz: float = 0.0) -> Contour:
        """What codes [P] say: F0 and voicing of P * frames_per_code frames.

        `mean_hz` is added to F0, which is then in Hz; without it F0 is the distance from the mean, if that was taken.
        """
        if not len(codes):
            return Contour(np.zeros(0, np.float32), np.zeros(0, np.bool_))
        made = self.model.decode_codes(torch.from_numpy(np.asarray(codes, np.int64))[None])[0].numpy()
        return Contour((made[0] + np.float32(mean_hz)).astype(np.float32), made[1] >= 0.5)


def load_pitch_tokenizer(path_or_name: str, extractor: Extractor | None = None) -> PitchTokenizer:
    """Loads a pitch tokenizer: an embedded one by name, or a folder of ours or of the published layout, perhaps on S3.

    Raises:
        TwistError: there is none, it is damaged, or its extractor is not installed.
        RunError: it cannot be fetched.
    """
    return PitchTokenizer(load_pitch_model(local_pitch_model(path_or_name)), extractor)
