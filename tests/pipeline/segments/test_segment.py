from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.read import read_clips
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.language.config import LanguageConfig
from pipeline.language.decide import decide
from pipeline.records import LANGUAGE_SCHEMA, RECORDING_SCHEMA, SEGMENT_SCHEMA, Recording, to_table
from pipeline.segments.config import SegmentConfig
from pipeline.segments.cut import Regions, cut, tidy
from pipeline.segments.segment import make_segments, open_segments, plan_of, read_segments
from pipeline.stage import Stage, StageCounts, StageError, Tally, read_facts
from pipeline.work import dataflow
from pipeline.work.cluster import ClusterConfig
from pipeline.work.dataflow import part_uri
from pipeline.work.plan import WorkPlan
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pipeline.work.dataflow import Processor
    from pipeline.work.plan import Chunk

MILLISECOND = 0.001
ROUNDING = 1e-9


def seconds_of(regions: Regions) -> float:
    return sum(end_s - start_s for start_s, end_s in regions)


def overlap_s(a: tuple[float, float], b: tuple[float, float]) -> float:
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0]))


@st.composite
def recordings_with_speech(draw: st.DrawFn) -> tuple[Regions, float]:
    """Speech in order, and the recording's length."""
    steps = draw(
        st.lists(
            st.tuples(
                st.one_of(st.floats(0.0005, 0.2), st.floats(0.2, 3.0), st.floats(3.0, 90.0)),  # speech
                st.one_of(st.floats(0.0005, 0.2), st.floats(0.2, 5.0)),  # the pause before it
            ),
            max_size=20,
        )
    )
    regions: Regions = []
    at_s = draw(st.sampled_from([0.0, -0.0005]))  # speech may begin with the recording
    for speech_s, pause_s in steps:
        on_s = max(0.0, at_s + pause_s)
        at_s = on_s + speech_s
        regions.append((on_s, at_s))
    return regions, max(at_s, 0.01) + draw(st.sampled_from([0.0, 0.00005, 0.5, 30.0]))


CONFIGS = st.builds(
    SegmentConfig,
    min_s=st.floats(0.1, 3.0),
    max_s=st.floats(3.5, 30.0),
    max_pause_s=st.floats(0.05, 3.0),
    padding_s=st.sampled_from([0.0, 0.1, 0.5]),
)


@settings(max_examples=400, deadline=None)
@given(recordings_with_speech(), CONFIGS)
def test_candidates_keep_every_promise(recording: tuple[Regions, float], config: SegmentConfig) -> None:
    regions, duration_s = recording
    candidates = cut(regions, duration_s, config)
    for start_s, end_s in candidates:
        assert 0 <= start_s <= end_s <= duration_s, "not inside the recording"
        assert end_s - start_s <= config.max_s + ROUNDING, "longer than max_s"
    for (_, end_s), (start_s, _) in itertools.pairwise(candidates):
        assert end_s <= start_s, "not in order, or overlapping"
    # Rounding inwards to milliseconds may cost speech less than one at either end of a candidate.
    for region in regions:
        covered_s = sum(overlap_s(region, candidate) for candidate in candidates)
        pieces = sum(overlap_s(region, candidate) > 0 for candidate in candidates)
        assert covered_s >= region[1] - region[0] - 2 * MILLISECOND * max(1, pieces), f"speech {region} is not covered"
    for start_s, end_s in candidates:
        assert start_s == pytest.approx(round(start_s, 3), abs=ROUNDING) or start_s == end_s
    # No pause longer than max_pause_s is inside a candidate, save for padding at its ends.
    for (_, off_s), (on_s, _) in itertools.pairwise(regions):
        if on_s - off_s > config.max_pause_s:
            for candidate in candidates:
                assert not (candidate[0] < off_s and candidate[1] > on_s), f"the pause {off_s}-{on_s} is in {candidate}"


