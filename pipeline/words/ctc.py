"""Forced alignment by a CTC model: the likeliest frames of each letter of a text, and from these its words' times.

Words that the model cannot spell, such as numbers, are aligned as a unit that fits any sound, as MMS does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from model.ctc import viterbi
from model.ctc.recognizer import load_recognizer
from pipeline.audio.read import AudioError, Clip
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.words.recordings import whole_wav, words_table
from pipeline.words.spelling import SpelledWord, spell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray
    from torch import Tensor

    from model.device import Device
    from pipeline.corpora.alignments.labelled import Labelled
    from pipeline.work.plan import Chunk

# CTC has blanks also where a letter is still heard: a word takes half of those before the next, and all of those at the
# ends of the recording, as with MMS; but no more of a pause.
LONGEST_SHARE_OF_PAUSE_S = 0.2
# Texts that are aligned together, and what of Viterbi's memory they may take.
TEXTS_PER_BATCH = 32
STATES_PER_BATCH = 2**26


class AlignByCtc:
    """Aligns the texts of a chunk's recordings to their audio.

    Args:
        model: The folder of the CTC model.
        device: Where it runs.
    """

    def __init__(self, model: str, device: Device) -> None:
        torch.set_num_threads(1)
        self._recognize = load_recognizer(model, device)

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        spelled = [spell(text, self._recognize.alphabet) for text in chunk.texts]
        outcomes: list[list[Labelled] | AudioError] = [
            self._usable(clip, words) for clip, words in zip(clips, spelled, strict=True)
        ]
        usable = [place for place, outcome in enumerate(outcomes) if not isinstance(outcome, AudioError)]
        wavs = []
        for place in usable:
            clip = clips[place]
            assert isinstance(clip, Clip)
            wavs.append(torch.from_numpy(clip.wav.copy()))
        words = self._align(self._recognize(wavs), [spelled[place] for place in usable])
        for place, outcome in zip(usable, words, strict=True):
            outcomes[place] = outcome
        return words_table(chunk.ids, outcomes)

    def _usable(self, clip: Clip | AudioError, words: Sequence[SpelledWord]) -> list[Labelled] | AudioError:
        wav = whole_wav(clip)
        if isinstance(wav, AudioError):
            return wav
        if not any(word.letters for word in words):
            return AudioError("unspellable", "the model has the letters of none of the text's words")
        if self._recognize.num_frames(len(wav)) < 1:
            return AudioError("too_short", f"{len(wav)} samples give no frame")
        return []

    def _align(
        self, log_probs: Sequence[Tensor], spelled: Sequence[Sequence[SpelledWord]]
    ) -> list[list[Labelled] | AudioError]:
        """Words and times by the log-probabilities [F, C] of each clip."""
        units, owners = [], []
        for words in spelled:
            of_text, of_words = self._units(words)
            units.append(of_text)
            owners.append(of_words)
        outcomes: list[list[Labelled] | AudioError] = [[] for _ in spelled]
        for batch in _batches([len(frames) for frames in log_probs], list(map(len, units))):
            # The unit that fits any sound.
            emissions = [F.pad(log_probs[place], (0, 1)) for place in batch]
            paths = viterbi.align(emissions, [units[place] for place in batch], self._recognize.blank)
            for place, path in zip(batch, paths, strict=True):
                if path is None:
                    detail = f"{len(log_probs[place])} frames are too few for {len(units[place])} letters"
                    outcomes[place] = AudioError("text_too_long", detail)
                else:
                    outcomes[place] = self._times(path.numpy(), owners[place], spelled[place])
        return outcomes

    def _units(self, words: Sequence[SpelledWord]) -> tuple[list[int], NDArray[np.int64]]:
        """The units of a text, and the word of each [U], -1 for what stands between words."""
        recognize = self._recognize
        any_sound = recognize.num_units
        units: list[int] = []
        owners: list[int] = []
        for number, word in enumerate(words):
            if number and recognize.separator is not None:
                units.append(recognize.separator)
                owners.append(-1)
            letters = [recognize.alphabet[letter] for letter in word.letters] or [any_sound]
            units += letters
            owners += [number] * len(letters)
        return units, np.array(owners)

    def _times(
        self, path: NDArray[np.int64], owners: NDArray[np.int64], words: Sequence[SpelledWord]
    ) -> list[Labelled]:
        hop_s = self._recognize.hop_samples / SAMPLE_RATE_HZ
        word_of_frame = np.where(path >= 0, owners[path], -1)
        edges = word_edges(word_of_frame, len(words), round(LONGEST_SHARE_OF_PAUSE_S / hop_s))
        return [
            (word.written, start * hop_s, end * hop_s) for word, (start, end) in zip(words, edges.tolist(), strict=True)
        ]


def word_edges(word_of_frame: NDArray[np.int64], num_words: int, longest_share: int) -> NDArray[np.int64]:
    """The first frame of each word and the one behind its last [W, 2].

    Frames between two words are split in half; those before the first and behind the last are theirs.

    Args:
        word_of_frame: The word that each frame says [F], rising, -1 where it says none.
        num_words: How many words there are, each of which has a frame.
        longest_share: Frames that a word takes at most on either side, next to those that say it.
    """
    said = np.flatnonzero(word_of_frame >= 0)
    words = word_of_frame[said]
    numbers = np.arange(num_words)
    firsts, ends = said[np.searchsorted(words, numbers)], said[np.searchsorted(words, numbers, "right") - 1] + 1
    between = firsts[1:] - ends[:-1]
    ends[:-1] += np.minimum(between // 2, longest_share)
    firsts[1:] -= np.minimum(between - between // 2, longest_share)
    firsts[:1] -= np.minimum(firsts[:1], longest_share)
    ends[-1:] += np.minimum(len(word_of_frame) - ends[-1:], longest_share)
    return np.stack([firsts, ends], axis=1)


def _batches(num_frames: Sequence[int], num_units: Sequence[int]) -> Iterator[list[int]]:
    """Groups texts of similar size."""
    batch: list[int] = []
    for place in sorted(range(len(num_units)), key=lambda place: (num_frames[place], num_units[place])):
        most_units = max(num_units[other] for other in [*batch, place])
        states = (len(batch) + 1) * (2 * most_units + 1) * num_frames[place] ** 0.5
        if batch and (len(batch) == TEXTS_PER_BATCH or states > STATES_PER_BATCH):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
