"""Units, pitch and style of speech as one stream of tokens, merged by time; and back.

    [St71] [Pi39] [Hu99] [Hu49] [Pi40] [Hu38] ...

1. Code `i` of a stream is said at `i` / its rate. Of a run of equal units, or of equal pitch codes, the first is kept;
   style codes are all kept.
2. The three are merged by time; at one time style comes before pitch, and pitch before the unit.
3. Back again, each unit has the pitch and the style that were said last. Units at the beginning, before which none was
   said, have the first that is.

How long units last is lost on the way: the voice predicts it. Source: Nguyen et al. 2024 (SpiRit-LM), section 3.2, and
how Meta's released tokenizer and decoder behave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.errors import TwistError
from pipeline.shards import num_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.lm.vocab import Vocabulary

# What Meta's decoder takes where a stream has pitch and no style: codes of their style model, one of which it draws.
META_STYLES = (71, 68, 98)
# In which order tokens of one time stand.
STYLE, PITCH, UNIT = range(3)


@dataclass(frozen=True)
class StreamRates:
    """Codes a second of each stream, before repeats are left out."""

    units_hz: float
    pitch_hz: float
    style_hz: float

    def __post_init__(self) -> None:
        for name, rate_hz in vars(self).items():
            if not rate_hz > 0:
                raise TwistError(f"{name} is {rate_hz}; a stream has more than 0 codes a second")


class Streams(NamedTuple):
    """What is said of one stretch of speech.

    Attributes:
        units: [U] without repeats.
        durations: [U] of the units, in frames.
        pitch: [P] codes at their rate, repeats and all.
        style: [Q] the same.
    """

    units: NDArray[np.uint16]
    durations: NDArray[np.uint16]
    pitch: NDArray[np.uint16]
    style: NDArray[np.uint16]


class Merged(NamedTuple):
    """The streams of some stretches of speech, one stretch after the other.

    Attributes:
        ids: [N] tokens of the model.
        time_s: [N] when each is said, from the start of its stretch.
        kinds: [N] STYLE, PITCH or UNIT.
        lengths: [S] tokens of each stretch.
    """

    ids: NDArray[np.int64]
    time_s: NDArray[np.float64]
    kinds: NDArray[np.int8]
    lengths: NDArray[np.int64]


def merge(stretches: Sequence[Streams], vocabulary: Vocabulary, rates: StreamRates) -> Merged:
    """The tokens of some stretches of speech; each is merged by itself.

    Raises:
        TwistError: a code is not in the model's vocabulary.
    """
    if not stretches:
        return Merged(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int8), np.zeros(0, np.int64))
    units, durations, pitch, style = (_joined(stream) for stream in zip(*stretches, strict=True))
    frames = np.cumsum(durations.values, dtype=np.int64) - durations.values
    frames -= frames[durations.firsts_of_values]
    is_new = np.ones(len(pitch.values), np.bool_)
    is_new[1:] = pitch.values[1:] != pitch.values[:-1]
    is_new[pitch.places == 0] = True
    tokens = [
        (style.owner, style.places / rates.style_hz, vocabulary.encode_style(style.values), STYLE),
        (
            pitch.owner[is_new],
            pitch.places[is_new] / rates.pitch_hz,
            vocabulary.encode_pitch(pitch.values[is_new]),
            PITCH,
        ),
        (units.owner, frames / rates.units_hz, vocabulary.encode(units.values), UNIT),
    ]
    owner, time_s, ids = (np.concatenate([token[column] for token in tokens]) for column in range(3))
    kinds = np.repeat(np.array([kind for *_, kind in tokens], np.int8), [len(of_kind) for of_kind, *_ in tokens])
    # Stable: of equal times those that stand first here come first.
    order = np.lexsort((time_s, owner))
    return Merged(ids[order], time_s[order], kinds[order], np.bincount(owner, minlength=len(stretches)))


def num_tokens(units: int, pitch: NDArray[np.uint16], style: int) -> int:
    """Tokens of a stretch of `units` units without repeats, of these pitch codes [P] and of `style` style codes."""
    return units + num_runs(pitch) + style


class Spoken(NamedTuple):
    """What a voice is given.

    Attributes:
        units: [n] without repeats.
        pitch: [n] the pitch code of each unit; None where none is said.
        style: [n] the style code of each; None where none is said, or known.
    """

    units: NDArray[np.uint16]
    pitch: NDArray[np.uint16] | None
    style: NDArray[np.uint16] | None


def split(ids: NDArray[np.int64], vocabulary: Vocabulary, *, repeat_units: bool = False, seed: int = 0) -> Spoken:
    """Units, each with its pitch and style, out of a stream of tokens.

    Where pitch is said and no style, Meta's model is given one of META_STYLES; a model of ours has none then.

    Args:
        ids: [N] tokens of the model; those that are no speech are left out.
        vocabulary: The model's.
        repeat_units: Of several pitch codes in a row each but the first is said with the unit before once more; else
            the last of them counts.
        seed: Decides which of META_STYLES.
    """
    is_pitch, is_style = vocabulary.is_pitch(ids), vocabulary.is_style(ids)
    is_unit = vocabulary.is_unit(ids)
    if repeat_units:
        again = np.zeros(len(ids), np.bool_)
        again[1:] = is_pitch[1:] & is_pitch[:-1]
        again &= np.cumsum(is_unit) > 0
        is_unit = is_unit | again
    spoken = np.flatnonzero(is_unit)
    # The unit of each place: itself, or the last one before.
    units = _last(ids, vocabulary.is_unit(ids), spoken) - vocabulary.offset
    pitch, style = (
        _last(ids, is_one, spoken) - first if is_one.any() else None
        for is_one, first in ((is_pitch, vocabulary.pitch_offset), (is_style, vocabulary.style_offset))
    )
    if pitch is not None and style is None and vocabulary.is_metas_expressive:
        style = np.full(len(spoken), np.random.default_rng(seed).choice(META_STYLES))
    return Spoken(
        units.astype(np.uint16),
        None if pitch is None else pitch.astype(np.uint16),
        None if style is None else style.astype(np.uint16),
    )


def _last(ids: NDArray[np.int64], is_one: NDArray[np.bool_], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of those ids that are one, at each place the last up to there; before the first of them, that."""
    ones = np.flatnonzero(is_one)
    found: NDArray[np.int64] = ids[ones[np.maximum(np.searchsorted(ones, places, side="right") - 1, 0)]]
    return found


class _Joined(NamedTuple):
    """One stream of several stretches: values, stretch and place in it of each, and where each one's stretch begins."""

    values: NDArray[np.uint16]
    owner: NDArray[np.int64]
    places: NDArray[np.int64]
    firsts_of_values: NDArray[np.int64]


def _joined(parts: Sequence[NDArray[np.uint16]]) -> _Joined:
    lengths = np.array([len(part) for part in parts])
    owner = np.repeat(np.arange(len(parts)), lengths)
    firsts = (np.cumsum(lengths) - lengths)[owner]
    return _Joined(np.concatenate(parts), owner, np.arange(len(owner)) - firsts, firsts)