@settings(max_examples=200, deadline=None)
@given(recordings_with_speech(), CONFIGS)
def test_padding_takes_at_most_its_half_of_a_pause(recording: tuple[Regions, float], config: SegmentConfig) -> None:
    regions, duration_s = recording
    for candidate in cut(regions, duration_s, config):
        # Rounding inwards may leave little or nothing of speech that is shorter than a millisecond.
        if candidate[0] == candidate[1]:
            continue
        around = (candidate[0] - MILLISECOND, candidate[1] + MILLISECOND)
        inside = [region for region in regions if overlap_s(region, around) > 0]
        first, last = regions.index(inside[0]), regions.index(inside[-1])
        pause_before_s = inside[0][0] - (regions[first - 1][1] if first else -math.inf)
        pause_after_s = (regions[last + 1][0] if last + 1 < len(regions) else math.inf) - inside[-1][1]
        assert inside[0][0] - candidate[0] <= min(config.padding_s, pause_before_s / 2) + ROUNDING
        assert candidate[1] - inside[-1][1] <= min(config.padding_s, pause_after_s / 2) + ROUNDING


TIMES = st.one_of(st.floats(-10, 120), st.sampled_from([math.nan, math.inf, -math.inf]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TIMES, TIMES), max_size=12), st.floats(0.1, 100))
def test_tidy(regions: Regions, duration_s: float) -> None:
    tidied = tidy(regions, duration_s)
    for on_s, off_s in tidied:
        assert 0 <= on_s < off_s <= duration_s, "empty, backwards, outside or not a number"
    for (_, off_s), (on_s, _) in itertools.pairwise(tidied):
        assert off_s < on_s, "out of order, overlapping or touching"
    assert tidy(tidied, duration_s) == tidied, "what is tidy was changed"
    assert tidy(reversed(regions), duration_s) == tidied, "the order they come in matters"
    for time_s in (0.0, duration_s / 3, duration_s * 0.9):
        is_speech = any(on_s <= time_s < off_s for on_s, off_s in regions if on_s < off_s)
        assert any(on_s <= time_s < off_s for on_s, off_s in tidied) == is_speech, f"{time_s} s changed sides"


def test_tidy_examples() -> None:
    assert tidy([[5, 6], [1, 2], [1.5, 3], [3, 4]], 10) == [(1, 4), (5, 6)]
    assert tidy([[1, 8], [2, 3]], 10) == [(1, 8)], "a region within another ended it"
    assert tidy([[-1, 1], [9, 12], [12, 13], [4, 4], [6, 5]], 10) == [(0, 1), (9, 10)]
    assert tidy([[math.nan, 3], [3, math.nan], [7, math.inf]], 10) == [(7, 10)]


def test_neighbours_are_joined_and_padded() -> None:
    config = SegmentConfig(min_s=1, max_s=10, max_pause_s=1, padding_s=0.1)
    assert cut([(1.0, 3.0), (3.5, 6.0)], 20.0, config) == [(0.9, 6.1)]
    assert cut([(1.0, 3.0), (4.5, 6.0)], 20.0, config) == [(0.9, 3.1), (4.4, 6.1)], "a pause above max_pause_s ends one"
    assert cut([(0.05, 3.0)], 3.02, config) == [(0.0, 3.02)], "padding ends with the recording"
    assert cut([], 20.0, config) == []


def test_the_cut_is_at_the_longest_pause_of_the_second_half() -> None:
    config = SegmentConfig(min_s=1, max_s=10, max_pause_s=1, padding_s=0)
    regions = [(0.0, 3.0), (3.9, 6.0), (6.2, 7.0), (7.6, 8.0), (8.3, 14.0)]
    # The longest pause, 0.9 s at 3, is in the first half; then that of 0.6 s at 7.
    assert cut(regions, 14.0, config) == [(0.0, 7.0), (7.6, 14.0)]


def test_a_cut_leaves_no_rest_too_short_to_stand_alone() -> None:
    config = SegmentConfig(min_s=2, max_s=10, max_pause_s=1, padding_s=0)
    regions = [(0.0, 6.0), (6.1, 9.4), (9.9, 10.9)]
    assert cut(regions, 60.0, config) == [(0.0, 6.0), (6.1, 10.9)], "the last second would be dropped as too short"
    # Nor if more speech follows after a pause that ends the segment anyway.
    assert cut([*regions, (30.0, 35.0)], 60.0, config) == [(0.0, 6.0), (6.1, 10.9), (30.0, 35.0)]


def test_speech_without_a_pause_is_divided_evenly() -> None:
    config = SegmentConfig(min_s=1, max_s=10, padding_s=0)
    assert cut([(1.0, 25.0)], 30.0, config) == [(1.0, 9.0), (9.0, 17.0), (17.0, 25.0)]


