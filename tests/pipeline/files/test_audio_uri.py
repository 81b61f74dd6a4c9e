from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.read import AudioError, Span, probe, read_spans
from pipeline.corpora import tars
from pipeline.corpora.source import CorpusError
from pipeline.errors import TwistError
from pipeline.files import audio_uri, storage
from pipeline.files.audio_uri import ParquetRow, TarMember, parse

if TYPE_CHECKING:
    from conftest import WriteTone

names = st.text(min_size=1, max_size=30).filter(lambda name: "\0" not in name)


@given(file=names, offset=st.integers(0, 2**50), length=st.integers(0, 2**50), member=names)
def test_a_member_s_address_is_read_as_it_was_written(file: str, offset: int, length: int, member: str) -> None:
    place = TarMember(f"/{file.replace(chr(10), '')}.tar", offset, length, member)
    try:
        member.encode()
    except UnicodeEncodeError:
        return  # a table cannot hold such a name either
    assert parse(str(place)) == place


@given(group=st.integers(0, 2**31), row=st.integers(0, 2**31), column=names)
def test_a_row_s_address_is_read_as_it_was_written(group: int, row: int, column: str) -> None:
    try:
        column.encode()
    except UnicodeEncodeError:
        return
    place = ParquetRow("s3://bucket/a b/x.parquet", group, row, column)
    assert parse(str(place)) == place


@pytest.mark.parametrize("name", ["/data/a.wav", "/data/%20#?.wav", "/data/x.tar#member", "s3://b/a#offset=1", "#"])
def test_other_names_are_files(name: str) -> None:
    assert parse(name) is None


@pytest.fixture
def tar(tmp_path: Path, write_tone: WriteTone) -> tuple[str, dict[str, bytes]]:
    """A tar of audio in several formats, and what is in it."""
    files = {
        name: write_tone(tmp_path / name, duration_s, subtype=subtype).read_bytes()
        for name, duration_s, subtype in [
            ("a.wav", 1.0, "PCM_16"),
            ("sub/b & #1.flac", 2.0, "PCM_16"),
            ("c.ogg", 1.5, "VORBIS"),
            ("d.mp3", 1.5, "MPEG_LAYER_III"),
        ]
    }
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return str(path), files


def test_members_are_found_as_tarfile_finds_them(tar: tuple[str, dict[str, bytes]]) -> None:
    path, files = tar
    found = {member.name: storage.read_range(path, member.offset, member.length) for member in tars.members(path)}
    assert found == files


@pytest.mark.parametrize("largest", [10, 2**20])
def test_audio_in_a_tar_is_that_of_the_file(
    tar: tuple[str, dict[str, bytes]], folder: str, largest: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(audio_uri, "LARGEST_READ_AT_ONCE", largest)  # read whole, or in pieces
    path, files = tar
    uri = storage.join(folder, "x.tar")
    storage.write_bytes(uri, storage.read_bytes(path))
    for member in tars.members(uri):
        alone = str(tmp_path / member.name)
        address = tars.address(uri, member)
        assert probe(address) == probe(alone)
        with audio_uri.open_read(address) as file:
            assert file.read() == files[member.name]
        spans = [(0.0, 1.0), (0.25, 0.75), (0.5, 1.0)]
        inside = read_spans([Span(address, None, *span) for span in spans])
        outside = read_spans([Span(alone, None, *span) for span in spans])
        for one, other in zip(inside, outside, strict=True):
            np.testing.assert_array_equal(one, other, f"{member.name} differs inside its tar")


def test_a_tar_that_changed_is_no_crash(tar: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    path, _ = tar
    addresses = [tars.address(path, member) for member in tars.members(path)]
    whole = storage.read_bytes(path)
    (tmp_path / "x.tar").write_bytes(whole[:2000])
    outcomes = list(read_spans([Span(address, None, 0.0, 1.0) for address in addresses]))
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, AudioError)} <= {
        "truncated",
        "empty",
        "unreadable",
    }
    assert all(isinstance(outcome, AudioError) for outcome in outcomes)
    (tmp_path / "x.tar").unlink()
    with pytest.raises(AudioError, match="missing"):
        probe(addresses[0])


@pytest.mark.parametrize("length", [0, 511, 512, 700, 5_000])
def test_a_tar_that_is_cut_off_gives_what_came_before(
    tar: tuple[str, dict[str, bytes]], tmp_path: Path, length: int
) -> None:
    path, _ = tar
    whole = storage.read_bytes(path)
    first, second, *_ = tars.members(path)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: second.offset + length])
    members = tars.members(str(cut))
    assert next(members) == first
    if length < second.length:
        with pytest.raises(CorpusError, match=r"cut\.tar is not a whole tar"):
            list(members)


