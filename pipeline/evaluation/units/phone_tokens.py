"""Phones and their places in frames: what ABX compares, from alignments or from Libri-Light's item files.

An item file is a line of names, then a line a token: file, onset, offset, phone, phone before, phone after, speaker.
Frame f stands for the time (f + 1/2) / rate; a token has the frames whose times lie from its onset to its offset.
Libri-Light's own scorer leaves out the last one of them, which is much at 25 Hz: `libri-light` does as it does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import TwistError
from pipeline.evaluation.units.abx import Token
from pipeline.evaluation.units.alignments import SILENCE
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.units.alignments import Interval

TokenSpan = Literal["phoneme", "triphone"]
FrameRule = Literal["inclusive", "libri-light"]
# Times are decimal fractions: 0.58 s at 25 Hz are 14.5 frames, not a bit less.
DECIMALS = 6


@dataclass(frozen=True)
class PhoneToken:
    """A phone in a file.

    Attributes:
        file: Its file's name.
        start_s, end_s: Where it is; for a triphone, with the phones before and after it.
        phone: Which.
        previous, following: The phones beside it.
        speaker: Who says it.
    """

    file: str
    start_s: float
    end_s: float
    phone: str
    previous: str
    following: str
    speaker: str


def read_items(uri: str) -> list[PhoneToken]:
    """The tokens of an item file.

    Raises:
        TwistError: there is no such file, or a line does not fit.
    """
    try:
        lines = storage.read_bytes(uri).decode().splitlines()[1:]
    except FileNotFoundError:
        raise TwistError(f"there is no item file {uri}") from None
    except UnicodeDecodeError as error:
        raise TwistError(f"{uri} is not in UTF-8: {error}") from error
    tokens = []
    for number, line in enumerate(lines, start=2):
        fields = line.split()
        try:
            file, onset, offset, phone, previous, following, speaker = fields
            token = PhoneToken(file, float(onset), float(offset), phone, previous, following, speaker)
        except ValueError:
            raise TwistError(
                f"{uri}, line {number} is not: file onset offset phone previous next speaker (an item file begins with "
                f"a line of names)"
            ) from None
        if not 0 <= token.start_s <= token.end_s < math.inf:
            raise TwistError(f"{uri}, line {number}: a token from {onset} to {offset} s")
        tokens.append(token)
    if not tokens:
        raise TwistError(f"{uri} has no tokens")
    return tokens


def tokens_of(file: str, intervals: Sequence[Interval], speaker: str, span: TokenSpan) -> list[PhoneToken]:
    """The phones of an alignment.

    Beyond its ends, and in gaps of it, is silence, which is no token but may be beside one. A triphone has three phones
    that touch.
    """
    tokens = []
    for place, interval in enumerate(intervals):
        if interval.label == SILENCE:
            continue
        before = intervals[place - 1] if place and _touch(intervals[place - 1], interval) else None
        after = intervals[place + 1] if intervals[place + 1 :] and _touch(interval, intervals[place + 1]) else None
        previous, following = (beside.label if beside else SILENCE for beside in (before, after))
        start_s, end_s = interval.start_s, interval.end_s
        if span == "triphone":
            if before is None or after is None or SILENCE in (previous, following):
                continue
            start_s, end_s = before.start_s, after.end_s
        tokens.append(PhoneToken(file, start_s, end_s, interval.label, previous, following, speaker))
    return tokens


def _touch(first: Interval, second: Interval) -> bool:
    # Times are rounded to milliseconds at least.
    return second.start_s - first.end_s < 0.0015


def frame_span(start_s: float, end_s: float, frame_rate_hz: float, num_frames: int, rule: FrameRule) -> slice:
    """The frames of a stretch of a file; none if it has no frame's time, or lies beyond the file."""
    first, last = (round(time_s * frame_rate_hz - 0.5, DECIMALS) for time_s in (start_s, end_s))
    start, end = math.ceil(first), math.floor(last) + (rule == "inclusive")
    start, end = max(start, 0), min(end, num_frames)
    return slice(start, max(start, end))


def cut(
    tokens: Sequence[PhoneToken], frames: Mapping[str, NDArray[Any]], frame_rate_hz: float, rule: FrameRule
) -> list[Token]:
    """The tokens with their frames; those that have none are left out.

    Args:
        tokens: The tokens of files in `frames`.
        frames: Units [F] or features [F, D] of whole files, by name.
        frame_rate_hz: Of these.
        rule: Whether the last frame counts.
    """
    with_frames = []
    for token in tokens:
        of_file = frames[token.file]
        of_token = of_file[frame_span(token.start_s, token.end_s, frame_rate_hz, len(of_file), rule)]
        if len(of_token):
            with_frames.append(Token(token.phone, token.previous, token.following, token.speaker, of_token))
    return with_frames
