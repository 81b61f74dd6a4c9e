"""The same tests run on disk and on S3 wherever both must behave alike."""

from __future__ import annotations

import errno
import io
import os
import random
import threading
from pathlib import Path

import boto3
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TwistError
from pipeline.files import s3, storage


def test_what_is_written_is_read(folder: str) -> None:
    uri = storage.join(folder, "a", "b c.bin")
    for data in (b"", b"first", b"second, longer"):
        storage.write_bytes(uri, data)
        assert storage.read_bytes(uri) == data, "the last content written is not what is read"
        assert storage.size(uri) == len(data), "the size is not that of the content"
    assert storage.exists(uri), "a file that was just read does not exist"
    with storage.open_read(uri) as file:
        assert file.read() == b"second, longer", "open_read sees other content than read_bytes"
    storage.delete(uri)
    assert not storage.exists(uri), "a deleted file still exists"
    storage.delete(uri)


@pytest.mark.parametrize("name", ["missing", "file/below-a-file"])
def test_a_missing_file_is_file_not_found(folder: str, name: str) -> None:
    storage.write_bytes(storage.join(folder, "file"), b"x")
    uri = storage.join(folder, name)
    assert not storage.exists(uri), "it must not exist"
    for read in (storage.open_read, storage.read_bytes, storage.size, lambda uri: storage.read_range(uri, 0, 1)):
        with pytest.raises(FileNotFoundError, match=name):
            read(uri)


def test_a_folder_is_no_file(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "sub", "file"), b"x")
    assert not storage.exists(storage.join(folder, "sub")), "a folder was taken for a file"


def test_list_files(folder: str) -> None:
    assert storage.list_files(folder) == [], "a folder that does not exist must be empty"
    names = ["b/2.txt", "b/10.txt", "a.txt", "c.bin", "b-1.txt", "ä ö'\".txt", "b/c/d.txt"]
    for name in names:
        storage.write_bytes(storage.join(folder, name), b"x")
    storage.write_bytes(storage.join(folder + "-other", "not-mine.txt"), b"x")
    assert storage.list_files(folder) == sorted(names), "not the sorted relative paths"
    assert storage.list_files(folder + "/") == sorted(names), "a slash at the end changed the listing"
    assert storage.list_files(folder, ".bin") == ["c.bin"], "the suffix was not respected"
    assert storage.list_files(storage.join(folder, "b")) == sorted(["2.txt", "10.txt", "c/d.txt"])
    for name in names:
        assert storage.read_bytes(storage.join(folder, name)) == b"x", f"{name!r} as listed does not lead to the file"


def test_temporary_files_are_hidden_and_removed(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "sub" / "kept.txt"), b"x")
    left_over = tmp_path / "sub" / ".part.parquet.0123456789ab.tmp"
    left_over.write_bytes(b"half")
    assert storage.list_files(str(tmp_path)) == ["sub/kept.txt"], "a temporary file was listed"
    storage.remove_temporaries(str(tmp_path))
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["kept.txt"], "a temporary file was left"


def test_list_files_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.txt").touch()
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "a" / "y.txt").touch()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "itself").symlink_to(root / "itself")
    (root / "gone.wav").symlink_to(tmp_path / "nothing")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "to-b").symlink_to(root / "b")
    (root / "b" / "to-a").symlink_to(root / "a")
    os.mkfifo(root / "pipe.wav")
    listed = storage.list_files(str(root))
    assert {"linked/x.txt", "a/y.txt"} <= set(listed), "a linked folder was not followed"
    assert "gone.wav" in listed, "a link to nothing must be listed, so that it can be dropped as missing"
    assert "pipe.wav" not in listed, "reading a pipe would wait for ever"
    assert len(listed) == len(set(listed)) < 10, f"links in a circle were followed round: {listed}"


def test_a_folder_that_may_not_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        storage.list_files(str(tmp_path))


def test_read_range(folder: str) -> None:
    uri = storage.join(folder, "file")
    data = bytes(range(100))
    storage.write_bytes(uri, data)
    for start, length in [(0, 100), (10, 5), (95, 5), (95, 50), (100, 10), (500, 1), (3, 0)]:
        assert storage.read_range(uri, start, length) == data[start : start + length], f"bytes {start}, {length}"


def test_random_reads_give_what_the_whole_gives(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "READ_AHEAD_BYTES", 1000)
    data = random.Random(0).randbytes(10_000)
    uri = storage.join(folder, "file")
    storage.write_bytes(uri, data)
    rng = random.Random(1)
    whole = io.BytesIO(data)
    with storage.open_read(uri) as file:
        assert file.seekable(), "libsndfile needs to seek"
        for _ in range(60):
            whence = rng.choice([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
            target = rng.randrange(11_000)
            offset = target - {io.SEEK_SET: 0, io.SEEK_CUR: whole.tell(), io.SEEK_END: len(data)}[whence]
            assert file.seek(offset, whence) == whole.seek(offset, whence), "seek lands elsewhere"
            length = rng.choice([0, 1, 7, 999, 1000, 1001, 5000, -1])
            assert file.read(length) == whole.read(length), f"other bytes at {target}"
            assert file.tell() == whole.tell(), "another position after reading"


def test_soundfile_reads_through_it(folder: str) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (16_000, 2)).astype(np.float32)
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, 16_000, format="FLAC", subtype="PCM_24")
    uri = storage.join(folder, "a.flac")
    storage.write_bytes(uri, encoded.getvalue())
    with storage.open_read(uri) as file, soundfile.SoundFile(file) as sound:
        sound.seek(9_000)
        np.testing.assert_allclose(sound.read(dtype="float32"), samples[9_000:], atol=1e-6)


