"""Answers to mean opinion scores by set and system.

STUDY/scores.json       mean opinions with intervals, who and what was left out, settings
STUDY/scores.parquet    a row a score: rater, clip, set, item, system, score, counts
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.errors import TwistError
from pipeline.evaluation.mmos.answers import read_answers
from pipeline.evaluation.mmos.statistics import MAX_OUTLIER_SHARE, MIN_CORRELATION, OUTLIER_Z, mean_opinion, screen
from pipeline.evaluation.mmos.study import ALL_SETS, read_key
from pipeline.evaluation.mmos.systems import ANCHOR
from pipeline.files import parquet, storage
from pipeline.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.evaluation.mmos.answers import Answers
    from pipeline.evaluation.mmos.statistics import MeanOpinion, Screened
    from pipeline.evaluation.mmos.study import KeyRow

FORMAT_VERSION = 1
SCORES, SCORE_ROWS = "scores.json", "scores.parquet"


@dataclass(frozen=True)
class ScoreConfig:
    """How answers are screened, and the intervals' level.

    Args:
        outlier_z: A score this many standard deviations off the mean of its set and system is left out.
        max_outlier_share: A rater with a larger share of such scores is left out.
        min_correlation: A rater whose scores correlate less with those of all is left out. Published scorers use 0.25
            to accept a rater's work, and 0.7 for the scores that they print.
        level: Confidence of intervals.
    """

    outlier_z: float = OUTLIER_Z
    max_outlier_share: float = MAX_OUTLIER_SHARE
    min_correlation: float = MIN_CORRELATION
    level: float = 0.95

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("outlier_z", self.outlier_z > 0, "above 0"),
            ("max_outlier_share", 0 <= self.max_outlier_share <= 1, "from 0 to 1"),
            ("min_correlation", -1 <= self.min_correlation <= 1, "from -1 to 1"),
            ("level", 0 < self.level < 1, "between 0 and 1"),
        ):
            if not holds:
                raise TwistError(f"{name} is {getattr(self, name)!r}; it must be {rule}")


@dataclass(frozen=True)
class Opinion:
    """What raters think of a system on a set; `set` is ALL_SETS for all of them together."""

    set: str
    system: str
    opinion: MeanOpinion


@dataclass(frozen=True)
class Rater:
    """A rater.

    Attributes:
        name: As in the answers.
        num_scores, num_outliers: Of the answers.
        correlation: With all raters; None where it is undefined.
        correlation_of: Whose means are correlated: `systems`, or `clips` for a rater of too few systems.
        anchor_error: Mean of how far the scores of anchors are from what these are known to deserve; None without.
        left_out: Why none of the scores count; "" if they do.
    """

    name: str
    num_scores: int
    num_outliers: int
    correlation: float | None
    correlation_of: Literal["systems", "clips"]
    anchor_error: float | None
    left_out: str


@dataclass(frozen=True)
class Scores:
    """The outcome of a study."""

    study: str
    config: ScoreConfig
    opinions: tuple[Opinion, ...]
    raters: tuple[Rater, ...]
    num_outliers: int
    set_aside: dict[str, int]
    examples: dict[str, str]
    rows: pa.Table = field(repr=False)


def score_study(
    folder: Path, uris: Sequence[str], config: ScoreConfig, known_raters: Collection[str] | None = None
) -> Scores:
    """Scores the answers to a study.

    Args:
        folder: The study.
        uris: Its answers.
        config: How they are screened.
        known_raters: Who may have answered; None: anybody.

    Raises:
        TwistError: the folder holds no study, or the answers cannot be read or hold none that counts.
    """
    study, key = read_key(folder)
    answers = read_answers(uris, study, key, known_raters)
    clips = [key[clip] for clip in sorted({clip for _, clip in answers.scores})]
    names = sorted({rater for rater, _ in answers.scores})
    scores = _matrix(answers, names, clips)
    kinds = list(dict.fromkeys((clip.set, clip.system, clip.anchor_score) for clip in clips))
    systems = np.array([kinds.index((clip.set, clip.system, clip.anchor_score)) for clip in clips])
    screened = screen(
        scores,
        systems,
        outlier_z=config.outlier_z,
        max_outlier_share=config.max_outlier_share,
        min_correlation=config.min_correlation,
    )
    raters = tuple(_rater(place, name, scores, clips, screened) for place, name in enumerate(names))
    order = {name: place for place, name in enumerate(dict.fromkeys(row.system for row in key.values()))}
    return Scores(
        study,
        config,
        tuple(_opinions(np.where(screened.counts, scores, np.nan), clips, order, config.level)),
        raters,
        int(screened.outliers.sum()),
        dict(sorted(answers.set_aside.items())),
        answers.examples,
        _rows(names, clips, scores, screened.counts),
    )


def write(folder: Path, scores: Scores) -> str:
    """Writes both files into the study; returns the path of the JSON."""
    parquet.write(storage.join(str(folder), SCORE_ROWS), scores.rows)
    uri = storage.join(str(folder), SCORES)
    storage.write_bytes(uri, (json.dumps(as_json(scores), indent=2) + "\n").encode())
    return uri


def as_json(scores: Scores) -> dict[str, Any]:
    """The outcome without its rows; what is undefined is null."""
    return {
        "format_version": FORMAT_VERSION,
        "study": scores.study,
        "settings": asdict(scores.config),
        "opinions": [
            {
                "set": one.set,
                "system": one.system,
                **{name: _defined(value) for name, value in asdict(one.opinion).items()},
            }
            for one in scores.opinions
        ],
        "raters": [asdict(rater) for rater in scores.raters],
        "num_outliers": scores.num_outliers,
        "set_aside": scores.set_aside,
        "examples": scores.examples,
    }


def as_text(scores: Scores) -> str:
    """For people: a line a set and system, then who and what was left out."""
    rows: list[tuple[str, ...]] = [("set", "system", "MMOS", "scores", "raters", "items")]
    plain = False
    for one in scores.opinions:
        found = one.opinion
        plain |= found.rule == "plain"
        interval = "" if math.isnan(found.half_interval) else f" ± {found.half_interval:.2f}"
        mark = "*" if found.rule == "plain" else ""
        counts = (found.num_scores, found.num_raters, found.num_items)
        rows.append((one.set, one.system, f"{found.mean:.2f}{interval}{mark}", *map(str, counts)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if plain:
        lines.append("* one rater or one item: z s / sqrt(n), which says nothing of other raters and items")
    why = Counter(rater.left_out for rater in scores.raters if rater.left_out)
    for reason, count in sorted(why.items()):
        example = next(rater.name for rater in scores.raters if rater.left_out == reason)
        lines.append(f"left out: {count:,} of {len(scores.raters):,} raters with {reason}, e.g. {example}")
    if scores.num_outliers:
        lines.append(f"left out: {scores.num_outliers:,} scores {scores.config.outlier_z:g} standard deviations off")
    lines += [f"set aside: {count:,} {what}, e.g. {scores.examples[what]}" for what, count in scores.set_aside.items()]
    if of_clips := sum(rater.correlation_of == "clips" for rater in scores.raters):
        lines.append(f"{of_clips:,} raters rated too few systems: their agreement is that about clips")
    errors = [rater.anchor_error for rater in scores.raters if rater.anchor_error is not None]
    if errors:
        lines.append(f"anchors: raters are {np.mean(errors):.2f} off on average, at most {max(errors):.2f}")
    return "\n".join(map(printable, lines))


def _matrix(answers: Answers, raters: Sequence[str], clips: Sequence[KeyRow]) -> NDArray[np.float64]:
    row = {name: place for place, name in enumerate(raters)}
    column = {clip.clip: place for place, clip in enumerate(clips)}
    scores = np.full((len(raters), len(clips)), np.nan)
    for (rater, clip), score in answers.scores.items():
        scores[row[rater], column[clip]] = score
    return scores


def _opinions(
    scores: NDArray[np.float64], clips: Sequence[KeyRow], order: dict[str, int], level: float
) -> list[Opinion]:
    """By set, then by system, and of all sets together; raters and items without a score are no part of it."""
    sets = sorted({clip.set for clip in clips if clip.system != ANCHOR})
    found = []
    for name in [*sets, *([ALL_SETS] if len(sets) > 1 else [])]:
        for system in sorted({clip.system for clip in clips} - {ANCHOR}, key=order.__getitem__):
            columns = [clip.system == system and name in (clip.set, ALL_SETS) for clip in clips]
            given = scores[:, columns]
            is_given = ~np.isnan(given)
            given = given[is_given.any(axis=1)][:, is_given.any(axis=0)]
            if given.size:
                found.append(Opinion(name, system, mean_opinion(given, level)))
    return found


def _rater(place: int, name: str, scores: NDArray[np.float64], clips: Sequence[KeyRow], screened: Screened) -> Rater:
    own = scores[place]
    known = np.array([np.nan if clip.anchor_score is None else clip.anchor_score for clip in clips])
    off = np.abs(own - known)
    off = off[~np.isnan(off)]
    left_out = ""
    if screened.many_outliers[place]:
        left_out = "too many outliers"
    elif screened.low_correlation[place]:
        left_out = "too little agreement"
    return Rater(
        name,
        int((~np.isnan(own)).sum()),
        int(screened.outliers[place].sum()),
        _defined(float(screened.correlation[place])),
        "systems" if screened.is_of_systems[place] else "clips",
        float(off.mean()) if len(off) else None,
        left_out,
    )


def _rows(
    raters: Sequence[str], clips: Sequence[KeyRow], scores: NDArray[np.float64], counts: NDArray[np.bool_]
) -> pa.Table:
    rows, columns = (places.tolist() for places in np.nonzero(~np.isnan(scores)))
    of_row = [clips[column] for column in columns]
    return pa.table(
        {
            "rater": pa.array([raters[row] for row in rows], pa.string()),
            **{
                name: pa.array([getattr(clip, name) for clip in of_row], pa.string())
                for name in ("clip", "set", "item", "system")
            },
            "score": pa.array(scores[rows, columns]),
            "counts": pa.array(counts[rows, columns]),
        }
    )


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
