"""Totals of the language decisions: tallies, drops, and the closest decisions."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, cast

import pyarrow as pa

from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.records import DROPPED_SCHEMA, EMBEDDED_EVIDENCE, Dropped, from_table, to_table
from pipeline.stage import StageCounts, Tally

if TYPE_CHECKING:
    from pipeline.language.config import Rules
    from pipeline.records import LanguageDecision

NUM_LEAST_CERTAIN = 20


class Account:
    """Sums up decisions as they are made."""

    def __init__(self) -> None:
        self.total, self.kept, self.unheard = Tally(), Tally(), Tally()
        self.kept_without_evidence = Tally()
        self.kept_unsure = Tally()  # by a classifier that was trained on little
        self.evidence: Counter[str] = Counter()
        self._groups: dict[tuple[str, str, str], Tally] = defaultdict(Tally)
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._closest: list[tuple[float, str, dict[str, Any]]] = []
        self._dropped = [DROPPED_SCHEMA.empty_table()]
        self._newly_dropped: list[Dropped] = []

    def add(self, corpus: str, duration_s: float, decision: LanguageDecision, detail: str, rules: Rules) -> None:
        """Adds the decision on one recording.

        Args:
            corpus: The recording's corpus.
            duration_s: The recording's length.
            decision: The decision.
            detail: The detail for dropped.parquet, used if the recording is dropped.
            rules: The corpus' rules, whose thresholds the decision was made with.
        """
        tally = Tally(1, duration_s / 3600)
        self.total += tally
        self.evidence[decision.evidence] += 1
        self._groups[corpus, outcome_of(decision), decision.evidence] += tally
        if decision.keep:
            self.kept += tally
            if decision.evidence == "none":
                self.kept_without_evidence += tally
            elif decision.evidence == EMBEDDED_EVIDENCE and decision.language is None:
                self.kept_unsure += tally
        else:
            assert decision.reason is not None
            self._reasons[decision.reason, decision.language or ""] += 1
            self._drop(Dropped(decision.recording_id, corpus, decision.reason, detail, duration_s))
        if decision.score is not None and decision.evidence in ("text", "audio"):
            self._note_certainty(duration_s, decision, decision.score, rules)

    def _drop(self, drop: Dropped) -> None:
        self._newly_dropped.append(drop)
        if len(self._newly_dropped) == parquet.ROW_GROUP_ROWS:
            self._dropped.append(to_table(self._newly_dropped, DROPPED_SCHEMA))
            self._newly_dropped.clear()

    def dropped(self) -> pa.Table:
        """The drops so far, in the order in which they were added (DROPPED_SCHEMA)."""
        return pa.concat_tables([*self._dropped, to_table(self._newly_dropped, DROPPED_SCHEMA)]).combine_chunks()

    def counts(self, dropped: pa.Table) -> StageCounts:
        """The stage's counts; `dropped` is the table from `dropped()`."""
        drops: Iterator[Dropped] = (
            drop
            for first in range(0, len(dropped), parquet.ROW_GROUP_ROWS)
            for drop in from_table(Dropped, dropped.slice(first, parquet.ROW_GROUP_ROWS))
        )
        return StageCounts.of(self.total, self.kept, drops)

    def _note_certainty(self, duration_s: float, decision: LanguageDecision, score: float, rules: Rules) -> None:
        thresholds = rules.thresholds(cast("Literal['text', 'audio']", decision.evidence))
        margin = min(abs(score - threshold) for threshold in thresholds)
        if decision.reason == "uncertain_language":
            margin = -margin  # between the thresholds
        row = {
            "recording_id": decision.recording_id,
            "decision": outcome_of(decision),
            "language": decision.language,
            "score": round(score, 4),
            "evidence": decision.evidence,
            "hours": duration_s / 3600,
        }
        # A heap whose top is the most certain entry, the next to be replaced.
        entry = (-margin, decision.recording_id, row)
        if len(self._closest) < NUM_LEAST_CERTAIN:
            heapq.heappush(self._closest, entry)
        elif entry[:2] > self._closest[0][:2]:
            heapq.heapreplace(self._closest, entry)

    def by_evidence(self) -> list[dict[str, Any]]:
        """Recordings and hours by corpus, decision and evidence."""
        return [
            {"corpus": corpus, "decision": outcome, "evidence": evidence, **asdict(self._groups[key])}
            for key in sorted(self._groups)
            for corpus, outcome, evidence in [key]
        ]

    def least_certain(self) -> list[dict[str, Any]]:
        """The NUM_LEAST_CERTAIN decisions closest to a threshold, the closest first."""
        return [row for _, _, row in sorted(self._closest, key=lambda entry: (-entry[0], entry[1]))]

    def refuse_if_nothing_is_kept(self, has_listened: bool) -> None:
        """Raises TwistError if no recording is left."""
        if self.kept.items:
            return
        reasons = ", ".join(
            f"{number} {reason} {language}".rstrip() for (reason, language), number in self._reasons.most_common(5)
        )
        advice = "" if has_listened else "; nothing was listened to: language.audio.model names a classifier"
        raise TwistError(
            f"no recording is left ({reasons}). If you know what is spoken, give the corpus a `language`, name it in "
            f"language.languages, or set language.unknown to keep{advice}"
        )


def outcome_of(decision: LanguageDecision) -> str:
    """The decision in words: `keep`, `quarantine` or `drop: <reason>`."""
    if decision.keep:
        return "keep"
    return "quarantine" if decision.reason == "uncertain_language" else f"drop: {decision.reason}"
