from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest

from pipeline.corpora import folder
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notice
from pipeline.files import storage

if TYPE_CHECKING:
    from pathlib import Path


def find(root: Path | str, metadata: str | None = None) -> list[AudioFile]:
    config = CorpusConfig(str(root), kind="folder", name="c", metadata=metadata)
    return [found for found in folder.find_recordings(config) if isinstance(found, AudioFile)]


def noticed(root: Path | str) -> dict[str, int]:
    config = CorpusConfig(str(root), kind="folder", name="c")
    return {found.what: found.count for found in folder.find_recordings(config) if isinstance(found, Notice)}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_audio_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    touch(
        tmp_path, "b/2.WAV", "b/10.flac", "a b.mp3", "ä'\".x.ogg", "c.m4a", "c.sph", "notes.txt", "noext", "d.wav.txt"
    )
    files = find(tmp_path)
    assert [file.id for file in files] == ["a b.mp3", "b/10.flac", "b/2.WAV", "c.m4a", "c.sph", "ä'\".x.ogg"]
    for file in files:
        assert file == AudioFile(id=file.id, uri=str(tmp_path / file.id)), "nothing is known of a file without a row"


def test_an_empty_folder_yields_nothing(tmp_path: Path) -> None:
    assert find(tmp_path) == []
    assert find(tmp_path / "missing") == []


def test_real_folder(speech: Path) -> None:
    assert len(find(speech / "languages")) == 16


ROWS = [
    {"path": "a.wav", "language": "en", "speaker": "1", "split": "train", "text": 'Well, "quoted", and so on'},
    {"path": "sub/ä b.wav", "language": "de", "speaker": "", "split": "", "text": "Zwei\nZeilen"},
    {"path": "./sub//c.wav", "language": "", "speaker": "2", "split": "test", "text": ""},
]


