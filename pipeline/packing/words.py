"""Samples with words: the text of a sample in tokens, and which of its units are the speech of which word.

1. `words_of_segments` takes the words of a batch's segments from RUN/words, where the stage `words` has put them.
2. `times_in_sample` puts them on the clock of their sample, which counts frames of the encoder: its segments follow
   each other without the pauses between them.
3. `Speller` tokenizes texts and divides the frames of a sample among its words.

Between two words a sample is cut at the middle of the pause. A unit that lasts over the cut belongs to both words.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.lm.text_tokenizer import tokenizer_of_process
from pipeline.errors import TwistError, brief
from pipeline.records import WORDS_TYPE
from pipeline.shards import Words
from pipeline.words.parts import read_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Timed = tuple[str, float, float]

# A word may reach over the end of what became units by a frame of the aligner.
EDGE_TOLERANCE_S = 0.02
TIME_TOLERANCE_S = 1e-6
TEXTS_AT_ONCE = 1000


def words_of_segments(segments: pa.Table, uri: str) -> pa.Array:
    """The words of segments, with times from each one's first unit.

    Args:
        segments: `segment_id`, `start_s` and `end_s` of segments with units.
        uri: The part of RUN/words that is about them.

    Returns:
        WORDS_TYPE; null for a segment without words, or of which some lie outside what became units.

    Raises:
        TwistError: the part is missing or damaged.
    """
    try:
        part = read_part(uri)
    except FileNotFoundError:
        raise TwistError(f"{uri} is missing; delete {uri.rpartition('/')[0]} and run `twist align` again") from None
    places = pc.index_in(segments["segment_id"], part["segment_id"])
    if places.null_count:
        missing = segments["segment_id"].filter(pc.is_null(places))[0]
        raise TwistError(
            f"{uri} says nothing of {missing}; delete {uri.rpartition('/')[0]} and run `twist align` again"
        )
    part = part.take(places)
    words = part["words"].combine_chunks()
    flat = pc.list_flatten(words)
    counts = pc.fill_null(pc.list_value_length(words), 0).to_numpy(zero_copy_only=False)
    owner = np.repeat(np.arange(len(part)), counts)
    start_s, end_s = (pc.struct_field(flat, name).to_numpy(zero_copy_only=False) for name in ("start_s", "end_s"))
    lengths_s = pc.subtract(part["end_s"], part["start_s"]).to_numpy()
    _refuse_impossible(uri, part, flat, owner, lengths_s)
    # Of a segment whose audio was damaged or ended early, less became units than was aligned.
    start_s = start_s + pc.subtract(part["start_s"], segments["start_s"]).to_numpy()[owner]
    end_s = end_s + pc.subtract(part["start_s"], segments["start_s"]).to_numpy()[owner]
    taken_s = pc.subtract(segments["end_s"], segments["start_s"]).to_numpy()
    is_outside = (start_s < -EDGE_TOLERANCE_S) | (end_s > taken_s[owner] + EDGE_TOLERANCE_S)
    has_words = (counts > 0) & (np.bincount(owner[is_outside], minlength=len(part)) == 0)
    taken = pa.StructArray.from_arrays(
        [pc.struct_field(flat, "word"), start_s.clip(0, taken_s[owner]), end_s.clip(0, taken_s[owner])],
        fields=list(WORDS_TYPE.value_type),
    )
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, taken, type=WORDS_TYPE, mask=pa.array(~has_words))


def _refuse_impossible(
    uri: str, part: pa.Table, flat: pa.StructArray, owner: NDArray[np.int64], lengths_s: NDArray[np.float64]
) -> None:
    """Raises where a word is empty, or its times do not rise, or lie outside its segment."""
    start_s, end_s = (pc.struct_field(flat, name).to_numpy(zero_copy_only=False) for name in ("start_s", "end_s"))
    before_s = np.zeros(len(owner))
    goes_on = owner[1:] == owner[:-1]
    before_s[1:][goes_on] = end_s[:-1][goes_on]
    is_fit = (
        (start_s >= before_s - TIME_TOLERANCE_S) & (end_s > start_s) & (end_s <= lengths_s[owner] + TIME_TOLERANCE_S)
    )
    is_fit &= pc.not_equal(pc.utf8_trim_whitespace(pc.struct_field(flat, "word")), "").to_numpy(zero_copy_only=False)
    if not is_fit.all():
        place = int(np.flatnonzero(~is_fit)[0])
        row = int(owner[place])
        raise TwistError(
            f"{uri} has {brief(flat[place]['word'].as_py())} from {start_s[place]:.3f} to {end_s[place]:.3f} s in "
            f"{part['segment_id'][row]}, of {lengths_s[row]:.3f} s, after a word that ends at {before_s[place]:.3f} s; "
            f"delete {uri.rpartition('/')[0]} and run `twist align` again"
        )


def times_in_sample(
    words: Sequence[list[dict[str, object]] | None], num_frames: Sequence[int], frame_rate_hz: float
) -> list[Timed] | None:
    """The words of a sample, from those of its segments; None unless all of them have words.

    Args:
        words: Of each segment its words, with times in seconds from its start.
        num_frames: Of each segment.
        frame_rate_hz: The encoder's.
    """
    timed: list[Timed] = []
    first_frame = 0
    for of_segment, frames in zip(words, num_frames, strict=True):
        if of_segment is None:
            return None
        start_s, end_s = first_frame / frame_rate_hz, (first_frame + frames) / frame_rate_hz
        for word in of_segment:
            # The last frame may end before its segment does.
            times = (min(start_s + float(word[name]), end_s) for name in ("start_s", "end_s"))  # type: ignore[arg-type]
            timed.append((str(word["word"]), *(round(time, 6) for time in times)))  # type: ignore[arg-type]
        first_frame += frames
    return timed


class Speller:
    """Gives samples their words.

    Args:
        tokenizer: Folder of the text LM's tokenizer.
        frame_rate_hz: The encoder's.
    """

    def __init__(self, tokenizer: str, frame_rate_hz: float) -> None:
        self._tokenizer = tokenizer_of_process(tokenizer)
        self.frame_rate_hz = frame_rate_hz

    def words_of(
        self, timed: Sequence[list[Timed] | None], durations: Sequence[NDArray[np.uint16]]
    ) -> list[Words | None]:
        """The words of some samples; None for a sample without.

        Args:
            timed: The words of each, with times in seconds from its first unit.
            durations: Of the units of each, in frames.
        """
        found: list[Words | None] = [None] * len(timed)
        places = [place for place, words in enumerate(timed) if words]
        for start in range(0, len(places), TEXTS_AT_ONCE):
            some = places[start : start + TEXTS_AT_ONCE]
            spelled = self._tokenizer.encode_words([[word for word, _, _ in timed[place] or ()] for place in some])
            for place, (tokens, counts) in zip(some, spelled, strict=True):
                found[place] = tile(timed[place] or [], tokens, counts, durations[place], self.frame_rate_hz)
        return found


def tile(
    timed: Sequence[Timed],
    tokens: NDArray[np.uint32],
    counts: NDArray[np.int64],
    durations: NDArray[np.uint16],
    frame_rate_hz: float,
) -> Words | None:
    """Divides a sample's units among its words; None if the text has no tokens.

    A word of which no frame is left, or which has no token, becomes one with its neighbour, with a blank between them.

    Args:
        timed: [W] words with their times, rising.
        tokens: [T] of their text.
        counts: [W] tokens of each word.
        durations: [U] of the sample's units, in frames.
        frame_rate_hz: Frames a second.
    """
    num_frames = int(durations.sum(dtype=np.int64))
    middles_s = [(word[2] + following[1]) / 2 for word, following in itertools.pairwise(timed)]
    firsts, cuts, num_tokens = [0], [0], int(counts[0])
    for place, cut in enumerate(np.rint(np.array(middles_s) * frame_rate_hz).astype(np.int64).tolist(), start=1):
        if cuts[-1] < cut < num_frames and num_tokens:
            firsts.append(place)
            cuts.append(cut)
            num_tokens = 0
        num_tokens += int(counts[place])
    if not num_tokens:
        if len(firsts) == 1:
            return None
        del firsts[-1], cuts[-1]
    ends = np.cumsum(durations, dtype=np.int64)
    table = np.empty((len(firsts), 3), np.uint32)
    table[:, 0] = np.add.reduceat(counts, firsts)
    table[:, 1] = np.searchsorted(ends, cuts, side="right")
    table[:, 2] = np.searchsorted(ends, np.array([*cuts[1:], num_frames]) - 1, side="right") + 1
    joined = [
        (" ".join(word for word, _, _ in timed[first:end]), timed[first][1], timed[end - 1][2])
        for first, end in zip(firsts, [*firsts[1:], len(timed)], strict=True)
    ]
    return Words(tuple(joined), tokens, table, np.array(cuts, np.uint32))
