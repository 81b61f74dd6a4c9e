"""The melody of a voice with a source: F0 as its codes of pitch say it, decoded by the tokenizer that they are of.

Codes say how far F0 is from a mean. In training that is the clip's own, so that sines lie where the recording's
harmonics do; in synthesis the speaker's, over all clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.pitch.vqvae import PitchVQVAE
    from model.vocoder.config import VocoderConfig

# Codes of wide melodies, said by a deep voice, may mean less: no voice is below.
LOWEST_HZ = 40.0
# Of the decoded voicing, from 0 to 1.
VOICED_FROM = 0.5


@dataclass(frozen=True, eq=False)
class Melody:
    """Reads codes of pitch.

    Attributes:
        pitch: The tokenizer of these codes, on the CPU.
        means_hz: The mean F0 of each speaker, by number; of a voice without several, that one.
    """

    pitch: PitchVQVAE
    means_hz: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.means_hz or not all(math.isfinite(mean) and mean > 0 for mean in self.means_hz):
            raise TwistError(f"the mean F0 of a voice's speakers is {self.means_hz}; it must be above 0 for each")

    def require_fit(self, config: VocoderConfig) -> None:
        """Refuses a vocoder of other codes, other speakers, or in whose frames F0 does not go evenly.

        Raises:
            TwistError: it is such.
        """
        frames, values = config.frames_per_code["pitch"], self.pitch.config.frames_per_code
        if values % frames or config.hop_samples % (values // frames):
            raise TwistError(
                f"a code of pitch has {values} values of F0, which do not go evenly into {frames} frames of "
                f"{config.hop_samples} samples: this vocoder cannot have source_harmonics"
            )
        if self.pitch.config.num_codes != config.num_f0_tokens:
            raise TwistError(
                f"the vocoder takes {config.num_f0_tokens} codes of pitch, but its pitch tokenizer has "
                f"{self.pitch.config.num_codes}"
            )
        num_speakers = config.num_speakers if config.multispkr else 1
        if len(self.means_hz) != num_speakers:
            raise TwistError(f"the vocoder has {num_speakers} speakers, but a mean F0 of {len(self.means_hz)}")

    @torch.inference_mode()
    def f0_hz(self, codes: NDArray[np.integer], frames_per_code: int, mean_hz: float) -> NDArray[np.float32]:
        """F0 in Hz, 0 where it is unvoiced.

        Args:
            codes: That of each frame [F], each `frames_per_code` frames long.
            frames_per_code: How long one lasts.
            mean_hz: What it is relative to, where the tokenizer takes means away.

        Returns:
            [F, K], K values in each frame.
        """
        shape = self.pitch.config
        values_per_frame = shape.frames_per_code // frames_per_code
        if not len(codes):
            return np.zeros((0, values_per_frame), np.float32)
        given = torch.from_numpy(codes[::frames_per_code].astype(np.int64))
        f0, voicing = self.pitch.decode_codes(given[None])[0].numpy()
        if shape.features.startswith("norm_"):
            f0 = f0 + np.float32(mean_hz)
        hertz = np.where(voicing >= VOICED_FROM, np.maximum(f0, np.float32(LOWEST_HZ)), np.float32(0))
        return hertz[: len(codes) * values_per_frame].reshape(-1, values_per_frame)
