"""Words with times for every segment that has a text.

    RUN/manifest/, RUN/segments/, alignments in files -> RUN/words/part-<work_unit>.parquet    (parts.py)

A text and an alignment are those of a recording. So words get their times in the whole recording: from a file, or by
forced alignment on workers (recordings.py). Then they are cut into its segments (times.py). This second step is made
anew each time, since it takes no audio.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from model.artefacts import identity
from pipeline.corpora.alignments.files import AlignmentFiles
from pipeline.corpora.alignments.labelled import AlignmentError
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.language.filter import kept_recordings
from pipeline.records import DROPPED_SCHEMA, WORDS_SCHEMA
from pipeline.runs import MANIFEST, SEGMENTS, WORDS, part_file, part_files, parts_uri
from pipeline.segments.segment import SEGMENTS_FILE
from pipeline.stage import Stage, StageCounts, Tally, digest, fingerprint_of, read_facts
from pipeline.words.recordings import TEXTS, all_failed, as_structs, texts_to_bytes
from pipeline.words.times import RecordingWords, Unusable, spelled_as, without_silences
from pipeline.work import dataflow
from pipeline.work.plan import WorkPlan
from pipeline.work.retry import take_back_dropped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.corpora.alignments.labelled import Labelled
    from pipeline.progress import ReportProgress
    from pipeline.records import Recording
    from pipeline.words.config import WordsConfig
    from pipeline.work.cluster import ClusterConfig

    Segment = dict[str, Any]

CORPUS = "corpus"
# The time that Viterbi's algorithm takes grows with the square of a recording's length.
LONGEST_ALIGNED_S = 1200.0


@dataclass(frozen=True)
class Found:
    """The words of a recording and whose times they are; or why there are none."""

    words: RecordingWords | Unusable
    source: str | None = None


def align_words(
    run: str, config: WordsConfig, cluster: ClusterConfig, report: ReportProgress, *, retry_dropped: bool = False
) -> None:
    """Finds the words of all segments, and records what became of every segment.

    `retry_dropped`: align again what could not be read for reasons that may have passed.

    Raises:
        TwistError: the aligner cannot be loaded, or no segment has words.
    """
    inputs = {name: fingerprint_of(run, name) for name in (MANIFEST, SEGMENTS)}
    files = _Files(run, config)
    if config.reads_files:
        inputs["alignments"] = files.fingerprint
    stage = Stage(run, WORDS, _settings(config), inputs)
    with stage.begin(functools.partial(take_back_dropped, stage) if retry_dropped else None) as has_work:
        if not has_work:
            return
        files.claim_recordings()
        work, parts = _align_texts(stage, files, config, cluster, report) if config.aligner else ({}, [])
        _write(stage, _with_words(run, files, config, parts), files, work)


def _settings(config: WordsConfig) -> dict[str, Any]:
    """What can change words: all but the device and where the model lies."""
    model = None if config.model is None else identity(config.model)
    return {
        "source": config.source,
        "alignments": config.alignments,
        "tier": config.tier,
        "model": model,
        "work_unit_minutes": config.work_unit_minutes,
    }


class _Files:
    """The alignments of a run's recordings in files."""

    def __init__(self, run: str, config: WordsConfig) -> None:
        self._run = run
        self._of_all = [AlignmentFiles(place, config.tier, run) for place in config.alignments]
        self._of_corpus: dict[str, AlignmentFiles] = {}
        if config.reads_files and not config.alignments:
            for settings in read_facts(run, MANIFEST)["config"]["corpora"]:
                corpus = CorpusConfig(**settings)
                self._of_corpus[corpus.label] = AlignmentFiles(corpus.root, config.tier, run)

    @property
    def fingerprint(self) -> str:
        """What changes when an alignment is added, removed or written anew."""
        return digest(*(files.fingerprint for files in self._all()))

    def claim_recordings(self) -> None:
        """Announces the recordings of the run, which finds out what belongs to them."""
        if self._of_all or self._of_corpus:
            for recording, _ in _with_segments(self._run):
                for files in self._places_of(recording):
                    files.claim(_id_in_corpus(recording), recording.uri)

    def words_of(self, recording: Recording) -> list[Labelled] | None:
        """What the first alignment that belongs to a recording says; None if there is none.

        Raises:
            AlignmentError: it is damaged.
        """
        found = (files.words_of(_id_in_corpus(recording), recording.uri) for files in self._places_of(recording))
        return next((words for words in found if words is not None), None)

    def notices(self) -> dict[str, dict[str, Any]]:
        """What there is that was not taken, by the place."""
        told = {files.place: files.notices() for files in self._all()}
        return {place: notices for place, notices in told.items() if notices}

    def _all(self) -> list[AlignmentFiles]:
        return [*self._of_all, *self._of_corpus.values()]

    def _places_of(self, recording: Recording) -> list[AlignmentFiles]:
        own = self._of_corpus.get(recording.corpus)
        return [*self._of_all, *([own] if own else [])]