@pytest.fixture(params=["csv", "csv with BOM and CRLF", "jsonl", "jsonl with BOM and CRLF"])
def with_rows(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of four files, three of which have a row."""
    touch(tmp_path, "a.wav", "sub/ä b.wav", "sub/c.wav", "unknown.wav")
    kind, _, rest = request.param.partition(" ")
    encoding, newline = ("utf-8-sig", "\r\n") if rest else ("utf-8", "\n")
    with (tmp_path / f"metadata.{kind}").open("w", encoding=encoding, newline="") as file:
        if kind == "csv":
            writer = csv.DictWriter(file, list(ROWS[0]), lineterminator=newline)
            writer.writeheader()
            writer.writerows(ROWS)
        else:
            for row in ROWS:
                file.write(json.dumps({k: v or None for k, v in row.items()}, ensure_ascii=False) + newline + newline)
    return tmp_path


def test_metadata(with_rows: Path) -> None:
    by_id = {file.id: file for file in find(with_rows)}
    a, b, c, unknown = (by_id[id] for id in ("a.wav", "sub/ä b.wav", "sub/c.wav", "unknown.wav"))
    assert (a.language, a.speaker, a.split, a.text) == ("en", "1", "train", 'Well, "quoted", and so on')
    assert (b.language, b.speaker, b.split, b.text) == ("de", None, None, "Zwei\nZeilen")
    assert (c.language, c.speaker, c.split, c.text) == (None, "2", "test", None)
    assert unknown == AudioFile(id="unknown.wav", uri=str(with_rows / "unknown.wav")), "a file without a row is kept"


def test_a_row_without_a_file_is_yielded_to_be_dropped_as_missing(tmp_path: Path) -> None:
    touch(tmp_path, "b.wav")
    (tmp_path / "metadata.csv").write_text("path,speaker\na.wav,1\nb.wav,2\n")
    assert [(file.id, file.speaker) for file in find(tmp_path)] == [("a.wav", "1"), ("b.wav", "2")]
    assert not storage.exists(find(tmp_path)[0].uri)


def test_a_row_makes_a_file_of_any_suffix_audio(tmp_path: Path) -> None:
    touch(tmp_path, "a.unusual", "b.unusual")
    (tmp_path / "metadata.csv").write_text("path\na.unusual\n")
    assert [file.id for file in find(tmp_path)] == ["a.unusual"]


def test_metadata_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root, "a.wav")
    (root / "metadata.csv").write_text("path,speaker\na.wav,inside\n")
    (tmp_path / "other.jsonl").write_text('{"path": "a.wav", "speaker": 7}\n')
    assert find(root)[0].speaker == "inside"
    assert find(root, str(tmp_path / "other.jsonl"))[0].speaker == "7", "a number is a name too"


def test_jsonl_may_hold_what_splits_lines_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"path": "a.wav", "text": "one\u2028two\u0085three"}\n')
    assert find(tmp_path)[0].text == "one\u2028two\u0085three"


def test_a_text_of_hours_of_speech(tmp_path: Path) -> None:
    text = "word " * 100_000
    (tmp_path / "metadata.csv").write_text(f"path,text\na.wav,{text}\n")
    assert find(tmp_path)[0].text == text.strip()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", b"which,text\na.wav,x\n", r"line 2 of .*metadata\.csv has no `path`; columns are path"),
        ("metadata.csv", b"LJ001-0001|Printing, in the only sense\nLJ001-0002|in being\n", r"do not fit"),
        ("metadata.csv", b"path,text\nb.wav,x\nc.wav,y\n", r"of 2 names, e\.g\. 'b\.wav', only 0 .*'a\.wav'"),
        ("metadata.csv", b"path,text\na.wav,x\n,y\n", r"line 3 of .* has no `path`"),
        ("metadata.csv", b"path,text\na.wav,x\na.wav,y\n", r"line 3 of .*'a\.wav' was named before"),
        ("metadata.csv", b"path,text\na.wav,x\n./a.wav,y\n", r"'a\.wav' was named before"),
        ("metadata.csv", b"path,text\n/etc/a.wav,x\n", r"line 2 of .*'/etc/a\.wav' leaves the folder"),
        ("metadata.csv", b"path,text\nsub/../../a.wav,x\n", r"leaves the folder; give it relative"),
        ("metadata.csv", b"path,text\na.wav,well, well\n", r"line 2 of .* more fields .* double quotes"),
        ("metadata.csv", b'path,text\na.wav,"never closed\nb.wav,x, y\n', r"line 2 of .*metadata\.csv is not CSV"),
        ("metadata.jsonl", b'{"path": "a.wav"}\n{"path": "b.wav"\n', r"line 2 of .*metadata\.jsonl is not JSON"),
        ("metadata.jsonl", b'["a.wav"]\n', r"line 1 of .* is not an object"),
        ("metadata.jsonl", b'{"which": "a.wav"}\n', r"line 1 of .* has no `path`"),
        ("metadata.jsonl", b'{"path": "../a.wav"}\n', r"leaves the folder"),
        ("metadata.jsonl", b'{"path": "a.wav", "text": "\\ud800"}\n', r"line 1 of .* surrogates not allowed"),
        ("metadata.jsonl", b"[" * 100_000, r"line 1 of .* is not JSON"),
    ],
)
def test_metadata_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        find(tmp_path)


def test_two_metadata_files(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("path\n")
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(CorpusError, match=r"holds both metadata\.csv and metadata\.jsonl; keep one"):
        find(tmp_path)
    assert find(tmp_path, str(tmp_path / "metadata.csv")) == []


def test_missing_metadata(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"labels\.csv does not exist; it is named as the metadata of corpus c"):
        find(tmp_path, str(tmp_path / "labels.csv"))


def test_on_s3(s3_folder: str) -> None:
    storage.write_bytes(f"{s3_folder}/corpus/sub/a b.wav", b"")
    storage.write_bytes(f"{s3_folder}/corpus/metadata.csv", b"path,speaker\nsub/a b.wav,1\n")
    assert find(f"{s3_folder}/corpus") == [
        AudioFile(id="sub/a b.wav", uri=f"{s3_folder}/corpus/sub/a b.wav", speaker="1"),
    ]


# The corpus' own settings


def test_labels() -> None:
    assert CorpusConfig("/data/Libri-Light_small").label == "Libri-Light_small"
    assert CorpusConfig("/data/my corpus (2)/").label == "my-corpus-2"
    assert CorpusConfig("s3://bucket/a/LibriSpeech").label == "LibriSpeech"
    assert CorpusConfig(".").label == "corpus"
    assert CorpusConfig("/data/x", name="y").label == "y"


@pytest.mark.parametrize("name", ["a/b", "", "a.b", "..", "a b", "ä", "dropped"])
def test_names_that_could_not_be_files(name: str) -> None:
    with pytest.raises(CorpusError, match=r"name .* must be|cannot be called"):
        CorpusConfig("/data/x", name=name)


def test_metadata_and_kind() -> None:
    with pytest.raises(CorpusError, match="goes with a plain folder"):
        CorpusConfig("/data/x", kind="librispeech", metadata="a.csv")
    with pytest.raises(CorpusError, match=r"must be a \.csv or \.jsonl file"):
        CorpusConfig("/data/x", metadata="a.tsv")
