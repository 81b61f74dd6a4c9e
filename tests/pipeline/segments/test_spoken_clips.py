"""Alignments find the recordings that they are of."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.evaluation.units.alignments import Interval, labels_at
from pipeline.files.audio_uri import ParquetRow, TarMember
from pipeline.language.config import LanguageConfig
from pipeline.language.filter import filter_languages
from pipeline.records import NO_PHONE
from pipeline.segments.clip_phones import ClipPhones, Spoken, read_clip_phones
from pipeline.segments.config import SegmentConfig
from pipeline.segments.segment import make_segments
from pipeline.segments.spoken_clips import read_spoken_clips
from pipeline.work import cluster, dataflow
from pipeline.work.cluster import ClusterConfig
from tests.conftest import map_here, run_here
from tests.progress import silently

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("one/s1/a", "one/s1/b", "one/s2/a", "one/s2/b", "two/a", "two/b", "two/c", "two/d")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a segmented run, `run`, and of its two corpora; `one` has a folder for each speaker."""
    folder = tmp_path_factory.mktemp("clips")
    for place, name in enumerate(NAMES):
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(place).normal(0, 0.1, 32_000), 16_000)
    corpora = [CorpusConfig(str(folder / name), name=name) for name in ("one", "two")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataflow, "run_chunks", run_here)
        patch.setattr(cluster, "map_tasks", map_here)
        make_manifest(str(folder / "run"), corpora, silently)
        filter_languages(str(folder / "run"), LanguageConfig(unknown="keep"), ClusterConfig(), silently)
        make_segments(str(folder / "run"), SegmentConfig(detect_speech="none"), ClusterConfig(), silently)
    return folder


def write(path: Path, label: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"0.0 1.0 {label}\n1.0 2.0 SIL\n")


def phones_by_path(run: Path, phones: object) -> dict[str, set[str]]:
    """The names of the phones of each recording that has some."""
    said = {}
    for clips in read_spoken_clips(str(run / "run"), 0.3, phones):  # type: ignore[arg-type]
        for index, uri in enumerate(clips.table["uri"].to_pylist()):
            numbers = clips.phones_at(index, np.array([0.5, 1.5]))
            if (numbers != NO_PHONE).all():
                assert clips.phone_sets[clips.corpora[index]][numbers].all()
                said[str(uri).removeprefix(f"{run}/")] = {clips.phones.names[number] for number in numbers}
    return said


def test_a_folder_for_a_corpus_may_lie_anywhere(run: Path, tmp_path: Path) -> None:
    write(tmp_path / "s1/a.lab", "AA")
    write(tmp_path / "s2/a.lab", "B")
    said = phones_by_path(run, {"one": str(tmp_path)})
    assert said == {"one/s1/a.wav": {"AA", "SIL"}, "one/s2/a.wav": {"B", "SIL"}}


def test_each_corpus_has_phones_of_its_own(run: Path, tmp_path: Path) -> None:
    write(tmp_path / "x/s1/b.lab", "AA")
    write(tmp_path / "y/a.lab", "ɑ")
    said = phones_by_path(run, {"one": str(tmp_path / "x"), "two": str(tmp_path / "y")})
    assert said == {"one/s1/b.wav": {"AA", "SIL"}, "two/a.wav": {"ɑ", "SIL"}}
    clips, _ = read_spoken_clips(str(run / "run"), 0.3, {"one": str(tmp_path / "x"), "two": str(tmp_path / "y")})
    assert clips.phones.names == ("AA", "SIL", "ɑ")
    assert clips.phone_sets.tolist() == [[True, True, False], [False, True, True]]


def test_a_folder_for_all_lies_as_the_recordings_do(run: Path) -> None:
    write(run / "one/s1/a.lab", "AA")
    try:
        assert phones_by_path(run, str(run)) == {"one/s1/a.wav": {"AA", "SIL"}}
    finally:
        (run / "one/s1/a.lab").unlink()


