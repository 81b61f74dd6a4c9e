"""Which recordings stay: none whose speech is held already, and those in a wanted language, by a chain of evidence.

    RUN/manifest/ -> RUN/language/decisions.parquet (LanguageDecision)

First the same speech twice, and what is evaluation data (same_speech.py). Then, for each recording:

1. metadata: what the corpus says of it (TWIST, section 3.1, filters by this alone). A tag for another language drops
   it; one for a wanted language decides where the tag can be trusted: one of a podcast's show, of an interpreter's
   channel or of an unchecked clip is not enough while there is a classifier to listen with.
2. text: py3langid over the transcript, else over title and description, where they are long enough to tell.
3. audio: a classifier over windows of speech (listen.py), where a recording's tag cannot be trusted or nothing
   has decided yet.

Text and audio have two thresholds: recordings in between are in quarantine, dropped as `uncertain_language`. Where
nothing can be listened to, what metadata and text say has to do, and stage.json says so. What has no evidence at all
stays or goes by the setting `unknown`.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from model.language_id.classifier import find_language_classifier, fingerprint_of_classifier
from pipeline.corpora.manifest import iterate_recordings, iterate_tables, table_uris
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.language import listen
from pipeline.language.account import Account
from pipeline.language.config import CorpusRules, LanguageConfig
from pipeline.language.listen import Heard
from pipeline.language.same_speech import Corpus, Mark, SameSpeechConfig, Spoken, find_same_speech, read_evaluation
from pipeline.language.text import text_probabilities
from pipeline.languages import normalize_code as normalize_code
from pipeline.records import (
    LANGUAGE_SCHEMA,
    LANGUAGE_SOURCES,
    RECORDING_SCHEMA,
    LanguageDecision,
    Recording,
    from_table,
    to_table,
)
from pipeline.runs import LANGUAGE, MANIFEST
from pipeline.stage import Stage, StageCounts, Tally, digest, fingerprint_of, read_facts
from pipeline.work.cluster import ClusterConfig
from pipeline.work.map_tasks import spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.progress import ReportProgress

DECISIONS = "decisions.parquet"
# What metadata and text say, before anything is listened to; there until the stage is finished.
BEFORE_AUDIO = "before_audio.parquet"
BEFORE_AUDIO_SCHEMA = LANGUAGE_SCHEMA.append(pa.field("is_final", pa.bool_(), nullable=False))
# ISO 639-2 has a code for "undetermined".
UNDETERMINED = ("", "und")
# How far a tag is trusted, by where the corpus has it from (records.LANGUAGE_SOURCES).
TRUST = {"corpus": 1.0, "recording": 1.0, "folder": 1.0, "recipe": 1.0, "show": 0.7, "channel": 0.7, "unchecked": 0.5}
assert TRUST.keys() == set(LANGUAGE_SOURCES)
# py3langid takes half a millisecond for a text.
RECORDINGS_PER_TASK = 10_000


def filter_languages(
    run: str,
    config: LanguageConfig,
    report: ReportProgress,
    same_speech: SameSpeechConfig | None = None,
    cluster: ClusterConfig | None = None,
) -> None:
    """Decides over every recording of the manifest.

    Raises:
        TwistError: nothing is left, a setting names a corpus that there is not, or the classifier cannot be found.
    """
    inputs = {MANIFEST: fingerprint_of(run, MANIFEST)}
    same_speech = same_speech or SameSpeechConfig()
    evaluation = read_evaluation(same_speech)
    kinds: dict[str, str] = read_facts(run, MANIFEST)["kinds"]
    if unknown := sorted(config.corpora.keys() - kinds.keys()):
        raise TwistError(f"language.corpora names {unknown[0]!r}, which is none of the corpora {', '.join(kinds)}")
    classifier = _find_classifier(config)
    settings = {
        **asdict(config),
        "same_speech": {**asdict(same_speech), "evaluation_ids": digest(*sorted(evaluation))},
        "classifier": classifier,
    }
    stage = Stage(run, LANGUAGE, settings, inputs)
    with stage.begin() as has_work:
        if not has_work:
            return
        corpora = [Corpus(name, kind == "librispeech") for name, kind in kinds.items()]
        marks = find_same_speech(functools.partial(_spoken, run), corpora, same_speech, evaluation)
        _write_before_audio(stage, run, config, report)
        heard: Iterator[tuple[str, Heard]] | None = None
        if classifier is not None:
            to_hear = (
                recording
                for recording, _, is_final in _read_before_audio(stage, run)
                if not is_final and recording.recording_id not in marks and _has_windows(recording, config)
            )
            heard = listen.listen(stage.uri, to_hear, config.audio, cluster or ClusterConfig(), report)
        _write(stage, run, config, marks, heard, report)


def _find_classifier(config: LanguageConfig) -> str | None:
    """The fingerprint of what is listened with; None: with nothing."""
    wanted = {config.listen, *(own.listen for own in config.corpora.values() if own.listen is not None)}
    if config.audio.model is None or wanted == {"never"}:
        return None
    try:
        folder, _ = find_language_classifier(config.audio.model)
    except TwistError:
        if config.audio.required:
            raise
        return None
    return fingerprint_of_classifier(folder)


def _spoken(run: str, corpus: str) -> Iterator[Spoken]:
    for table in iterate_tables(run, Spoken._fields, corpus):
        columns = [table[name].to_pylist() for name in Spoken._fields]
        yield from map(Spoken, *columns)


class _Rows(NamedTuple):
    """Some rows of a corpus' table, which a task reads by itself."""

    uri: str
    row_group: int
    first: int


