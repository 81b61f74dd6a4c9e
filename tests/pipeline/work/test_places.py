"""Disks, mounts and stores that fail while a stage reads audio: nothing of that is booked on the files."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.encoder.config import EncoderConfig
from model.language_id import classifier as language_classifier
from pipeline.audio import places, read, voice_activity
from pipeline.audio.errors import AudioError
from pipeline.corpora import manifest
from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import AudioFile, CorpusConfig
from pipeline.errors import RunError, TwistError
from pipeline.files import parquet, s3, storage
from pipeline.language.config import AudioLanguageConfig, LanguageConfig
from pipeline.language.filter import filter_languages
from pipeline.packing.config import EvaluationSet
from pipeline.packing.evaluation_speech import read_evaluation_sets
from pipeline.runs import CODEBOOK, LANGUAGE, MANIFEST, SEGMENTS, UNITS
from pipeline.segments.config import SegmentConfig
from pipeline.segments.segment import make_segments
from pipeline.stage import is_finished, read_facts
from pipeline.units import codebook
from pipeline.units.codebook_fit import fit_codebook
from pipeline.units.config import CodebookConfig
from pipeline.units.tokenize import tokenize
from pipeline.work import dataflow
from pipeline.work.cluster import ClusterConfig
from pipeline.work.worker import decode, part_uri
from tests.progress import silently
from tests.s3_servers import FaultyProxy, point_clients_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.work.dataflow import Processor
    from pipeline.work.plan import WorkPlan

NUM_FILES = 12
BAD_FILE = "f03.wav"
STAGES = (MANIFEST, LANGUAGE, SEGMENTS, CODEBOOK, UNITS)


def run_here(
    plan: WorkPlan, parts: str, processor: type[Processor], processor_args: dict[str, Any], *_: object
) -> dict[str, Any]:
    """Stands in for dataflow.run_chunks, in this process; decodes as a worker does."""
    process = processor(**processor_args)
    witnesses = dataflow._Witnesses(plan)
    for chunk in plan:
        if storage.exists(part_uri(parts, chunk.name)):
            continue
        result, wavs = decode(chunk, 600.0, witnesses.of(chunk))
        if result.failure is not None:
            raise RunError(result.failure)
        assert result.error is None, result.error
        storage.put_if_absent(part_uri(parts, chunk.name), parquet.to_bytes(process(chunk, wavs)))
    return {}


class AllIsSpeech:
    def __init__(self, threshold: float) -> None:
        pass

    def __call__(self, wav: NDArray[np.float32]) -> list[tuple[float, float]]:
        return [(0.0, len(wav) / 16_000)]


class AllIsEnglish:
    labels = ("en", "de")

    def __call__(self, wavs: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.tensor([[0.75, 0.25]] * len(wavs))


@pytest.fixture(autouse=True)
def _without_ray_or_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataflow, "run_chunks", run_here)
    monkeypatch.setattr(voice_activity, "SpeechDetector", AllIsSpeech)
    monkeypatch.setattr(language_classifier, "load_language_classifier", lambda _: AllIsEnglish())
    monkeypatch.setattr(language_classifier, "find_language_classifier", lambda _: (None, "scripted"))
    monkeypatch.setattr(language_classifier, "fingerprint_of_classifier", lambda _: "scripted")
    monkeypatch.setattr(places, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(places, "FILE_PATIENCE_S", 0.05)
    monkeypatch.setattr(places, "PLACE_PATIENCE_S", 60.0)


def do(stage: str, run: str, audio: str, *, retry_dropped: bool = False) -> None:
    """Runs one stage."""
    cluster, retry = ClusterConfig(), {"retry_dropped": retry_dropped}
    if stage == MANIFEST:
        make_manifest(run, [CorpusConfig(audio)], silently, **retry)
    elif stage == LANGUAGE:
        config = AudioLanguageConfig(model="scripted", work_unit_minutes=0.15)
        filter_languages(run, LanguageConfig(audio=config, unknown="keep"), cluster, silently, **retry)
    elif stage == SEGMENTS:
        make_segments(run, SegmentConfig(detect_speech="all", work_unit_minutes=0.15), cluster, silently, **retry)
    elif stage == CODEBOOK:
        fit_codebook(run, CodebookConfig(num_units=5, num_iterations=3), EncoderConfig(), cluster, silently, **retry)
    else:
        tokenize(run, EncoderConfig(), cluster, silently, **retry)


def write_audio(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(NUM_FILES):
        noise = 0.1 * np.random.default_rng(number).standard_normal(3 * 16_000)
        soundfile.write(folder / f"f{number:02d}.wav", noise, 16_000)
    return folder


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audio(tmp_path_factory.mktemp("places") / "audio")


@pytest.fixture(scope="module")
def clean(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run in which nothing failed."""
    run = str(tmp_path_factory.mktemp("clean") / "run")
    with pytest.MonkeyPatch.context() as patch:
        _without_ray_or_models.__wrapped__(patch)  # type: ignore[attr-defined]
        for stage in STAGES:
            do(stage, run, str(audio))
    return run