def test_segments_do_not_depend_on_speech_far_away() -> None:
    config = SegmentConfig(min_s=1, max_s=10, max_pause_s=1)
    before = [(1.0, 5.0), (5.3, 9.0), (9.2, 14.0)]
    after = [(40.0, 45.0), (45.5, 52.0)]
    assert cut([*before, *after], 60.0, config) == cut(before, 30.0, config) + cut(after, 60.0, config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_s": 0.0},
        {"min_s": 25.0},
        {"min_s": math.nan},
        {"max_s": 2_500.0},
        {"padding_s": -0.1},
        {"padding_s": 12.5},
        {"max_pause_s": 0.0},
        {"speech_threshold": 0.0},
        {"speech_threshold": 1.0},
        {"work_unit_minutes": 0.0},
        {"work_unit_minutes": math.nan},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(TwistError, match=next(iter(wrong))):
        SegmentConfig(**wrong)  # type: ignore[arg-type]


# Chunks


# The stage


def finished_manifest(tmp_path: Path, recordings: list[Recording]) -> str:
    """A run whose first two stages are finished, of recordings whose files do not exist."""
    run = str(tmp_path / "run")
    total = Tally(len(recordings), sum(recording.duration_s for recording in recordings) / 3600)
    decisions = [decide(recording, LanguageConfig(unknown="keep")) for recording in recordings]
    for name, file, table in (
        ("manifest", "c.parquet", to_table(recordings, RECORDING_SCHEMA)),
        ("language", "decisions.parquet", to_table(decisions, LANGUAGE_SCHEMA)),
    ):
        stage = Stage(run, name, {}, {})
        with stage.begin():
            parquet.write(storage.join(run, name, file), table)
            stage.finish(StageCounts.of(total, total, []), [], "output")
    return run


def spans_by_recording(run: str) -> dict[str, Regions]:
    spans: dict[str, Regions] = {}
    for row in read_segments(run).to_pylist():
        spans.setdefault(row["recording_id"], []).append((row["start_s"], row["end_s"]))
    return spans


def assert_hours_are_conserved(run: str) -> None:
    counts = read_facts(run, "segments")["counts"]
    for unit, tolerance in (("items", 0), ("hours", 1e-8)):
        out = counts["kept"][unit] + sum(tally[unit] for tally in counts["dropped"].values())
        assert out == pytest.approx(counts["input"][unit], abs=tolerance), f"{unit} were lost"
    kept_s = sum(row["end_s"] - row["start_s"] for row in read_segments(run).to_pylist())
    assert counts["kept"]["hours"] == pytest.approx(kept_s / 3600)


def test_voice_activity_of_the_corpus_in_any_order(tmp_path: Path) -> None:
    config = SegmentConfig(min_s=1, max_s=5, max_pause_s=0.5, padding_s=0.1, detect_speech="none")
    untidy = [[6.0, 7.5], [1.0, 2.5], [2.0, 4.0], [math.nan, 3.0], [9.0, 99.0], [12.0, 13.0], [-3.0, 0.3], [5.0, 4.5]]
    run = finished_manifest(tmp_path, [Recording("c/0", "c", "/0.wav", 10.0, 16_000, 1, voice_activity=untidy)])
    make_segments(run, config, ClusterConfig(), silently)
    assert spans_by_recording(run) == {"c/0": [(0.9, 4.1), (5.9, 7.6), (8.9, 10.0)]}
    assert_hours_are_conserved(run)
    rows = parquet.read(storage.join(run, "segments", "dropped.parquet")).to_pylist()
    assert {row["reason"]: row["duration_s"] for row in rows} == {
        "too_short": pytest.approx(0.4),
        "no_speech": pytest.approx(3.6),
    }


def test_recordings_without_voice_activity_are_cut_into_equal_parts(tmp_path: Path) -> None:
    config = SegmentConfig(min_s=1, max_s=4, detect_speech="none")
    durations_s = [4.0, 10.0, 0.1]
    recordings = [Recording(f"c/{n}", "c", f"/{n}.wav", s, 16_000, 1) for n, s in enumerate(durations_s)]
    run = finished_manifest(tmp_path, recordings)
    make_segments(run, config, ClusterConfig(), silently)
    spans = spans_by_recording(run)
    assert spans["c/0"] == [(0.0, 4.0)], "a recording of max_s needs no cut"
    assert [end_s - start_s for start_s, end_s in spans["c/1"]] == pytest.approx([10 / 3] * 3)
    assert "c/2" not in spans, "a tenth of a second is too short"
    assert_hours_are_conserved(run)
    (row,) = parquet.read(storage.join(run, "segments", "dropped.parquet")).to_pylist()
    assert (row["id"], row["reason"], row["num_items"]) == ("c/2", "too_short", 1)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), config=CONFIGS)
