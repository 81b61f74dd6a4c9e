"""Every reader on a tiny tree in its corpus' real layout (tests/corpora_trees.py)."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import shutil
import tarfile
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.audio.read import AudioError, Span, probe, read_spans
from pipeline.corpora.manifest import make_manifest, read_recordings
from pipeline.corpora.readers import READERS, find_recordings, kind_of
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notice
from pipeline.files import parquet, storage
from pipeline.languages import normalize_code
from pipeline.segments.cut import tidy
from tests import corpora_trees
from tests.corpora_trees import duration_s, say
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.records import Recording

    Tree = Callable[[str], Path]

KINDS = sorted(READERS)
# Trees with stray audio, which a reader would drop as misplaced; and tars that might be of any kind.
SEEN_AS_OTHERS = {"peoples_speech": "webdataset"}
# For each tree, the number of recordings and of dropped files by reason.
KEPT = {
    "common_voice": 7,
    "fairseq": 3,
    "fisher": 4,
    "folder": 3,
    "hf_parquet": 4,
    "lhotse": 3,
    "libri_light": 6,
    "librispeech": 9,
    "ljspeech": 3,
    "mls": 7,
    "nemo": 3,
    "peoples_speech": 13,
    "spotify": 4,
    "voxpopuli": 12,
    "webdataset": 5,
}
DROPPED = {
    "common_voice": {"invalidated": 1, "unlisted": 1},
    "fairseq": {"missing": 1, "bad_name": 1, "unsupported_source": 1},
    "fisher": {},
    "folder": {},
    "hf_parquet": {"missing": 1, "unreadable": 1},
    "lhotse": {"unsupported_source": 1, "bad_name": 1},
    "libri_light": {"other_version": 1, "empty": 1},
    "librispeech": {},
    "ljspeech": {"missing": 1},
    "mls": {},
    "nemo": {"bad_name": 1},
    "peoples_speech": {"unreadable": 1},
    "spotify": {"missing": 1, "unlisted": 1},
    "voxpopuli": {"unlisted": 1},
    "webdataset": {"unreadable": 1, "bad_name": 1},
}


def manifest(root: Path | str, kind: str, run: Path | str) -> tuple[dict[str, Recording], Counter[str]]:
    """Recordings by id within the corpus, and how many files were dropped by reason."""
    make_manifest(str(run), [CorpusConfig(str(root), kind, "c")], silently)  # type: ignore[arg-type]
    rows = parquet.read(storage.join(str(run), "manifest", "dropped.parquet")).to_pylist()
    recordings = {recording.recording_id.removeprefix("c/"): recording for recording in read_recordings(str(run))}
    return recordings, Counter(row["reason"] for row in rows)


def decoded(recording: Recording) -> np.ndarray:
    (wav,) = read_spans([Span(recording.uri, recording.channel, 0.0, recording.duration_s)])
    assert not isinstance(wav, AudioError), f"{recording.recording_id}: {wav}"
    return wav


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_seen_where_it_is_not_given(corpus_tree: Tree, kind: str) -> None:
    assert kind_of(CorpusConfig(str(corpus_tree(kind)))) == SEEN_AS_OTHERS.get(kind, kind)
    if kind != "folder":
        table = str(corpus_tree("folder") / "metadata.csv")
        assert kind_of(CorpusConfig(str(corpus_tree(kind)), metadata=table)) == "folder"


def test_every_reader_has_a_tree() -> None:
    assert set(corpora_trees.WRITERS) == set(READERS) == set(KEPT) == set(DROPPED)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_and_dropped(corpus_tree: Tree, kind: str, tmp_path: Path) -> None:
    recordings, dropped = manifest(corpus_tree(kind), kind, tmp_path)
    assert len(recordings) == KEPT[kind], list(recordings)
    assert dropped == DROPPED[kind]
    for recording in recordings.values():
        assert recording.language_source is not None or recording.language is None
        assert recording.voice_activity is None or tidy(recording.voice_activity, recording.duration_s)


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_kept_can_be_decoded_to_its_end(corpus_tree: Tree, kind: str, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree(kind), kind, tmp_path)
    for recording in recordings.values():
        wav = decoded(recording)
        assert len(wav) == pytest.approx(recording.duration_s * 16_000, abs=1600), recording.recording_id
        told = probe(recording.uri)
        assert recording.sample_rate_hz in (None, told.sample_rate_hz), f"{recording.recording_id} is told wrongly"
        assert recording.num_channels in (None, told.num_channels), f"{recording.recording_id} is told wrongly"


@pytest.mark.parametrize("kind", KINDS)
def test_on_s3_it_is_the_same(corpus_tree: Tree, kind: str, s3_folder: str, tmp_path: Path) -> None:
    root = corpus_tree(kind)
    for name in storage.list_files(str(root)):
        storage.write_bytes(f"{s3_folder}/data/{name}", (root / name).read_bytes())
    here, dropped_here = manifest(root, kind, tmp_path)
    there, dropped_there = manifest(f"{s3_folder}/data", kind, f"{s3_folder}/run")
    assert dropped_there == dropped_here
    assert list(there) == list(here)
    for id, recording in there.items():
        assert recording.uri.startswith("s3://") and recording.duration_s == here[id].duration_s
    first = next(iter(there))
    np.testing.assert_array_equal(decoded(there[first]), decoded(here[first]))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"folder"}))
def test_another_folder_is_told_in_one_sentence(kind: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing of the kind")
    with pytest.raises(CorpusError, match=r"holds (no|neither)"):
        list(find_recordings(CorpusConfig(str(tmp_path), kind)))  # type: ignore[arg-type]


# What each corpus states about its recordings


def test_libri_light(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("libri_light"), "libri_light", tmp_path)
    chapter = recordings["small/100/sea_fairies_0812_librivox_64kb_mp3/02_baum_sea_fairies_64kb"]
    assert (chapter.language, chapter.speaker, chapter.description) == ("en", "librivox/100", "Sea Fairies")
    assert chapter.origins == ["librivox:100:02_baum_sea_fairies_64kb", "librivox:100:project 812, section 2"]
    assert chapter.voice_activity is not None and len(chapter.voice_activity) == 3
    assert chapter.voice_activity[0] == [0.1, pytest.approx(duration_s(0) - 0.1, abs=0.01)]
    alone = recordings["medium/202/other_book_librivox_64kb_mp3/other_02_author_64kb"]
    assert alone.voice_activity is None and alone.duration_s == pytest.approx(duration_s(36)), "without a JSON"


def test_libri_light_s_other_versions_are_taken_where_they_are_named(corpus_tree: Tree) -> None:
    config = CorpusConfig(str(corpus_tree("libri_light")), "libri_light", folders=("duplicate",))
    (file,) = (found for found in find_recordings(config) if isinstance(found, AudioFile))
    assert file.drop_reason is None and file.speaker == "201"


def test_damaged_json_costs_nothing_but_what_it_says(corpus_tree: Tree, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(corpus_tree("libri_light") / "small" / "201", root / "201")
    (table,) = root.rglob("*.json")
    for content in ("{", "[]", '{"voice_activity": [[1, null], [2.0, 3.0], 7], "file_length_sec": NaN}', ""):
        table.write_text(content)
        (recording,) = manifest(root, "libri_light", tmp_path / str(len(content)))[0].values()
        assert recording.duration_s == pytest.approx(30.3, abs=0.1)
        assert recording.voice_activity in (None, [[2.0, 3.0]])


def test_spotify(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("spotify"), "spotify", tmp_path)
    episode = recordings["show_1eFgH/episode3"]
    assert (episode.language, episode.language_source, episode.speaker) == ("['en-US']", "show", "c/show_1eFgH")
    assert episode.text is None
    assert episode.description is not None and "Stories that were never told before" in episode.description
    assert "<p>" not in episode.description and "https" not in episode.description
    assert episode.sample_rate_hz is None, "the corpus does not tell it"


def test_peoples_speech(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("peoples_speech"), "peoples_speech", tmp_path)
    clip = recordings["Talks_SLASH_Evening_DOT_mp3_20_00060"]
    assert (clip.split, clip.speaker) == ("train", "c/Talks_SLASH_Evening_DOT_mp3_20"), "by its source"
    assert (clip.language, clip.text) == (None, say(60)[1].lower())
    assert ".tar#offset=" in clip.uri and clip.uri.endswith("&member=Talks_SLASH_Evening_DOT_mp3_20_00060.flac")
    assert Counter(recording.split for recording in recordings.values()) == {"train": 11, "test": 2}
    np.testing.assert_array_equal(decoded(clip), say(60)[0].astype(np.float32) / 2**15)


def test_peoples_speech_as_parquet(tmp_path: Path) -> None:
    corpora_trees.write_peoples_speech_parquet(tmp_path / "data")
    recordings, dropped = manifest(tmp_path / "data", "peoples_speech", tmp_path)
    assert not dropped
    assert Counter(recording.split for recording in recordings.values()) == {"train": 6, "validation": 2}
    clip = recordings["clean/train-00000-of-00001/Talks_SLASH_Evening_DOT_mp3_21_00065.flac"]
    assert (clip.speaker, clip.text) == ("c/Talks_SLASH_Evening_DOT_mp3_21", say(65)[1].lower())
    assert clip.uri.endswith("#row_group=1&row=1&column=audio")
    np.testing.assert_array_equal(decoded(clip), say(65)[0].astype(np.float32) / 2**15)


def test_peoples_speech_in_one_tar(corpus_tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    train = corpus_tree("peoples_speech") / "train"
    shutil.copy(train / "clean/clean_000000.tar", tmp_path / "data/part-00000-uuid-c000.tar")
    older = (train / "clean.json").read_text().replace('"name"', '"output_paths"')
    (tmp_path / "data/manifest.jsonl").write_text(older)
    recordings, _ = manifest(tmp_path / "data", "peoples_speech", tmp_path)
    assert len(recordings) == 3
    assert all(recording.text and recording.split == "train" for recording in recordings.values())


def test_voxpopuli(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("voxpopuli"), "voxpopuli", tmp_path)
    session = recordings["20180206-0900-PLENARY_en"]
    assert (session.language, session.language_source, session.origin_start_s) == ("en", "channel", 0.0)
    assert session.voice_activity is not None and len(session.voice_activity) == 4
    floor = recordings["20180206-0900-PLENARY_original"]
    assert floor.language is None, "nobody says what the floor speaks"
    in_tar = recordings["20200108-0900-PLENARY_en"]
    assert ".tar#offset=" in in_tar.uri and in_tar.language == "en"
    cut = recordings["20180206-0900-PLENARY_en_1"]
    assert cut.origins == ["voxpopuli:20180206-0900-PLENARY_en"]
    assert [cut.origin_start_s, cut.origin_end_s] == session.voice_activity[1]
    spoken = recordings["20180206-0900-PLENARY-15-en_20180206-16:10:06_2"]
    assert (spoken.split, spoken.speaker, spoken.text) == ("validation", "c/124755", say(82)[1].lower())
    assert spoken.origins == [f"voxpopuli:20180206-0900-PLENARY_{channel}" for channel in ("original", "en")]
    assert [spoken.origin_start_s, spoken.origin_end_s] == session.voice_activity[2]


def test_folders_choose_parts(corpus_tree: Tree) -> None:
    def ids(kind: str, *folders: str) -> list[str]:
        config = CorpusConfig(str(corpus_tree(kind)), kind, folders=folders)  # type: ignore[arg-type]
        return [file.id for file in find_recordings(config) if isinstance(file, AudioFile)]

    assert len(ids("voxpopuli", "raw_audios")) == 5
    assert len(ids("voxpopuli", "unlabelled_data")) == 4
    assert len(ids("voxpopuli", "de")) == 1
    assert {id[-2:] for id in ids("voxpopuli", "en") if "PLENARY_" in id} <= {"en", "_0", "_1", "_2", "_3"}
    assert len(ids("librispeech", "dev-clean", "test-other")) == 4
    assert len(ids("libri_light", "small")) == 3
    assert len(ids("mls", "mls_german_opus")) == 2
    assert len(ids("common_voice", "de")) == 1
    assert len(ids("peoples_speech", "dirty_sa")) == 5
    with pytest.raises(CorpusError, match="names of single folders"):
        CorpusConfig("/data", folders=("train/clean",))


def test_mls(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("mls"), "mls", tmp_path)
    clip = recordings["english/201_900_000001"]
    assert (clip.language, clip.language_source, clip.speaker, clip.split) == ("en", "folder", "librivox/201", "train")
    assert clip.text == say(26)[1].lower()
    assert clip.origins == ["librivox:201:abook_07_author_64kb"]
    assert clip.origin_start_s == pytest.approx(duration_s(25) + 0.5, abs=1e-3)
    assert recordings["german/401_920_000000"].language == "de"
    of_one_language, _ = manifest(corpus_tree("mls") / "mls_english", "mls", tmp_path / "one")
    assert len(of_one_language) == 5 and {r.language for r in of_one_language.values()} == {"en"}


def test_common_voice(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("common_voice"), "common_voice", tmp_path)
    splits = {id.rpartition("_")[2]: recording.split for id, recording in recordings.items()}
    assert splits == {
        "10.mp3": "train",
        "110.mp3": "train",
        "111.mp3": "train",
        "112.mp3": "validation",
        "113.mp3": "test",
        "114.mp3": None,
        "116.mp3": None,
    }
    assert recordings["en/common_voice_en_116.mp3"].language_source == "unchecked"
    assert recordings["en/common_voice_en_111.mp3"].text == f'"{say(111)[1]}', "a quote is a letter here"
    assert recordings["en/common_voice_en_111.mp3"].speaker == "c/client111"


def test_fisher(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("fisher"), "fisher", tmp_path)
    a, b = recordings["fe_03_00001-A"], recordings["fe_03_00001-B"]
    assert (a.channel, b.channel, a.speaker, b.speaker) == (0, 1, "c/100001", "c/200001")
    assert a.uri == b.uri
    for recording, first in ((a, 120), (b, 121)):
        assert recording.text == f"{say(first)[1]} {say(first + 2)[1]}".lower()
    # Where one speaks the other is silent.
    assert a.voice_activity and b.voice_activity
    for (on_s, off_s), (other_on_s, other_off_s) in itertools.product(a.voice_activity, b.voice_activity):
        assert off_s <= other_on_s or other_off_s <= on_s
    wav_a, wav_b = decoded(a), decoded(b)
    on, off = (round(16_000 * time_s) for time_s in a.voice_activity[0])
    assert np.abs(wav_a[on:off]).max() > 0.05 > np.abs(wav_b[on + 800 : off - 800]).max(), "the channels are swapped"
    mistaken = recordings["fe_03_11487-A"].voice_activity
    assert mistaken and mistaken[-1] == [231.09, 234.06], "the known mistake in call 11487"


def test_ljspeech(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("ljspeech"), "ljspeech", tmp_path)
    clip = recordings["LJ001-0130"]
    assert (clip.text, clip.speaker, clip.language, clip.sample_rate_hz) == (say(130)[1], "c/LJ", "en", 22_050)


def test_real_ljspeech(speech: Path, tmp_path: Path) -> None:
    recordings, dropped = manifest(speech / "LJSpeech", "ljspeech", tmp_path)
    assert len(recordings) == 8
    assert set(dropped) <= {"missing"}
    assert recordings["LJ001-0001"].text is not None and recordings["LJ001-0001"].text.startswith(
        "Printing, in the only"
    )
    assert recordings["LJ001-0001"].duration_s == pytest.approx(9.66, abs=0.01)


def test_webdataset(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("webdataset"), "webdataset", tmp_path)
    clip = recordings["audio-000000/141.flac"]
    assert (clip.text, clip.speaker, clip.language) == (say(141)[1], "c/s1", "en")
    np.testing.assert_array_equal(decoded(clip), say(141)[0].astype(np.float32) / 2**15)


def test_a_compressed_tar_is_told_what_to_do_about(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    (file,) = find_recordings(CorpusConfig(str(tmp_path), "webdataset"))
    assert file.drop_reason == "unreadable" and "decompress it to a .tar" in file.drop_detail


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_so_is_one_that_is_called_a_tar(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(compress(bytes(10_240)))
    (file,) = find_recordings(CorpusConfig(str(tmp_path), "webdataset"))
    assert file.drop_reason == "unreadable" and "decompress it to a .tar" in file.drop_detail


def test_a_tar_that_is_called_compressed_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w") as tar:
        member = tarfile.TarInfo("BZh.wav")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"wav"))
    (file,) = find_recordings(CorpusConfig(str(tmp_path), "webdataset"))
    assert (file.id, file.drop_reason) == ("a.tar.gz/BZh.wav", None)


def test_hf_parquet(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("hf_parquet"), "hf_parquet", tmp_path)
    clip = recordings["data/train-00000-of-00001/0-1"]
    assert (clip.text, clip.speaker, clip.language, clip.split) == (say(151)[1], "c/1", "en", "train")
    np.testing.assert_array_equal(decoded(clip), say(151)[0].astype(np.float32) / 2**15)


def test_a_damaged_parquet_file_is_dropped(corpus_tree: Tree, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(corpus_tree("hf_parquet"), root)
    whole = (root / "data/train-00000-of-00001.parquet").read_bytes()
    (root / "data/cut-off.parquet").write_bytes(whole[: len(whole) // 2])
    recordings, dropped = manifest(root, "hf_parquet", tmp_path)
    assert len(recordings) == 4 and dropped["unreadable"] == 2


def test_lhotse(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("lhotse"), "lhotse", tmp_path)
    left, right, clip = recordings["call-0"], recordings["call-1"], recordings["clip"]
    assert (left.channel, right.channel, clip.channel) == (0, 1, None)
    assert (left.speaker, right.speaker, clip.speaker) == ("c/s170", "c/s171", "c/s172")
    assert (left.text, right.text, clip.language) == (say(170)[1], say(171)[1], "English")
    assert clip.voice_activity == [[0.1, pytest.approx(duration_s(172), abs=1e-3)]]


def test_lhotse_cuts(corpus_tree: Tree, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(corpus_tree("lhotse") / "audio", root / "audio")
    length_s = duration_s(172)
    recording = (
        f'{{"id": "clip", "sources": [{{"type": "file", "channels": [0], "source": "audio/clip.flac"}}], '
        f'"sampling_rate": 16000, "num_samples": {round(length_s * 16_000)}, "duration": {length_s}}}'
    )
    cuts = [
        f'{{"id": "clip-{n}", "start": {start_s}, "duration": 0.5, "channel": 0, "supervisions": [{{"id": "s{n}", '
        f'"text": "part {n}", "speaker": "x"}}], "recording": {recording}, "type": "MonoCut"}}\n'
        for n, start_s in enumerate((0.2, 1.2))
    ]
    (root / "cuts_train.jsonl").write_text("".join(cuts))
    (file,) = manifest(root, "lhotse", tmp_path)[0].values()
    assert file.voice_activity == [[0.2, 0.7], [1.2, 1.7]]
    assert (file.text, file.speaker) == ("part 0 part 1", "c/x")


# Quirks shared by several corpora


@pytest.mark.parametrize(
    ("kind", "name"), [("spotify", "metadata.tsv"), ("common_voice", "en/train.tsv"), ("common_voice", "en/other.tsv")]
)
def test_a_table_that_lacks_a_column_is_told(corpus_tree: Tree, kind: str, name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(corpus_tree(kind), root)
    (root / name).write_text("some\tother\tcolumns\n1\t2\t3\n")
    with pytest.raises(CorpusError, match=rf"{name} has no column"):
        list(find_recordings(CorpusConfig(str(root), kind)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "table"), [("common_voice", "en/validated.tsv"), ("ljspeech", "LJSpeech-1.1/metadata.csv")]
)
def test_a_name_in_a_table_does_not_lead_out(corpus_tree: Tree, kind: str, table: str, tmp_path: Path) -> None:
    root = tmp_path / "a/b/data"
    shutil.copytree(corpus_tree(kind), root)
    secret = "../../../../secret"
    corpora_trees.put(tmp_path / "a/secret.wav", corpora_trees.encode(say(130)[0], "wav"))
    corpora_trees.put(tmp_path / "a/b/secret.wav", corpora_trees.encode(say(130)[0], "wav"))
    with (root / table).open("a") as file:
        for name in (secret, "../../../secret"):
            file.write(f"someone\t{name}.wav\n" if kind == "common_voice" else f"{name}|text|text\n")
    recordings, dropped = manifest(root, kind, tmp_path)
    assert len(recordings) == KEPT[kind]
    assert dropped["missing"] == DROPPED[kind].get("missing", 0) + 2


@pytest.mark.parametrize("kind", ["libri_light", "peoples_speech", "mls", "common_voice", "spotify"])
def test_no_header_is_read_where_the_corpus_states_durations(
    corpus_tree: Tree, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[str] = []

    def note(uri: str) -> None:
        probed.append(uri)
        raise AudioError("unreadable", "not to be read")

    monkeypatch.setattr("pipeline.corpora.manifest.probe", note)
    recordings, _ = manifest(corpus_tree(kind), kind, tmp_path)
    assert len(recordings) >= KEPT[kind] - 2
    # One chapter of Libri-Light has no JSON, another no bytes.
    assert {uri.rpartition("/")[2] for uri in probed} <= {"other_02_author_64kb.flac", "other_03_author_64kb.flac"}


# What belongs to nothing


def noticed(root: Path | str, kind: str) -> dict[str, tuple[int, str]]:
    config = CorpusConfig(str(root), kind, "c")  # type: ignore[arg-type]
    return {found.what: (found.count, found.example) for found in find_recordings(config) if isinstance(found, Notice)}


@pytest.mark.parametrize(
    ("kind", "name", "line"),
    [
        ("librispeech", "LibriSpeech/train-clean-100/100/121669/100-121669.trans.txt", "100-121669-9999 GONE"),
        ("mls", "mls_english/train/transcripts.txt", "1_2_999999\tgone"),
        ("libri_light", "small/100/gone/gone_64kb.json", "{}"),
        ("common_voice", "en/clip_durations.tsv", "gone.mp3\t1000"),
        ("lhotse", "more_supervisions.jsonl", '{"recording_id": "gone", "id": "s"}'),
    ],
)
def test_descriptions_without_audio_are_noticed(
    corpus_tree: Tree, kind: str, name: str, line: str, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    shutil.copytree(corpus_tree(kind), root)
    path = next((path for path in sorted(root.rglob("*")) if path.is_file() and f"/{name}" in f"/{path}"), root / name)
    before = noticed(root, kind).get("description_without_audio", (0, ""))[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{line}\n")
    count, example = noticed(root, kind)["description_without_audio"]
    assert count == before + 1
    assert before or "gone" in example or "999" in example


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_system_leaves_changes_nothing(corpus_tree: Tree, kind: str, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(corpus_tree(kind), root)
    config = CorpusConfig(str(root), kind, "c")  # type: ignore[arg-type]
    before = list(find_recordings(config))
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(4092))
        path.with_name(".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    shutil.copytree(corpus_tree(kind), root / ".cache")
    assert list(find_recordings(config)) == before
    assert kind_of(CorpusConfig(str(root))) == kind_of(CorpusConfig(str(corpus_tree(kind))))


def test_fairseq(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("fairseq"), "fairseq", tmp_path)
    assert {id: recording.split for id, recording in recordings.items()} == {
        "180.wav": "train",
        "181.flac": "train",
        "182.wav": "validation",
    }
    for id, recording in recordings.items():
        assert recording.uri == str(corpus_tree("fairseq") / "audio" / id)
        assert recording.duration_s == pytest.approx(duration_s(int(id[:3])), abs=1e-3)


def test_nemo(corpus_tree: Tree, tmp_path: Path) -> None:
    recordings, _ = manifest(corpus_tree("nemo"), "nemo", tmp_path)
    by_name = {id.rpartition("/")[2]: recording for id, recording in recordings.items()}
    parts, whole, other = (by_name[f"{number}.wav"] for number in (190, 191, 192))
    assert parts.voice_activity == [[0.2, 0.7], [1.2, 1.7]]
    assert (parts.text, parts.speaker, parts.language, parts.split) == (
        "the first and the second",
        "c/x",
        "en",
        "train",
    )
    assert parts.duration_s == pytest.approx(duration_s(190), abs=1e-3)  # of the file, not of a stretch
    assert (whole.voice_activity, whole.text, whole.uri) == (
        None,
        say(191)[1],
        str(corpus_tree("nemo") / "audio/191.wav"),
    )
    assert (other.split, other.speaker, other.voice_activity) == ("validation", "c/y", None)


def test_paths_of_manifests_may_be_absolute(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.wav").touch()
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq/train.tsv").write_text(f"{elsewhere}\na.wav\t9\n/a.wav\t9\n")
    (tmp_path / "nemo").mkdir()
    (tmp_path / "nemo/b.wav").touch()
    rows = [{"audio_filepath": str(path)} for path in (elsewhere / "a.wav", tmp_path / "nemo/b.wav", "b.wav")]
    (tmp_path / "nemo/train.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, other = find_recordings(CorpusConfig(str(tmp_path / "fairseq"), "fairseq"))
    assert isinstance(one, AudioFile) and isinstance(other, AudioFile)
    assert (one.uri, one.drop_reason, other.drop_reason) == (str(elsewhere / "a.wav"), None, "bad_name")
    found = list(find_recordings(CorpusConfig(str(tmp_path / "nemo"), "nemo")))
    assert [file.uri for file in found if isinstance(file, AudioFile)] == [
        str(elsewhere / "a.wav"),
        str(tmp_path / "nemo/b.wav"),
    ]


def test_a_row_in_two_manifests_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    stretch = {"audio_filepath": "a.wav", "duration": 1.0}
    first, second = {**stretch, "offset": 0.0, "text": "yes"}, {**stretch, "offset": 1.0, "text": "yes"}
    for name, rows in (("train", [second, first]), ("all", [first, second])):
        (tmp_path / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (file,) = find_recordings(CorpusConfig(str(tmp_path), "nemo"))
    assert isinstance(file, AudioFile)
    assert (file.text, file.voice_activity) == ("yes yes", [[0.0, 1.0], [1.0, 2.0]])


def test_a_row_with_impossible_times_takes_nothing_from_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    times = [(0.0, 1.0), (-1.0, 1.0), ("x", 1.0), (3.0, 1.0), (5.0, 0.0), (6.0, -2.0)]
    rows = [{"audio_filepath": "a.wav", "duration": duration, "offset": offset} for offset, duration in times]
    (tmp_path / "train.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file, notice = find_recordings(CorpusConfig(str(tmp_path), "nemo"))
    assert isinstance(file, AudioFile)
    assert isinstance(notice, Notice)
    assert (file.duration_s, file.voice_activity) == (None, [[0.0, 1.0], [3.0, 4.0]])
    assert (notice.what, notice.count) == ("unreadable_row", 4)


def test_a_file_with_stretches_in_two_splits_is_kept_out_of_training(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    for name in ("train", "test"):
        row = {"audio_filepath": "a.wav", "offset": 0.0, "duration": 1.0, "text": name}
        (tmp_path / f"{name}_manifest.json").write_text(json.dumps(row) + "\n")
    (file,) = find_recordings(CorpusConfig(str(tmp_path), "nemo"))
    assert isinstance(file, AudioFile)
    assert file.split == "test"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "path\tsamples\na.wav\t5\n"),
        ("a.tsv", "/data\n"),
        ("a.json", '{"key": "a", "duration": 3.0}\n'),
        ("a.json", "[1, 2]\n"),
        ("clip.json", '{"text": "a sidecar", "path": "clip.wav"}\n'),
    ],
)
def test_other_tables_are_no_manifests(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "clip.wav").touch()
    assert kind_of(CorpusConfig(str(tmp_path))) == "folder"
    for kind in ("fairseq", "nemo"):
        with pytest.raises(CorpusError, match="holds no manifests"):
            list(find_recordings(CorpusConfig(str(tmp_path), kind)))  # type: ignore[arg-type]


def test_supervisions_of_other_recordings_are_refused(tmp_path: Path) -> None:
    source = [{"type": "file", "channels": [0], "source": "a.wav"}]
    rows = [{"id": f"r{n}", "sources": source, "duration": 1.0, "sampling_rate": 16000} for n in range(3)]
    (tmp_path / "a.wav").touch()
    (tmp_path / "recordings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "supervisions.jsonl").write_text('{"recording_id": "R-0"}\n{"recording_id": "R-1"}\n')
    with pytest.raises(
        CorpusError, match=r"supervisions .* do not fit: of 2 names, e\.g\. 'R-0', only 0 .* e\.g\. 'r0'"
    ):
        list(find_recordings(CorpusConfig(str(tmp_path), "lhotse")))


def test_lhotse_s_sources_are_found_or_told(tmp_path: Path) -> None:
    (tmp_path / "é").mkdir()
    (tmp_path / "é" / "a.wav").touch()
    rows = [
        {"id": str(n), "sources": [{"type": "file", "channels": [0], "source": source}], "duration": 1.0}
        for n, source in enumerate(["./e\u0301/a.wav", "e\u0301\\a.wav", "gone.wav", "../a.wav"])
    ]
    (tmp_path / "recordings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [file for file in find_recordings(CorpusConfig(str(tmp_path), "lhotse")) if isinstance(file, AudioFile)]
    assert [file.drop_reason for file in files] == [None, None, "missing", "bad_name"]
    assert files[0].uri == files[1].uri == str(tmp_path / "é" / "a.wav")


@pytest.mark.parametrize(
    ("tags", "language"),
    [(["English", "en-US"], "en"), (["en", None, "und"], "en"), (["en", "de"], ""), (["und"], ""), ([None], "")],
)
def test_the_language_of_several_supervisions(tags: list[str | None], language: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "duration": 9.0}
    rows = [{"recording_id": "r", "start": n, "duration": 1, "language": tag} for n, tag in enumerate(tags)]
    (tmp_path / "recordings.jsonl").write_text(json.dumps(recording))
    (tmp_path / "supervisions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (file,) = find_recordings(CorpusConfig(str(tmp_path), "lhotse"))
    assert isinstance(file, AudioFile) and normalize_code(file.language or "") == language
