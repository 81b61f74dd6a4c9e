from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from pipeline.corpora import librispeech
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def find(config: CorpusConfig) -> list[AudioFile]:
    return [found for found in librispeech.find_recordings(config) if isinstance(found, AudioFile)]


def is_it(root: str) -> bool:
    config = CorpusConfig(root)
    return librispeech.is_librispeech(config, config.list_files())


def write_tree(root: Path, utterances: Iterable[str], texts: dict[str, str] | None = None) -> None:
    """`utterances` are "<split>/<speaker>-<chapter>-<NNNN>"; `texts` are by "<split>/<speaker>-<chapter>"."""
    for utterance in utterances:
        split, _, id = utterance.partition("/")
        speaker, chapter, _ = id.split("-")
        path = root / split / speaker / chapter / f"{id}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, text in (texts or {}).items():
        split, _, id = name.partition("/")
        speaker, chapter = id.split("-")
        (root / split / speaker / chapter / f"{id}.trans.txt").write_text(text, encoding="utf-8")


def test_the_real_tree(speech: Path) -> None:
    files = find(CorpusConfig(str(speech / "LibriSpeech")))
    assert len(files) == 33
    assert [file.uri for file in files] == sorted(file.uri for file in files), "not in the order of their paths"
    assert len({file.id for file in files}) == 33, "an id occurs twice"
    by_split = {split: [file for file in files if file.split == split] for split in ("train", "validation", "test")}
    assert {split: len(files) for split, files in by_split.items()} == {"train": 3, "validation": 0, "test": 30}
    assert {file.speaker for file in by_split["test"]} == {"1688", "1998", "2033"}
    assert {file.speaker for file in by_split["train"]} == {"103", "1034", "1040"}
    assert all(file.language == "en" for file in files)
    by_id = {file.id: file for file in files}
    assert by_id["1688-142285-0000"].text.startswith("THERE'S IRON THEY SAY IN ALL OUR BLOOD")
    assert all(file.text and file.text.isupper() for file in by_split["test"]), "a transcript is missing"
    assert all(file.text is None for file in by_split["train"]), "there are no transcripts of these"
    assert all(storage.exists(file.uri) for file in files)


def test_the_root_may_be_the_folder_above(speech: Path, tmp_path: Path) -> None:
    (tmp_path / "LibriSpeech").symlink_to(speech / "LibriSpeech")
    inner = find(CorpusConfig(str(tmp_path / "LibriSpeech")))
    outer = find(CorpusConfig(str(tmp_path), name="LibriSpeech"))
    assert list(outer) == list(inner), "what is found depends on which of the two folders is named"


def test_parts_are_splits(tmp_path: Path) -> None:
    parts = [
        "train-clean-100",
        "train-clean-360",
        "train-other-500",
        "dev-clean",
        "dev-other",
        "test-clean",
        "test-other",
    ]
    write_tree(tmp_path, [f"{part}/{number}-7-0001" for number, part in enumerate(parts)])
    files = find(CorpusConfig(str(tmp_path)))
    splits = {int(file.speaker): file.split for file in files if file.speaker}
    assert splits == {0: "train", 1: "train", 2: "train", 3: "validation", 4: "validation", 5: "test", 6: "test"}


def test_transcripts_belong_to_their_chapter(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        ["dev-clean/1-2-0000", "dev-clean/1-2-0001", "dev-clean/1-3-0000", "test-clean/1-2-0002"],
        {"dev-clean/1-2": "1-2-0000 HELLO WORLD\r\n1-2-0002 ELSEWHERE\n", "dev-clean/1-3": "1-3-0000 DÉJÀ VU"},
    )
    files = find(CorpusConfig(str(tmp_path)))
    assert {file.id: file.text for file in files} == {
        "1-2-0000": "HELLO WORLD",
        "1-2-0001": None,
        "1-3-0000": "DÉJÀ VU",
        "1-2-0002": None,
    }


def test_a_transcript_that_is_no_utf_8_is_read(tmp_path: Path) -> None:
    write_tree(tmp_path, ["dev-clean/1-2-0000"], {"dev-clean/1-2": ""})
    (tmp_path / "dev-clean/1/2/1-2.trans.txt").write_bytes(b"1-2-0000 CAF\xc9 NOIR\n")
    (file,) = find(CorpusConfig(str(tmp_path)))
    assert file.text is not None
    assert file.text.endswith("NOIR")


def test_audio_that_is_not_laid_out_so_is_called_misplaced(tmp_path: Path) -> None:
    write_tree(tmp_path, ["dev-clean/1-2-0000"])
    strays = ["a.flac", "dev-clean/1/2/1-2-0003.wav", "dev-clean/1/3/1-2-0001.flac", "other/1/2/1-2-0004.flac"]
    for name in [*strays, "dev-clean/1/2/._1-2-0000.flac"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = find(CorpusConfig(str(tmp_path)))
    assert [file.id for file in files if file.drop_reason is None] == ["1-2-0000"]
    assert [file.id for file in files if file.drop_reason == "misplaced"] == strays


def test_no_tree_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.flac").touch()
    with pytest.raises(CorpusError, match="holds no LibriSpeech tree; expected"):
        find(CorpusConfig(str(tmp_path)))


def test_is_librispeech(speech: Path, tmp_path: Path) -> None:
    assert is_it(str(speech / "LibriSpeech"))
    assert not is_it(str(speech / "LJSpeech"))
    assert not is_it(str(tmp_path)), "an empty folder"
    assert not is_it(str(tmp_path / "missing"))
    assert not is_it(str(speech)), "its reader would overlook the rest of this folder"


def test_system_files_do_not_hide_the_tree(tmp_path: Path) -> None:
    write_tree(tmp_path, ["dev-clean/1-2-0000"])
    (tmp_path / "dev-clean/1/2/._1-2-0000.flac").touch()
    (tmp_path / "SPEAKERS.TXT").touch()
    assert is_it(str(tmp_path))


def test_on_s3(s3_folder: str, tmp_path: Path) -> None:
    write_tree(tmp_path, ["dev-clean/1-2-0000"], {"dev-clean/1-2": "1-2-0000 HELLO"})
    for name in storage.list_files(str(tmp_path)):
        storage.write_bytes(f"{s3_folder}/LibriSpeech/{name}", (tmp_path / name).read_bytes())
    shutil.rmtree(tmp_path / "dev-clean")
    assert is_it(f"{s3_folder}/LibriSpeech")
    (file,) = find(CorpusConfig(f"{s3_folder}/LibriSpeech"))
    assert (file.id, file.text, file.split) == ("1-2-0000", "HELLO", "validation")
    assert file.uri == f"{s3_folder}/LibriSpeech/dev-clean/1/2/1-2-0000.flac"