def _write_before_audio(stage: Stage, run: str, config: LanguageConfig, report: ReportProgress) -> None:
    uri = storage.join(stage.uri, BEFORE_AUDIO)
    if storage.exists(uri):
        return
    num_recordings = read_facts(run, MANIFEST)["counts"]["kept"]["items"]
    decide_rows = functools.partial(_decide_rows, config)
    rows = _all_rows(run)
    tables = spread(decide_rows, rows)

    def told() -> Iterator[pa.Table]:
        done = 0
        for table in tables:
            done += len(table)
            report(done, num_recordings, "recordings")
            yield table

    storage.write_bytes(uri, parquet.groups_to_bytes(told(), BEFORE_AUDIO_SCHEMA))


def _all_rows(run: str) -> Iterator[_Rows]:
    for uri in table_uris(run):
        with parquet.RowGroups(uri, ["recording_id"]) as groups:
            for number, table in enumerate(groups):
                for first in range(0, len(table), RECORDINGS_PER_TASK):
                    yield _Rows(uri, number, first)


def _decide_rows(config: LanguageConfig, rows: _Rows) -> pa.Table:
    """Follows the first two links of the chain for some recordings; runs on any machine."""
    with parquet.RowGroups(rows.uri, RECORDING_SCHEMA.names) as groups:
        table = groups.read(rows.row_group).slice(rows.first, RECORDINGS_PER_TASK)
    outcomes = [_by_metadata_and_text(recording, config) for recording in from_table(Recording, table)]
    decisions = to_table([decision for decision, _ in outcomes], LANGUAGE_SCHEMA)
    columns = [*decisions.columns, pa.array([is_final for _, is_final in outcomes], pa.bool_())]
    return pa.table(columns, schema=BEFORE_AUDIO_SCHEMA)


def _read_before_audio(stage: Stage, run: str) -> Iterator[tuple[Recording, LanguageDecision, bool]]:
    """Every recording, what metadata and text say of it, and whether that is final."""
    with parquet.RowGroups(storage.join(stage.uri, BEFORE_AUDIO), BEFORE_AUDIO_SCHEMA.names) as groups:
        rows = itertools.chain.from_iterable(
            zip(from_table(LanguageDecision, table), table["is_final"].to_pylist(), strict=True) for table in groups
        )
        for recording, (decision, is_final) in zip(iterate_recordings(run), rows, strict=True):
            assert decision.recording_id == recording.recording_id, f"{decision.recording_id} is another recording"
            yield recording, decision, is_final


def _has_windows(recording: Recording, config: LanguageConfig) -> bool:
    return bool(listen.choose_windows(recording.duration_s, recording.voice_activity, config.audio))


def decide(recording: Recording, config: LanguageConfig, heard: Heard | None = None) -> LanguageDecision:
    """Follows the chain of evidence for one recording.

    Args:
        recording: Of the manifest.
        config: What is wanted, and the thresholds.
        heard: What was heard of it; None, or nothing heard: metadata and text alone decide.
    """
    decision, is_final = _by_metadata_and_text(recording, config)
    return decision if is_final else _by_audio(recording, config, decision, heard)


def _by_audio(
    recording: Recording, config: LanguageConfig, before: LanguageDecision, heard: Heard | None
) -> LanguageDecision:
    if heard is None or not heard.probabilities:
        return before
    rules = config.of_corpus(recording.corpus)
    return _judge(recording, config, heard.probabilities, "audio", rules.audio_keep, rules.audio_drop)


def _by_metadata_and_text(recording: Recording, config: LanguageConfig) -> tuple[LanguageDecision, bool]:
    """What the first two links of the chain say, and whether that stands whatever audio might say."""
    rules = config.of_corpus(recording.corpus)
    never, always = rules.listen == "never", rules.listen == "always"
    id = recording.recording_id
    tag = normalize_code(recording.language or "")
    tagged: LanguageDecision | None = None
    if tag not in UNDETERMINED:
        trust = rules.metadata_trust
        if trust is None:
            trust = TRUST[recording.language_source or "recording"]
        if tag not in config.languages:
            return LanguageDecision(id, False, tag, round(1 - trust, 6), "metadata", "other_language"), True
        is_enough = trust >= rules.metadata_enough
        tagged = LanguageDecision(id, is_enough, tag, trust, "metadata", None if is_enough else "uncertain_language")
        if trust >= rules.metadata_keep:
            return tagged, not always
    if text := _enough_text(recording, rules):
        told = _judge(recording, config, text_probabilities(text), "text", rules.text_keep, rules.text_drop)
        # A tag that cannot be trusted is not made up for by what is said about a recording.
        is_sure = told.reason == "other_language" or (told.keep and tagged is None)
        return told, never or (is_sure and not always)
    if tagged:
        return tagged, never
    keep = config.unknown == "keep"
    return LanguageDecision(id, keep, None, None, "none", None if keep else "unknown_language"), never


