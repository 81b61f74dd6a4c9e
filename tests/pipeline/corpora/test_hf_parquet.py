from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpora import hf_parquet
from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notice
from pipeline.files import storage
from pipeline.files.audio_uri import open_read

if TYPE_CHECKING:
    from pathlib import Path

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, audio: list[dict[str, Any] | None], row_group_size: int = 2, **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"audio": pa.array(audio, AUDIO), **columns})
    pq.write_table(table, path, row_group_size=row_group_size)


def find(root: Path | str) -> tuple[list[AudioFile], dict[str, Notice]]:
    found = list(hf_parquet.find_recordings(CorpusConfig(str(root), "hf_parquet", "c")))
    notices = {notice.what: notice for notice in found if isinstance(notice, Notice)}
    return [file for file in found if isinstance(file, AudioFile)], notices


def content(file: AudioFile) -> bytes:
    with open_read(file.uri) as audio:
        return audio.read()


@pytest.mark.parametrize("mixed", [True, False])
def test_rows_without_bytes_are_the_files_at_their_paths(mixed: bool, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("audio/a.ogg", "sub/audio/b.ogg", "sub/é.ogg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "secret.ogg").write_text("secret")
    paths = [
        "audio/a.ogg",
        "audio/b.ogg",
        "e\u0301.ogg",
        "gone.ogg",
        "../../secret.ogg",
        str(tmp_path / "secret.ogg"),
        "../audio/a.ogg",
        None,
    ]
    rows: list[dict[str, Any] | None] = [{"bytes": None, "path": path} for path in paths]
    write(root / "sub/train.parquet", [{"bytes": b"in", "path": "audio/a.ogg"}, *rows] if mixed else rows, 3)
    files, _ = find(root)
    if mixed:
        assert content(files.pop(0)) == b"in"
    outcomes = [file.drop_reason or content(file).decode() for file in files]
    assert outcomes == [
        "audio/a.ogg", "sub/audio/b.ogg", "sub/é.ogg", "missing", "bad_name", "bad_name", "audio/a.ogg", "empty",
    ]  # fmt: skip


def test_on_s3(s3_folder: str, tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", [{"bytes": None, "path": "a.ogg"}, {"bytes": b"b", "path": "b.ogg"}])
    storage.write_bytes(f"{s3_folder}/data/x.parquet", (tmp_path / "x.parquet").read_bytes())
    storage.write_bytes(f"{s3_folder}/data/a.ogg", b"a")
    assert [content(file) for file in find(f"{s3_folder}/data")[0]] == [b"a", b"b"]


def test_ids_that_repeat_give_way_to_the_place(tmp_path: Path) -> None:
    audio: list[dict[str, Any] | None] = [{"bytes": b"x", "path": None}] * 3
    write(tmp_path / "a.parquet", audio, id=["s1", "s2", "s1"])
    write(tmp_path / "b.parquet", audio, id=["s1", "s2", "s3"])
    files, notices = find(tmp_path)
    assert [file.id for file in files] == ["a/0-0", "a/0-1", "a/1-0", "b/s1", "b/s2", "b/s3"]
    assert notices["repeated_id"] == Notice("repeated_id", f"'id' of {tmp_path}/a.parquet", 1)


def test_columns_under_their_usual_names(tmp_path: Path) -> None:
    audio: list[dict[str, Any] | None] = [{"bytes": b"x", "path": None}]
    columns = {"Locale": ["de"], "SpeakerID": [7], "Duration_MS": [1500], "speaker_lang": ["x"], "split": ["dev"]}
    write(tmp_path / "a.parquet", audio, **columns)
    (file,), notices = find(tmp_path)
    assert (file.language, file.speaker, file.duration_s, file.split) == ("de", "7", 1.5, "validation")
    assert "'speaker_lang'" in notices["unused_column"].example
    write(tmp_path / "a.parquet", audio, language=[3])
    (file,), notices = find(tmp_path)
    assert file.language is None and "which holds int64" in notices["unused_column"].example


def test_a_large_file_is_listed_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet", [{"bytes": b"%d" % n, "path": None} for n in range(50)], 20, id=list(range(50)))
    before, _ = find(tmp_path)
    monkeypatch.setattr(hf_parquet, "MOST_ROWS_OF_A_TASK", 10)
    assert find(tmp_path)[0] == before
    assert [content(file) for file in before] == [b"%d" % n for n in range(50)]


def test_no_column_of_audio(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "sound": ["a.wav"]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet has no column of audio: .*; its columns are id, sound"):
        find(tmp_path)
