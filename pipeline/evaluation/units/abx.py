"""ABX: is a phone nearer to itself, said again, than to another one? The error is the share of triples where it is not.

A and X are tokens of one phone, B is one of another. X is nearer to A than to B, by dynamic time warping (dtw.py), or
not; a tie is half an error.

1. Within speakers, A, B and X are by one speaker and X is another token than A. Across, A and B are by one speaker, X
   by another.
2. Where contexts count, all three have the same phones before and after.
3. The error of two phones and a speaker (of A and B) is the mean over contexts and speakers of X; then come the mean
   over speakers, and the mean over ordered pairs of phones.

Source: Libri-Light's ABX (facebookresearch/libri-light, eval); names of conditions as in ZeroSpeech's libriabx2.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.errors import TwistError
from pipeline.evaluation.measures import GROUP
from pipeline.evaluation.units.dtw import angular, dtw_distances, unequal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.units.dtw import FrameDistance

Speakers = Literal["within", "across"]
Contexts = Literal["within", "any"]


@dataclass(frozen=True)
class Token:
    """A phone as it was said once.

    Attributes:
        phone: Which.
        previous, following: The phones beside it.
        speaker: Who said it.
        frames: Its units [F], integers, or features [F, D], with F at least 1.
    """

    phone: str
    previous: str
    following: str
    speaker: str
    frames: NDArray[Any]


@dataclass(frozen=True)
class _Trial:
    """A cell's phone and the tokens that are X; `is_self` if these are the tokens A too."""

    phone: str
    x: list[int]
    is_self: bool


# A context and a speaker; and the places of their tokens, by phone.
_Place = tuple[tuple[str, str], str]
_Cells = dict[_Place, dict[str, list[int]]]


def abx(
    tokens: Sequence[Token],
    *,
    speakers: Speakers,
    contexts: Contexts,
    distance: FrameDistance | None = None,
    max_tokens: int = 10,
    max_x_speakers: int = 5,
    seed: int = 0,
) -> pa.Table:
    """The ABX error of each ordered pair of phones by each speaker.

    Args:
        tokens: The tokens: all of units, or all of features.
        speakers: Whether X is by the speaker of A and B or by another one.
        contexts: Whether the phones beside A, B and X are the same, or any.
        distance: Of frames; by default `unequal` for units and `angular` for features.
        max_tokens: Tokens of a phone by a speaker in a context, at most; more are drawn from.
        max_x_speakers: Other speakers, at most, whose tokens are X to a phone by a speaker in a context.
        seed: Of what is drawn.

    Returns:
        A row for each: `item_id`, `group` (the speaker), `pair` (the two phones), `error` (0 to 1), `num_means` (the
        contexts and speakers of X over which `error` is the mean). No rows if the tokens make no triple.

    Raises:
        TwistError: a token has no frame.
    """
    if empty := next((token for token in tokens if not len(token.frames)), None):
        raise TwistError(f"a token of {empty.phone} by {empty.speaker} has no frame; leave it out")
    if distance is None:
        distance = unequal if tokens and tokens[0].frames.ndim == 1 else angular
    cells = _cells(tokens, contexts, max_tokens, seed)
    sums: dict[tuple[str, str, str], float] = defaultdict(float)
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    trials_of = _within(cells) if speakers == "within" else _across(cells, max_x_speakers, seed)
    for place, trials in trials_of:
        for phone, other, error in _errors(tokens, cells[place], trials, distance):
            sums[phone, other, place[1]] += error
            counts[phone, other, place[1]] += 1
    keys = sorted(sums)
    return pa.table(
        {
            "item_id": pa.array([f"{phone} {other} {speaker}" for phone, other, speaker in keys], pa.string()),
            GROUP: pa.array([speaker for _, _, speaker in keys], pa.string()),
            "pair": pa.array([f"{phone} {other}" for phone, other, _ in keys], pa.string()),
            "error": pa.array([sums[key] / counts[key] for key in keys], pa.float64()),
            "num_means": pa.array([counts[key] for key in keys], pa.int64()),
        }
    )