def _enough_text(recording: Recording, rules: CorpusRules) -> str | None:
    texts = ((text or "").strip() for text in (recording.text, recording.description))
    return next((text for text in texts if len(text) >= rules.text_min_chars), None)


def _judge(
    recording: Recording,
    config: LanguageConfig,
    probabilities: dict[str, float],
    evidence: str,
    keep_from: float,
    drop_below: float,
) -> LanguageDecision:
    """Holds the probability of the wanted languages together to two thresholds."""
    score = min(1.0, sum(probabilities.get(language, 0.0) for language in set(config.languages)))
    likeliest = max(probabilities, key=lambda language: (probabilities[language], language))
    reason = None
    if score < drop_below:
        reason = "other_language"
    elif score < keep_from:
        reason = "uncertain_language"
    elif likeliest not in config.languages:  # together the wanted ones are likelier
        likeliest = max(config.languages, key=lambda language: (probabilities.get(language, 0.0), language))
    return LanguageDecision(recording.recording_id, reason is None, likeliest, score, evidence, reason)


def _write(
    stage: Stage,
    run: str,
    config: LanguageConfig,
    marks: dict[str, Mark],
    heard: Iterator[tuple[str, Heard]] | None,
    report: ReportProgress,
) -> None:
    account = Account(config)
    num_recordings = read_facts(run, MANIFEST)["counts"]["kept"]["items"]

    def decide_all() -> Iterator[pa.Table]:
        decisions: list[LanguageDecision] = []
        for number, (recording, before, is_final) in enumerate(_read_before_audio(stage, run), start=1):
            mark = marks.get(recording.recording_id)
            if mark:
                decision = LanguageDecision(recording.recording_id, False, None, None, "none", mark.reason)
                detail = mark.detail
            else:
                outcome, decision = None, before
                if not is_final:
                    if heard is not None and _has_windows(recording, config):
                        recording_id, outcome = next(heard)
                        assert recording_id == recording.recording_id, f"{recording_id} was heard, not this"
                    decision = _by_audio(recording, config, before, outcome)
                    if outcome is None or not outcome.probabilities:
                        account.unheard += Tally(1, recording.duration_s / 3600)
                detail = _detail(decision, outcome)
            account.add(recording, decision, detail)
            decisions.append(decision)
            if len(decisions) == parquet.ROW_GROUP_ROWS:
                yield to_table(decisions, LANGUAGE_SCHEMA)
                decisions.clear()
            if number % RECORDINGS_PER_TASK == 0 or number == num_recordings:
                report(number, num_recordings, "recordings")
        if decisions:
            yield to_table(decisions, LANGUAGE_SCHEMA)

    content = parquet.groups_to_bytes(decide_all(), LANGUAGE_SCHEMA)
    if not account.kept.items and heard is None:
        storage.delete(storage.join(stage.uri, BEFORE_AUDIO))  # so that other settings are not refused
    account.refuse_if_nothing_is_kept(heard is not None)
    storage.write_bytes(storage.join(stage.uri, DECISIONS), content)
    counts = StageCounts.of(account.total, account.kept, account.dropped)
    stage.finish(
        counts,
        account.dropped,
        digest(content),
        evidence=dict(sorted(account.evidence.items())),
        by_evidence=account.by_evidence(),
        least_certain=account.least_certain(),
        audio_evidence={"available": heard is not None, "unheard": asdict(account.unheard)},
    )
    storage.delete(storage.join(stage.uri, BEFORE_AUDIO))


def _detail(decision: LanguageDecision, heard: Heard | None) -> str:
    if decision.language is None:
        return "neither metadata nor text nor audio says what is spoken"
    windows = f", {heard.num_windows} windows" if heard and decision.evidence == "audio" else ""
    not_heard = f"; not heard: {heard.failure}" if heard and heard.failure else ""
    return f"{decision.language} by {decision.evidence} (wanted: {decision.score:.2f}{windows}{not_heard})"


def kept_recordings(run: str) -> Iterator[Recording]:
    """The recordings that a finished stage keeps, in the manifest's order; few are in memory at a time.

    Raises:
        StageError: the stage is not finished.
        TwistError: its decisions are not those of this manifest.
    """
    fingerprint_of(run, LANGUAGE)
    uri = storage.join(run, LANGUAGE, DECISIONS)
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
    fingerprint_of(run, LANGUAGE)
    table = parquet.read(storage.join(run, LANGUAGE, DECISIONS), LANGUAGE_SCHEMA.names)
    return {decision.recording_id: decision for decision in from_table(LanguageDecision, table)}
