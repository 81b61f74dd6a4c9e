"""Drops recordings in other languages, and those whose speech another recording of the run or evaluation data holds.

    RUN/manifest/ -> RUN/language/decisions.parquet (LanguageDecision)

1. Recordings that hold the same speech as another one or as evaluation data are marked (same_speech.py).
2. Tasks decide on every recording by metadata and text (decide.py), and choose the windows to listen to where audio may
   still change that. With the marks, this is written to evidence.parquet.
3. A classifier listens to these windows (listen.py).
4. The final decisions are made from evidence.parquet and what was heard.

Without a classifier, metadata and text decide, and stage.json says how much would have been listened to. Each step
streams: apart from marks and drops, its memory does not grow with the number of recordings.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from pipeline.corpora.manifest import iterate_recordings, iterate_tables, table_uris
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.language import listen
from pipeline.language.account import Account
from pipeline.language.decide import AudioEvidence, Metadata, WeakRule, by_audio, by_metadata_and_text, describe
from pipeline.language.same_speech import Corpus, Mark, SameSpeechConfig, Spoken, find_same_speech, read_evaluation
from pipeline.records import LANGUAGE_SCHEMA, LanguageDecision, Recording, from_table, to_table
from pipeline.runs import LANGUAGE, MANIFEST
from pipeline.stage import Stage, Tally, digest, fingerprint_of, read_facts
from pipeline.work.map_tasks import spread
from pipeline.work.retry import take_back_dropped

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.language.config import AudioLanguageConfig, CorpusEvidence, LanguageConfig
    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig

DECISIONS = "decisions.parquet"
# Deleted when the stage is finished.
EVIDENCE = "evidence.parquet"
# The decision by metadata and text, and all that the final one needs. `is_final`: audio may not change it. `windows`:
# where to listen; null for most. `mark_reason` and `mark_detail`: why the recording is dropped whatever its language.
EVIDENCE_SCHEMA = pa.schema(
    [
        *LANGUAGE_SCHEMA,
        pa.field("is_final", pa.bool_(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("channel", pa.int16()),
        pa.field("windows", pa.list_(pa.list_(pa.list_(pa.float64())))),
        pa.field("mark_reason", pa.string()),
        pa.field("mark_detail", pa.string()),
    ]
)
MARKS = ["mark_reason", "mark_detail"]
# py3langid takes half a millisecond for a text.
RECORDINGS_PER_TASK = 10_000


def filter_languages(
    run: str,
    config: LanguageConfig,
    cluster: ClusterConfig,
    report: ReportProgress,
    same_speech: SameSpeechConfig | None = None,
    *,
    retry_dropped: bool = False,
) -> None:
    """Decides on every recording of the manifest.

    `retry_dropped`: listen again to what could not be read for reasons that may have passed, whatever was decided.

    Raises:
        TwistError: no recording is left, a setting names an unknown corpus, or the classifier cannot be found.
    """
    inputs = {MANIFEST: fingerprint_of(run, MANIFEST)}
    same_speech = same_speech or SameSpeechConfig()
    evaluation = read_evaluation(same_speech)
    kinds: dict[str, str] = read_facts(run, MANIFEST)["kinds"]
    if unknown := sorted(config.corpora.keys() - kinds.keys()):
        raise TwistError(f"language.corpora names {unknown[0]!r}, which is none of the corpora {', '.join(kinds)}")
    classifier, weak = _find_classifier(config)
    settings = {
        **asdict(config),
        "audio": _audio_settings(config.audio, classifier),
        "same_speech": {**asdict(same_speech), "evaluation_ids": digest(*sorted(evaluation))},
        "classifier": classifier,
    }
    stage = Stage(run, LANGUAGE, settings, inputs)
    with stage.begin(functools.partial(take_back_dropped, stage) if retry_dropped else None) as has_work:
        if not has_work:
            return
        if not storage.exists(_evidence_uri(stage)):
            corpora = [Corpus(name, kind == "librispeech") for name, kind in kinds.items()]
            marks = find_same_speech(functools.partial(_spoken, run), corpora, same_speech, evaluation)
            _write_evidence(stage, config, _Listening(classifier is not None, weak), marks, report)
        work: dict[str, Any] = {}
        heard: Iterator[tuple[str, AudioEvidence]] | None = None
        if classifier is not None:
            work, heard = listen.listen(stage.uri, _excerpts(stage), config.audio, cluster, report)
        _write_decisions(stage, config, heard, weak, work, report)


class _Listening(NamedTuple):
    """Whether a classifier listens, and its own rule, if it was trained on little."""

    listens: bool
    weak: WeakRule | None


def _find_classifier(config: LanguageConfig) -> tuple[str | None, WeakRule | None]:
    """The classifier's fingerprint, None if nothing is to be listened to; and its own rule, if it has one.

    Raises:
        TwistError: it is required and not found, or was trained on little and cannot do what is asked.
    """
    from model.language_id.classifier import find_language_classifier, fingerprint_of_classifier

    wanted = {config.listen, *(own.listen for own in config.corpora.values() if own.listen is not None)}
    if config.audio.model is None or wanted == {"never"}:
        return None, None
    try:
        folder, kind = find_language_classifier(config.audio.model)
    except TwistError:
        if config.audio.required:
            raise
        return None, None
    return fingerprint_of_classifier(folder), _weak_rule(folder, config) if kind == "pooled" else None


def _weak_rule(folder: Path, config: LanguageConfig) -> WeakRule:
    from model.language_id.pooled_folder import read_facts as read_classifier

    facts = read_classifier(folder)
    name = config.audio.model
    if config.languages != (facts.wanted,):
        raise TwistError(
            f"language.audio.model {name} tells {facts.wanted} from all other languages, and no more; with "
            f"language.languages {', '.join(config.languages)} name another classifier, or none"
        )
    if "always" in {config.listen, *(own.listen for own in config.corpora.values())}:
        raise TwistError(
            f"language.listen is always, but {name} was trained on too little to overrule a corpus' tags and text; "
            f"leave it at needed, or name another classifier"
        )
    places: list[LanguageConfig | CorpusEvidence] = [config, *config.corpora.values()]
    for where in places:
        changed = [field for field in ("audio_keep", "audio_drop") if _is_set(where, field)]
        if changed:
            raise TwistError(
                f"language.{changed[0]} is not for {name}, which has thresholds of its own and keeps what it is "
                f"unsure of; leave it out, or name another classifier"
            )
    calibration = facts.calibration
    return WeakRule(facts.wanted, calibration.other_below, calibration.wanted_from, facts.trained_on)


def _is_set(config: LanguageConfig | CorpusEvidence, name: str) -> bool:
    default = next(field.default for field in fields(config) if field.name == name)
    return bool(getattr(config, name) != default)


def _audio_settings(config: AudioLanguageConfig, classifier: str | None) -> dict[str, Any]:
    """The settings of listening, for the stage's fingerprint; of a classifier in a folder only its own counts."""
    from model.language_id.classifier import is_folder

    settings = asdict(config)
    if classifier is not None and config.model is not None and is_folder(config.model):
        del settings["model"]
    return settings


