"""Which of two a speech LM finds likelier: the score of every benchmark of pairs.

A pair is right if the positive member is likelier, half right at a tie. Both the sum of log-probabilities and their
mean per token decide, side by side: papers use one or the other, often without saying which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from model.lm.scoring import max_units, scored_as
from model.lm.streams import Streams, merge
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.results import LeftOut

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from model.lm.scoring_config import ScoringConfig
    from model.lm.streams import StreamRates
    from model.lm.vocab import Vocabulary
    from pipeline.evaluation.item_units import UnitRow
    from pipeline.speaking.speech_lm import SpeechLM

Rule = Literal["sum", "mean"]
# Items whose units are scored between two reports; the model's own batches are smaller.
SCORED_AT_ONCE = 4096


@dataclass(frozen=True)
class Pair:
    """Two items, of which the first should be likelier.

    Attributes:
        pair_id: Unique in the benchmark.
        group: What the pair says nothing new beside: a word, whatever its voice.
        positive, negative: The items.
        facts: For breakdowns and for people: type, voice, text.
    """

    pair_id: str
    group: str
    positive: AudioItem
    negative: AudioItem
    facts: Mapping[str, str | int | float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemScore:
    """The sum of an item's log-probabilities in nats, over so many tokens."""

    sum: float
    num_targets: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.sum / self.num_targets


def audio_items(pairs: Sequence[Pair]) -> list[AudioItem]:
    """The items of pairs, each once: one context may serve several pairs."""
    return list({item.item_id: item for pair in pairs for item in (pair.positive, pair.negative)}.values())


def score_items(
    lm: SpeechLM, units: Mapping[str, UnitRow], scoring: ScoringConfig, rates: StreamRates | None = None
) -> tuple[dict[str, ItemScore], list[LeftOut]]:
    """Scores each item; those with too few or too many units for the model are left out.

    Of an expressive model all tokens count: units, pitch and style, merged by time.

    Args:
        lm: The model.
        units: Of each item; with pitch and style for an expressive model.
        scoring: What of a sequence is scored.
        rates: Of units, pitch and style, for an expressive model.

    Raises:
        TwistError: the model was trained without what `scoring` asks for, an item has a unit that it does not know, or
            a score is NaN.
    """
    if lm.vocabulary.is_expressive and scoring.repeats:
        raise TwistError("scoring.repeats is for models of units alone: an expressive one says when each unit begins")
    vocabulary, has_end = scored_as(lm.vocabulary, scoring)
    fewest, most = 1 if vocabulary.start_ids else 2, max_units(lm.model, vocabulary, has_end=has_end)
    sequences: dict[str, NDArray[np.int64]] = {}
    left_out = []
    for item_id, row in units.items():
        sequence = _ids_of(row, lm.vocabulary, scoring, rates)
        if len(sequence) < fewest:
            left_out.append(LeftOut(item_id, "too_short", f"{len(sequence)} units, of which none is scored"))
        elif len(sequence) > most:
            left_out.append(LeftOut(item_id, "too_long", f"{len(sequence)} units, but the model takes {most:.0f}"))
        else:
            sequences[item_id] = sequence
    # Equal units have equal scores, to the last bit, so that a pair of them is a tie.
    items_of: dict[bytes, list[str]] = {}
    for item_id, sequence in sequences.items():
        items_of.setdefault(sequence.tobytes(), []).append(item_id)
    same = list(items_of.values())
    score_of: dict[str, ItemScore] = {}
    for start in range(0, len(same), SCORED_AT_ONCE):
        some = same[start : start + SCORED_AT_ONCE]
        for item_ids, nats in zip(some, lm.scores_of([sequences[one] for one, *_ in some], scoring), strict=True):
            score = ItemScore(math.fsum(nats), len(nats))
            if math.isnan(score.sum):
                raise TwistError(f"{lm.path} gives {item_ids[0]} a likelihood of NaN: its weights are damaged")
            score_of.update(dict.fromkeys(item_ids, score))
    scores = {item_id: score_of[item_id] for item_id in sequences}
    return scores, left_out


def _ids_of(
    row: UnitRow, vocabulary: Vocabulary, scoring: ScoringConfig, rates: StreamRates | None
) -> NDArray[np.int64]:
    if rates is None:
        return vocabulary.encode(row.frames if scoring.repeats else row.units)
    assert row.pitch is not None and row.style is not None
    return merge([Streams(row.units, row.durations, row.pitch, row.style)], vocabulary, rates).ids


def points(positive: float, negative: float) -> float:
    """1 if the positive score is higher, 0.5 at a tie, else 0."""
    return 0.5 if positive == negative else float(positive > negative)


def pair_table(
    pairs: Sequence[Pair], scores: Mapping[str, ItemScore], left_out: Iterable[LeftOut]
) -> tuple[pa.Table, list[LeftOut]]:
    """A row for each pair of which both halves have a score, with points by both rules; and the pairs that have not.

    Columns: item_id (the pair's), group, those of its facts, sum_positive, sum_negative, tokens_positive,
    tokens_negative, right_sum, right_mean, and by_group: weights that give each group a weight of 1.
    """
    why = {item.item_id: item for item in left_out}
    whole, broken = [], []
    for pair in pairs:
        missing = next((item for item in (pair.positive, pair.negative) if item.item_id not in scores), None)
        if missing is None:
            whole.append(pair)
        else:
            cause = why.get(missing.item_id, LeftOut(missing.item_id, "missing", "it has no score"))
            broken.append(LeftOut(pair.pair_id, cause.reason, f"{missing.item_id}: {cause.detail}"))
    columns: dict[str, list[object]] = {"item_id": [], GROUP: []}
    names = list(dict.fromkeys(name for pair in pairs for name in pair.facts))
    columns.update({name: [] for name in names})
    figures = (
        "sum_positive",
        "sum_negative",
        "tokens_positive",
        "tokens_negative",
        "right_sum",
        "right_mean",
    )
    columns.update({name: [] for name in figures})
    for pair in whole:
        better, worse = scores[pair.positive.item_id], scores[pair.negative.item_id]
        columns["item_id"].append(pair.pair_id)
        columns[GROUP].append(pair.group)
        for name in names:
            columns[name].append(pair.facts.get(name))
        row = (
            better.sum,
            worse.sum,
            better.num_targets,
            worse.num_targets,
            points(better.sum, worse.sum),
            points(better.mean, worse.mean),
        )
        for name, value in zip(figures, row, strict=True):
            columns[name].append(value)
    table = pa.table(columns)
    return table.append_column("by_group", pa.array(equal_weights(columns[GROUP]), pa.float64())), broken


def equal_weights(names: Sequence[object]) -> NDArray[np.float64]:
    """Weights of items by which each name weighs 1, however many items bear it."""
    if not names:
        return np.zeros(0)
    _, owner, counts = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / counts[owner])


def accuracies(
    rule: Rule, name: str, *, weight: str | None = None, where: str | None = None, mean_over: str | None = None
) -> list[Measure]:
    """The accuracy by both rules, that of the benchmark first."""
    rules = ("sum", "mean") if rule == "sum" else ("mean", "sum")
    return [Measure(f"{name}, {one}", f"right_{one}", weight=weight, where=where, mean_over=mean_over) for one in rules]
