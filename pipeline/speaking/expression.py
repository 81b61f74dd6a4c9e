"""Codes of pitch and style beside units: from audio, and on other durations.

A clip's codes are dense, at their models' fixed rates, from its beginning on: `{"pitch": [P], "style": [Q]}`. Voices
that take them were trained on those of one model, which their config.json names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.vocoder.codes import codes_of_frames
from pipeline.errors import TwistError
from pipeline.units.encode import as_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from model.code_model import CodeModel
    from pipeline.speaking.units import Codes
    from pipeline.speaking.voice import Voice


class Expression:
    """Gives the codes that a voice takes.

    Args:
        encoders: A model of `pitch`, one of `style`, or both.
    """

    def __init__(self, encoders: Mapping[str, CodeModel]) -> None:
        self._encoders = dict(encoders)

    def require_fit(self, voice: Voice) -> None:
        """Refuses a voice that takes other codes.

        Raises:
            TwistError: there is no model of codes that it needs, or it was trained on those of another.
        """
        for name, num_codes in voice.num_codes.items():
            encoder = self._encoders.get(name)
            if encoder is None:
                if name not in voice.needed_codes:
                    continue
                raise TwistError(f"the voice {voice.path} takes codes of {name}: name their model with --{name}-model")
            wanted = voice.code_fingerprints.get(name)
            if wanted is not None and wanted != encoder.fingerprint:
                raise TwistError(
                    f"the voice {voice.path} takes the codes of another model of {name} ({wanted}) than this one "
                    f"({encoder.fingerprint}): the same numbers mean other sounds"
                )
            if encoder.num_codes > num_codes:
                raise TwistError(
                    f"the voice {voice.path} knows {num_codes} codes of {name}, but this model has {encoder.num_codes}"
                )

    def of_voice(self, voice: Voice) -> Expression:
        """Without the models whose codes are not a voice's, of those that it can do without."""
        return Expression(
            {
                name: encoder
                for name, encoder in self._encoders.items()
                if name in voice.needed_codes or voice.code_fingerprints.get(name) in (None, encoder.fingerprint)
            }
        )

    def fingerprints(self, voice: Voice) -> list[str]:
        """Those of the models whose codes a voice is given."""
        return [self._encoders[name].fingerprint for name in self.names(voice)]

    def names(self, voice: Voice) -> list[str]:
        """Those of `pitch` and `style` that a voice takes and there is a model of."""
        return [name for name in voice.num_codes if name in self._encoders]

    def of_wavs(self, wavs: Sequence[NDArray[np.float32]], names: Sequence[str]) -> list[Codes]:
        """The codes of clips [S] at 16 kHz, of those named: `pitch`, `style`; each by itself."""
        found: list[dict[str, NDArray[np.uint16]]] = [{} for _ in wavs]
        for name in names:
            for codes, of_clip in zip(self._encoders[name].codes(as_tensors(wavs)), found, strict=True):
                of_clip[name] = codes.cpu().numpy().astype(np.uint16)
        return list(found)


def with_other_durations(
    codes: Codes,
    before: NDArray[np.uint16],
    after: NDArray[np.uint16],
    frames_per_code: Mapping[str, int],
) -> Codes:
    """Codes of units that last longer or shorter than before: each unit keeps the code that it began with.

    Args:
        codes: Dense, on the old durations.
        before: The old durations in frames, [n].
        after: The new ones, [n].
        frames_per_code: How long codes last, by name.

    Returns:
        Dense codes, on the new durations.
    """
    starts = np.cumsum(before, dtype=np.int64) - before
    spaced = {}
    for name, of_clip in codes.items():
        each = frames_per_code[name]
        of_frames = codes_of_frames(of_clip, each, int(before.sum(dtype=np.int64)), name)
        spaced[name] = np.repeat(of_frames[starts], after)[::each].astype(np.uint16)
    return spaced
