"""Drawing parts of a manifest: whole recordings, each once, in the manifest's order, by seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.corpora.manifest import make_manifest, read_recordings
from pipeline.corpora.source import CorpusConfig
from pipeline.estimate.sample import draw_parts
from tests.progress import silently

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.estimate.sample import Part
    from pipeline.records import Recording


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_run: Path) -> str:
    """A manifest of two corpora."""
    folder = str(tmp_path_factory.mktemp("two") / "run")
    sounds = small_run.parent / "sounds"
    corpora = [CorpusConfig(str(sounds / "a"), "folder", "first"), CorpusConfig(str(sounds), "folder", "second")]
    make_manifest(folder, corpora, silently)
    return folder


def drawn(parts: list[Part]) -> list[list[Recording]]:
    return [read_recordings(part.run) for part in parts]


def test_all_of_a_small_corpus_is_dealt_out_once(run: str, tmp_path: Path) -> None:
    parts = draw_parts(run, str(tmp_path), sample_hours=1.0, num_parts=3, seed=0)
    whole = read_recordings(run)
    found = [recording for part in drawn(parts) for recording in part]
    assert sorted(found, key=lambda r: r.recording_id) == sorted(whole, key=lambda r: r.recording_id)
    assert sum(part.hours for part in parts) == pytest.approx(sum(r.duration_s for r in whole) / 3600)
    assert [part.num_recordings for part in parts] == [len(part) for part in drawn(parts)]
    assert max(part.num_recordings for part in parts) - min(part.num_recordings for part in parts) <= 1


def test_parts_keep_the_order_of_the_manifest(run: str, tmp_path: Path) -> None:
    order = [recording.recording_id for recording in read_recordings(run)]
    for part in drawn(draw_parts(run, str(tmp_path), sample_hours=1.0, num_parts=2, seed=3)):
        places = [order.index(recording.recording_id) for recording in part]
        assert places == sorted(places)


def test_as_many_hours_are_drawn_as_asked_for(run: str, tmp_path: Path) -> None:
    longest_h = max(recording.duration_s for recording in read_recordings(run)) / 3600
    for seed in range(5):
        parts = draw_parts(run, str(tmp_path / str(seed)), sample_hours=0.01, num_parts=2, seed=seed)
        assert 0.01 <= sum(part.hours for part in parts) <= 0.01 + longest_h


def test_the_seed_alone_decides(run: str, tmp_path: Path) -> None:
    def ids(folder: str, seed: int) -> list[list[str]]:
        parts = draw_parts(run, str(tmp_path / folder), sample_hours=0.01, num_parts=2, seed=seed)
        return [[recording.recording_id for recording in part] for part in drawn(parts)]

    first = ids("a", 1)
    assert ids("b", 1) == first
    assert ids("c", 2) != first


def test_every_recording_is_as_likely_as_any_other(run: str, tmp_path: Path) -> None:
    counts = dict.fromkeys((recording.recording_id for recording in read_recordings(run)), 0)
    num_draws = 60
    for seed in range(num_draws):
        for part in drawn(draw_parts(run, str(tmp_path / str(seed)), sample_hours=1e-9, num_parts=4, seed=seed)):
            for recording in part:
                counts[recording.recording_id] += 1
    expected = 4 * num_draws / len(counts)
    assert sum(counts.values()) == 4 * num_draws
    assert max(counts.values()) < 3 * expected, counts


def test_there_are_no_more_parts_than_recordings(tmp_path: Path, small_run: Path) -> None:
    run = str(tmp_path / "run")
    make_manifest(run, [CorpusConfig(str(small_run.parent / "sounds" / "b"), "folder")], silently)
    parts = draw_parts(run, str(tmp_path / "parts"), sample_hours=1.0, num_parts=7, seed=0)
    assert [part.num_recordings for part in parts] == [1] * len(read_recordings(run))
