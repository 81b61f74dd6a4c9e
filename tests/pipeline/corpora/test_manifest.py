from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.corpora import manifest
from pipeline.corpora.manifest import make_manifest, read_recordings
from pipeline.corpora.readers import find_recordings
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notice
from pipeline.files import parquet, storage
from pipeline.stage import StageError, fingerprint_of, read_facts
from pipeline.work import cluster, map_tasks
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from conftest import WriteTone


def dropped(run: str) -> dict[str, str]:
    """Reasons by id."""
    rows = parquet.read(storage.join(run, "manifest", "dropped.parquet")).to_pylist()
    return {row["id"]: row["reason"] for row in rows}


@pytest.fixture
def corpus(tmp_path: Path, write_tone: WriteTone) -> CorpusConfig:
    """Three good files, two bad ones, a row without a file, and a table."""
    root = tmp_path / "corpus"
    write_tone(root / "a.wav", 1.0)
    write_tone(root / "sub" / "b 'ü'.x.flac", 2.0, rate_hz=44_100, channels=2)
    write_tone(root / "c.wav", 0.1)
    (root / "bad.wav").write_text("This is not audio. " * 10)
    (root / "empty.ogg").touch()
    (root / "metadata.csv").write_text("path,language,speaker,split,text\na.wav,en-US,1,train,Hello\ngone.wav,en,1,,\n")
    return CorpusConfig(str(root))


