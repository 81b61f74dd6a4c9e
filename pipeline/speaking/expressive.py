"""Recordings as an expressive model hears them, units, pitch and style in one stream; and what it says, by unit.

Codes are those of the models that the speech LM was trained on: it names their fingerprints.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from model.lm.streams import StreamRates, Streams, merge, split
from pipeline.audio.read import Span
from pipeline.errors import TwistError
from pipeline.speaking.wav import read_clip
from pipeline.units.encode import as_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.code_model import CodeModel
    from model.lm.parts import Part
    from model.lm.streams import Spoken
    from model.lm.vocab import Vocabulary
    from pipeline.speaking.tokenizer import Tokenizer


def require_own_codes(pitch: CodeModel, style: CodeModel, vocabulary: Vocabulary) -> None:
    """Refuses models of pitch and style that a speech LM was not trained on.

    Raises:
        TwistError: these are such.
    """
    for name, model, number, fingerprint in (
        ("pitch", pitch, vocabulary.num_pitch, vocabulary.pitch_fingerprint),
        ("style", style, vocabulary.num_style, vocabulary.style_fingerprint),
    ):
        if model.num_codes != number or fingerprint not in (None, model.fingerprint):
            raise TwistError(
                f"the speech LM says {number} codes of the {name} model {fingerprint}, but the one that is given "
                f"has {model.num_codes} ({model.fingerprint}): the same numbers mean other sounds"
            )


class StreamTokenizer:
    """Turns recordings into streams of units, pitch and style.

    Args:
        tokenizer: Gives units.
        pitch: Gives codes of pitch.
        style: Gives codes of style.
        vocabulary: The speech LM's.

    Raises:
        TwistError: the speech LM was trained on other codes of pitch or style.
    """

    def __init__(self, tokenizer: Tokenizer, pitch: CodeModel, style: CodeModel, vocabulary: Vocabulary) -> None:
        require_own_codes(pitch, style, vocabulary)
        self._tokenizer = tokenizer
        self._pitch = pitch
        self._style = style
        self._vocabulary = vocabulary
        self._rates = StreamRates(tokenizer.frame_rate_hz, pitch.rate_hz, style.rate_hz)

    def streams(self, recordings: Sequence[str]) -> list[Streams]:
        """Units, pitch and style of recordings.

        Raises:
            TwistError: one cannot be read, is silent or too short.
        """
        return [self._streams(recording) for recording in recordings]

    def values(self, recordings: Sequence[str]) -> list[NDArray[np.int64]]:
        """The merged stream of each, as `Part` has it: each token by its distance from unit 0.

        Raises:
            TwistError: as `streams`.
        """
        merged = merge(self.streams(recordings), self._vocabulary, self._rates)
        return np.split(merged.ids - self._vocabulary.offset, np.cumsum(merged.lengths)[:-1]) if recordings else []

    def _streams(self, recording: str) -> Streams:
        wav = read_clip(Span(recording, None, 0.0, math.inf), recording)
        self._tokenizer.require_frames(wav, recording)
        (units,) = self._tokenizer.of_wavs([wav])
        assert units.durations is not None
        pitch, style = (
            model.codes(as_tensors([wav]))[0].numpy().astype(np.uint16) for model in (self._pitch, self._style)
        )
        return Streams(units.values, units.durations, pitch, style)


def spoken_of(
    part: Part, vocabulary: Vocabulary, before: Part | None = None, earlier: Sequence[Part] = ()
) -> tuple[Spoken, int]:
    """What a part of speech says, unit by unit; its first units have the pitch and style that were said last.

    Args:
        part: Of a model of units alone, or of an expressive one.
        vocabulary: The model's.
        before: Speech that it goes on from.
        earlier: What came before that, or before `part`; text in it is passed over.

    Returns:
        What `before` and `part` say, and how many units are of `before`.
    """
    said = [one.values for one in earlier if one.modality == "speech"]
    state = np.concatenate([np.zeros(0, np.int64), *said])
    given = before.values if before is not None and before.modality == "speech" else np.zeros(0, np.int64)
    num_given = int(vocabulary.is_unit(given + vocabulary.offset).sum())
    state = state[~vocabulary.is_unit(state + vocabulary.offset)]
    return split(np.concatenate([state, given, part.values]) + vocabulary.offset, vocabulary), num_given
