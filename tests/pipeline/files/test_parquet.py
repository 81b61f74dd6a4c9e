from __future__ import annotations

import errno
import io
import random
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import TwistError
from pipeline.files import parquet, s3, storage

if TYPE_CHECKING:
    from pathlib import Path

TABLE = pa.table(
    {
        "id": [f"recording-{number}" for number in range(1000)],
        "units": pa.array([[number, number + 1] for number in range(1000)], pa.list_(pa.uint16())),
        "reason": [None if number % 3 else "silent" for number in range(1000)],
    }
)


def test_what_is_written_is_read(folder: str) -> None:
    uri = storage.join(folder, "table.parquet")
    parquet.write(uri, TABLE)
    assert parquet.read(uri).equals(TABLE), "the table came back changed"
    assert parquet.read(uri, ["reason", "units"]).equals(TABLE.select(["reason", "units"])), "columns came back changed"
    assert storage.list_files(folder) == ["table.parquet"], "something else was left"


def test_plain_pyarrow_reads_it(tmp_path: Path) -> None:
    parquet.write(str(tmp_path / "table.parquet"), TABLE)
    assert pq.read_table(tmp_path / "table.parquet").equals(TABLE)


def test_same_table_gives_same_bytes() -> None:
    in_chunks = pa.concat_tables([TABLE.slice(0, 10), TABLE.slice(10, 700), TABLE.slice(710)])
    assert parquet.to_bytes(in_chunks) == parquet.to_bytes(TABLE), "the bytes depend on how the table was put together"


def test_row_groups() -> None:
    content = parquet.to_bytes(TABLE, row_group_size=300)
    assert pq.ParquetFile(io.BytesIO(content)).num_row_groups == 4


def test_missing_file(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        parquet.read(storage.join(folder, "missing.parquet"))


def test_missing_column_is_named(tmp_path: Path) -> None:
    uri = str(tmp_path / "table.parquet")
    parquet.write(uri, TABLE)
    with pytest.raises(TwistError, match=r"table\.parquet.*no column durations, speaker"):
        parquet.read(uri, ["id", "speaker", "durations"])


def test_damage_is_one_clear_error_or_does_no_harm(tmp_path: Path) -> None:
    uri = str(tmp_path / "table.parquet")
    whole = parquet.to_bytes(TABLE)
    rng = random.Random(0)
    damaged = [whole[:length] for length in range(0, len(whole), 211)]
    for _ in range(150):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        damaged.append(bytes(content))
    for content in damaged:
        storage.write_bytes(uri, content)
        try:
            table = parquet.read(uri)
        except TwistError as error:
            assert uri in str(error), "the error does not name the file"
        else:
            assert table.schema.names == TABLE.schema.names
            assert table.equals(TABLE), "damaged values came through unnoticed"


def test_a_failing_store_is_not_called_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> bytes:
        raise failure

    monkeypatch.setattr(storage, "size", fail)
    monkeypatch.setattr(storage, "read_bytes", fail)
    for failure in (OSError(errno.EIO, "Input/output error"), ConnectionError("s3://bucket: time out")):
        for uri in (str(tmp_path / "table.parquet"), "s3://bucket/table.parquet"):
            with pytest.raises(type(failure), match=str(failure.args[-1])):
                parquet.read(uri)


def test_a_large_object_is_read_by_ranges(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one row group one column: as many bytes as that has, and some about the footer."""
    rng = random.Random(0)
    noise = [rng.randbytes(100).hex() for _ in range(40_000)]
    table = pa.table({"text": noise, "other": noise[::-1]})
    uri = f"{s3_folder}/large.parquet"
    storage.write_bytes(uri, parquet.to_bytes(table, row_group_size=10_000))
    read: list[int] = []
    whole, by_range = s3.read_bytes, s3.read_range

    def counted(uri: str, start: int, length: int) -> bytes:
        read.append(length)
        return by_range(uri, start, length)

    monkeypatch.setattr(s3, "read_range", counted)
    monkeypatch.setattr(s3, "read_bytes", lambda _: pytest.fail("the object was read whole"))
    with parquet.RowGroups(uri, ["text"], in_ranges=True) as groups:
        assert [rows for rows, _ in groups.sizes] == [10_000] * 4
        assert groups.read(2).equals(table.slice(20_000, 10_000).select(["text"]))
    monkeypatch.setattr(s3, "read_bytes", whole)
    assert 0 < sum(read) < storage.size(uri) / 4
    with pytest.raises(FileNotFoundError):
        parquet.RowGroups(f"{s3_folder}/none.parquet", in_ranges=True)


def test_a_file_that_is_cut_off_is_told_when_read_by_ranges(s3_folder: str) -> None:
    uri = f"{s3_folder}/cut.parquet"
    storage.write_bytes(uri, parquet.to_bytes(TABLE)[:-9])
    with pytest.raises(TwistError, match=r"cut\.parquet is not a whole Parquet file"):
        parquet.RowGroups(uri, in_ranges=True)
