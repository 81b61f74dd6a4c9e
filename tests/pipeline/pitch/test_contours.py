"""Contours of a run's segments: splits share no speaker, what is kept is the same, what cannot be read is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.pitch.contour import extract
from model.pitch.model_config import PitchModelConfig
from model.pitch.train_config import PitchTrainConfig
from pipeline.audio.read import Span, read_spans
from pipeline.errors import TwistError
from pipeline.pitch import contours
from pipeline.pitch.contours import _groups, _is_held_out, read_contours
from pipeline.segments.segment import read_segments
from tests.progress import silently


def config(**changes: Any) -> PitchTrainConfig:
    settings: dict[str, Any] = {"model": PitchModelConfig(), "validation_share": 0.3, **changes}
    return PitchTrainConfig(**settings)


def test_every_segment_is_in_one_split_or_unread(small_run: Path, tmp_path: Path) -> None:
    train, validation, num_unread = read_contours(str(small_run), config(), str(tmp_path), silently)
    segments = read_segments(str(small_run))
    assert len(train) + len(validation) + num_unread == len(segments)
    assert len(validation) > 0 and num_unread == 2, "the two of the recording that vanishes"
    row = segments.slice(0, 1).to_pylist()[0]
    (wav,) = read_spans([Span(row["uri"], row["channel"], row["start_s"], row["end_s"])])
    assert isinstance(wav, np.ndarray)
    expected = extract(wav, "nccf").f0
    found = [split[number].f0 for split in (train, validation) for number in range(len(split))]
    assert any(np.array_equal(one, expected) for one in found)


def test_what_was_found_is_kept(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_contours(str(small_run), config(), str(tmp_path), silently)
    (kept,) = tmp_path.iterdir()
    monkeypatch.setattr(contours, "extract", None)
    again = read_contours(str(small_run), config(), str(tmp_path), silently)
    for one, other in zip(first[:2], again[:2], strict=True):
        assert np.array_equal(one.f0, other.f0) and np.array_equal(one.offsets, other.offsets)
        assert one.fingerprint == other.fingerprint
    assert first[2] == again[2]
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(TwistError, match="is damaged"):
        read_contours(str(small_run), config(), str(tmp_path), silently)


def test_hours_are_drawn(small_run: Path, tmp_path: Path) -> None:
    few = read_contours(str(small_run), config(max_hours=20 / 3600), str(tmp_path), silently)
    every = read_contours(str(small_run), config(), str(tmp_path), silently)
    frames_of_few, frames_of_every = (sum(len(split.f0) for split in found[:2]) for found in (few, every))
    assert frames_of_few < frames_of_every


def test_no_speaker_is_in_both_splits(small_run: Path) -> None:
    groups = _groups(str(small_run), read_segments(str(small_run)))
    is_held_out = _is_held_out(groups, 0.3)
    sides: dict[str, set[bool]] = {}
    for group, held_out in zip(groups, is_held_out.tolist(), strict=True):
        sides.setdefault(group, set()).add(held_out)
    assert all(len(side) == 1 for side in sides.values())


def test_one_group_is_held_out_at_least_and_one_stays() -> None:
    assert 0 < _is_held_out(["a", "b"], 0.01).sum() < 2
    assert 0 < _is_held_out(["a", "b"], 0.99).sum() < 2
    with pytest.raises(TwistError, match="one recording"):
        _is_held_out(["a", "a"], 0.5)