def _spoken(run: str, corpus: str) -> Iterator[Spoken]:
    for table in iterate_tables(run, Spoken._fields, corpus):
        for first in range(0, len(table), RECORDINGS_PER_TASK):
            rows = table.slice(first, RECORDINGS_PER_TASK)
            yield from map(Spoken, *(rows[name].to_pylist() for name in Spoken._fields))


def _evidence_uri(stage: Stage) -> str:
    return storage.join(stage.uri, EVIDENCE)


class _Rows(NamedTuple):
    """The rows of a corpus' table that one task reads: RECORDINGS_PER_TASK from row `first` of a row group."""

    uri: str
    row_group: int
    first: int


def _write_evidence(
    stage: Stage, config: LanguageConfig, listening: _Listening, marks: dict[str, Mark], report: ReportProgress
) -> None:
    num_recordings = read_facts(stage.run, MANIFEST)["counts"]["kept"]["items"]
    tables = spread(functools.partial(_collect_evidence, config, listening), _all_rows(stage.run))

    def marked() -> Iterator[pa.Table]:
        done = 0
        for table in tables:
            done += len(table)
            report(done, num_recordings, "recordings")
            yield _with_marks(table, marks)

    storage.write_bytes(_evidence_uri(stage), parquet.groups_to_bytes(marked(), EVIDENCE_SCHEMA))


