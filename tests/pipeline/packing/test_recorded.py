"""Addresses of recordings, found in the segments' table in whatever order batches ask for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.packing.recorded import Recorded

if TYPE_CHECKING:
    from pathlib import Path

ROOTS = {"libri-light": "s3://corpora/light/", "libri": "/data/libri"}


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Two corpora, whose order in the table is not that of their part files, and one recording from elsewhere."""
    rows = [
        {"recording_id": f"{corpus}/{number}", "uri": f"{root.rstrip('/')}/a/{number}.flac", "channel": number % 2}
        for corpus, root in ROOTS.items()
        for number in range(6)
        for _segment in range(3)
    ]
    rows.append({"recording_id": "libri/other", "uri": "/elsewhere/b.flac", "channel": None})
    (tmp_path / "segments").mkdir()
    schema = pa.schema([("recording_id", pa.string()), ("uri", pa.string()), ("channel", pa.int16())])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "segments/segments.parquet", row_group_size=4)
    corpora = [{"root": root, "name": name} for name, root in ROOTS.items()]
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest/stage.json").write_text(json.dumps({"fingerprint": "f", "config": {"corpora": corpora}}))
    return str(tmp_path)


def asked(recorded: Recorded, ids: list[str]) -> list[tuple[str, int | None]]:
    found = recorded.of(pa.chunked_array([ids], pa.string()), [id.partition("/")[0] for id in ids])
    return list(zip(found["uri"].to_pylist(), found["channel"].to_pylist(), strict=True))


def test_addresses_are_relative_to_their_corpus(run: str) -> None:
    recorded = Recorded(run)
    assert asked(recorded, ["libri-light/0", "libri-light/0", "libri-light/3"]) == [
        ("a/0.flac", 0),
        ("a/0.flac", 0),
        ("a/3.flac", 1),
    ]
    assert asked(recorded, ["libri/other", "libri/5"]) == [("/elsewhere/b.flac", None), ("a/5.flac", 1)]


@pytest.mark.parametrize("size", [1, 2, 5, 13])
@pytest.mark.parametrize("backwards", [False, True])
def test_order_and_size_of_batches_do_not_matter(run: str, size: int, backwards: bool) -> None:
    ids = [f"{corpus}/{number}" for corpus in sorted(ROOTS) for number in range(6)]
    ids = ids[::-1] if backwards else ids
    recorded = Recorded(run)
    found = [one for first in range(0, len(ids), size) for one in asked(recorded, ids[first : first + size])]
    assert found == [(f"a/{id.rpartition('/')[2]}.flac", int(id[-1]) % 2) for id in ids]
    assert asked(recorded, []) == []


def test_a_recording_that_no_segment_is_of_is_a_bug(run: str) -> None:
    with pytest.raises(AssertionError, match="does not name libri/gone"):
        asked(Recorded(run), ["libri/gone"])