def test_put_if_absent_keeps_what_is_there(folder: str) -> None:
    uri = storage.join(folder, "part")
    assert storage.put_if_absent(uri, b"first"), "nothing was there, yet it did not put"
    assert not storage.put_if_absent(uri, b"second"), "something was there, yet it says that it put"
    assert storage.read_bytes(uri) == b"first", "what was there is gone"
    assert storage.list_files(folder) == ["part"], "something else was left"


def test_of_racing_writers_exactly_one_wins(folder: str) -> None:
    uri = storage.join(folder, "part")
    contents = [bytes([number]) * 100_000 for number in range(8)]
    start = threading.Barrier(len(contents))
    won: list[bytes] = []

    def put(content: bytes) -> None:
        start.wait()
        if storage.put_if_absent(uri, content):
            won.append(content)

    threads = [threading.Thread(target=put, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1, f"{len(won)} writers were told that they won"
    assert storage.read_bytes(uri) == won[0], "the content is not the winner's, whole"
    assert storage.list_files(folder) == ["part"]


def test_put_if_absent_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    uri = str(tmp_path / "part")
    assert storage.put_if_absent(uri, b"first")
    assert not storage.put_if_absent(uri, b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["part"], "a temporary file was left"
    assert Path(uri).read_bytes() == b"first"


@pytest.mark.parametrize("write", [storage.write_bytes, storage.put_if_absent])
@pytest.mark.parametrize("failing", ["fsync", "replace and link"])
def test_a_write_that_fails_leaves_nothing(
    write: object, failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
        monkeypatch.setattr(os, "link", fail)
    with pytest.raises(OSError, match="No space left"):
        write(str(tmp_path / "file"), b"content")  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == [], "something half-written was left"


def test_a_write_that_fails_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "file")
    storage.write_bytes(uri, b"before")

    def fail(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(uri, b"after")
    assert storage.read_bytes(uri) == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_bucket_that_does_not_exist(s3_folder: str) -> None:
    uri = f"{s3_folder}-not/file"
    assert storage.list_files(f"{s3_folder}-not") == [], "no bucket is like no folder"
    assert not storage.exists(uri)
    with pytest.raises(FileNotFoundError, match="bucket"):
        storage.write_bytes(uri, b"x")
    with pytest.raises(FileNotFoundError, match="bucket"):
        storage.put_if_absent(uri, b"x")


def test_what_a_console_shows_as_a_folder_is_no_file(s3_folder: str) -> None:
    client = boto3.client("s3")
    for key in ("corpus/", "corpus/sub/", "corpus/sub/a.wav"):
        client.put_object(Bucket=s3_folder.removeprefix("s3://"), Key=key, Body=b"")
    assert storage.list_files(f"{s3_folder}/corpus") == ["sub/a.wav"]


def test_a_long_listing_comes_in_pages(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:04d}" for number in range(25)]
    for name in names:
        storage.write_bytes(f"{s3_folder}/many/{name}", b"")
    client = s3._client()
    list_objects = client.list_objects_v2
    monkeypatch.setattr(client, "list_objects_v2", lambda **request: list_objects(**request, MaxKeys=10))
    assert storage.list_files(f"{s3_folder}/many") == names


def test_a_store_out_of_reach_is_a_connection_error(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr(s3, "PATIENCE_S", 0.2)
    s3.client_of_process.cache_clear()
    uri = f"{s3_folder}/file"
    for use in (storage.read_bytes, storage.size, storage.list_files, storage.delete, storage.open_read):
        with pytest.raises(ConnectionError, match=uri):
            use(uri)
    with pytest.raises(ConnectionError, match=uri):
        storage.write_bytes(uri, b"x")


def test_only_paths_and_s3_are_understood() -> None:
    assert storage.is_s3("s3://bucket/key")
    assert not storage.is_s3("/a/b")
    assert not storage.is_s3("a:b/c")
    for uri in ("gs://bucket/run", "https://host/file", "S3://bucket/key"):
        with pytest.raises(TwistError, match="neither a local path nor s3://"):
            storage.join(uri, "file")
    with pytest.raises(TwistError, match="no bucket"):
        storage.read_bytes("s3:///key")


def test_join() -> None:
    assert storage.join("s3://bucket", "a", "b/c") == "s3://bucket/a/b/c"
    assert storage.join("s3://bucket/x/", "a") == "s3://bucket/x/a"
    assert storage.join("/x/", "a", "b/c") == "/x/a/b/c"


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/b") == str(tmp_path / "a" / "b")
    assert storage.absolute("s3://bucket/a") == "s3://bucket/a"


@given(st.text("/.ab ", max_size=8), st.text("/.ab ", max_size=8))
def test_joining_quickly_gives_what_path_gives(folder_name: str, name: str) -> None:
    for folder_path in (folder_name, f"/{folder_name}"):
        if folder_path and name:
            assert storage.join(folder_path, name) == str(Path(folder_path, name))


def test_list_versions_are_those_of_the_files(folder: str) -> None:
    for name in ("a.JSON", "b/c.json", "b/d.txt"):
        storage.write_bytes(storage.join(folder, name), name.encode())
    listed = storage.list_versions(folder, (".json",))
    assert listed == {name: storage.version(storage.join(folder, name)) for name in ("a.JSON", "b/c.json")}
    storage.write_bytes(storage.join(folder, "b/c.json"), b"other content")
    assert storage.list_versions(folder, (".json",)) != listed


def test_many_files_are_removed_and_others_stay(folder: str) -> None:
    names = [f"a/{number}" for number in range(40)]
    for name in [*names, "b"]:
        storage.write_bytes(f"{folder}/{name}", b"x")
    storage.delete_all(f"{folder}/{name}" for name in [*names, "a/none"])
    assert storage.list_files(folder) == ["b"]
    storage.delete_all([])
