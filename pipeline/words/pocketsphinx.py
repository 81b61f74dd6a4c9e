"""Forced alignment by pocketsphinx, whose package brings an English model and dictionary: no download, no GPU.

It aligns sentences, not minutes, and knows 134,000 words. What it gives of a text that it could not follow is a part of
the words: it is refused.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.audio.read import AudioError
from pipeline.errors import TwistError
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.words.recordings import whole_wav, words_table
from pipeline.words.spelling import spell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.audio.read import Clip
    from pipeline.corpora.alignments.labelled import Labelled
    from pipeline.work.plan import Chunk

LONGEST_S = 60.0
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz'-")
FRAME_S = 0.01
# Speech that begins or ends with the audio is often not followed to its end.
PADDING_S = 0.3
PADDING_LEVEL = 3e-4
# The dictionary's second and further pronunciations of a word: "the(2)".
VARIANT = re.compile(r"\(\d+\)$")


class AlignByPocketsphinx:
    """Aligns the texts of a chunk's recordings to their audio."""

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except (ImportError, OSError) as error:
            raise TwistError(
                f"words.source is pocketsphinx, which cannot be imported ({error}); install the extra: "
                f"pip install 'twist-pipeline[align]'"
            ) from error
        self._new_decoder: Callable[[], Any] = functools.partial(Decoder, lm=None, loglevel="FATAL")
        self._dictionary = self._new_decoder()

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        return words_table(
            chunk.ids, [self._align(whole_wav(clip), text) for clip, text in zip(clips, chunk.texts, strict=True)]
        )

    def _align(self, wav: NDArray[np.float32] | AudioError, text: str) -> list[Labelled] | AudioError:
        if isinstance(wav, AudioError):
            return wav
        words = spell(text, LETTERS)
        entries = [self._entries(word.letters) for word in words]
        if unknown := [word.written for word, found in zip(words, entries, strict=True) if not found]:
            return AudioError("unspellable", f"pocketsphinx's dictionary lacks {', '.join(unknown[:5])}")
        asked = [entry for found in entries for entry in found]
        spans = self._follow(wav, asked)
        if isinstance(spans, AudioError):
            return spans
        labelled: list[Labelled] = []
        for word, found in zip(words, entries, strict=True):
            of_word, spans = spans[: len(found)], spans[len(found) :]
            labelled.append((word.written, max(0.0, of_word[0][0]), min(of_word[-1][1], len(wav) / SAMPLE_RATE_HZ)))
        return labelled

    def _entries(self, letters: str) -> list[str]:
        """The entries of the dictionary that a word is said with: itself ('em), it without quotes, or its parts."""
        bare = letters.strip("'-")
        for entries in ([letters], [bare], bare.split("-")):
            if all(entry and self._dictionary.lookup_word(entry) for entry in entries):
                return entries
        return []

    def _follow(self, wav: NDArray[np.float32], entries: Sequence[str]) -> list[tuple[float, float]] | AudioError:
        """When each entry is said."""
        # A new one each time: what a decoder hears in one recording changes the times of the next.
        decoder = self._new_decoder()
        decoder.set_align_text(" ".join(entries))
        decoder.start_utt()
        decoder.process_raw(padded(wav), full_utt=True)
        decoder.end_utt()
        found = [
            (VARIANT.sub("", segment.word), segment.start_frame, segment.end_frame)
            for segment in decoder.seg() or ()
            if segment.word[0] not in "<["
        ]
        if [word for word, _, _ in found] != list(entries):
            return AudioError("not_followed", f"{len(found)} of {len(entries)} words of the text were found")
        return [(start * FRAME_S - PADDING_S, (end + 1) * FRAME_S - PADDING_S) for _, start, end in found]


def padded(wav: NDArray[np.float32]) -> bytes:
    """wav [S] at 16 kHz between stretches of faint noise, as pocketsphinx takes it."""
    noise = np.random.default_rng(0).normal(0, PADDING_LEVEL, (2, round(PADDING_S * SAMPLE_RATE_HZ)))
    samples = np.concatenate([noise[0], wav, noise[1]])
    pcm: bytes = (np.clip(samples, -1, 1) * np.iinfo(np.int16).max).astype(np.int16).tobytes()
    return pcm
