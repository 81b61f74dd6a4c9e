"""The first stage: every recording of every corpus, with what its corpus and its header say.

    corpora -> RUN/manifest/<corpus>.parquet (Recording)

Corpora are listed one after the other. Of files whose corpus does not state how long they are, headers are read: those
of the first seconds here, where there are more on all cores of the Ray cluster. A corpus that is finished when the
command is interrupted is not listed again: its table is there, and what was dropped of it and noticed in it in
RUN/manifest/<corpus>.drops and .notices until all are finished.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.places import IoErrorsInARow, io_errors, read_patiently
from pipeline.audio.read import AudioError, AudioInfo, probe
from pipeline.corpora.readers import find_recordings, kind_of
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notice, Notices
from pipeline.corpora.stated_length import StatedLengths, StatedTimes
from pipeline.files import parquet, storage
from pipeline.files.audio_uri import ParquetRow
from pipeline.files.audio_uri import parse as parse_uri
from pipeline.files.places import PlaceError, reason_of
from pipeline.languages import is_without_language, normalize_code
from pipeline.records import DROPPED_SCHEMA, RECORDING_SCHEMA, SPLITS, Dropped, Recording, from_table, to_table
from pipeline.runs import MANIFEST
from pipeline.stage import DROPPED, Stage, StageCounts, Tally, digest, fingerprint_of, is_finished, read_facts
from pipeline.work.map_tasks import spread
from pipeline.work.retry import RETRIED_REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.progress import ReportProgress

# Reading a header waits for a disk or a bucket, not for a core.
PROBE_THREADS = 16
# Which a thread takes at a time: handing them over one by one would cost as much as reading a header.
FILES_PER_THREAD = 16
# What is worked on at a time, here or in a task of the cluster.
FILES_PER_TASK = 1_000
# Of a table, as objects.
RECORDINGS_AT_ONCE = 10_000
DROPS_SUFFIX = ".drops"
NOTICES_SUFFIX = ".notices"


def make_manifest(
    run: str, corpora: Sequence[CorpusConfig], report: ReportProgress, *, retry_dropped: bool = False
) -> None:
    """Lists all corpora and reads the headers that must be read; unreadable files are dropped with their reason.

    `retry_dropped`: list anew each corpus of which a file was dropped for a reason that may have passed.

    Raises:
        CorpusError: a root is missing, a corpus is not laid out as expected, two have one name, or nothing is readable.
        ConnectionError, RunError: the place of a corpus fails.
    """
    # Whatever folder the command is run from, and with or without a slash at its end, a root is one place.
    corpora = [replace(corpus, root=storage.absolute(corpus.root)) for corpus in corpora]
    if not corpora:
        raise CorpusError("no corpus is named; give `corpora:` in the recipe, or a folder on the command line")
    names = [corpus.label for corpus in corpora]
    for name in {name for name in names if names.count(name) > 1}:
        raise CorpusError(f"two corpora are called {name!r}; give each a `name` of its own")
    stage = Stage(run, MANIFEST, {"corpora": [asdict(corpus) for corpus in corpora]}, {})
    with stage.begin(functools.partial(_take_back_dropped, stage, corpora) if retry_dropped else None) as has_work:
        if not has_work:
            return
        for corpus in corpora:  # a mistyped name is told now, not after hours
            _check_root(corpus)
        try:
            _write(stage, corpora, report)
        except CorpusError:
            # Mended, the recipe is another one, which must not be refused for what was made of the corpora before.
            for name in storage.list_files(stage.uri):
                if name.endswith((".parquet", DROPS_SUFFIX, NOTICES_SUFFIX)):
                    storage.delete(storage.join(stage.uri, name))
            raise


def _write(stage: Stage, corpora: Sequence[CorpusConfig], report: ReportProgress) -> None:
    for corpus in corpora:
        if not storage.exists(_drops_uri(stage, corpus)):
            _write_corpus(stage, corpus, report)
    dropped: list[Dropped] = []
    kept = Tally()
    digests = []
    for corpus in corpora:
        uri = storage.join(stage.uri, f"{corpus.label}.parquet")
        digests.append(storage.read_bytes(uri))
        with parquet.RowGroups(uri, ["duration_s"]) as groups:
            for table in groups:
                kept += Tally(len(table), (pc.sum(table["duration_s"]).as_py() or 0.0) / 3600)
        dropped += from_table(Dropped, parquet.read(_drops_uri(stage, corpus), DROPPED_SCHEMA.names))
    if not kept.items:
        examples = "; ".join(f"{drop.id}: {drop.reason} ({drop.detail})" for drop in dropped[:3])
        raise CorpusError(f"none of {len(dropped)} audio files can be used, e.g. {examples}")
    # The hours of an unreadable file are unknown and count as none, on both sides.
    total = kept + Tally(len(dropped), sum(drop.duration_s for drop in dropped) / 3600)
    counts = StageCounts.of(total, kept, dropped)
    kinds = {corpus.label: kind_of(corpus) for corpus in corpora}
    notices = {corpus.label: json.loads(storage.read_bytes(_notices_uri(stage, corpus))) for corpus in corpora}
    notices = {name: told for name, told in notices.items() if told}
    recognized = {corpus.label: kinds[corpus.label] for corpus in corpora if corpus.kind == "auto"}
    facts = {"kinds": kinds, "recognized": recognized, "notices": notices}
    work_files = [uri(stage, corpus) for corpus in corpora for uri in (_drops_uri, _notices_uri)]
    stage.finish(counts, dropped, digest(*digests), work_files, **facts)


def _take_back_dropped(stage: Stage, corpora: Sequence[CorpusConfig]) -> None:
    """Takes back the tables of the corpora with a file dropped for RETRIED_REASONS; the others stay finished."""
    if not is_finished(stage.run, MANIFEST):
        for corpus in corpora:
            if storage.exists(_drops_uri(stage, corpus)):
                drops = parquet.read(_drops_uri(stage, corpus), DROPPED_SCHEMA.names)
                if _is_to_be_retried(drops):
                    storage.delete(_drops_uri(stage, corpus))
        return
    dropped = parquet.read(storage.join(stage.uri, DROPPED), DROPPED_SCHEMA.names)
    if not _is_to_be_retried(dropped):
        return
    notices = read_facts(stage.run, MANIFEST).get("notices", {})
    for corpus in corpora:
        drops = dropped.filter(pc.equal(dropped["corpus"], corpus.label))
        if not _is_to_be_retried(drops):
            storage.write_bytes(_notices_uri(stage, corpus), json.dumps(notices.get(corpus.label, {})).encode())
            parquet.write(_drops_uri(stage, corpus), drops)
    stage.reopen()


def _is_to_be_retried(drops: pa.Table) -> bool:
    return bool(pc.any(pc.is_in(drops["reason"], pa.array(RETRIED_REASONS))).as_py())


def _drops_uri(stage: Stage, corpus: CorpusConfig) -> str:
    return storage.join(stage.uri, f"{corpus.label}{DROPS_SUFFIX}")


def _notices_uri(stage: Stage, corpus: CorpusConfig) -> str:
    return storage.join(stage.uri, f"{corpus.label}{NOTICES_SUFFIX}")


def _write_corpus(stage: Stage, corpus: CorpusConfig, report: ReportProgress) -> None:
    dropped: list[Dropped] = []
    ids: set[bytes] = set()
    num_files = num_seen = 0
    notices = Notices()
    stated_lengths, stated_times = StatedLengths(corpus), StatedTimes(corpus)

    def listed() -> Iterator[AudioFile]:
        nonlocal num_files
        for found in find_recordings(corpus):
            if isinstance(found, Notice):
                notices.add(found.what, found.example, found.count)
                continue
            num_files += 1
            file = _check_language(found, notices)
            stated_lengths.see(file)
            yield file

    def take() -> Iterator[pa.Table]:
        """Row groups of what stays; what goes is added to `dropped`."""
        nonlocal num_seen
        recordings: list[Recording] = []
        for outcomes in _look_into(corpus, listed()):
            num_seen += len(outcomes)
            for outcome in outcomes:
                if isinstance(outcome, Dropped):
                    dropped.append(outcome)
                    continue
                # A million ids take a tenth of a GiB so.
                key = hashlib.blake2b(outcome.recording_id.encode(), digest_size=16).digest()
                if key in ids:
                    detail = f"another file before {outcome.uri} has this id"
                    dropped.append(
                        Dropped(outcome.recording_id, corpus.label, "duplicate_id", detail, outcome.duration_s)
                    )
                else:
                    ids.add(key)
                    stated_times.see(outcome)
                    recordings.append(outcome)
                if len(recordings) == parquet.ROW_GROUP_ROWS:
                    yield to_table(recordings, RECORDING_SCHEMA)
                    recordings.clear()
            report(num_seen, num_files, "files", corpus.label)
        if recordings:
            yield to_table(recordings, RECORDING_SCHEMA)

    content = parquet.groups_to_bytes(take(), RECORDING_SCHEMA)
    if not storage.has_files(corpus.root):  # a listing breaks off without a word where folders vanish
        raise PlaceError(f"{corpus.root} went away while it was listed; it is the root of corpus {corpus.label}")
    if not num_files:
        raise CorpusError(f"{corpus.root} holds no audio files; it is the root of corpus {corpus.label}")
    stated_lengths.check(notices)
    stated_times.check(notices)
    storage.write_bytes(storage.join(stage.uri, f"{corpus.label}.parquet"), content)
    told = {notice.what: {"count": notice.count, "example": notice.example} for notice in notices}
    storage.write_bytes(_notices_uri(stage, corpus), json.dumps(dict(sorted(told.items()))).encode())
    parquet.write(_drops_uri(stage, corpus), to_table(dropped, DROPPED_SCHEMA))


def _check_language(file: AudioFile, notices: Notices) -> AudioFile:
    """Notices a tag that names no language; drops what is tagged to hold none."""
    if not file.language or normalize_code(file.language):
        return file
    if is_without_language(file.language) and file.drop_reason is None:
        detail = f"its language tag is {file.language!r}: no linguistic content"
        return replace(file, drop_reason="no_speech", drop_detail=detail)
    notices.add("unknown_language_tag", f"{file.language!r} of {file.id}")
    return file


def _look_into(corpus: CorpusConfig, files: Iterator[AudioFile]) -> Iterator[list[Recording | Dropped]]:
    """The outcome of each file, in order: here, or on the cluster where there is enough to do for it."""
    here = functools.partial(_describe_all, corpus)
    in_a_row = IoErrorsInARow()
    described = spread(here, _batches(files, FILES_PER_TASK), lambda batch: any(map(_must_be_read, batch)))
    for outcomes, failed in described:
        in_a_row.add(failed)
        yield outcomes


def _batches(files: Iterator[AudioFile], size: int) -> Iterator[list[AudioFile]]:
    while batch := list(itertools.islice(files, size)):
        yield batch


def _check_root(corpus: CorpusConfig) -> None:
    if storage.exists(corpus.root):
        raise CorpusError(f"{corpus.root} is a file; name the folder that it lies in as the root of {corpus.label}")
    try:
        is_there = storage.has_files(corpus.root)
    except PermissionError as error:
        raise CorpusError(f"the root of corpus {corpus.label} cannot be listed: {error}") from error
    if not is_there:
        raise CorpusError(f"{corpus.root} does not exist or is empty; it is the root of corpus {corpus.label}")


def _must_be_read(file: AudioFile) -> bool:
    return file.drop_reason is None and (file.duration_s is None or file.complete is not None)


def _describe_all(
    corpus: CorpusConfig, files: Sequence[AudioFile]
) -> tuple[list[Recording | Dropped], tuple[str | None, ...]]:
    """What becomes of each file, and which gave I/O errors (audio/places.py); runs on any machine.

    Raises:
        ConnectionError: the place of the corpus fails, and goes on failing.
    """
    uris = [_absolute(file.uri) for file in files]
    # A table may name files that lie elsewhere, of which those below the root tell nothing.
    are_below = all(uri.startswith(f"{corpus.root.rstrip('/')}/") for uri in uris)
    outcomes = read_patiently(
        functools.partial(_describe_once, corpus),
        files,
        lambda file: _absolute(file.uri),
        corpus.witnesses if are_below else list,
    )
    read = [place for place, file in enumerate(files) if _must_be_read(file)]
    return outcomes, io_errors((uris[place] for place in read), (outcomes[place] for place in read))


def _describe_once(corpus: CorpusConfig, files: Sequence[AudioFile]) -> list[Recording | Dropped]:
    if sum(map(_must_be_read, files)) < 2:
        return [_describe(corpus, file) for file in files]
    handfuls = list(_handfuls(files))
    with ThreadPoolExecutor(PROBE_THREADS) as threads:
        outcomes = threads.map(lambda handful: [_describe(corpus, file) for file in handful], handfuls)
        return list(itertools.chain.from_iterable(outcomes))


def _parquet_of(uri: str) -> str | None:
    place = parse_uri(uri)
    return place.file if isinstance(place, ParquetRow) else None


def _handfuls(files: Sequence[AudioFile]) -> Iterator[Sequence[AudioFile]]:
    """What each thread takes at a time: some files, or all rows of a Parquet file, which are decoded in their order."""
    for parquet_file, rows in itertools.groupby(files, key=lambda file: _parquet_of(file.uri)):
        handful = list(rows)
        step = len(handful) if parquet_file else FILES_PER_THREAD
        yield from (handful[first : first + step] for first in range(0, len(handful), step))


def _describe(corpus: CorpusConfig, file: AudioFile) -> Recording | Dropped:
    uri = _absolute(file.uri)
    # A name that is not UTF-8 cannot stand in a table; its escaped form names the drop.
    recording_id = f"{corpus.label}/{file.id}".encode("utf-8", "backslashreplace").decode()
    try:
        if uri.encode("utf-8", "backslashreplace").decode() != uri or "\0" in uri:
            raise AudioError("bad_name", "the path is not valid UTF-8")
        if file.drop_reason is not None:
            raise AudioError(file.drop_reason, file.drop_detail)
        if file.complete is not None:
            file = file.complete(file)
        if file.split is not None and file.split not in SPLITS:
            raise AudioError("unknown_split", f"split {file.split!r} is none of {', '.join(SPLITS)}")
        info = probe(uri) if file.duration_s is None else None
        if info and file.channel is not None and file.channel >= info.num_channels:
            raise AudioError("unreadable", f"no channel {file.channel} in a file of {info.num_channels}")
    except AudioError as error:
        return Dropped(recording_id, corpus.label, error.reason, error.detail, 0.0)
    except OSError as error:  # of what lies beside it, such as a table
        return Dropped(recording_id, corpus.label, reason_of(error), str(error), 0.0)
    return _recording(corpus, recording_id, uri, file, info)


def _absolute(uri: str) -> str:
    return uri if uri.startswith(("/", "s3://")) else storage.absolute(uri)


def _recording(corpus: CorpusConfig, recording_id: str, uri: str, file: AudioFile, info: AudioInfo | None) -> Recording:
    duration_s = file.duration_s if info is None else info.duration_s
    assert duration_s is not None
    return Recording(
        recording_id=recording_id,
        corpus=corpus.label,
        uri=uri,
        duration_s=duration_s,
        sample_rate_hz=info.sample_rate_hz if info else file.sample_rate_hz,
        num_channels=info.num_channels if info else file.num_channels,
        channel=file.channel,
        language=file.language or corpus.language,
        speaker=f"{file.speaker_namespace or corpus.label}/{file.speaker}" if file.speaker else None,
        split=file.split,
        text=file.text,
        voice_activity=file.voice_activity,
        language_source=(file.language_source or "recording") if file.language else (corpus.language and "recipe"),
        description=file.description,
        origins=file.origins,
        origin_start_s=file.origin_start_s,
        origin_end_s=file.origin_end_s,
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
    for table in iterate_tables(run, RECORDING_SCHEMA.names):
        for first in range(0, len(table), RECORDINGS_AT_ONCE):
            yield from from_table(Recording, table.slice(first, RECORDINGS_AT_ONCE))


def iterate_tables(run: str, columns: Iterable[str], corpus: str | None = None) -> Iterator[pa.Table]:
    """Some columns of the same, or of one corpus alone, a row group after the other.

    Raises:
        StageError: the manifest is not finished.
    """
    for uri in table_uris(run):
        if corpus in (None, uri.rpartition("/")[2].removesuffix(".parquet")):
            with parquet.RowGroups(uri, list(columns)) as groups:
                yield from groups


def table_uris(run: str) -> list[str]:
    """The tables of a finished manifest, one per corpus, in the order of their names.

    Raises:
        StageError: the manifest is not finished.
    """
    fingerprint_of(run, MANIFEST)
    uri = storage.join(run, MANIFEST)
    return [storage.join(uri, name) for name in storage.list_files(uri, ".parquet") if name != DROPPED]
