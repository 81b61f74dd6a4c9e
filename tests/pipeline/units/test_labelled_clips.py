"""The clips of a tokenized run, as pretraining takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.records import LabelClock
from pipeline.segments.segment import read_segments
from pipeline.units.labelled_clips import SegmentClips, read_clips


def read(run: Path, share: float = 0.3) -> tuple[SegmentClips, SegmentClips]:
    return read_clips(str(run), share)


def test_every_kept_segment_is_in_one_of_the_two(small_run: Path) -> None:
    parts = [pq.read_table(path) for path in sorted((small_run / "units").glob("part-*.parquet"))]
    rows = [row for part in parts for row in part.to_pylist() if row["drop_reason"] is None]
    assert len(rows) > 10
    ids = [row["segment_id"] for clips in read(small_run) for row in clips.table.to_pylist()]
    assert sorted(ids) == sorted(row["segment_id"] for row in rows)


def test_a_recording_is_not_in_both(small_run: Path) -> None:
    train, validation = ({row["recording_id"] for row in clips.table.to_pylist()} for clips in read(small_run))
    assert train and validation and not train & validation


def test_more_validation_takes_more_and_gives_none_back(small_run: Path) -> None:
    few, many = ({row["recording_id"] for row in read(small_run, share)[1].table.to_pylist()} for share in (0.2, 0.6))
    assert few < many


def test_a_clip_has_its_audio_and_the_unit_of_each_frame(small_run: Path) -> None:
    for clips in read(small_run):
        rows = clips.table.to_pylist()
        for index, row in enumerate(rows):
            wav, labels = clips[index]
            assert len(wav) == clips.num_samples[index] == round((row["end_s"] - row["start_s"]) * 16_000)
            assert wav.dtype == np.float32 and np.abs(wav).max() > 0
            assert len(labels) == row["num_frames"] == sum(row["durations"])
            assert labels[0] == row["units"][0] and labels[-1] == row["units"][-1]
            assert int(labels.max()) < clips.codebook_size == 20


def test_labels_are_when_the_encoder_made_them(small_run: Path) -> None:
    clock = read(small_run)[0].clock
    assert clock == LabelClock(640, 880, 1_600_000), "MFCC in the official chunks"
    middles = clock.middles(5_000)
    assert middles[[0, 1, 2_498]].tolist() == [440, 1_080, 440 + 2_498 * 640]
    assert middles[[2_499, 2 * 2_499]].tolist() == [1_600_440, 3_200_440], "each chunk begins anew"


def test_clips_lie_where_the_plan_says(small_run: Path) -> None:
    planned = {row["segment_id"]: row for row in read_segments(str(small_run)).to_pylist()}
    for clips in read(small_run):
        for row in clips.table.to_pylist():
            assert {name: row[name] for name in ("uri", "channel", "start_s", "end_s")} == {
                name: planned[row["segment_id"]][name] for name in ("uri", "channel", "start_s", "end_s")
            }


def test_the_fingerprint_is_that_of_units_and_split(small_run: Path) -> None:
    assert read(small_run, 0.3)[0].fingerprint == read(small_run, 0.3)[1].fingerprint
    assert read(small_run, 0.3)[0].fingerprint != read(small_run, 0.4)[0].fingerprint


def test_audio_that_is_gone_is_named(run_copy: Path) -> None:
    train, _ = read(run_copy)
    gone = train.table.set_column(
        train.table.schema.get_field_index("uri"), "uri", [[storage.join(str(run_copy), "gone.wav")] * len(train)]
    )
    clips = SegmentClips(gone, train.num_samples, train.codebook_size, train.clock, train.fingerprint)
    with pytest.raises(TwistError, match=r"gone\.wav was tokenized but can no longer be read"):
        clips[0]


def test_runs_without_units_or_with_too_few_recordings_are_refused(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="units"):
        read(tmp_path)
    with pytest.raises(TwistError, match=r"leaves no recording for validation with validation_share 1e-09"):
        read(small_run, 1e-9)
