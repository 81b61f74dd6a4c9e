"""Hostile files of text: what cannot be a document is left out by name, in bounded memory, and the rest is kept."""

from __future__ import annotations

import ast
import gzip
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.text.documents import NoText, read_documents
from pipeline.text.files import Piece, TextFile, format_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.hostile.conftest import Reader

DOCUMENTS = (
    "import os; from pipeline.text.documents import read_documents; from pipeline.text.files import *; "
    "f = TextFile('c', path, 's', format_of(path), 'text', '{document}', os.path.getsize(path)); "
    "print([(row, one if isinstance(one, str) else one.reason) for row, one in "
    "read_documents(Piece(0, f, 0, f.num_bytes))])"
)


@pytest.fixture
def documents(read: Reader) -> Callable[..., list[tuple[int, str]]]:
    """What a process of its own reads of a file: texts, and the reasons for what has none."""

    def of(path: Path, document: str = "line") -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = ast.literal_eval(read(DOCUMENTS.format(document=document), path))
        return found

    return of


@pytest.mark.parametrize("name", ["text.txt", "text.jsonl"])
def test_a_line_of_a_gigabyte(documents: Callable[..., list[tuple[int, str]]], name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    rest = b"\nthe end\n" if name.endswith("txt") else b'\n{"text": "the end"}\n'
    with path.open("wb") as file:
        file.truncate(2**30)  # of NULs, which take no room on a disk
        file.seek(2**30)
        file.write(rest)
    assert documents(path) == [(0, "too_long"), (1, "the end")]


@pytest.mark.parametrize("document", ["line", "paragraph", "file"])
def test_a_gigabyte_in_a_megabyte(
    documents: Callable[..., list[tuple[int, str]]], document: str, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"a" * 2**24)
        file.write(b"\n\nthe end\n")
    found = documents(path, document)
    assert found[0] == (0, "too_long")
    assert [text for _, text in found[1:]] == ([] if document == "file" else ["the end"])


def test_json_that_is_deep_or_long_or_none(documents: Callable[..., list[tuple[int, str]]], tmp_path: Path) -> None:
    deep = [b"[" * depth + b"]" * depth for depth in (50, 200, 100_000)]
    lines = [
        b'{"text": "one"}',
        *(b'{"text": ' + one + b"}" for one in deep),
        b'{"text": "\\ud800"}',
        b'{"text": "two"',
        b"\xff\xfe",
        b'{"text": 1e400}',
        b'{"text": "three", "more": ' + deep[0] + b"}",
    ]
    path = tmp_path / "text.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert documents(path) == [(0, "one"), *((row, "unreadable") for row in range(1, 8)), (8, "three")]


def read_here(path: Path, document: str = "line") -> list[tuple[int, str]]:
    kind = format_of(path.name)
    assert kind is not None
    file = TextFile("c", str(path), path.name, kind, "text", document, os.path.getsize(path))  # type: ignore[arg-type] # noqa: PTH202
    found = read_documents(Piece(0, file, 0, file.num_bytes if kind != "parquet" else 1))
    return [(row, one.reason if isinstance(one, NoText) else one) for row, one in found]


def test_nul_bytes_are_characters_and_bytes_that_are_no_utf8_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"a\0b\n\0\n\xff\xfe\n\xc3\n\xed\xa0\x80\nend\n")
    expected = [(0, "a\0b"), (1, "\0"), *((row, "unreadable") for row in (2, 3, 4)), (5, "end")]
    assert read_here(path) == expected
    assert read_here(path, "file") == [(0, "unreadable")]
    lines = [json.dumps({"text": text}) for text in ("a\0b", "\0")]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    assert read_here(tmp_path / "text.jsonl") == expected[:2]


def test_parquet_of_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    data = b"one\xff\xfetwo"
    offsets = np.array([0, 3, 5, 8], np.int32)
    column = pa.Array.from_buffers(pa.string(), 3, [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data)])
    pq.write_table(pa.table({"text": column}), tmp_path / "text.parquet")
    assert read_here(tmp_path / "text.parquet") == [(0, "one"), (1, "unreadable"), (2, "two")]