def test_garbage_between_members_is_damage(tar: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    path, _ = tar
    content = bytearray(storage.read_bytes(path))
    third = list(tars.members(path))[2]
    content[third.offset - 512 : third.offset] = b"x" * 512
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(CorpusError, match="is not a whole tar"):
        list(tars.members(str(tmp_path / "bad.tar")))


@pytest.mark.parametrize("as_struct", [True, False])
def test_audio_in_a_parquet_file_is_that_of_the_file(
    tar: tuple[str, dict[str, bytes]], folder: str, as_struct: bool, tmp_path: Path
) -> None:
    _, files = tar
    values = [{"bytes": content, "path": name} if as_struct else content for name, content in files.items()]
    local = tmp_path / "x.parquet"
    pq.write_table(pa.table({"other": range(4), "audio": values}), local, row_group_size=3)
    uri = storage.join(folder, "x.parquet")
    storage.write_bytes(uri, local.read_bytes())
    for number, name in enumerate(files):
        address = str(ParquetRow(uri, number // 3, number % 3, "audio"))
        assert probe(address) == probe(str(tmp_path / name))
        (inside,) = read_spans([Span(address, None, 0.25, 0.75)])
        (outside,) = read_spans([Span(str(tmp_path / name), None, 0.25, 0.75)])
        np.testing.assert_array_equal(inside, outside)
    for wrong in (ParquetRow(uri, 7, 0, "audio"), ParquetRow(uri, 0, 9, "audio"), ParquetRow(uri, 0, 0, "sound")):
        with pytest.raises(AudioError, match="unreadable"):
            probe(str(wrong))


# Rows of Parquet files, in any order


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Parquet files in the order in which they are opened; no cursor is left from before."""
    names: list[str] = []

    def open_and_tell(uri: str) -> pq.ParquetFile:
        names.append(uri)
        return original(uri)

    original = audio_uri.open_parquet
    monkeypatch.setattr(audio_uri, "open_parquet", open_and_tell)
    monkeypatch.setattr(audio_uri, "_cursors", audio_uri._Cursors())
    return names


def rows_of(path: Path, contents: list[bytes | None], row_group_size: int) -> list[str]:
    pq.write_table(pa.table({"audio": pa.array(contents, pa.binary())}), path, row_group_size=row_group_size)
    places = (divmod(number, row_group_size) for number in range(len(contents)))
    return [str(ParquetRow(str(path), group, row, "audio")) for group, row in places]


def content(address: str) -> bytes:
    with audio_uri.open_read(address) as file:
        return file.read()


def test_rows_in_their_order_are_decoded_once(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_uri, "BATCH_BYTES", 1000)
    contents: list[bytes | None] = [bytes([n]) * 300 if n % 7 else None for n in range(90)]
    addresses = rows_of(tmp_path / "x.parquet", contents, 30)
    assert [content(address) for address in addresses for _ in range(2)] == [
        c or b"" for c in contents for _ in range(2)
    ]
    assert len(opened) == 3, "once for each row group"


def test_threads_that_read_one_group_from_several_places(tmp_path: Path, opened: list[str]) -> None:
    contents: list[bytes | None] = [b"%d" % n for n in range(400)]
    addresses = rows_of(tmp_path / "x.parquet", contents, 400)
    order = [first + step for step in range(100) for first in (0, 100, 200, 300)]
    assert [content(addresses[n]) for n in order] == [contents[n] for n in order]
    assert len(opened) <= audio_uri.MOST_CURSORS


@given(st.permutations(range(24)), st.integers(1, 30))
def test_rows_in_any_order(order: list[int], batch_bytes: int) -> None:
    contents: list[bytes | None] = [b"%d" % n * (n % 5) for n in range(24)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio_uri, "BATCH_BYTES", batch_bytes)
        patch.setattr(audio_uri, "MOST_CURSORS", 3)
        patch.setattr(audio_uri, "_cursors", audio_uri._Cursors())
        addresses = rows_of(Path(folder) / "x.parquet", contents, 8)
        assert [content(addresses[n]) for n in order] == [contents[n] for n in order]


def test_what_cannot_be_read_is_tried_once(tmp_path: Path, opened: list[str]) -> None:
    addresses = rows_of(tmp_path / "x.parquet", [bytes(range(256)) * 40] * 8, 8)
    damaged = bytearray((tmp_path / "x.parquet").read_bytes())
    damaged[4:200] = b"\xff" * 196
    (tmp_path / "x.parquet").write_bytes(damaged)
    for address in addresses * 2:
        with pytest.raises(TwistError, match=r"x\.parquet: cannot read column 'audio' of row group 0"):
            content(address)
    assert len(opened) == 1


@pytest.mark.usefixtures("opened")
def test_a_forked_process_starts_anew(tmp_path: Path) -> None:
    addresses = rows_of(tmp_path / "x.parquet", [b"%d" % n for n in range(2000)], 2000)
    assert content(addresses[0]) == b"0"
    child = os.fork()
    if child == 0:
        os._exit(0 if content(addresses[1500]) == b"1500" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert content(addresses[1999]) == b"1999"
