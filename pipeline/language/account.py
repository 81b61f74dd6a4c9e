"""What was decided about languages, summed up as it is decided: tallies, drops, and the decisions that were close."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.errors import TwistError
from pipeline.records import Dropped
from pipeline.stage import Tally

if TYPE_CHECKING:
    from pipeline.language.config import LanguageConfig
    from pipeline.records import LanguageDecision, Recording

NUM_LEAST_CERTAIN = 20


class Account:
    """Sums up decisions as they are made."""

    def __init__(self, config: LanguageConfig) -> None:
        self._config = config
        self.total, self.kept, self.unheard = Tally(), Tally(), Tally()
        self.dropped: list[Dropped] = []
        self.evidence: Counter[str] = Counter()
        self._groups: dict[tuple[str, str, str], Tally] = defaultdict(Tally)
        self._found: Counter[tuple[str, str]] = Counter()
        self._closest: list[tuple[float, str, dict[str, Any]]] = []

    def add(self, recording: Recording, decision: LanguageDecision, detail: str) -> None:
        """Takes a decision; `detail` is what is said of one that drops its recording."""
        tally = Tally(1, recording.duration_s / 3600)
        self.total += tally
        self.evidence[decision.evidence] += 1
        self._groups[recording.corpus, decision_of(decision), decision.evidence] += tally
        if decision.keep:
            self.kept += tally
        else:
            assert decision.reason is not None
            self._found[decision.reason, decision.language or ""] += 1
            self.dropped.append(
                Dropped(recording.recording_id, recording.corpus, decision.reason, detail, recording.duration_s)
            )
        if decision.score is not None and decision.evidence in ("text", "audio"):
            self._note_certainty(recording, decision)

    def _note_certainty(self, recording: Recording, decision: LanguageDecision) -> None:
        assert decision.score is not None
        rules = self._config.of_corpus(recording.corpus)
        thresholds = [getattr(rules, f"{decision.evidence}_{which}") for which in ("keep", "drop")]
        margin = min(abs(decision.score - threshold) for threshold in thresholds)
        if decision.reason == "uncertain_language":
            margin = -margin  # in between
        row = {
            "recording_id": recording.recording_id,
            "decision": decision_of(decision),
            "language": decision.language,
            "score": round(decision.score, 4),
            "evidence": decision.evidence,
            "hours": recording.duration_s / 3600,
        }
        # The worst of those kept lies on top, to be pushed off by one that is less certain.
        entry = (-margin, recording.recording_id, row)
        if len(self._closest) < NUM_LEAST_CERTAIN:
            heapq.heappush(self._closest, entry)
        elif entry[:2] > self._closest[0][:2]:
            heapq.heapreplace(self._closest, entry)

    def by_evidence(self) -> list[dict[str, Any]]:
        """Recordings and hours by corpus, decision and evidence."""
        return [
            {"corpus": corpus, "decision": decision, "evidence": evidence, **asdict(self._groups[key])}
            for key in sorted(self._groups)
            for corpus, decision, evidence in [key]
        ]

    def least_certain(self) -> list[dict[str, Any]]:
        """The decisions that were closest to being another one, the closest first."""
        return [row for _, _, row in sorted(self._closest, key=lambda entry: (-entry[0], entry[1]))]

    def refuse_if_nothing_is_kept(self, has_listened: bool) -> None:
        """Raises TwistError where no recording is left."""
        if self.kept.items:
            return
        reasons = ", ".join(
            f"{number} {reason} {language}".rstrip() for (reason, language), number in self._found.most_common(5)
        )
        advice = "" if has_listened else "; nothing was listened to: language.audio.model names a classifier"
        raise TwistError(
            f"no recording is left ({reasons}). If you know what is spoken, give the corpus a `language`, name it in "
            f"language.languages, or set language.unknown to keep{advice}"
        )


def decision_of(decision: LanguageDecision) -> str:
    """keep, quarantine, or drop and for which reason."""
    if decision.keep:
        return "keep"
    return "quarantine" if decision.reason == "uncertain_language" else f"drop: {decision.reason}"