def test_kept_and_dropped_are_all_there_was(
    data: st.DataObject, config: SegmentConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    drawn = data.draw(st.lists(recordings_with_speech(), min_size=1, max_size=5))
    tmp_path = tmp_path_factory.mktemp("run")
    recordings = [
        Recording(f"c/{n}", "c", f"/{n}.wav", duration_s, 16_000, 1, voice_activity=[list(r) for r in regions])
        for n, (regions, duration_s) in enumerate(drawn)
    ]
    run = finished_manifest(tmp_path, recordings)
    config = SegmentConfig(**{**vars(config), "detect_speech": "none"})
    try:
        make_segments(run, config, ClusterConfig(), silently)
    except TwistError as error:
        assert "holds a segment" in str(error)
        return
    assert_hours_are_conserved(run)
    for spans in spans_by_recording(run).values():
        assert all(config.min_s <= end_s - start_s <= config.max_s + ROUNDING for start_s, end_s in spans)


def test_the_plan(tmp_path: Path) -> None:
    recordings = [Recording(f"c/{n}", "c", f"/{n}.wav", 10.0, 16_000, 2, channel=n % 2) for n in range(6)]
    run = finished_manifest(tmp_path, recordings)
    make_segments(run, SegmentConfig(work_unit_minutes=0.5), ClusterConfig(), silently)
    table = read_segments(run)
    assert table.schema.equals(SEGMENT_SCHEMA)
    assert table["work_unit"].to_pylist() == ["c-0000000"] * 3 + ["c-0000001"] * 3
    assert table["segment_id"][0].as_py() == "c/0#00000000-00010000"
    units = list(WorkPlan.of(table, "segment_id"))
    assert [unit.name for unit in units] == ["c-0000000", "c-0000001"]
    assert [id for unit in units for id in unit.ids] == table["segment_id"].to_pylist()
    assert [(span.uri, span.channel, span.start_s, span.end_s) for span in units[1].spans] == [
        ("/3.wav", 1, 0.0, 10.0),
        ("/4.wav", 0, 0.0, 10.0),
        ("/5.wav", 1, 0.0, 10.0),
    ]
    facts = read_facts(run, "segments")
    assert (facts["segments"], facts["work_units"]) == (6, 2)


def test_the_plan_does_not_depend_on_how_many_rows_are_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = [Recording(f"c/{n}", "c", f"/{n}.wav", 25.0 + 40 * n, 16_000, 1) for n in range(9)]
    config = SegmentConfig(work_unit_minutes=1.0, max_s=5.0, detect_speech="none")
    plans = []
    for rows in (3, 10, 100_000):
        monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", rows)
        run = finished_manifest(tmp_path / str(rows), recordings)
        make_segments(run, config, ClusterConfig(), silently)
        with open_segments(run) as segments:
            assert (len(segments) > 1) == (rows < 100_000)
            plans.append(list(plan_of(segments)))
        assert plans[-1] == list(WorkPlan.of(read_segments(run), "segment_id"))
    assert plans[0] == plans[1] == plans[2]


def test_segment_ids_differ(tmp_path: Path) -> None:
    activity = [[start_s, start_s + 0.4] for start_s in range(60)]
    run = finished_manifest(tmp_path, [Recording("c/0", "c", "/0.wav", 60.0, 16_000, 1, voice_activity=activity)])
    config = SegmentConfig(min_s=0.1, max_s=1, max_pause_s=0.1, padding_s=0.05)
    make_segments(run, config, ClusterConfig(), silently)
    ids = read_segments(run)["segment_id"].to_pylist()
    assert len(set(ids)) == len(ids) == 60


def test_two_runs_give_the_same_bytes_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    contents = []
    for number in range(2):
        activity = [[1.0, 5.0], [6.5, 9.0]]
        recordings = [
            Recording("c/0", "c", "/0.wav", 10.0, 16_000, 1, voice_activity=activity),
            Recording("c/1", "c", "/1.wav", 10.0, 16_000, 1),
        ]
        run = finished_manifest(tmp_path / str(number), recordings)
        for _ in range(2):
            make_segments(run, SegmentConfig(), ClusterConfig(), silently)
        contents.append([storage.read_bytes(storage.join(run, "segments", n)) for n in ("segments.parquet", "DONE")])
    assert contents[0] == contents[1]


def test_nothing_to_keep_is_a_clear_error(tmp_path: Path) -> None:
    recordings = [
        Recording("c/0", "c", "/0.wav", 10.0, 16_000, 1, voice_activity=[]),
        Recording("c/1", "c", "/1.wav", 0.1, 16_000, 1),
    ]
    run = finished_manifest(tmp_path, recordings)
    with pytest.raises(
        TwistError, match=r"none of 2 recordings holds a segment of 2 to 25 s: c/0: no_speech .*too_short"
    ):
        make_segments(run, SegmentConfig(), ClusterConfig(), silently)
    with pytest.raises(StageError, match="not finished"):
        read_segments(run)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run = finished_manifest(tmp_path, [Recording("c/0", "c", "/0.wav", 10.0, 16_000, 1)])
    make_segments(run, SegmentConfig(), ClusterConfig(), silently)
    make_segments(run, SegmentConfig(), ClusterConfig(max_actors=3), silently)  # changes nothing
    with pytest.raises(StageError, match=r"min_s was 2\.0, is 3\.0"):
        make_segments(run, SegmentConfig(min_s=3.0), ClusterConfig(), silently)


# Speech that has to be searched for


def run_here(
    chunks: Iterable[Chunk], parts: str, processor: type[Processor], processor_args: dict[str, Any], *_: object
) -> None:
    """Stands in for `run_chunks`, in this process."""
    process = processor(**processor_args)
    for unit in chunks:
        parquet.write(part_uri(parts, unit.name), process(unit, list(read_clips(unit.spans))))


@pytest.fixture
def searched(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run with speech between silences, silence alone, and a file that is gone."""
    monkeypatch.setattr(dataflow, "run_chunks", run_here)
    utterance = speech / "LibriSpeech" / "test-other" / "1688" / "142285" / "1688-142285-0003.flac"
    samples, _ = soundfile.read(utterance, dtype="float32")
    silence = np.zeros(3 * 16_000, np.float32)
    soundfile.write(tmp_path / "speech.wav", np.concatenate([silence, samples, silence]), 16_000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(12 * 16_000), 16_000)
    durations_s = {"speech": 6 + len(samples) / 16_000, "silence": 12.0, "missing": 12.0}
    recordings = [Recording(f"c/{n}", "c", f"{tmp_path}/{n}.wav", s, 16_000, 1) for n, s in durations_s.items()]
    return finished_manifest(tmp_path, recordings)


def test_speech_is_searched_for(searched: str) -> None:
    make_segments(searched, SegmentConfig(min_s=1, max_s=11), ClusterConfig(), silently)
    spans = spans_by_recording(searched)["c/speech"]
    assert spans[0][0] == pytest.approx(3.0, abs=0.6), "speech does not begin where it does"
    assert 3.5 < seconds_of(spans) < 5.5, "not about the five seconds of speech"
    rows = parquet.read(storage.join(searched, "segments", "dropped.parquet")).to_pylist()
    assert {(row["id"], row["reason"]) for row in rows if row["num_items"]} == {
        ("c/silence", "no_speech"),
        ("c/missing", "missing"),
    }
    assert_hours_are_conserved(searched)


def test_searching_in_slices_finds_the_same_speech(searched: str, tmp_path: Path) -> None:
    make_segments(searched, SegmentConfig(min_s=1, max_s=11), ClusterConfig(), silently)
    whole = spans_by_recording(searched)["c/speech"]
    (tmp_path / "run" / "segments").rename(tmp_path / "before")
    # Slices of at most 4 s, two of which end within speech, and some of which hold nothing but silence.
    make_segments(searched, SegmentConfig(min_s=1, max_s=11, work_unit_minutes=4 / 60), ClusterConfig(), silently)
    sliced = spans_by_recording(searched)["c/speech"]
    assert len(storage.list_files(storage.join(searched, "segments", "speech"))) >= 8
    # Not exact to the sample, because the detector restarts with each slice.
    assert seconds_of(sliced) == pytest.approx(seconds_of(whole), abs=0.5)
    assert sliced[0][0] == pytest.approx(whole[0][0], abs=0.5)
    assert sliced[-1][1] == pytest.approx(whole[-1][1], abs=0.5)
    assert_hours_are_conserved(searched)
