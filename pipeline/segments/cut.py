"""Cuts one recording into segments at its pauses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.segments.config import SegmentConfig

Regions = list[tuple[float, float]]
"""(start, end) seconds."""


def tidy(regions: Iterable[Sequence[float]], duration_s: float) -> Regions:
    """Sorts regions of speech, clips them to the recording and joins those that overlap or touch.

    Args:
        regions: (on, off) seconds. Those that are empty, backwards or NaN are left out.
        duration_s: The recording's length.
    """
    clipped = ((max(0.0, on_s), min(off_s, duration_s)) for on_s, off_s in regions if on_s < off_s)
    tidied: Regions = []
    for on_s, off_s in sorted(clipped):
        if on_s >= off_s:  # beyond the recording
            continue
        if tidied and on_s <= tidied[-1][1]:
            tidied[-1] = (tidied[-1][0], max(tidied[-1][1], off_s))
        else:
            tidied.append((on_s, off_s))
    return tidied


def cut(regions: Regions, duration_s: float, config: SegmentConfig) -> Regions:
    """Cuts one recording at its pauses.

    Neighbouring speech is joined up to `max_s`; if more follows, the cut is at the longest pause of the second half.
    Speech is cut inside only if it lasts longer than `max_s` without a pause.

    Args:
        regions: Speech as (on, off) seconds, in order and without overlap.
        duration_s: The recording's length.

    Returns:
        Candidate segments as (start, end) seconds, in order, without overlap, within the recording and at most `max_s`
        long. Some may be shorter than `min_s`.
    """
    longest_s = config.max_s - 2 * config.padding_s
    pieces = [piece for region in regions for piece in divide(region, longest_s)]
    stretches: Regions = []
    for group in _split_at_pauses(pieces, config.max_pause_s):
        first = 0
        while first < len(group):
            last = _last_piece(group, first, longest_s, config)
            stretches.append((group[first][0], group[last][1]))
            first = last + 1
    # Padding may take at most half of the pause to the neighbour.
    middles_s = [(before[1] + after[0]) / 2 for before, after in itertools.pairwise(stretches)]
    edges_s = itertools.pairwise([0.0, *middles_s, duration_s])
    return [_pad(stretch, *edges, duration_s, config) for stretch, edges in zip(stretches, edges_s, strict=False)]


def cut_around(holes: Regions, regions: Regions, duration_s: float, config: SegmentConfig) -> Regions:
    """Cuts a recording as `cut` does, but leaves out its holes: no segment reaches into one.

    Args:
        holes: Stretches without audio, as (start, end) seconds, in order and without overlap.
        regions: Speech, as for `cut`.
        duration_s: The recording's length.
        config: As for `cut`.
    """
    segments: Regions = []
    for start_s, end_s in stretches_between(holes, duration_s):
        within = tidy(((on_s - start_s, off_s - start_s) for on_s, off_s in regions), end_s - start_s)
        segments += [(start_s + on_s, start_s + off_s) for on_s, off_s in cut(within, end_s - start_s, config)]
    return segments


def stretches_between(holes: Regions, duration_s: float) -> Regions:
    """What is left of a recording between its holes; edges are whole milliseconds, but for the recording's own."""
    starts_s = [0.0, *(math.ceil(end_s * 1000) / 1000 for _, end_s in holes)]
    ends_s = [*(math.floor(start_s * 1000) / 1000 for start_s, _ in holes), duration_s]
    return [(start_s, end_s) for start_s, end_s in zip(starts_s, ends_s, strict=True) if start_s < end_s]


def _split_at_pauses(pieces: Regions, max_pause_s: float) -> list[Regions]:
    groups: list[Regions] = []
    for piece in pieces:
        if groups and piece[0] - groups[-1][-1][1] <= max_pause_s:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _last_piece(pieces: Regions, first: int, longest_s: float, config: SegmentConfig) -> int:
    """The index of the last piece of the segment that begins with piece `first`."""
    start_s = pieces[first][0]
    if pieces[-1][1] - start_s <= longest_s:
        return len(pieces) - 1
    best, best_value = first, -1.0
    for last in range(first, len(pieces) - 1):
        if pieces[last][1] - start_s > longest_s:
            break
        pause_s = pieces[last + 1][0] - pieces[last][1]
        # Cuts in the first half, or that leave a rest too short to stand alone, are a last resort.
        rest_s = pieces[-1][1] - pieces[last + 1][0]
        is_good = pieces[last][1] - start_s >= longest_s / 2 and rest_s >= config.min_s
        value = pause_s + (2 * config.max_pause_s if is_good else 0.0)
        if value >= best_value:
            best, best_value = last, value
    return best


def divide(region: tuple[float, float], longest_s: float) -> Regions:
    """Divides a region into as few equal parts as possible, each at most `longest_s` seconds long."""
    on_s, off_s = region
    parts = max(1, math.ceil((off_s - on_s) / longest_s))
    edges = [on_s + (off_s - on_s) * part / parts for part in range(parts)] + [off_s]
    return list(itertools.pairwise(edges))


def _pad(
    stretch: tuple[float, float], before_s: float, after_s: float, duration_s: float, config: SegmentConfig
) -> tuple[float, float]:
    start_s = max(stretch[0] - config.padding_s, before_s)
    end_s = min(stretch[1] + config.padding_s, after_s)
    # Whole milliseconds, rounded inwards, except at the recording's own end.
    end_s = end_s if end_s == duration_s else math.floor(end_s * 1000) / 1000
    return min(math.ceil(start_s * 1000) / 1000, end_s), end_s