def _id_in_corpus(recording: Recording) -> str:
    return recording.recording_id.removeprefix(f"{recording.corpus}/")


def _with_segments(run: str) -> Iterator[tuple[Recording, list[Segment]]]:
    """Yields the recordings that have segments, in their order."""
    columns = ["segment_id", "recording_id", "start_s", "end_s", "work_unit"]
    tables = parquet.iterate(storage.join(run, SEGMENTS, SEGMENTS_FILE), columns)
    rows = (row for table in tables for row in table.to_pylist())
    recordings = kept_recordings(run)
    for id, segments in itertools.groupby(rows, key=lambda row: row["recording_id"]):
        recording = next((one for one in recordings if one.recording_id == id), None)
        if recording is None:
            raise TwistError(f"{run} has segments of {id}, which its manifest does not name; run `twist segment` again")
        yield recording, list(segments)


def _duration_s(recording: Recording, segments: Sequence[Segment]) -> float:
    """The stated length, or more if speech was found behind it."""
    return max(recording.duration_s, float(segments[-1]["end_s"]))


def _align_texts(
    stage: Stage, files: _Files, config: WordsConfig, cluster: ClusterConfig, report: ReportProgress
) -> tuple[dict[str, Any], list[str]]:
    """Aligns the texts of recordings without an alignment; returns figures on the work, and its part files."""
    to_align = (
        (recording, _duration_s(recording, segments))
        for recording, segments in _with_segments(stage.run)
        if _is_to_be_aligned(recording, _duration_s(recording, segments), files, config)
    )
    uri = storage.join(stage.uri, TEXTS)
    _write_texts(uri, texts_to_bytes(to_align, config.work_unit_minutes * 60), parts_uri(stage.run, WORDS))
    processor, arguments = _processor(config)
    with parquet.RowGroups(uri) as groups:
        plan = WorkPlan(groups, groups.read, "recording_id")
        parts = storage.absolute(parts_uri(stage.run, WORDS))
        work = dataflow.run_chunks(plan, parts, processor, arguments, all_failed, cluster, report)
        return work, [dataflow.part_uri(parts, name) for name in plan.names]


def _write_texts(uri: str, texts: bytes, parts: str) -> None:
    """Writes the table of recordings to align; parts of another table, whose chunks were others, go first."""
    if storage.exists(uri) and storage.read_bytes(uri) == texts:
        return
    for part in part_files(parts):
        storage.delete(part)
    storage.write_bytes(uri, texts)


def _processor(config: WordsConfig) -> tuple[type[dataflow.Processor], dict[str, Any]]:
    if config.aligner == "pocketsphinx":
        from pipeline.words.pocketsphinx import AlignByPocketsphinx

        return AlignByPocketsphinx, {}
    from pipeline.words.ctc import AlignByCtc

    return AlignByCtc, {"model": config.model, "device": config.device}


def _longest_s(config: WordsConfig) -> float:
    if config.aligner == "pocketsphinx":
        from pipeline.words.pocketsphinx import LONGEST_S

        return LONGEST_S
    return LONGEST_ALIGNED_S


def _is_to_be_aligned(recording: Recording, duration_s: float, files: _Files, config: WordsConfig) -> bool:
    if not (recording.text or "").strip() or duration_s > _longest_s(config):
        return False
    try:
        return files.words_of(recording) is None
    except AlignmentError:
        return False