def begun(clean: str, stage: str, folder: Path) -> str:
    """A run with all that comes before a stage."""
    for name in STAGES[: STAGES.index(stage)]:
        shutil.copytree(Path(clean, name), folder / "run" / name)
    return str(folder / "run")


def content(run: str, stage: str) -> dict[str, bytes]:
    """What a stage wrote, without times."""
    uri = storage.join(run, stage)
    names = [name for name in storage.list_files(uri) if name not in ("stage.json", ".lock")]
    return {name: storage.read_bytes(storage.join(uri, name)) for name in names}


class Disk:
    """Opening audio of some names fails with `number`, from the `first` time on that any is opened up to the `last`."""

    def __init__(self, number: int, first: int = 0, last: float = float("inf"), name: str = ".wav") -> None:
        self.number, self.first, self.last, self.name = number, first, last, name
        self.num_opened = 0
        self._open = storage.open_read
        self._lock = threading.Lock()

    def open_read(self, uri: str, *others: Any) -> Any:
        if uri.endswith(self.name):
            with self._lock:
                self.num_opened += 1
                fails = self.first < self.num_opened <= self.last
            if fails:
                raise OSError(self.number, os.strerror(self.number), uri)
        return self._open(uri, *others)


@pytest.fixture
def use_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Disk], None]:
    monkeypatch.setattr(read, "read_local_header", lambda _: None)  # which opens files by itself
    return lambda disk: monkeypatch.setattr(storage, "open_read", disk.open_read)


PLACE_FAULTS = [errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOENT, errno.EMFILE]


