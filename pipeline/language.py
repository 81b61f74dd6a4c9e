"""Which recordings are in a wanted language: a chain of evidence, the first that can tell decides.

    RUN/manifest/ -> RUN/language/decisions.parquet (LanguageDecision)

1. metadata: what the corpus says of the recording (TWIST, section 3.1, filters by this alone), unless that is `und`.
2. text: py3langid over the transcript, where it is long enough to tell.
Without either the recording has no evidence; the setting `unknown` says whether it stays.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline import parquet, storage
from pipeline.errors import TwistError
from pipeline.manifest import STAGE as MANIFEST
from pipeline.manifest import iterate_recordings, read_recordings
from pipeline.records import LANGUAGE_SCHEMA, Dropped, LanguageDecision, Recording, from_table, to_table
from pipeline.stage import Stage, StageCounts, Tally, digest, fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.progress import ReportProgress

STAGE = "language"
DECISIONS = "decisions.parquet"
# ISO 639-2 has a code for "undetermined".
UNDETERMINED = ("", "und")


@dataclass(frozen=True)
class LanguageConfig:
    """Which languages stay, and what evidence it takes.

    Args:
        languages: ISO 639-1 codes of the languages that stay.
        min_text_chars: Shortest text, in characters, that counts as evidence.
        min_score: Text that is in a wanted language with less than this probability is dropped as uncertain.
        unknown: What becomes of a recording that no evidence speaks of.
    """

    languages: tuple[str, ...] = ("en",)
    min_text_chars: int = 20
    min_score: float = 0.7
    unknown: Literal["keep", "drop"] = "drop"

    def __post_init__(self) -> None:
        if not self.languages:
            raise TwistError("language.languages is empty; name at least one, e.g. [en]")
        if not 0 <= self.min_score <= 1:
            raise TwistError(f"language.min_score is a probability, not {self.min_score}")
        if unknown := set(self.languages) - _text_languages():
            raise TwistError(f"language.languages: {sorted(unknown)} are no ISO 639-1 codes of languages known here")


def filter_languages(run: str, config: LanguageConfig, report: ReportProgress) -> None:
    """Decides over every recording of the manifest.

    Raises:
        TwistError: nothing is in a wanted language.
    """
    stage = Stage(run, STAGE, asdict(config), {MANIFEST: fingerprint_of(run, MANIFEST)})
    with stage.begin() as has_work:
        if not has_work:
            return
        recordings = read_recordings(run)
        decisions = []
        for number, recording in enumerate(recordings, start=1):
            decisions.append(decide(recording, config))
            report(number, len(recordings), "recordings")
        _write(stage, recordings, decisions)


def decide(recording: Recording, config: LanguageConfig) -> LanguageDecision:
    """Follows the chain of evidence for one recording."""
    wanted = functools.partial(_decision, recording.recording_id, config)
    code = normalize_code(recording.language or "")
    if code not in UNDETERMINED:
        return wanted(code, None, "metadata")
    text = (recording.text or "").strip()
    if len(text) >= config.min_text_chars:
        language, score = _text_identifier().classify(text)
        return wanted(language, float(score), "text")
    keep = config.unknown == "keep"
    return LanguageDecision(recording.recording_id, keep, None, None, "none", None if keep else "unknown_language")


def normalize_code(code: str) -> str:
    """The language of a BCP-47-like tag as corpora write it: `en-US`, `[en]`, `EN_gb` are all `en`."""
    return code.strip("[]'\" ").replace("_", "-").partition("-")[0].lower()


def _decision(
    recording_id: str, config: LanguageConfig, language: str, score: float | None, evidence: str
) -> LanguageDecision:
    reason = None
    if language not in config.languages:
        reason = "other_language"
    elif score is not None and score < config.min_score:
        reason = "uncertain_language"
    return LanguageDecision(recording_id, reason is None, language, score, evidence, reason)


def _write(stage: Stage, recordings: list[Recording], decisions: list[LanguageDecision]) -> None:
    dropped = [
        Dropped(recording.recording_id, recording.corpus, decision.reason, _detail(decision), recording.duration_s)
        for recording, decision in zip(recordings, decisions, strict=True)
        if decision.reason is not None
    ]
    kept_s = [r.duration_s for r, d in zip(recordings, decisions, strict=True) if d.keep]
    if not kept_s:
        found = Counter((decision.reason, decision.language or "") for decision in decisions).most_common(5)
        reasons = ", ".join(f"{number} {reason} {language}".rstrip() for (reason, language), number in found)
        raise TwistError(
            f"no recording is left ({reasons}). If you know what is spoken, give the corpus a `language`, name it in "
            f"language.languages, or set language.unknown to keep; audio itself is not examined"
        )
    content = parquet.to_bytes(to_table(decisions, LANGUAGE_SCHEMA))
    storage.write_bytes(storage.join(stage.uri, DECISIONS), content)
    total = Tally(len(recordings), sum(recording.duration_s for recording in recordings) / 3600)
    counts = StageCounts.of(total, Tally(len(kept_s), sum(kept_s) / 3600), dropped)
    evidence = Counter(decision.evidence for decision in decisions)
    stage.finish(counts, dropped, digest(content), evidence=dict(sorted(evidence.items())))


def _detail(decision: LanguageDecision) -> str:
    if decision.language is None:
        return "neither metadata nor text says what is spoken"
    score = "" if decision.score is None else f" ({decision.score:.2f})"
    return f"{decision.language} by {decision.evidence}{score}"


@functools.cache
def _text_identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@functools.cache
def _text_languages() -> frozenset[str]:
    return frozenset(_text_identifier().labels)


def kept_recordings(run: str) -> Iterator[Recording]:
    """The recordings that a finished stage keeps, in the manifest's order; few are in memory at a time.

    Raises:
        StageError: the stage is not finished.
        TwistError: its decisions are not those of this manifest.
    """
    fingerprint_of(run, STAGE)
    uri = storage.join(run, STAGE, DECISIONS)
    with parquet.RowGroups(uri, ["recording_id", "keep"]) as groups:
        columns = ([table[name].to_pylist() for name in ("recording_id", "keep")] for table in groups)
        decisions = itertools.chain.from_iterable(zip(*both, strict=True) for both in columns)
        for recording, (id, keep) in itertools.zip_longest(iterate_recordings(run), decisions, fillvalue=(None, None)):
            if not isinstance(recording, Recording) or recording.recording_id != id:
                raise TwistError(f"{uri} does not decide on the recordings of this manifest; run `twist filter` again")
            if keep:
                yield recording


def read_decisions(run: str) -> dict[str, LanguageDecision]:
    """The decisions of a finished stage by recording id."""
    fingerprint_of(run, STAGE)
    table = parquet.read(storage.join(run, STAGE, DECISIONS), LANGUAGE_SCHEMA.names)
    return {decision.recording_id: decision for decision in from_table(LanguageDecision, table)}