def _all_rows(run: str) -> Iterator[_Rows]:
    for uri in table_uris(run):
        with parquet.RowGroups(uri, ["duration_s"]) as groups:
            for number, table in enumerate(groups):
                for first in range(0, len(table), RECORDINGS_PER_TASK):
                    yield _Rows(uri, number, first)


def _collect_evidence(config: LanguageConfig, listening: _Listening, rows: _Rows) -> pa.Table:
    """Decides on some recordings of one corpus by metadata and text; runs on any machine.

    Returns:
        EVIDENCE_SCHEMA, without marks.
    """
    of_audio = ("uri", "channel", "voice_activity") if listening.listens else ()
    names = [*Metadata._fields, "corpus", "duration_s", *of_audio]
    with parquet.RowGroups(rows.uri, names) as groups:
        table = groups.read(rows.row_group).slice(rows.first, RECORDINGS_PER_TASK)
    rules = config.of_corpus(table["corpus"][0].as_py())
    metadata = map(Metadata, *(table[name].to_pylist() for name in Metadata._fields))
    outcomes = [by_metadata_and_text(recording, rules, listening.weak) for recording in metadata]
    decisions = to_table([decision for decision, _ in outcomes], LANGUAGE_SCHEMA)
    columns = {
        **dict(zip(LANGUAGE_SCHEMA.names, decisions.columns, strict=True)),
        "is_final": pa.array([is_final for _, is_final in outcomes], pa.bool_()),
        "corpus": table["corpus"],
        "duration_s": table["duration_s"],
    }
    if listening.listens:
        is_open = [not is_final for _, is_final in outcomes]
        columns |= {"uri": table["uri"], "channel": table["channel"], "windows": _windows(table, is_open, config)}
    return pa.table(
        [columns.get(field.name, pa.nulls(len(table), field.type)) for field in EVIDENCE_SCHEMA], schema=EVIDENCE_SCHEMA
    )


def _windows(table: pa.Table, is_open: list[bool], config: LanguageConfig) -> pa.Array:
    """The windows of each recording that audio may decide on; null for the others, and for those too short."""
    windows: list[list[listen.Windows] | None] = [None] * len(table)
    for row in itertools.compress(range(len(table)), is_open):
        voice_activity = table["voice_activity"][row].as_py()
        windows[row] = listen.choose_windows(table["duration_s"][row].as_py(), voice_activity, config.audio) or None
    return pa.array(windows, EVIDENCE_SCHEMA.field("windows").type)


def _with_marks(table: pa.Table, marks: dict[str, Mark]) -> pa.Table:
    """Fills in the marks of some recordings, and removes the windows of the marked ones."""
    if not marks:
        return table
    found = [marks.pop(id, None) for id in table["recording_id"].to_pylist()]
    columns = dict(zip(table.column_names, table.columns, strict=True))
    columns["mark_reason"] = pa.array([mark and mark.reason for mark in found], pa.string())
    columns["mark_detail"] = pa.array([mark and mark.detail for mark in found], pa.string())
    windows = columns["windows"].to_pylist()
    columns["windows"] = pa.array(
        [None if mark else places for mark, places in zip(found, windows, strict=True)],
        EVIDENCE_SCHEMA.field("windows").type,
    )
    return pa.table(columns, schema=EVIDENCE_SCHEMA)


def _excerpts(stage: Stage) -> Iterator[listen.Excerpts]:
    """The windows to listen to, recording by recording."""
    with parquet.RowGroups(_evidence_uri(stage), list(listen.Excerpts._fields)) as groups:
        for table in groups:
            table = table.filter(table["windows"].is_valid())
            yield from map(listen.Excerpts, *(table[name].to_pylist() for name in listen.Excerpts._fields))