@pytest.mark.parametrize("number", PLACE_FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("stage", STAGES)
def test_a_place_that_fails_for_a_while_costs_nothing(
    stage: str, number: int, clean: str, audio: Path, tmp_path: Path, use_disk: Callable[[Disk], None]
) -> None:
    run = begun(clean, stage, tmp_path)
    use_disk(disk := Disk(number, first=4, last=60))
    do(stage, run, str(audio))
    assert disk.num_opened > 60, "the fault was never met"
    assert content(run, stage) == content(clean, stage)


@pytest.mark.parametrize("number", PLACE_FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("stage", STAGES)
def test_a_place_that_fails_for_good_ends_the_run(
    stage: str,
    number: int,
    clean: str,
    audio: Path,
    tmp_path: Path,
    use_disk: Callable[[Disk], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = begun(clean, stage, tmp_path)
    monkeypatch.setattr(places, "PLACE_PATIENCE_S", 0.1)
    use_disk(disk := Disk(number, first=4))
    with pytest.raises((RunError, ConnectionError), match=os.strerror(number)):
        do(stage, run, str(audio))
    assert not is_finished(run, stage)
    disk.last = 0
    do(stage, run, str(audio))
    assert content(run, stage) == content(clean, stage)


FILE_FAULTS = {errno.EIO: "io_error", errno.EACCES: "forbidden", errno.EPERM: "forbidden", errno.ENOENT: "missing"}


@pytest.mark.parametrize("number", FILE_FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_fails_alone_is_dropped_and_taken_up_again(
    stage: str, number: int, clean: str, audio: Path, tmp_path: Path, use_disk: Callable[[Disk], None]
) -> None:
    run = begun(clean, stage, tmp_path)
    use_disk(disk := Disk(number, name=BAD_FILE))
    do(stage, run, str(audio))
    if stage == LANGUAGE:  # which decides without having heard it
        assert read_facts(run, stage)["audio_evidence"]["unheard"]["items"] == 1
    else:
        dropped = read_facts(run, stage)["counts"]["dropped"]
        assert {reason: tally["items"] for reason, tally in dropped.items()} == {FILE_FAULTS[number]: 1}
    before = content(run, stage)
    assert before != content(clean, stage)
    do(stage, run, str(audio))
    assert content(run, stage) == before, "nobody asked for it to be taken up"
    disk.last = 0
    do(stage, run, str(audio), retry_dropped=True)
    assert content(run, stage) == content(clean, stage)
    do(stage, run, str(audio), retry_dropped=True)
    assert content(run, stage) == content(clean, stage)


class CachedFile(io.FileIO):
    """A file on a disk that is gone: the cache answers for it until its pages are dropped."""

    dropped: set[int] = set()  # noqa: RUF012

    def readinto(self, buffer: Any) -> int:
        if self.fileno() in self.dropped:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().readinto(buffer)


def test_a_disk_that_is_gone_while_the_cache_answers_for_others(
    clean: str, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(clean, UNITS, tmp_path)
    monkeypatch.setattr(places, "PLACE_PATIENCE_S", 0.1)
    monkeypatch.setattr(CachedFile, "dropped", set())
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *_: CachedFile.dropped.add(descriptor))
    open_read = storage.open_read

    def open_cached(uri: str, *others: Any) -> Any:
        if uri.endswith(BAD_FILE):
            raise OSError(errno.EIO, os.strerror(errno.EIO), uri)
        if not uri.endswith(".wav"):
            return open_read(uri, *others)
        file = CachedFile(uri)
        CachedFile.dropped.discard(file.fileno())
        return io.BufferedReader(file)

    monkeypatch.setattr(storage, "open_read", open_cached)
    with pytest.raises(RunError, match=f"{BAD_FILE}.*not this file alone"):
        do(UNITS, run, str(audio))
    assert not is_finished(run, UNITS)


def test_file_after_file_that_gives_io_errors(
    tmp_path: Path, use_disk: Callable[[Disk], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = write_audio(tmp_path / "audio")
    (audio / "metadata.jsonl").write_text('{"path": "f00.wav"}\n')  # which can be read
    run = str(tmp_path / "run")
    monkeypatch.setattr(places, "MAX_IO_ERRORS_IN_A_ROW", NUM_FILES)
    use_disk(disk := Disk(errno.EIO))
    with pytest.raises(RunError, match=f"{NUM_FILES} files in a row gave I/O errors, the last .*f11.wav"):
        do(MANIFEST, run, str(audio))
    assert not is_finished(run, MANIFEST)
    disk.name = "f0.wav"
    do(MANIFEST, run, str(audio))
    assert read_facts(run, MANIFEST)["counts"]["dropped"] == {}


@given(st.lists(st.sampled_from([None, *"abcde"])))
def test_io_errors_are_counted_by_file_since_the_last_that_was_read(files: list[str | None]) -> None:
    in_a_row = places.IoErrorsInARow()
    since: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "MAX_IO_ERRORS_IN_A_ROW", 4)
        for file in files:
            since = since | {file} if file else set()
            if len(since) == 4:
                with pytest.raises(RunError):
                    in_a_row.add([file])
                return
            in_a_row.add([file])


def test_which_io_errors_a_chunk_had() -> None:
    failed, gone, broken = (AudioError(reason, "") for reason in ("io_error", "missing", "unreadable"))
    uris = ["a", "a", "b", "c", "d", "t#offset=0&length=9&member=x", "t#offset=9&length=9&member=y", "e", "f", "g"]
    outcomes = [failed, failed, gone, failed, "clip", failed, failed, broken, "clip", failed]
    assert places.io_errors(uris, outcomes) == ("a", "c", None, "t", None, "g")


def test_names_of_files_that_are_not_there_are_dropped_however_many(audio: Path) -> None:
    corpus = CorpusConfig(str(audio))
    files = [AudioFile(f"{number}", f"{audio}/clips/{number}.wav") for number in range(1_000)]
    outcomes, failed = manifest._describe_all(corpus, files)
    assert {getattr(outcome, "reason", None) for outcome in outcomes} == {"missing"}
    assert failed == ()


def test_a_seek_that_fails_is_no_damage(audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(io.FileIO):
        num_seeks = 0

        def seek(self, *where: int) -> int:
            type(self).num_seeks += 1
            if self.num_seeks == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().seek(*where)

    monkeypatch.setattr(storage, "open_read", lambda uri, *_: io.BufferedReader(Stuck(uri), 512))
    reasons = []
    for failing in range(1, 30):
        Stuck.num_seeks = 0
        [clip] = read.read_clips([read.Span(str(audio / BAD_FILE), None, 1.0, 2.0)])
        if Stuck.num_seeks < failing:
            break
        reasons.append(clip.reason if isinstance(clip, AudioError) else "none")
    assert len(reasons) > 3 and set(reasons) == {"io_error"}, reasons


def test_a_corpus_folder_that_is_unmounted(audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PLACE_PATIENCE_S", 0.1)
    mine = Path(shutil.copytree(audio, tmp_path / "audio"))
    run = str(tmp_path / "run")
    for stage in (MANIFEST, LANGUAGE, SEGMENTS, CODEBOOK):
        do(stage, run, str(mine))
    mine.rename(tmp_path / "elsewhere")
    for is_mount_point_left in (False, True):
        if is_mount_point_left:
            mine.mkdir()
        with pytest.raises(RunError, match="not this file alone"):
            do(UNITS, run, str(mine))
    mine.rmdir()
    (tmp_path / "elsewhere").rename(mine)
    do(UNITS, run, str(mine))
    assert read_facts(run, UNITS)["counts"]["dropped"] == {}


def test_a_corpus_that_goes_away_while_it_is_listed(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PLACE_PATIENCE_S", 0.1)
    mine = Path(shutil.copytree(audio, tmp_path / "audio"))
    list_local = storage._list_local

    def list_half(folder: str, *others: Any) -> Iterator[str]:
        for number, name in enumerate(list_local(folder, *others)):
            if number == 5 and mine.exists():
                mine.rename(tmp_path / "elsewhere")
                return
            yield name

    monkeypatch.setattr(storage, "_list_local", list_half)
    with pytest.raises(ConnectionError):
        do(MANIFEST, str(tmp_path / "run"), str(mine))
    assert not is_finished(str(tmp_path / "run"), MANIFEST)


def test_evaluation_sets(clean: str, audio: Path, use_disk: Callable[[Disk], None]) -> None:
    book = codebook.load(storage.join(clean, CODEBOOK))
    sets = [EvaluationSet(str(audio))]
    _, num_short = before = read_evaluation_sets(sets, EncoderConfig(), book)
    use_disk(Disk(errno.EIO, first=6, last=40))
    index, again = read_evaluation_sets(sets, EncoderConfig(), book)
    assert again == num_short and [clip.name for clip in index.clips] == [clip.name for clip in before[0].clips]
    use_disk(Disk(errno.EIO, name=BAD_FILE))
    with pytest.raises(RunError, match=f"{BAD_FILE}.*io_error"):
        read_evaluation_sets(sets, EncoderConfig(), book)


def test_a_table_beside_a_file_that_cannot_be_read(
    corpus_tree: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = str(tmp_path / "run"), [CorpusConfig(str(corpus_tree("libri_light")), "libri_light")]
    make_manifest(f"{run}-clean", config, silently)
    clean = content(f"{run}-clean", MANIFEST)
    read_bytes, first = storage.read_bytes, []

    def fail_for_the_first(uri: str) -> bytes:
        if uri.endswith(".json") and uri.startswith(config[0].root):
            first[:] = first or [uri]
            if uri == first[0]:
                raise PermissionError(errno.EACCES, "Permission denied", uri)
        return read_bytes(uri)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "read_bytes", fail_for_the_first)
        make_manifest(run, config, silently)
    assert read_facts(run, MANIFEST)["counts"]["dropped"]["forbidden"]["items"] >= 1
    make_manifest(run, config, silently, retry_dropped=True)
    assert content(run, MANIFEST) == clean


# The same on S3


@pytest.fixture
def proxy(_s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(_s3_endpoint, seed=3, share_of_faults=0.0).running() as proxy:
        point_clients_at(_s3_endpoint, monkeypatch)
        monkeypatch.setattr(s3, "LONGEST_PAUSE_S", 0.05)
        monkeypatch.setattr(s3, "DENIED_PATIENCE_S", 0.3)
        monkeypatch.setattr(s3, "_access", s3._Access())
        yield proxy
    s3.client_of_process.cache_clear()


@pytest.fixture
def bucket(proxy: FaultyProxy, audio: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket, behind the proxy, with the corpus in it."""
    uri = f"s3://test-{secrets.token_hex(8)}"
    boto3.client("s3").create_bucket(Bucket=uri.removeprefix("s3://"))
    for path in sorted(audio.iterdir()):
        storage.write_bytes(f"{uri}/audio/{path.name}", path.read_bytes())
    point_clients_at(proxy.url, monkeypatch)
    return uri


def units_of(run: str) -> dict[str, bytes]:
    return {name: data for name, data in content(run, UNITS).items() if name != "DONE"}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_store_that_fails_requests_costs_nothing(share: float, clean: str, bucket: str, proxy: FaultyProxy) -> None:
    proxy.share_of_faults = share
    for stage in STAGES:
        do(stage, f"{bucket}/run", f"{bucket}/audio")
    proxy.share_of_faults = 0.0
    assert proxy.met
    for stage in STAGES:
        assert read_facts(f"{bucket}/run", stage)["counts"]["dropped"] == {}
    assert units_of(f"{bucket}/run") == units_of(clean)


REFUSALS = [
    (403, "AccessDenied"),
    (403, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch"),
    (403, "RequestTimeTooSkewed"),
    (400, "ExpiredToken"),
    (401, "Unauthorized"),
    (404, "NoSuchBucket"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=[code for _, code in REFUSALS])
@pytest.mark.parametrize("stage", [MANIFEST, UNITS])
def test_a_store_that_refuses_all_audio(
    stage: str, refusal: tuple[int, str], bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, corpus = f"{bucket}/run", f"{bucket}/audio"
    for before in STAGES[: STAGES.index(stage)]:
        do(before, run, corpus)
    monkeypatch.setattr(places, "PLACE_PATIENCE_S", 0.1)
    monkeypatch.setattr(s3, "PATIENCE_S", 0.5)
    granted: list[str] = []

    def refuse_from_the_tenth(_: str, path: str) -> tuple[int, str] | None:
        if "/audio/" not in path:
            return None
        granted.append(path)
        return refusal if len(granted) > 10 else None

    proxy.refusal = refuse_from_the_tenth
    with pytest.raises((RunError, OSError)):
        do(stage, run, corpus)
    assert not is_finished(run, stage)
    proxy.refusal = lambda *_: None
    do(stage, run, corpus)
    assert read_facts(run, stage)["counts"]["dropped"] == {}


def test_refusals_that_pass_are_waited_for(bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "DENIED_PATIENCE_S", 60.0)
    random = np.random.default_rng(0)
    proxy.refusal = lambda *_: (403, "AccessDenied") if random.random() < 0.3 else None
    for stage in STAGES:
        do(stage, f"{bucket}/run", f"{bucket}/audio")
        assert read_facts(f"{bucket}/run", stage)["counts"]["dropped"] == {}


def test_one_forbidden_object(bucket: str, proxy: FaultyProxy) -> None:
    run, corpus = f"{bucket}/run", f"{bucket}/audio"
    proxy.refusal = lambda _, path: (403, "AccessDenied") if path.endswith(BAD_FILE) else None
    do(MANIFEST, run, corpus)
    dropped = read_facts(run, MANIFEST)["counts"]["dropped"]
    assert {reason: tally["items"] for reason, tally in dropped.items()} == {"forbidden": 1}
    proxy.refusal = lambda *_: None
    do(MANIFEST, run, corpus, retry_dropped=True)
    assert read_facts(run, MANIFEST)["counts"]["dropped"] == {}


def test_a_store_without_conditional_writes_is_told_as_such(bucket: str, proxy: FaultyProxy) -> None:
    proxy.refusal = lambda method, _: (501, "NotImplemented") if method == "PUT" else None
    with pytest.raises(TwistError, match=r"If-None-Match"):
        storage.require_conditional_put(f"{bucket}/run")
    proxy.refusal = lambda *_: None
    storage.require_conditional_put(f"{bucket}/run")
    assert not [name for name in storage.list_files(f"{bucket}/run") if "probe" in name]


def test_a_stage_says_so_before_it_does_anything(bucket: str, proxy: FaultyProxy) -> None:
    asked: list[str] = []

    def refuse_conditions(method: str, path: str) -> tuple[int, str] | None:
        asked.append(path)
        return (501, "NotImplemented") if method == "PUT" and "probe" in path else None

    proxy.refusal = refuse_conditions
    with pytest.raises(TwistError, match=r"If-None-Match.*Put the run on a disk, or into a store that can"):
        do(MANIFEST, f"{bucket}/run", f"{bucket}/audio")
    assert not [path for path in asked if "/audio/" in path]


def test_a_table_that_may_not_be_read_is_a_failure_not_a_mistake(bucket: str, proxy: FaultyProxy) -> None:
    do(MANIFEST, f"{bucket}/run", f"{bucket}/audio")
    proxy.refusal = lambda _, path: (403, "AccessDenied") if path.endswith("audio.parquet") else None
    with pytest.raises(PermissionError, match=r"audio\.parquet"):
        do(LANGUAGE, f"{bucket}/run", f"{bucket}/audio")