def abx_error(errors: pa.Table) -> float:
    """The ABX error: the mean over pairs of the mean over speakers, of what `abx` returns; NaN if it has no rows."""
    by_pair = defaultdict(list)
    for pair, error in zip(errors["pair"].to_pylist(), errors["error"].to_pylist(), strict=True):
        by_pair[pair].append(error)
    return float(np.mean([np.mean(of_pair) for of_pair in by_pair.values()])) if by_pair else float("nan")


def _cells(tokens: Sequence[Token], contexts: Contexts, max_tokens: int, seed: int) -> _Cells:
    cells: _Cells = defaultdict(lambda: defaultdict(list))
    for number, token in enumerate(tokens):
        context = (token.previous, token.following) if contexts == "within" else ("", "")
        cells[context, token.speaker][token.phone].append(number)
    return {
        place: {phone: _drawn(of_phone, max_tokens, (seed, place, phone)) for phone, of_phone in sorted(cell.items())}
        for place, cell in sorted(cells.items())
    }


def _drawn(choices: list[Any], most: int, seed: tuple[object, ...]) -> list[Any]:
    """At most so many, drawn by a seed that says what they are drawn for, whatever else is drawn."""
    return choices if len(choices) <= most else random.Random(repr(seed)).sample(choices, most)


def _within(cells: _Cells) -> Iterator[tuple[_Place, list[_Trial]]]:
    for place, cell in cells.items():
        if len(cell) > 1:
            yield place, [_Trial(phone, of_phone, True) for phone, of_phone in cell.items() if len(of_phone) > 1]


def _across(cells: _Cells, max_x_speakers: int, seed: int) -> Iterator[tuple[_Place, list[_Trial]]]:
    speakers_of: dict[tuple[tuple[str, str], str], list[str]] = defaultdict(list)
    for (context, speaker), cell in cells.items():
        for phone in cell:
            speakers_of[context, phone].append(speaker)
    for place, cell in cells.items():
        context, speaker = place
        if len(cell) == 1:
            continue
        trials = []
        for phone in cell:
            others = [other for other in speakers_of[context, phone] if other != speaker]
            for other in _drawn(others, max_x_speakers, (seed, place, phone)):
                trials.append(_Trial(phone, cells[context, other][phone], False))
        yield place, trials


def _errors(
    tokens: Sequence[Token], cell: Mapping[str, list[int]], trials: Sequence[_Trial], distance: FrameDistance
) -> Iterator[tuple[str, str, float]]:
    """The error of each trial against each other phone of a speaker in a context: phone, other phone, error."""
    if not trials:
        return
    phones = list(cell)
    of_column = np.repeat(np.arange(len(phones)), [len(cell[phone]) for phone in phones])
    columns = [tokens[number].frames for of_phone in cell.values() for number in of_phone]
    # Each X is compared with all tokens A and B once, whichever trials it is in.
    numbers = sorted({number for trial in trials for number in trial.x})
    row_of = {number: row for row, number in enumerate(numbers)}
    distances = dtw_distances([tokens[number].frames for number in numbers], columns, distance)
    sizes = np.bincount(of_column)
    for trial in trials:
        own = phones.index(trial.phone)
        to_all = distances[[row_of[number] for number in trial.x]]
        to_a = to_all[:, of_column == own]
        num_triples = to_a.size
        if trial.is_self:
            to_a = to_a.copy()
            np.fill_diagonal(to_a, np.nan)  # neither nearer nor as near
            num_triples -= len(to_a)
        is_nearer, is_as_near = to_a[:, :, None] < to_all[:, None], to_a[:, :, None] == to_all[:, None]
        points = is_nearer.sum(axis=(0, 1)) + 0.5 * is_as_near.sum(axis=(0, 1))
        by_phone = np.bincount(of_column, points) / (num_triples * sizes)
        for other, right in zip(phones, by_phone, strict=True):
            if other != trial.phone:
                yield trial.phone, other, 1.0 - float(right)
