"""The page to listen to: clips of what was kept and of what was dropped, by corpus and by reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.report.clips import Clip
    from pipeline.report.cutting import Cutter
    from pipeline.report.wanted import Drawn, Stratum


@dataclass(frozen=True)
class Pair:
    """A duplicate that was dropped, and the segment that stays in its place."""

    dropped: Clip
    kept: Clip


@dataclass(frozen=True)
class Group:
    """A stratum with its clips."""

    stratum: Stratum
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class ListeningFigures:
    """All clips: kept ones by corpus, then dropped ones by stage and reason; and for other pages duplicates, and
    samples that carry words."""

    kept: tuple[Group, ...]
    dropped: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    interleaved: tuple[Group, ...]


def listen(drawn: Drawn, cutter: Cutter) -> ListeningFigures:
    """Cuts all clips: the first of each stratum, then the second of each, so that all get their share of the audio."""
    strata = (*drawn.kept, *drawn.dropped, *drawn.interleaved)
    clips: list[list[Clip]] = [[] for _ in strata]
    pairs: list[Pair] = []
    num_turns = max((len(wanted) for wanted in (drawn.pairs, *(stratum.wanted for stratum in strata))), default=0)
    for turn in range(num_turns):
        for stratum, cut in zip(strata, clips, strict=True):
            if turn < len(stratum.wanted):
                cut.append(cutter.cut(stratum.wanted[turn]))
        if turn < len(drawn.pairs):
            gone, stays = drawn.pairs[turn]
            pairs.append(Pair(cutter.cut(gone), cutter.cut(stays)))
    groups = [Group(stratum, tuple(cut)) for stratum, cut in zip(strata, clips, strict=True)]
    kept, dropped = groups[: len(drawn.kept)], groups[len(drawn.kept) : len(drawn.kept) + len(drawn.dropped)]
    interleaved = groups[len(kept) + len(dropped) :]
    return ListeningFigures(tuple(kept), tuple(dropped), tuple(pairs), tuple(interleaved))