def _with_words(
    run: str, files: _Files, config: WordsConfig, parts: Sequence[str]
) -> Iterator[tuple[list[Segment], Found]]:
    """Yields the segments of each recording, in their order, with its words."""
    aligned = (row for part in parquet.read_many(parts) for row in part.to_pylist())
    for recording, segments in _with_segments(run):
        duration_s = _duration_s(recording, segments)
        try:
            of_file = files.words_of(recording)
        except AlignmentError as error:
            yield segments, Found(Unusable(error.reason, error.detail))
            continue
        if of_file is not None:
            if recording.text:
                of_file = spelled_as(recording.text, without_silences(of_file)) or of_file
            yield segments, Found(RecordingWords(of_file, duration_s), CORPUS)
        elif not (recording.text or "").strip():
            yield segments, Found(Unusable("no_text", "its recording has no text"))
        elif config.aligner is None:
            yield segments, Found(Unusable("no_alignment", "no alignment belongs to its recording"))
        elif duration_s > _longest_s(config):
            detail = f"its recording is {duration_s:.0f} s long; {config.aligner} aligns up to {_longest_s(config):g} s"
            yield segments, Found(Unusable("too_long", detail))
        else:
            row = next(aligned)
            assert row["recording_id"] == recording.recording_id, f"{row['recording_id']} was aligned instead"
            yield segments, _found(row, duration_s, config.aligner)


def _found(row: Segment, duration_s: float, source: str) -> Found:
    if row["drop_reason"] is not None:
        return Found(Unusable(row["drop_reason"], row["drop_detail"]))
    labelled = [(word["word"], word["start_s"], word["end_s"]) for word in row["words"]]
    return Found(RecordingWords(labelled, duration_s), source)


def _write(
    stage: Stage, recordings: Iterator[tuple[list[Segment], Found]], files: _Files, work: dict[str, Any]
) -> None:
    """Writes the parts, a chunk at a time, and then what became of the segments."""
    rows = ((segment, found) for segments, found in recordings for segment in segments)
    total, kept = Tally(), Tally()
    by_source: dict[str, Tally] = {}
    num_words = 0
    drops = [DROPPED_SCHEMA.empty_table()]
    digests = []
    for chunk, of_chunk in itertools.groupby(rows, key=lambda row: row[0]["work_unit"]):
        written = [_row(segment, found) for segment, found in of_chunk]
        part = parquet.to_bytes(pa.Table.from_pylist(written, WORDS_SCHEMA))
        storage.write_bytes(storage.join(stage.uri, part_file(chunk)), part)
        digests.append(digest(part))
        for row in written:
            tally = Tally(1, (row["end_s"] - row["start_s"]) / 3600)
            total += tally
            if row["words"] is not None:
                kept += tally
                num_words += len(row["words"])
                by_source[row["source"]] = by_source.get(row["source"], Tally()) + tally
        drops.append(_drops(written))
    dropped = pa.concat_tables(drops).combine_chunks()
    if not kept.items:
        examples = "; ".join(f"{d['id']}: {d['reason']} ({d['detail']})" for d in dropped.slice(0, 3).to_pylist())
        raise TwistError(f"none of {total.items} segments has words with times: {examples}")
    stage.finish(
        StageCounts.of_table(total, kept, dropped),
        dropped,
        digest(*digests),
        num_words=num_words,
        by_source={source: asdict(tally) for source, tally in sorted(by_source.items())},
        notices=files.notices(),
        work=work,
    )


def _row(segment: Segment, found: Found) -> Segment:
    row = {name: segment[name] for name in ("segment_id", "recording_id", "start_s", "end_s")}
    words = found.words
    if isinstance(words, RecordingWords):
        words_or_reason = words.within(segment["start_s"], segment["end_s"])
    else:
        words_or_reason = words
    if isinstance(words_or_reason, Unusable):
        return {**row, "drop_reason": words_or_reason.reason, "drop_detail": words_or_reason.detail, "words": None}
    return {**row, "words": as_structs(words_or_reason), "source": found.source, "drop_reason": None}


def _drops(rows: Sequence[Segment]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "id": row["segment_id"],
                "corpus": row["recording_id"].partition("/")[0],
                "reason": row["drop_reason"],
                "detail": row["drop_detail"],
                "duration_s": row["end_s"] - row["start_s"],
                "num_items": 1,
            }
            for row in rows
            if row["drop_reason"] is not None
        ],
        DROPPED_SCHEMA,
    )
