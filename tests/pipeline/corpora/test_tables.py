from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from pipeline.corpora.source import CorpusError
from pipeline.corpora.tables import number, read_columns, read_json_lines, read_lines
from pipeline.files import storage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_lines(folder: str, name: str) -> None:
    content = "\ufeffone\r\ntwo\u2028still two\n\nthr\u00e9e".encode()
    uri = storage.join(folder, name)
    storage.write_bytes(uri, gzip.compress(content) if name.endswith(".gz") else content)
    assert list(read_lines(uri)) == ["one", "two\u2028still two", "", "thr\u00e9e"]


def test_a_line_that_is_no_utf_8_is_of_windows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café\n".encode() + b"caf\xe9\x81\n")
    assert list(read_lines(str(tmp_path / "a.txt"))) == ["café", "café\ufffd"]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda _: b"no gzip", lambda data: data[:20] + b"x" * 30])
def test_damaged_gzip(tmp_path: Path, damage: object) -> None:
    data = gzip.compress(b"".join(b"a line of text %d\n" % n for n in range(1000)))
    (tmp_path / "a.gz").write_bytes(damage(data))  # type: ignore[operator]
    with pytest.raises(CorpusError, match=r"a\.gz is not a whole gzip file"):
        list(read_lines(str(tmp_path / "a.gz")))


def test_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\tmore\n1\t"never closed\tx\n2\tshort\n3\tone\ttoo\tmany\n\n')
    rows = list(read_columns(str(path), "\t", ("id", "text")))
    assert rows == [{"id": "1", "text": '"never closed', "more": "x"}, {"id": "2", "text": "short"}]
    with pytest.raises(CorpusError, match="has no column 'speaker'; its first line names id, text, more"):
        list(read_columns(str(path), "\t", ("speaker",)))


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n[3]\n')
    rows = read_json_lines(str(path))
    assert [next(rows), next(rows)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(CorpusError, match=r"line 4 of .* is not an object"):
        next(rows)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.5", 1.5),
        (2, 2.0),
        ("", None),
        (None, None),
        ("x", None),
        ("nan", None),
        ("inf", None),
        (-1, None),
        ([], None),
    ],
)
def test_numbers(value: object, expected: float | None) -> None:
    assert number(value) == expected
