"""Contours of a run's segments: splits share no speaker, what is kept is the same, what cannot be read is left."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.pitch.contour import extract
from model.pitch.model_config import PitchModelConfig
from model.pitch.train_config import PitchTrainConfig
from pipeline.audio.read import Span, read_spans
from pipeline.errors import TwistError
from pipeline.files.places import PlaceError
from pipeline.pitch import contours
from pipeline.pitch.contours import _find, _groups, _is_held_out, _read, read_contours
from pipeline.segments.segment import read_segments
from pipeline.units.codebook_fit import draw_segments
from pipeline.work import shares
from pipeline.work.plan import WorkPlan
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
    kept = next(tmp_path.rglob("*.npz"))
    monkeypatch.setattr(contours, "extract", None)
    again = read_contours(str(small_run), config(), str(tmp_path), silently)
    for one, other in zip(first[:2], again[:2], strict=True):
        assert np.array_equal(one.f0, other.f0) and np.array_equal(one.offsets, other.offsets)
        assert one.fingerprint == other.fingerprint
    assert first[2] == again[2]
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(TwistError, match="is damaged"):
        read_contours(str(small_run), config(), str(tmp_path), silently)


def test_processes_share_the_work(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = draw_segments(str(small_run), 50.0, 0)
    place = segments.schema.get_field_index("work_unit")
    plan = WorkPlan.of(
        segments.set_column(place, "work_unit", [[f"c{number}" for number in range(len(segments))]]), "segment_id"
    )
    assert len(plan) > 3
    found: list[int] = []
    monkeypatch.setattr(contours, "extract", lambda wav, _: found.append(len(wav)) or extract(wav, "nccf"))
    monkeypatch.setattr(shares, "POLL_S", 0.01)
    with ThreadPoolExecutor(2) as pool:
        for ended in [
            pool.submit(_find, plan, str(tmp_path), config(), silently, rank, world_size=2) for rank in (0, 1)
        ]:
            ended.result(timeout=120)
    assert len(list(tmp_path.glob("part-*.npz"))) == len(plan), "each waited for the other's"
    read = [one for name in plan.names for one in _read(str(tmp_path / f"part-{name}.npz"))]
    assert len(found) == sum(one is not None for one in read), "each segment is found once"


def test_nothing_is_kept_of_what_a_failing_place_hides(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = True

    def read(spans: list[Span]) -> Iterator[Any]:
        if fails:
            raise PlaceError("the mount is gone")
        return iter(read_spans(spans))

    monkeypatch.setattr(contours, "read_spans", read)
    monkeypatch.setattr("pipeline.audio.places.PLACE_PATIENCE_S", -1.0)
    with pytest.raises(ConnectionError, match="mount is gone"):
        read_contours(str(small_run), config(), str(tmp_path), silently)
    assert not list(tmp_path.rglob("*.npz"))
    fails = False
    *_, num_unread = read_contours(str(small_run), config(), str(tmp_path), silently)
    assert num_unread == 2, "the two of the recording that vanishes"


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