def test_what_is_kept_and_what_is_dropped(corpus: CorpusConfig, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    seen: list[tuple[int, int]] = []
    make_manifest(run, [corpus], lambda done, total, *_: seen.append((done, total)))
    by_id = {recording.recording_id: recording for recording in read_recordings(run)}
    assert list(by_id) == ["corpus/a.wav", "corpus/c.wav", "corpus/sub/b 'ü'.x.flac"], "not in the order of the paths"
    a, b = by_id["corpus/a.wav"], by_id["corpus/sub/b 'ü'.x.flac"]
    assert (a.language, a.speaker, a.split, a.text) == ("en-US", "corpus/1", "train", "Hello")
    assert (b.duration_s, b.sample_rate_hz, b.num_channels, b.channel) == (2.0, 44_100, 2, None)
    assert (b.language, b.speaker, b.split, b.text, b.voice_activity, b.language_source) == (None,) * 6
    assert b.uri == str(tmp_path / "corpus" / "sub" / "b 'ü'.x.flac")
    assert dropped(run) == {"corpus/bad.wav": "unreadable", "corpus/empty.ogg": "empty", "corpus/gone.wav": "missing"}
    counts = read_facts(run, "manifest")["counts"]
    assert counts["input"]["items"] == 6
    assert counts["kept"] == {"items": 3, "hours": pytest.approx(3.1 / 3600)}
    assert counts["input"]["hours"] == counts["kept"]["hours"], "hours of what cannot be read are unknown"
    assert seen[-1] == (6, 6), "progress does not end where the files do"


def test_broken_files(speech: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    make_manifest(run, [CorpusConfig(str(speech / "broken"))], silently)
    kept = {recording.uri.rpartition("__")[2] for recording in read_recordings(run)}
    # The first file decodes for a while, the second is all zeros: both faults show only when samples are read.
    assert kept == {"p001.flac", "digital_silence.wav", "empty.wav"}
    assert sorted(dropped(run).values()) == ["empty", "empty", "unreadable", "unreadable", "unreadable"]


def test_real_librispeech(speech: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    make_manifest(run, [CorpusConfig(str(speech / "LibriSpeech"))], silently)
    recordings = read_recordings(run)
    assert len(recordings) == 33
    assert {recording.speaker for recording in recordings} == {
        f"librivox/{speaker}" for speaker in (103, 1034, 1040, 1688, 1998, 2033)
    }
    assert all(recording.sample_rate_hz == 16_000 and recording.language == "en" for recording in recordings)
    assert not dropped(run)


def test_auto_takes_a_mixed_folder_as_a_folder(speech: Path, tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    shutil.copytree(speech / "LibriSpeech" / "train-clean-100", root / "train-clean-100")
    run = str(tmp_path / "run")
    make_manifest(run, [CorpusConfig(str(root))], silently)
    assert [recording.speaker for recording in read_recordings(run)] == [f"librivox/{id}" for id in (103, 1034, 1040)]
    shutil.copy(speech / "formats" / "stereo.wav", root / "stereo.wav")
    run = str(tmp_path / "run2")
    make_manifest(run, [CorpusConfig(str(root))], silently)
    assert len(read_recordings(run)) == 4, "the file beside the tree was overlooked"
    run = str(tmp_path / "run3")
    make_manifest(run, [CorpusConfig(str(root), kind="librispeech")], silently)
    assert len(read_recordings(run)) == 3
    [dropped] = parquet.read(f"{run}/manifest/dropped.parquet").to_pylist()
    assert (dropped["id"], dropped["reason"]) == ("mixed/stereo.wav", "misplaced")


def test_metadata_makes_it_a_folder(speech: Path, tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    table.write_text("path,speaker\ntrain-clean-100/103/1240/103-1240-0000.flac,someone\n")
    run = str(tmp_path / "run")
    make_manifest(run, [CorpusConfig(str(speech / "LibriSpeech"), metadata=str(table))], silently)
    assert {recording.speaker for recording in read_recordings(run)} == {None, "LibriSpeech/someone"}


def test_corpora_side_by_side(corpus: CorpusConfig, tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone(tmp_path / "other" / "a.wav", 1.0)
    other = CorpusConfig(str(tmp_path / "other"), name="A-corpus", language="de")
    run = str(tmp_path / "run")
    make_manifest(run, [corpus, other], silently)
    recordings = read_recordings(run)
    assert [recording.corpus for recording in recordings] == ["A-corpus", "corpus", "corpus", "corpus"]
    assert [recording.language for recording in recordings] == ["de", "en-US", None, None]
    assert storage.list_files(storage.join(run, "manifest"), ".parquet") == [
        "A-corpus.parquet",
        "corpus.parquet",
        "dropped.parquet",
    ]


def test_a_corpus_language_fills_only_gaps(corpus: CorpusConfig, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    make_manifest(run, [CorpusConfig(corpus.root, language="fr")], silently)
    assert [recording.language for recording in read_recordings(run)] == ["en-US", "fr", "fr"]


def test_one_id_is_kept_once(tmp_path: Path, write_tone: WriteTone) -> None:
    for copy in ("first", "second"):
        write_tone(tmp_path / "corpus" / copy / "dev-clean/1/2/1-2-0000.flac", 1.0)
    run = str(tmp_path / "run")
    make_manifest(run, [CorpusConfig(str(tmp_path / "corpus"))], silently)
    (recording,) = read_recordings(run)
    assert "/first/" in recording.uri
    assert dropped(run) == {"corpus/1-2-0000": "duplicate_id"}
    counts = read_facts(run, "manifest")["counts"]
    assert counts["dropped"]["duplicate_id"]["hours"] == pytest.approx(1 / 3600)


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are always UTF-8 there")
def test_names_that_are_not_utf_8(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone(tmp_path / "corpus" / "good\\udce4.wav", 1.0)  # a backslash is a character like any other
    bad = os.fsencode(tmp_path / "corpus") + b"/caf\xe9.wav"
    shutil.copy(tmp_path / "corpus" / "good\\udce4.wav", os.fsdecode(bad))
    run = str(tmp_path / "run")
    make_manifest(run, [CorpusConfig(str(tmp_path / "corpus"))], silently)
    assert [recording.recording_id for recording in read_recordings(run)] == ["corpus/good\\udce4.wav"]
    assert dropped(run) == {"corpus/caf\\udce9.wav": "bad_name"}


def test_odd_rows_are_dropped_with_a_reason(tmp_path: Path, write_tone: WriteTone) -> None:
    root = tmp_path / "corpus"
    for name in ("a.wav", "b.wav", "c.wav"):
        write_tone(root / name, 1.0)
    (root / "folder.wav").mkdir()
    (root / "metadata.jsonl").write_text(
        '{"path": "a.wav", "split": "validation"}\n'
        '{"path": "b.wav", "split": "eval"}\n'
        '{"path": "nul\\u0000.wav"}\n'
        '{"path": "folder.wav"}\n'
    )
    run = str(tmp_path / "run")
    make_manifest(run, [CorpusConfig(str(root))], silently)
    assert [recording.split for recording in read_recordings(run)] == ["validation", None]
    assert dropped(run) == {
        "corpus/b.wav": "unknown_split",
        "corpus/nul\0.wav": "bad_name",
        "corpus/folder.wav": "missing",
    }


# Again


def test_a_second_call_does_nothing(corpus: CorpusConfig, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    make_manifest(run, [corpus], silently)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "manifest").iterdir() if path.suffix}

    def fail(*_: Any) -> None:
        raise AssertionError("files were probed again")

    make_manifest(run, [corpus], fail)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "manifest").iterdir() if path.suffix}
    assert after == before


def test_two_runs_give_the_same_bytes(corpus: CorpusConfig, folder: str) -> None:
    runs = [storage.join(folder, name) for name in ("first", "second")]
    for run in runs:
        make_manifest(run, [corpus], silently)
    for name in ("corpus.parquet", "dropped.parquet", "DONE"):
        first, second = (storage.read_bytes(storage.join(run, "manifest", name)) for run in runs)
        assert first == second, f"{name} differs"


def test_the_fingerprint_covers_the_content(corpus: CorpusConfig, tmp_path: Path, write_tone: WriteTone) -> None:
    fingerprints = []
    for number in range(2):
        make_manifest(str(tmp_path / str(number)), [corpus], silently)
        fingerprints.append(fingerprint_of(str(tmp_path / str(number)), "manifest"))
        write_tone(tmp_path / "corpus" / "new.wav", 1.0)
    assert fingerprints[0] != fingerprints[1], "a new file in the corpus went unnoticed"


def test_relative_roots_are_found_from_elsewhere(
    corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_manifest("run", [CorpusConfig("corpus")], silently)
    assert {recording.uri for recording in read_recordings("run")} == {
        f"{corpus.root}/{name}" for name in ("a.wav", "c.wav", "sub/b 'ü'.x.flac")
    }


def test_corpus_on_s3(corpus: CorpusConfig, s3_folder: str, tmp_path: Path) -> None:
    for name in storage.list_files(corpus.root):
        storage.write_bytes(storage.join(s3_folder, "corpus", name), (tmp_path / "corpus" / name).read_bytes())
    run = f"{s3_folder}/run"
    make_manifest(run, [CorpusConfig(f"{s3_folder}/corpus")], silently)
    assert [recording.uri for recording in read_recordings(run)] == [
        f"{s3_folder}/corpus/{name}" for name in ("a.wav", "c.wav", "sub/b 'ü'.x.flac")
    ]
    assert dropped(run) == {"corpus/bad.wav": "unreadable", "corpus/empty.ogg": "empty", "corpus/gone.wav": "missing"}


def test_where_the_headers_are_read_changes_nothing(
    corpus: CorpusConfig, corpus_tree: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def map_backwards(function: Callable[[Any], Any], items: Iterable[Any], **_: Any) -> Iterator[Any]:
        """Stands in for cluster.map_tasks, but processes items in reverse; function and items are pickled."""
        work = [pickle.loads(pickle.dumps((function, item))) for item in items]
        assert work, "Ray was started for nothing"
        return reversed([function(item) for function, item in reversed(work)])

    corpora = [corpus, *(CorpusConfig(str(corpus_tree(kind)), kind) for kind in ("libri_light", "webdataset"))]  # type: ignore[arg-type]
    make_manifest(str(tmp_path / "here"), corpora, silently)
    monkeypatch.setattr(cluster, "map_tasks", map_backwards)
    monkeypatch.setattr(map_tasks, "SECONDS_HERE", 0.0)
    monkeypatch.setattr(manifest, "FILES_PER_TASK", 2)
    make_manifest(str(tmp_path / "there"), corpora, silently)
    for name in ("corpus.parquet", "libri_light.parquet", "webdataset.parquet", "dropped.parquet", "DONE"):
        here, there = ((tmp_path / run / "manifest" / name).read_bytes() for run in ("here", "there"))
        assert here == there, f"{name} differs"


def test_row_groups(corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_manifest(str(tmp_path / "one"), [corpus], silently)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 2)
    make_manifest(str(tmp_path / "more"), [corpus], silently)
    with parquet.RowGroups(str(tmp_path / "more/manifest/corpus.parquet")) as groups:
        assert [len(group) for group in groups] == [2, 1]
    assert read_recordings(str(tmp_path / "more")) == read_recordings(str(tmp_path / "one"))


def test_finished_corpora_are_not_listed_again(
    corpus: CorpusConfig, tmp_path: Path, write_tone: WriteTone, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tone(tmp_path / "other" / "a.wav", 1.0)
    other = CorpusConfig(str(tmp_path / "other"))
    make_manifest(str(tmp_path / "whole"), [corpus, other], silently)
    listed: list[str] = []

    def list_and_die(config: CorpusConfig) -> Iterator[AudioFile]:
        listed.append(config.label)
        if listed == ["corpus", "other"]:
            raise ConnectionError("the bucket is gone")
        return find_recordings(config)

    monkeypatch.setattr(manifest, "find_recordings", list_and_die)
    run = str(tmp_path / "run")
    with pytest.raises(ConnectionError):
        make_manifest(run, [corpus, other], silently)
    make_manifest(run, [corpus, other], silently)
    assert listed == ["corpus", "other", "other"]
    for name in ("corpus.parquet", "other.parquet", "dropped.parquet", "DONE"):
        resumed, whole = ((tmp_path / kind / "manifest" / name).read_bytes() for kind in ("run", "whole"))
        assert resumed == whole, f"{name} is another after an interruption"
    assert not list((tmp_path / "run/manifest").glob("*.drops"))


def test_a_recipe_can_be_mended_after_its_second_corpus_failed(
    corpus: CorpusConfig, tmp_path: Path, speech: Path
) -> None:
    run = str(tmp_path / "run")
    with pytest.raises(CorpusError, match="holds no LibriSpeech tree"):
        make_manifest(run, [corpus, CorpusConfig(str(speech / "librivox"), "librispeech")], silently)
    make_manifest(run, [corpus, CorpusConfig(str(speech / "librivox"), "folder")], silently)
    assert len(read_recordings(run)) == 11


@pytest.mark.parametrize("told", ["language", None])
def test_where_the_language_was_said(corpus_tree: Callable[[str], Path], tmp_path: Path, told: str | None) -> None:
    config = CorpusConfig(str(corpus_tree("peoples_speech")), "peoples_speech", language=told and "en")
    make_manifest(str(tmp_path), [config], silently)
    expected = ("en", "recipe") if told else (None, None)
    assert {(r.language, r.language_source) for r in read_recordings(str(tmp_path))} == {expected}


# Mistakes


def test_mistakes_are_one_clear_error(speech: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no-audio").mkdir()
    (tmp_path / "no-audio" / "readme.txt").touch()
    (tmp_path / "broken").mkdir()
    for name in ("cmusphinx__pocketsphinx__awful.wav", "cmusphinx__pocketsphinx__bad.wav"):
        shutil.copy(speech / "broken" / name, tmp_path / "broken" / name.rpartition("__")[2])
    for root, message in [
        ("missing", r"missing does not exist or is empty; it is the root of corpus missing"),
        ("empty", r"empty does not exist or is empty"),
        ("no-audio/readme.txt", r"readme\.txt is a file; name the folder"),
        ("no-audio", r"no-audio holds no audio files"),
        ("broken", r"none of 2 audio files can be used, e\.g\. broken/awful\.wav: unreadable \(.*Hz\)"),
    ]:
        with pytest.raises(CorpusError, match=message):
            make_manifest(str(tmp_path / "run"), [CorpusConfig(str(tmp_path / root))], silently)
        with pytest.raises(StageError, match="not finished"):
            read_recordings(str(tmp_path / "run"))
    make_manifest(str(tmp_path / "run"), [CorpusConfig(str(speech / "LJSpeech" / "wavs"))], silently)
    assert len(read_recordings(str(tmp_path / "run"))) == 8, "after mistakes, the right folder must be accepted"


def test_a_root_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/x")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CorpusError, match=r"root of corpus x cannot be listed: .*Permission denied"):
        make_manifest(str(tmp_path / "run"), [CorpusConfig(str(tmp_path), name="x")], silently)


def test_two_corpora_of_one_name(corpus: CorpusConfig, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="two corpora are called 'corpus'; give each a `name`"):
        make_manifest(str(tmp_path / "run"), [corpus, CorpusConfig("/elsewhere/corpus")], silently)


def test_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no corpus is named"):
        make_manifest(str(tmp_path / "run"), [], silently)


def test_other_corpora_are_refused(corpus: CorpusConfig, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    make_manifest(run, [corpus], silently)
    with pytest.raises(StageError, match=r"corpora\[0\]\.language was null, is \"en\""):
        make_manifest(run, [CorpusConfig(corpus.root, language="en")], silently)


# What is noticed


def test_what_is_noticed_is_kept_across_interruptions(tmp_path: Path, write_tone: WriteTone, monkeypatch: Any) -> None:
    roots = [tmp_path / name for name in ("first", "second")]
    for root in roots:
        for name in ("a.wav", "b.wav", "c.wav", "d.wav"):
            write_tone(root / name, 1.0)
        (root / "metadata.csv").write_text("path,language,locale\na.wav,en,\nb.wav,N/A,\nc.wav,mul,\nd.wav,zxx,\n")
    run = str(tmp_path / "run")
    corpora = [CorpusConfig(str(root)) for root in roots]

    def list_first_and_die(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
        if config.label == "second":
            raise ConnectionError("gone")
        return find_recordings(config)

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "find_recordings", list_first_and_die)
        with pytest.raises(ConnectionError):
            make_manifest(run, corpora, silently)
    make_manifest(run, corpora, silently)
    facts = read_facts(run, "manifest")
    assert facts["notices"].keys() == facts["recognized"].keys() == {"first", "second"}
    for name, told in facts["notices"].items():
        assert told["unknown_language_tag"] == {"count": 2, "example": "'N/A' of b.wav"}, name
        assert told["unused_column"]["count"] == 1
    assert dropped(run) == {"first/d.wav": "no_speech", "second/d.wav": "no_speech"}
    assert not [name for name in storage.list_files(run) if name.endswith((".notices", ".drops"))]


def lhotse_corpus(root: Path, write_tone: WriteTone, stated: Callable[[float], float], count: int = 5) -> CorpusConfig:
    rows = []
    for number in range(count):
        length_s = 1.0 + number / 2
        write_tone(root / f"{number}.wav", length_s)
        source = {"type": "file", "channels": [0], "source": f"{number}.wav"}
        rows.append({"id": str(number), "sources": [source], "sampling_rate": 16000, "duration": stated(length_s)})
    (root / "recordings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CorpusConfig(str(root), "lhotse")


@pytest.mark.parametrize(("factor", "unit"), [(1000, "milliseconds"), (16_000, "samples"), (1 / 60, "minutes")])
def test_lengths_in_another_unit_are_refused(factor: float, unit: str, tmp_path: Path, write_tone: WriteTone) -> None:
    corpus = lhotse_corpus(tmp_path / "c", write_tone, lambda length_s: length_s * factor)
    with pytest.raises(CorpusError, match=rf"states as 'duration' are not in seconds: of 5 .* factor of .*in {unit}"):
        make_manifest(str(tmp_path / "run"), [corpus], silently)


def test_lengths_that_are_otherwise_wrong_are_noticed(tmp_path: Path, write_tone: WriteTone) -> None:
    corpus = lhotse_corpus(tmp_path / "c", write_tone, lambda length_s: length_s + (3 if length_s > 1.5 else 0.1))
    make_manifest(str(tmp_path / "run"), [corpus], silently)
    notice = read_facts(str(tmp_path / "run"), "manifest")["notices"]["c"]["other_length"]
    assert notice["count"] == 3 and "the corpus says" in notice["example"]


def nemo_corpus(root: Path, write_tone: WriteTone, stretches: list[list[tuple[float, float]]]) -> CorpusConfig:
    rows = []
    for number, times in enumerate(stretches):
        write_tone(root / f"{number}.wav", 5.0)
        rows += [{"audio_filepath": f"{number}.wav", "offset": start, "duration": length} for start, length in times]
    (root / "train.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CorpusConfig(str(root), "nemo")


def test_times_beyond_the_end_are_noticed(tmp_path: Path, write_tone: WriteTone) -> None:
    corpus = nemo_corpus(tmp_path / "c", write_tone, [[(0, 2), (4, 1.3)], [(1, 2), (6, 1)], [(1, 2), (500, 1)]])
    make_manifest(str(tmp_path / "run"), [corpus], silently)
    notice = read_facts(str(tmp_path / "run"), "manifest")["notices"]["c"]["times_beyond_end"]
    assert notice == {"count": 2, "example": "c/1.wav: speech until 7 s in 5 s"}


def test_times_in_another_unit_are_refused(tmp_path: Path, write_tone: WriteTone) -> None:
    corpus = nemo_corpus(tmp_path / "c", write_tone, [[(0, 2000)], [(1000, 2000), (3500, 500)]])
    with pytest.raises(CorpusError, match=r"times of speech that corpus c .* in 2 of 2 recordings they lie far beyond"):
        make_manifest(str(tmp_path / "run"), [corpus], silently)


def test_a_language_that_is_none_is_refused() -> None:
    with pytest.raises(CorpusError, match="'klingonese' of corpus c is the code or name of no language"):
        CorpusConfig("/data/c", language="klingonese")