class _Evidence(NamedTuple):
    """What the final decision on a recording needs, apart from what was heard."""

    before: LanguageDecision
    is_final: bool
    corpus: str
    duration_s: float
    has_windows: bool
    mark_reason: str | None
    mark_detail: str | None


def _read_evidence(stage: Stage) -> Iterator[_Evidence]:
    columns = [*LANGUAGE_SCHEMA.names, "is_final", "corpus", "duration_s", "windows", *MARKS]
    with parquet.RowGroups(_evidence_uri(stage), columns) as groups:
        for table in groups:
            yield from map(
                _Evidence,
                from_table(LanguageDecision, table),
                *(table[name].to_pylist() for name in ("is_final", "corpus", "duration_s")),
                table["windows"].is_valid().to_pylist(),
                *(table[name].to_pylist() for name in MARKS),
            )


def _write_decisions(
    stage: Stage,
    config: LanguageConfig,
    heard: Iterator[tuple[str, AudioEvidence]] | None,
    weak: WeakRule | None,
    work: dict[str, Any],
    report: ReportProgress,
) -> None:
    account = Account()
    tables = map(
        functools.partial(to_table, schema=LANGUAGE_SCHEMA), _decide_all(stage, config, heard, weak, account, report)
    )
    content = parquet.groups_to_bytes(tables, LANGUAGE_SCHEMA)
    if not account.kept.items and heard is None:
        storage.delete(_evidence_uri(stage))  # so that other settings are not refused
    account.refuse_if_nothing_is_kept(heard is not None)
    storage.write_bytes(storage.join(stage.uri, DECISIONS), content)
    dropped = account.dropped()
    stage.finish(
        account.counts(dropped),
        dropped,
        digest(content),
        [_evidence_uri(stage)],
        evidence=dict(sorted(account.evidence.items())),
        by_evidence=account.by_evidence(),
        least_certain=account.least_certain(),
        kept_without_evidence=asdict(account.kept_without_evidence),
        kept_unsure=asdict(account.kept_unsure),
        audio_evidence={
            "available": heard is not None,
            "unheard": asdict(account.unheard),
            **({"trained_on": weak.trained_on} if weak else {}),
        },
        work=work,
    )


def _decide_all(
    stage: Stage,
    config: LanguageConfig,
    heard: Iterator[tuple[str, AudioEvidence]] | None,
    weak: WeakRule | None,
    account: Account,
    report: ReportProgress,
) -> Iterator[list[LanguageDecision]]:
    """Yields the final decisions, a row group's worth at a time, and adds each to `account`."""
    num_recordings = read_facts(stage.run, MANIFEST)["counts"]["kept"]["items"]
    rules_of = functools.cache(config.of_corpus)
    decisions: list[LanguageDecision] = []
    for number, evidence in enumerate(_read_evidence(stage), start=1):
        rules = rules_of(evidence.corpus)
        audio = None
        if evidence.has_windows and heard is not None:
            id, audio = next(heard)
            assert id == evidence.before.recording_id, f"{id} was heard, not {evidence.before.recording_id}"
        if evidence.mark_reason is not None:
            id = evidence.before.recording_id
            decision = LanguageDecision(id, False, None, None, "none", evidence.mark_reason)
            detail = evidence.mark_detail or ""
        else:
            decision = by_audio(evidence.before, audio, rules, weak)
            detail = "" if decision.keep else describe(decision, audio)
            if not evidence.is_final and (audio is None or not audio.probabilities):
                account.unheard += Tally(1, evidence.duration_s / 3600)
        account.add(evidence.corpus, evidence.duration_s, decision, detail, rules)
        decisions.append(decision)
        if number % RECORDINGS_PER_TASK == 0 or number == num_recordings:
            report(number, num_recordings, "recordings")
        if len(decisions) == parquet.ROW_GROUP_ROWS:
            yield decisions
            decisions = []
    if decisions:
        yield decisions


def kept_recordings(run: str) -> Iterator[Recording]:
    """Yields the recordings that a finished stage keeps, in the manifest's order, with few in memory at a time.

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