def test_what_fits_nothing_or_two_is_refused(run: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.lab", "AA")
    for phones, said in (
        ({"one": str(tmp_path)}, "may be of"),
        ({"three": str(tmp_path)}, "names the corpus three, of which the run has no segment; it has one, two"),
        (str(tmp_path), "name the corpus that they are of"),
    ):
        with pytest.raises(TwistError, match=re.escape(said)):
            read_spoken_clips(str(run / "run"), 0.3, phones)  # type: ignore[arg-type]
    other = tmp_path / "other"
    write(other / "z.lab", "AA")
    with pytest.raises(TwistError, match="has 1 alignments, such as z, but none of a recording of its corpus"):
        read_spoken_clips(str(run / "run"), 0.3, {"one": str(other)})


def test_damaged_alignments_are_told(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1/a.lab").write_text("0.5 0.2 AA\n")
    with pytest.raises(TwistError, match=r"all 1 alignments of spin.phones .* cannot be used, such as s1/a: bad_align"):
        read_spoken_clips(str(run / "run"), 0.3, {"one": str(tmp_path)})
    write(tmp_path / "s1/b.lab", "AA")
    assert phones_by_path(run, {"one": str(tmp_path)}) == {"one/s1/b.wav": {"AA", "SIL"}}
    assert "1 alignments of spin.phones" in caplog.text


def test_links_and_members_of_tars_keep_their_names(tmp_path: Path) -> None:
    stored = tmp_path / "store/5f3a"
    stored.parent.mkdir()
    stored.touch()
    linked = tmp_path / "corpus/s1/a.flac"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(stored)
    member = str(TarMember("s3://bucket/audio.tar", 512, 1_000, "corpus/s2/b.flac"))
    row = str(ParquetRow("s3://bucket/audio.parquet", 0, 0, "audio"))
    write(tmp_path / "aligned/s1/a.lab", "AA")
    write(tmp_path / "aligned/s2/b.lab", "B")
    found = read_clip_phones(dict.fromkeys([str(linked), member, row], "one"), {"one": str(tmp_path / "aligned")})
    said = {uri: [found.names[number] for number in spoken.numbers] for uri, spoken in found.of_recording.items()}
    assert said == {str(linked): ["AA", "SIL"], member: ["B", "SIL"]}


def test_the_longer_name_is_preferred(tmp_path: Path) -> None:
    write(tmp_path / "a.lab", "AA")
    write(tmp_path / "s1/a.lab", "B")
    found = read_clip_phones(dict.fromkeys(["s3://b/s1/a.wav", "s3://b/s2/a.wav"], "one"), {"one": str(tmp_path)})
    said = {uri: found.names[spoken.numbers[0]] for uri, spoken in found.of_recording.items()}
    assert said == {"s3://b/s1/a.wav": "B", "s3://b/s2/a.wav": "AA"}


def test_phones_at_times_are_those_of_the_alignment() -> None:
    intervals = [Interval("AA", 0.1, 0.3), Interval("B", 0.3, 0.45), Interval("AA", 0.6, 0.7)]
    phones = ClipPhones(
        {"a": Spoken(np.array([0, 1, 0], np.int32), np.array([0.1, 0.3, 0.6]), np.array([0.3, 0.45, 0.7]))},
        ("AA", "B", "SIL"),
    )
    times_s = np.arange(0, 0.9, 0.01)
    expected = [label or "SIL" for label in labels_at(times_s, intervals)]
    assert [phones.names[number] for number in phones.at("a", times_s)] == expected
    assert (phones.at("b", times_s) == NO_PHONE).all()
    empty = ClipPhones({"a": Spoken(np.zeros(0, np.int32), np.zeros(0), np.zeros(0))}, ("SIL",))
    assert (empty.at("a", times_s) == 0).all()


def test_the_fingerprint_is_that_of_earlier_versions() -> None:
    phones = ClipPhones({"b": Spoken(np.array([0], np.int32), np.array([0.1]), np.array([0.25]))}, ("AA",))
    written = json.dumps({"b": [{"label": "AA", "start_s": 0.1, "end_s": 0.25}]}, sort_keys=True)
    assert phones.fingerprint() == hashlib.sha256(written.encode()).hexdigest()


def test_names_are_those_that_recordings_have(tmp_path: Path) -> None:
    write(tmp_path / "a.lab", "UNUSED")
    write(tmp_path / "s1/a.lab", "AA")
    found = read_clip_phones({"s3://b/s1/a.wav": "one"}, {"one": str(tmp_path)})
    assert found.names == ("AA", "SIL")


def test_a_link_may_have_the_alignment_of_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "corpus/s1").mkdir(parents=True)
    (tmp_path / "corpus/s1/a.flac").touch()
    write(tmp_path / "corpus/s1/a.lab", "AA")
    linked = tmp_path / "some/x.flac"
    linked.parent.mkdir()
    linked.symlink_to(tmp_path / "corpus/s1/a.flac")
    for places in (str(tmp_path / "corpus"), {"one": str(tmp_path / "corpus")}):
        assert [*read_clip_phones({str(linked): "one"}, places).of_recording] == [str(linked)]


def test_copies_below_one_folder_share_an_alignment(tmp_path: Path) -> None:
    write(tmp_path / "a.lab", "AA")
    uris = [str(tmp_path / "a.wav"), str(tmp_path / "a.mp3")]
    assert [*read_clip_phones(dict.fromkeys(uris, "one"), str(tmp_path)).of_recording] == uris
