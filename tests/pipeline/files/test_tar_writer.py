"""Tars in memory are those of `tarfile` and `numpy.save`, byte for byte."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.files import tar_writer
from pipeline.files.tar_writer import TarWriter

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120)


def by_tarfile(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o444
            member.uname = member.gname = "root"
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1100)), max_size=12))
def test_any_members_are_written_as_by_tarfile(members: list[tuple[str, bytes]]) -> None:
    tar = TarWriter()
    ends = [tar.add(name, content) for name, content in members]
    written = bytes(tar.finished())
    assert written == by_tarfile(members)
    for end, (_, content) in zip(ends, members, strict=True):
        assert written[end - len(content) : end] == content


@pytest.mark.parametrize("length", [99, 100, 101])
def test_names_about_as_long_as_their_field(length: int) -> None:
    tar = TarWriter()
    tar.add("a" * length, b"content")
    assert tar.finished() == by_tarfile([("a" * length, b"content")])


def test_a_size_that_outgrows_its_field_is_told_in_a_record_of_its_own() -> None:
    as_tarfile = {size: tar_writer._member("a", size).tobuf() for size in (8**11 - 1, 8**11)}
    assert {size: tar_writer._header("a", size) for size in as_tarfile} == as_tarfile
    assert len(as_tarfile[8**11]) > len(as_tarfile[8**11 - 1]) == 512


@pytest.mark.parametrize(
    "values",
    [
        np.arange(5, dtype=np.uint16),
        np.arange(5, dtype=">u4"),
        np.arange(20, dtype=np.uint32)[::3],
        np.arange(12, dtype=np.uint32).reshape(4, 3),
        np.empty(0, np.uint16),
        np.empty((0, 3), np.uint32),
        np.arange(100_000, dtype=np.uint16),
    ],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_arrays_are_written_as_by_numpy(values: np.ndarray[Any, Any]) -> None:
    saved = io.BytesIO()
    np.save(saved, values.astype(values.dtype.newbyteorder("<")))
    tar = TarWriter()
    tar.add("before", b"x")
    offset = tar.add_array("a.npy", values)
    written = bytes(tar.finished())
    assert written == by_tarfile([("before", b"x"), ("a.npy", saved.getvalue())])
    data = written[offset : offset + values.nbytes]
    assert np.array_equal(np.frombuffer(data, values.dtype.newbyteorder("<")).reshape(values.shape), values)


def test_columns_first_in_memory_are_rows_first_in_the_tar() -> None:
    """Words are read by the byte, row after row."""
    values = np.arange(12, dtype=np.uint32).reshape(4, 3)
    tars = [TarWriter(), TarWriter()]
    for tar, array in zip(tars, (values, np.asfortranarray(values)), strict=True):
        tar.add_array("a.npy", array)
    assert tars[0].finished() == tars[1].finished()


def test_a_tar_without_members_is_whole() -> None:
    assert TarWriter().finished() == by_tarfile([])
