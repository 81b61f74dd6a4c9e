"""Praat's TextGrids, long and short, as the Montreal Forced Aligner and LibriSpeech-alignments write them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from pipeline.corpora.alignments.labelled import AlignmentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.corpora.alignments.labelled import Labelled

# Of a TextGrid's text: a string, a flag, or a number that stands alone; Praat ignores the rest.
TEXTGRID_VALUE = re.compile(r'"((?:[^"]|"")*)"|(<exists>)|(?<!\S)(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?!\S)')


def read_textgrid(text: str) -> dict[str, list[Labelled]]:
    """The tiers of intervals of a TextGrid, by name.

    Raises:
        AlignmentError: it is none, or ends too early.
    """
    values: list[str | float] = []
    for string, flag, number in TEXTGRID_VALUE.findall(text):
        values.append(float(number) if number else flag or string.replace('""', '"'))
    stream = iter(values)

    def take(*kinds: type) -> tuple[str | float, ...]:
        taken = tuple(next(stream, None) for _ in kinds)
        if any(
            not isinstance(value, kind) or value in (math.inf, -math.inf)
            for value, kind in zip(taken, kinds, strict=True)
        ):
            raise AlignmentError("bad_alignment", "it is no TextGrid, or ends too early")
        return taken  # type: ignore[return-value]

    if take(str, str) != ("ooTextFile", "TextGrid"):
        raise AlignmentError("bad_alignment", "it is no TextGrid")
    take(float, float)
    (has_tiers,) = take(str)
    (num_tiers,) = take(float) if has_tiers == "<exists>" else (0.0,)
    tiers: dict[str, list[Labelled]] = {}
    for _ in range(int(num_tiers)):
        kind, name, _, _, size = take(str, str, float, float, float)
        if kind == "IntervalTier":
            rows = [take(float, float, str) for _ in range(int(size))]
            tiers[str(name)] = [(str(label), float(start_s), float(end_s)) for start_s, end_s, label in rows]
        else:
            for _ in range(int(size)):
                take(float, str)
    return tiers


def tier_of(tiers: Mapping[str, list[Labelled]], tier: str) -> list[Labelled]:
    """The intervals of the tier of this name, or of all tiers named "<speaker> - <tier>", in order of time.

    Raises:
        AlignmentError: there is no such tier.
    """
    fitting = [name for name in tiers if name == tier or name.endswith(f" - {tier}")]
    if not fitting:
        raise AlignmentError("no_tier", f"it has no tier {tier!r}; its tiers of intervals: {', '.join(tiers)}")
    return sorted((interval for name in fitting for interval in tiers[name]), key=lambda interval: interval[1])
