from __future__ import annotations

import csv
import json
import os
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora import folder
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notice
from pipeline.files import s3, storage
from pipeline.files.audio_uri import open_read
from pipeline.languages import normalize_code


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
        ("metadata.csv", b"path,text\n,y\na.wav,x\n", r"line 2 of .* has no `path`"),
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


def test_rows_that_say_nothing_new_or_of_no_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    rows = "a.wav,x\n,y\nb.wav,z\n./a.wav,x\ngone.wav,x\ngone.wav,x\n"
    (tmp_path / "metadata.csv").write_text(f"path,text\n{rows}")
    assert [(file.id, file.text, file.drop_reason) for file in find(tmp_path)] == [
        ("a.wav", "x", None),
        ("b.wav", "z", None),
        ("gone.wav", "x", "missing"),
    ]
    assert noticed(tmp_path) == {"unreadable_row": 1}


def test_a_first_line_for_excel(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    for newline in ("\n", "\r\n"):
        (tmp_path / "metadata.csv").write_bytes(f"sep=;{newline}path;text{newline}a.wav;x, y{newline}".encode())
        assert [file.text for file in find(tmp_path)] == ["x, y"]
    (tmp_path / "metadata.csv").write_text("sep=;\npath;text\na.wav;x\n../b.wav;y\n")
    with pytest.raises(CorpusError, match="line 4 of"):
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


# Tables as people write them


@pytest.mark.parametrize(
    "table",
    [
        "path, language, speaker\na.ogg, en, x\nsub/b.ogg, fr, y\n",
        "path,lang,speaker_id\na.ogg,en,x\nsub/b.ogg,fr,y\n",
        "PATH,Language,Speaker ID\na.ogg,en,x\nsub/b.ogg,fr,y\n",
        "file_name;locale;client_id\na.ogg;en;x\nsub\\b.ogg;fr;y\n",
        "filename\tlanguage\tspeaker\r\n./a.ogg\ten\tx\r\nsub//b.ogg\tfr\ty\r\n",
        "path,language,speaker\ra.ogg,en,x\rsub/b.ogg,fr,y\r",
        "path,language,speaker\ra.ogg,en,x\rsub/b.ogg,fr,y\n",
        '"path", "language", "speaker"\n"a.ogg", "en", "x"\n"sub/b.ogg", "fr", "y"\n',
        "\ufeffspeaker,language,path,,\n\nx,en,a.ogg,,\n,,,,\ny,fr,sub/b.ogg,,\n",
        "path|language|speaker\nA.OGG|en|x\nsub/b|fr|y\n",
        "sentence,path,language,speaker\nIt was\ra fine day,a.ogg,en,x\nb,sub/b.ogg,fr,y\n",
        'path,text,language,speaker\na.ogg,"never closed,en,x\nsub/b.ogg,"nor" here,fr,y\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_as_people_write_them(table: str, encoding: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.ogg", "sub/b.ogg")
    (tmp_path / "metadata.csv").write_bytes(table.encode(encoding))
    assert [(file.id, file.language, file.speaker, file.drop_reason) for file in find(tmp_path)] == [
        ("a.ogg", "en", "x", None),
        ("sub/b.ogg", "fr", "y", None),
    ]
    assert not noticed(tmp_path)


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_letters_with_accents(on_disk: Any, encoding: str, tmp_path: Path) -> None:
    name = "Café_Zoë.ogg"
    touch(tmp_path, unicodedata.normalize(on_disk, name), "a.ogg")
    (tmp_path / "metadata.csv").write_bytes(f"path,language,text\n{name},fr,né\na.ogg,en,x\n".encode(encoding))
    assert sorted((file.language, file.text) for file in find(tmp_path)) == [("en", "x"), ("fr", "né")]


def test_ljspeech_s_table(tmp_path: Path) -> None:
    touch(tmp_path, "wavs/one-1.wav", "wavs/one-2.wav")
    (tmp_path / "metadata.csv").write_text('one-1|It cost $2|It cost two dollars\none-2|"Quoted, it was|\none-3|x|x\n')
    assert [(file.id, file.text, file.drop_reason) for file in find(tmp_path)] == [
        ("one-3", "x", "missing"),
        ("wavs/one-1.wav", "It cost two dollars", None),
        ("wavs/one-2.wav", '"Quoted, it was', None),
    ]


def test_hugging_face_s_audiofolder(tmp_path: Path) -> None:
    touch(tmp_path, "data/train/a.mp3", "data/test/b.mp3")
    (tmp_path / "data/train/metadata.csv").write_text("file_name,transcription\na.mp3,one\n")
    (tmp_path / "data/test/metadata.jsonl").write_text('{"file_name": "b.mp3", "sentence": "two"}\n')
    assert {file.id: file.text for file in find(tmp_path)} == {"data/train/a.mp3": "one", "data/test/b.mp3": "two"}


def test_what_is_not_used_is_noticed(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a.wav",
        "b.wav",
        "other.tsv",
        "x.parquet",
        "a.txt",
        "README.txt",
        "._a.wav",
        ".DS_Store",
        "old/metadata.csv",
    )
    (tmp_path / "old/metadata.csv").write_text("name,age\nx,1\n")
    (tmp_path / "metadata.csv").write_text(
        "path,language,locale,speaker_gender_id,accent\na.wav,en,x,y,z\nb.wav,en,x,y,z\n"
    )
    assert noticed(tmp_path) == {"unread_file": 4, "unused_column": 2}
    assert len(find(tmp_path)) == 2


@given(
    st.lists(st.sampled_from([*"abcdef"]), max_size=6, unique=True),
    st.lists(st.sampled_from([*"abcdef"]), max_size=6, unique=True),
)
def test_every_file_and_every_row_is_accounted_for(on_disk: list[str], in_table: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        touch(root, *(f"{stem}.wav" for stem in on_disk))
        (root / "metadata.csv").write_text("path,speaker\n" + "".join(f".\\{stem}.wav , {stem}\n" for stem in in_table))
        matched = len(set(on_disk) & set(in_table))
        try:
            files = find(root)
        except CorpusError:
            assert matched < len(on_disk) / 2 and matched < len(in_table) / 2
            return
    assert len(files) == len(set(on_disk) | set(in_table))
    assert sum(file.drop_reason == "missing" for file in files) == len(in_table) - matched
    assert sum(file.speaker is not None and file.drop_reason is None for file in files) == matched


# Keys of S3 that are no paths


def test_odd_keys_of_s3(s3_folder: str) -> None:
    keys = ["/a.wav", "b//c.wav", "//d.wav", "./e.wav", "f/../g.wav", "h /i.wav", "é%20#?+&.wav"]
    for key in keys:
        bucket = s3_folder.removeprefix("s3://")
        s3.client_of_process(os.getpid()).put_object(Bucket=bucket, Key=f"data/{key}", Body=key.encode())
    files = find(f"{s3_folder}/data")
    assert sorted(file.id for file in files) == sorted(keys)
    for file in files:
        with open_read(file.uri) as audio:
            assert audio.read().decode() == file.id


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("languages/de/a.wav languages/de/x/b.wav", ["de", "de"]),
        ("de/a.wav en/b.wav", ["de", "en"]),
        ("data/by_lang/pt/a.wav", ["pt"]),
        ("German/a.wav mixed/b.wav podcasts/c.wav pt-BR/d.wav", ["de", None, None, "pt"]),
        ("de-at/a.wav en-gb/b.wav", ["de", "en"]),
        ("deu/a.wav eng/b.wav unknown/c.wav", ["de", "en", None]),
        ("audio/french/s1/a.wav audio/en_US/s2/b.wav", ["en", "fr"]),
        ("pt-BR/a.wav talks/b.wav", ["pt", None]),
        # A name alone, perhaps a person's.
        ("Asha/a.wav Swati/b.wav", [None, None]),
        ("german/a.wav", [None]),
        ("it/a.wav", [None]),
        ("de/a.wav jk/b.wav pw/c.wav", [None, None, None]),
        ("it/a.wav talks/b.wav", [None, None]),
        ("en/a.wav eng/b.wav", [None, None]),
        ("as-is/a.wav it_support/b.wav my_recordings/c.wav no-noise/d.wav", [None] * 4),
        ("bob/a.wav dan/b.wav kim/c.wav maria/d.wav", [None] * 4),
        ("english/french/a.wav", [None]),
        ("german.wav de.wav", [None, None]),
        ("0/a.wav 1/b.wav train/c.wav", [None] * 3),
    ],
)
def test_folders_named_after_languages(names: str, told: list[str | None], tmp_path: Path) -> None:
    touch(tmp_path, *names.split())
    files = find(tmp_path)
    assert [normalize_code(file.language) if file.language else None for file in files] == told
    assert [file.language_source for file in files] == ["folder_name" if language else None for language in told]
    assert noticed(tmp_path) == ({"language_of_folder": n} if (n := sum(map(bool, told))) else {})


def test_rows_and_the_recipe_say_more_than_folders(tmp_path: Path) -> None:
    touch(tmp_path, "languages/german/a.wav", "languages/german/b.wav")
    (tmp_path / "metadata.csv").write_text("path,language\nlanguages/german/a.wav,nl\nlanguages/german/b.wav,\n")
    assert [(file.language, file.language_source) for file in find(tmp_path)] == [("nl", None), ("de", "folder_name")]
    config = CorpusConfig(str(tmp_path), kind="folder", name="c", language="en")
    told = [found.language for found in folder.find_recordings(config) if isinstance(found, AudioFile)]
    assert told == ["nl", None]


@pytest.mark.parametrize("name", ["a.wv1", "b.g722", "c.vox", "d.DS2"])
def test_audio_of_rare_suffixes_is_in_the_count(name: str, tmp_path: Path) -> None:
    touch(tmp_path, name)
    assert [file.id for file in find(tmp_path)] == [name]


@pytest.mark.parametrize("name", ["metadata.json", "labels.xlsx", "more.7z", "x/a.csv.gz", "audio.tar.xz", "b.WAV.gz"])
def test_tables_and_archives_that_are_not_read_are_noticed(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", name)
    assert noticed(tmp_path) == {"unread_file": 1}
