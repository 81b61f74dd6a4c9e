"""Audio and its speakers: by folders and by tables, and which names mean the same file."""

from __future__ import annotations

import pytest

from pipeline.errors import TwistError
from pipeline.evaluation.units.spoken_files import find_files, matches


@pytest.fixture
def audio(tmp_path):
    folder = tmp_path / "audio"
    for name in ("ann/1.wav", "ann/2.flac", "bob/x/1.wav", "lone.mp3", "ann/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def told(files):
    return {file.name: (file.speaker, file.gender) for file in files}


def test_folders_are_speakers(audio):
    assert told(find_files(str(audio))) == {
        "ann/1": ("ann", None),
        "ann/2": ("ann", None),
        "bob/x/1": ("bob", None),
        "lone": (None, None),
    }


def test_a_table_of_speakers_says_their_gender(audio, tmp_path):
    (tmp_path / "speakers.csv").write_text("speaker,gender\nann,f\ncleo,f\n")
    files = told(find_files(str(audio), str(tmp_path / "speakers.csv")))
    assert files == {"ann/1": ("ann", "f"), "ann/2": ("ann", "f"), "bob/x/1": ("bob", None), "lone": (None, None)}


def test_a_table_of_files_says_who_speaks(audio, tmp_path):
    (tmp_path / "files.tsv").write_text("file\tspeaker\tgender\nlone.mp3\tdan\tm\nann/2\teve\t\nother\tx\tf\n")
    files = told(find_files(str(audio), str(tmp_path / "files.tsv")))
    assert files == {"ann/1": ("ann", None), "ann/2": ("eve", None), "bob/x/1": ("bob", None), "lone": ("dan", "m")}


def test_names_mean_a_path_or_a_last_part_that_is_the_only_one():
    names = dict.fromkeys(("ann/1", "bob/1", "bob/2.5"))
    wanted = ("ann/1", "ann/1.flac", "1", "2.5", "elsewhere/2.5.wav", "3")
    assert matches(wanted, names) == {
        "ann/1": "ann/1",
        "ann/1.flac": "ann/1",
        "2.5": "bob/2.5",
        "elsewhere/2.5.wav": "bob/2.5",
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "there is no table"),
        ("name,sex\nann,f\n", "lacks the columns speaker; it has name, sex"),
        ("speaker,gender\n", "has no rows"),
        ("speaker,gender\nzoe,f\n", "knows none of the speakers"),
    ],
)
def test_tables_that_do_not_fit_are_refused(audio, tmp_path, table, message):
    if table is not None:
        (tmp_path / "speakers.csv").write_text(table)
    with pytest.raises(TwistError, match=message):
        find_files(str(audio), str(tmp_path / "speakers.csv"))


def test_a_folder_without_audio_and_two_files_of_one_name_are_refused(audio, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(TwistError, match="has no audio"):
        find_files(str(tmp_path / "none"))
    (audio / "ann" / "1.flac").write_bytes(b"")
    with pytest.raises(TwistError, match="two files of one name"):
        find_files(str(audio))
