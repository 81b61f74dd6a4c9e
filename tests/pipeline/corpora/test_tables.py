from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.source import CorpusError, Notices
from pipeline.corpora.tables import number, read_columns, read_json_lines, read_lines
from pipeline.files import storage


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_lines(folder: str, name: str) -> None:
    content = "\ufeffone\r\ntwo\u2028still two\n\nthr\u00e9e".encode()
    uri = storage.join(folder, name)
    storage.write_bytes(uri, gzip.compress(content) if name.endswith(".gz") else content)
    assert list(read_lines(uri)) == ["one", "two\u2028still two", "", "thr\u00e9e"]


def test_a_line_that_is_no_utf_8_is_of_windows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café\n".encode() + b"caf\xe9\x81\n")
    assert list(read_lines(str(tmp_path / "a.txt"))) == ["café", "café\ufffd"]


def test_what_gzip_has_compressed_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"one\ntwo\n"))
    assert list(read_lines(str(tmp_path / "a.jsonl"))) == ["one", "two"]


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


TABLE = "client_id\tpath\tsentence\tlocale\tup\n"


@pytest.mark.parametrize(
    ("sentence", "read"),
    [
        ("It was\ra fine day.", "It was\ra fine day."),
        ("It was\ta fine\tday.", "It was a fine day."),
        ("It was\na fine day.", "It was a fine day."),
        ("It was\n\na fine day.\n", "It was  a fine day."),
        ('"It was a fine day.', '"It was a fine day.'),
        ('It was ""a"" fine day.\\', 'It was ""a"" fine day.\\'),
        ("It was\u2028a \u0085fine day.\0", "It was\u2028a \u0085fine day.\0"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_free_text_costs_no_row(sentence: str, read: str, newline: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    lines = [TABLE.strip(), "c0\t0.mp3\tone\ten\t2", f"c1\t1.mp3\t{sentence}\ten\t2", "c2\t2.mp3\ttwo\ten\t2", ""]
    path.write_bytes(newline.join(lines).encode())
    notices = Notices()
    rows = list(read_columns(str(path), "\t", ("client_id", "path"), ("sentence",), notices))
    assert [(row["client_id"], row["path"], row["locale"], row["up"]) for row in rows] == [
        (f"c{number}", f"{number}.mp3", "en", "2") for number in range(3)
    ]
    assert " ".join(rows[1]["sentence"].split()) == " ".join(read.split())
    assert not list(notices)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=30), st.integers(0, 4))
def test_any_free_text_costs_no_row(sentence: str, num_columns_after: int) -> None:
    header = ["client_id", "path", "sentence", *(f"x{number}" for number in range(num_columns_after))]
    after = ["y"] * num_columns_after
    rows = [["c0", "0.mp3", "one", *after], ["c1", "1.mp3", sentence, *after], ["c2", "2.mp3", "two", *after]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tsv"
        path.write_bytes(("\n".join("\t".join(row) for row in [header, *rows]) + "\n").encode())
        read = list(read_columns(str(path), "\t", ("client_id", "path"), ("sentence",)))
    assert [(row["client_id"], row["path"]) for row in read] == [(f"c{number}", f"{number}.mp3") for number in range(3)]


@pytest.mark.parametrize(
    "sentence", ["It\twas\na fine\tday.", "It was\n\ta\tfine day.", "It\n\nwas\n\ta\nfine day.\n", "\n", "a\tb\tc\td\n"]
)
@pytest.mark.parametrize("columns_after", [[], ["en"], ["en", "2"]])
def test_free_text_with_delimiters_and_line_ends(sentence: str, columns_after: list[str], tmp_path: Path) -> None:
    header = ["client_id", "path", "sentence", *["locale", "up"][: len(columns_after)]]
    told = [[f"c{n}", f"{n}.mp3", sentence if n == 1 else "one", *columns_after] for n in range(3)]
    (tmp_path / "a.tsv").write_text("".join("\t".join(row) + "\n" for row in [header, *told]))
    notices = Notices()
    key = ("path", lambda value: value.endswith(".mp3"))
    rows = list(read_columns(str(tmp_path / "a.tsv"), "\t", ("client_id", "path"), ("sentence",), notices, key))
    assert [[row[name] for name in header if name != "sentence"] for row in rows] == [
        [*row[:2], *row[3:]] for row in told
    ]
    assert rows[1]["sentence"].split() == sentence.split()
    assert not list(notices)


def test_a_line_between_rows_is_no_text_of_the_row_before(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("path\tsentence\tlocale\n1.mp3\tone\ten\n# by hand\n2.mp3\ttwo\ten\n")
    key = ("path", lambda value: value.endswith(".mp3"))
    rows = list(read_columns(str(tmp_path / "a.tsv"), "\t", ("path",), ("sentence",), key=key))
    assert [(row["path"], row.get("sentence"), row.get("locale")) for row in rows if row["path"].endswith(".mp3")] == [
        ("1.mp3", "one", "en"),
        ("2.mp3", "two", "en"),
    ]


def test_lines_that_end_in_cr_alone(tmp_path: Path) -> None:
    for end in ("", "\r", "\n"):
        (tmp_path / "a.tsv").write_bytes(f"id\ttext\r1\tone\r2\ttwo{end}".encode())
        assert list(read_columns(str(tmp_path / "a.tsv"), "\t")) == [
            {"id": "1", "text": "one"},
            {"id": "2", "text": "two"},
        ]


def test_utf_16_and_a_header_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("PATH \tClient_ID\n1.mp3\tcafé\n".encode("utf-16"))
    (row,) = read_columns(str(tmp_path / "a.tsv"), "\t", ("client_id", "path"))
    assert row == {"path": "1.mp3", "client_id": "café"}


def test_rows_that_cannot_be_read_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("id\tpath\tmore\n1\ta\tx\n2\n3\tone\ttoo\tmany\n")
    notices = Notices()
    rows = list(read_columns(str(tmp_path / "a.tsv"), "\t", ("id", "path"), notices=notices))
    assert [row["id"] for row in rows] == ["1"]
    (notice,) = notices
    assert (notice.what, notice.count) == ("unreadable_row", 2)
    assert "line 3 of" in notice.example and "a.tsv has 1 fields, not 3" in notice.example
