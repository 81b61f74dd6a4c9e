from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from pipeline.audio.read import Span, read_spans
from pipeline.corpora.manifest import read_recordings
from pipeline.errors import TwistError
from pipeline.files import parquet, s3, storage
from pipeline.files.find_rows import find_rows
from pipeline.segments.segment import read_segments
from pipeline.shards import open_dataset, read_sample
from pipeline.tracing.audio import audio_of
from pipeline.tracing.text import as_text
from pipeline.tracing.trace import trace

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def traces(small_run: Path) -> list[dict]:
    """What became of every segment of a run."""
    return [trace(str(small_run), id) for id in read_segments(str(small_run))["segment_id"].to_pylist()]


def test_every_segment_is_in_a_sample_or_was_dropped_never_both(traces):
    for traced in traces:
        (segment,) = traced["segments"]
        is_dropped = any(drop["id"] == segment["segment_id"] and drop["num_items"] for drop in traced["dropped"])
        assert is_dropped != (segment["sample"] is not None), as_text(traced)


def test_the_samples_units_are_those_of_the_trace(small_run, traces):
    dataset = open_dataset(str(small_run / "shards"))
    rows = {row["key"]: row for row in dataset.manifest.to_pylist()}
    found = [segment for traced in traces for segment in traced["segments"] if segment["sample"]]
    assert {segment["sample"]["key"] for segment in found} == set(rows)
    for segment in found:
        row = rows[segment["sample"]["key"]]
        sample = read_sample(dataset.uri, row)
        assert segment["first_units"] == sample.units[:10].tolist()
        assert (segment["num_units"], segment["num_frames"]) == (len(sample.units), sample.num_frames)
        assert segment["sample"]["offset"] == row["offset"]


def test_every_recording_is_told_of(small_run):
    for recording in read_recordings(str(small_run)):
        traced = trace(str(small_run), recording.recording_id)
        assert traced["recording"]["uri"] == recording.uri
        assert traced["language"]["keep"] == bool(traced["segments"])
        assert traced["language"]["keep"] or traced["dropped"][0]["remedy"]
        assert recording.uri in as_text(traced)


def test_a_key_and_a_file_lead_to_the_same_as_their_ids(small_run, traces):
    segment = next(segment for traced in traces for segment in traced["segments"] if segment["sample"])
    by_key = trace(str(small_run), segment["sample"]["key"])
    assert by_key["segments"] == [segment]
    by_file = trace(str(small_run), by_key["recording"]["uri"])
    assert by_file["recording_id"] == by_key["recording_id"] and by_file["is_whole"]


def test_audio_is_the_segments_own(traces):
    traced = next(traced for traced in traces if traced["segments"][0]["sample"])
    (segment,) = traced["segments"]
    span = Span(traced["recording"]["uri"], None, segment["start_s"], segment["end_s"])
    assert np.array_equal(audio_of(traced), next(read_spans([span])))


def test_what_was_dropped_says_where_and_why_and_what_would_bring_it_back(small_run):
    broken = trace(str(small_run), "sounds/broken.wav")
    assert [(drop["stage"], drop["reason"]) for drop in broken["dropped"]] == [("manifest", "unreadable")]
    french = as_text(trace(str(small_run), "sounds/g/autre é.wav"))
    assert "dropped as other_language" in french and "language.languages" in french
    gone = as_text(trace(str(small_run), "sounds/vanishes.wav"))
    assert "missing" in gone and "twist tokenize --retry-dropped" in gone


def test_of_two_equal_clips_one_names_the_other(traces):
    twins = [traced for traced in traces if "twin" in traced["recording_id"]]
    copies = [row["id"] for traced in twins for row in traced["copies"]]
    dropped = [drop["id"] for traced in twins for drop in traced["dropped"] if drop["reason"] == "duplicate"]
    assert sorted(copies) == sorted(dropped) != []


def test_an_unknown_name_is_answered_with_the_nearest(small_run):
    with pytest.raises(TwistError, match=r"nearest names are .*twin 1\.wav"):
        trace(str(small_run), "sounds/twin 11.wav")
    with pytest.raises(TwistError, match=r"has no segment"):
        trace(str(small_run), "sounds/twin 1.wav#00000001-00000002")


def test_a_run_that_is_under_way_is_traced_as_far_as_it_came(run_copy):
    for stage in ("units", "shards"):
        (run_copy / stage / "DONE").unlink()
    text = as_text(trace(str(run_copy), "sounds/a/1.wav"))
    assert "units       not finished yet" in text and "shards      not finished yet" in text


@pytest.mark.parametrize("is_unique", [True, False])
def test_rows_are_found_wherever_they_are(tmp_path, is_unique):
    names = [f"{number:04d}" for number in np.random.default_rng(0).permutation(1000)]
    uri = str(tmp_path / "table.parquet")
    parts = [
        pa.table({"id": names[first : first + 90], "number": range(first, min(first + 90, 1000))})
        for first in range(0, 1000, 90)
    ]
    (tmp_path / "table.parquet").write_bytes(parquet.groups_to_bytes(parts, parts[0].schema))
    wanted = [names[3], names[997], "absent"]
    assert find_rows(uri, "id", wanted, is_unique=is_unique)["number"].to_pylist() == [3, 997]


def test_row_groups_that_cannot_hold_the_value_are_not_read(tmp_path, monkeypatch):
    parts = [pa.table({"id": [f"{group}-{row}" for row in range(9)]}) for group in range(9)]
    (tmp_path / "table.parquet").write_bytes(parquet.groups_to_bytes(parts, parts[0].schema))
    read, numbers = parquet.RowGroups.read, []
    monkeypatch.setattr(parquet.RowGroups, "read", lambda self, n, *rest: numbers.append(n) or read(self, n, *rest))
    assert len(find_rows(str(tmp_path / "table.parquet"), "id", ["4-4"])) == 1
    assert set(numbers) == {4}


def test_of_a_run_on_s3_as_of_one_on_disk_and_no_table_is_fetched_whole(small_run, traces, s3_folder, monkeypatch):
    run = f"{s3_folder}/run"
    for path in small_run.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{run}/{path.relative_to(small_run)}", path.read_bytes())
    whole: list[str] = []
    read_bytes = s3.read_bytes
    monkeypatch.setattr(s3, "read_bytes", lambda uri: (whole.append(uri), read_bytes(uri))[1])
    packed = next(traced for traced in traces if traced["segments"][0]["sample"])
    for traced in [packed, *(traced for traced in traces if traced["copies"])]:
        assert trace(run, traced["name"]) == traced
    key = packed["segments"][0]["sample"]["key"]
    by_key = trace(run, key)
    assert by_key == {**packed, "name": key}
    np.testing.assert_array_equal(audio_of(by_key), audio_of(packed))
    with pytest.raises(TwistError, match="nearest names"):
        trace(run, f"{packed['recording_id']}x")
    assert whole, "reads do not go by here"
    assert not [uri for uri in whole if uri.endswith(".parquet")]
