"""The first stage: every recording of every corpus, with what its corpus and its header say.

corpora -> RUN/manifest/<corpus>.parquet (Recording)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from pipeline import parquet, storage
from pipeline.audio import AudioError, probe
from pipeline.corpora import folder, librispeech
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError
from pipeline.records import RECORDING_SCHEMA, SPLITS, Dropped, Recording, from_table, to_table
from pipeline.stage import DROPPED, Stage, StageCounts, Tally, digest, fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.progress import ReportProgress

STAGE = "manifest"
# Reading a header waits for a disk or a bucket, not for a core.
PROBE_THREADS = 16
# Of a table, as objects.
RECORDINGS_AT_ONCE = 10_000


def make_manifest(run: str, corpora: Sequence[CorpusConfig], report: ReportProgress) -> None:
    """Lists all corpora and reads every header; unreadable files are dropped with their reason.

    Raises:
        CorpusError: a root is missing, a corpus is not laid out as expected, two have one name, or nothing is readable.
    """
    # Whatever folder the command is run from, and with or without a slash at its end, a root is one place.
    corpora = [replace(corpus, root=storage.absolute(corpus.root)) for corpus in corpora]
    if not corpora:
        raise CorpusError("no corpus is named; give `corpora:` in the recipe, or a folder on the command line")
    names = [corpus.label for corpus in corpora]
    for name in {name for name in names if names.count(name) > 1}:
        raise CorpusError(f"two corpora are called {name!r}; give each a `name` of its own")
    stage = Stage(run, STAGE, {"corpora": [asdict(corpus) for corpus in corpora]}, {})
    with stage.begin() as has_work:
        if has_work:
            _write(stage, corpora, report)


def _write(stage: Stage, corpora: Sequence[CorpusConfig], report: ReportProgress) -> None:
    dropped: list[Dropped] = []
    kept = Tally()
    tables: dict[str, bytes] = {}
    for corpus in corpora:
        recordings, drops = _read_corpus(corpus, report)
        dropped += drops
        kept += Tally(len(recordings), sum(recording.duration_s for recording in recordings) / 3600)
        tables[corpus.label] = parquet.to_bytes(to_table(recordings, RECORDING_SCHEMA))
    if not kept.items:
        examples = "; ".join(f"{drop.id}: {drop.reason} ({drop.detail})" for drop in dropped[:3])
        raise CorpusError(f"none of {len(dropped)} audio files can be used, e.g. {examples}")
    for name, content in tables.items():
        storage.write_bytes(storage.join(stage.uri, f"{name}.parquet"), content)
    # The hours of an unreadable file are unknown and count as none, on both sides.
    total = kept + Tally(len(dropped), sum(drop.duration_s for drop in dropped) / 3600)
    counts = StageCounts.of(total, kept, dropped)
    stage.finish(counts, dropped, digest(*tables.values()))


def _read_corpus(corpus: CorpusConfig, report: ReportProgress) -> tuple[list[Recording], list[Dropped]]:
    _check_root(corpus)
    files = list((librispeech if _is_librispeech(corpus) else folder).find_recordings(corpus))
    if not files:
        raise CorpusError(f"{corpus.root} holds no audio files; it is the root of corpus {corpus.label}")
    recordings: list[Recording] = []
    dropped: list[Dropped] = []
    uri_of: dict[str, str] = {}
    with ThreadPoolExecutor(PROBE_THREADS) as threads:
        outcomes = threads.map(lambda file: _probe(corpus, file), files)
        for number, (file, outcome) in enumerate(zip(files, outcomes, strict=True), start=1):
            if isinstance(outcome, Dropped):
                dropped.append(outcome)
            elif outcome.recording_id in uri_of:
                detail = f"{file.uri} has the id of {uri_of[outcome.recording_id]}"
                dropped.append(Dropped(outcome.recording_id, corpus.label, "duplicate_id", detail, outcome.duration_s))
            else:
                uri_of[outcome.recording_id] = file.uri
                recordings.append(outcome)
            report(number, len(files), "files")
    return recordings, dropped


def _check_root(corpus: CorpusConfig) -> None:
    if storage.exists(corpus.root):
        raise CorpusError(f"{corpus.root} is a file; name the folder that it lies in as the root of {corpus.label}")
    try:
        names = storage.list_files(corpus.root)
    except PermissionError as error:
        raise CorpusError(f"the root of corpus {corpus.label} cannot be listed: {error}") from error
    if not names:
        raise CorpusError(f"{corpus.root} does not exist or is empty; it is the root of corpus {corpus.label}")


def _is_librispeech(corpus: CorpusConfig) -> bool:
    if corpus.kind == "auto":
        return corpus.metadata is None and librispeech.is_librispeech(corpus.root)
    return corpus.kind == "librispeech"


def _probe(corpus: CorpusConfig, file: AudioFile) -> Recording | Dropped:
    uri = storage.absolute(file.uri)
    # A name that is not UTF-8 cannot stand in a table; its escaped form names the drop.
    recording_id = f"{corpus.label}/{file.id}".encode("utf-8", "backslashreplace").decode()
    try:
        if uri.encode("utf-8", "backslashreplace").decode() != uri or "\0" in uri:
            raise AudioError("bad_name", "the path is not valid UTF-8")
        if file.misplaced:
            raise AudioError("misplaced", "audio where the corpus' layout has none")
        if file.split is not None and file.split not in SPLITS:
            raise AudioError("unknown_split", f"split {file.split!r} is none of {', '.join(SPLITS)}")
        info = probe(uri)
    except AudioError as error:
        return Dropped(recording_id, corpus.label, error.reason, error.detail, 0.0)
    return Recording(
        recording_id=recording_id,
        corpus=corpus.label,
        uri=uri,
        duration_s=info.duration_s,
        sample_rate_hz=info.sample_rate_hz,
        num_channels=info.num_channels,
        channel=file.channel,
        language=file.language or corpus.language,
        speaker=f"{file.speaker_namespace or corpus.label}/{file.speaker}" if file.speaker else None,
        split=file.split,
        text=file.text,
        voice_activity=file.voice_activity,
    )


def read_recordings(run: str) -> list[Recording]:
    """Every recording of a finished manifest, corpus by corpus in the order of their names.

    Raises:
        StageError: the manifest is not finished.
    """
    return list(iterate_recordings(run))


def iterate_recordings(run: str) -> Iterator[Recording]:
    """The same, of which few are in memory at a time.

    Raises:
        StageError: the manifest is not finished.
    """
    fingerprint_of(run, STAGE)
    uri = storage.join(run, STAGE)
    for name in storage.list_files(uri, ".parquet"):
        if name != DROPPED:
            with parquet.RowGroups(storage.join(uri, name), RECORDING_SCHEMA.names) as groups:
                for table in groups:
                    for first in range(0, len(table), RECORDINGS_AT_ONCE):
                        yield from from_table(Recording, table.slice(first, RECORDINGS_AT_ONCE))
