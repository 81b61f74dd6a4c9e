"""Chunks on a local Ray cluster: all are done, each once, and a bad one stops none of the others."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.audio import places
from pipeline.audio.read import AudioError, Clip, Span
from pipeline.errors import RunError, TwistError
from pipeline.files import parquet
from pipeline.work import dataflow, driver, failures
from pipeline.work.cluster import ClusterConfig
from pipeline.work.plan import Chunk, WorkPlan
from pipeline.work.worker import Result


@pytest.fixture(scope="module", autouse=True)
def ray_workers_get_this_module() -> Iterator[None]:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.shutdown()


class Measure:
    """Records each clip's length; `faults` says what goes wrong in which chunk."""

    def __init__(self, faults: dict[str, str], marks: str) -> None:
        if faults.get("start") == "no model":
            raise RunError("cannot fetch the model")
        if faults.get("start") == "a mistake":
            raise TwistError("there is no such model")
        self._faults = faults
        self._marks = Path(marks)

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        mark = self._marks / f"{chunk.name}-{len(list(self._marks.glob(f'{chunk.name}-*')))}"
        mark.touch()
        fault = self._faults.get(chunk.name)
        if fault == "dies" or (fault == "dies once" and mark.name.endswith("-0")):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hangs":
            time.sleep(3600)
        if fault == "breaks the worker":
            self.is_broken = True
        if getattr(self, "is_broken", False):
            raise RuntimeError("this worker is broken")
        if fault == "raises":
            raise RuntimeError("a fault on purpose")
        return table(chunk, [clip.reason if isinstance(clip, AudioError) else str(len(clip.wav)) for clip in clips])


def table(chunk: Chunk, outcomes: Sequence[str]) -> pa.Table:
    reasons = [outcome if not outcome.isdigit() else None for outcome in outcomes]
    return pa.table({"id": chunk.ids, "outcome": pa.array(outcomes), "drop_reason": pa.array(reasons, pa.string())})


def quarantined(chunk: Chunk, error: AudioError) -> pa.Table:
    return table(chunk, [f"{error.reason}: {error.detail}"] * len(chunk.ids))


@pytest.fixture
def chunks(tmp_path: Path) -> list[Chunk]:
    """Six chunks of two spans each, the second chunk's second span in a file that does not exist."""
    chunks = []
    for number in range(6):
        path = str(tmp_path / f"{number}.wav")
        soundfile.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, 32_000), 16_000)
        other = path if number != 1 else str(tmp_path / "vanished.wav")
        spans = (Span(path, None, 0.0, 0.5 + number / 10), Span(other, None, 1.0, 2.0))
        chunks.append(Chunk(f"{number:06d}", (f"a{number}", f"b{number}"), spans))
    return chunks


def run(chunks: Sequence[Chunk], folder: Path, faults: dict[str, str], **settings: float) -> dict[str, list[str]]:
    (folder / "marks").mkdir(exist_ok=True)
    parts = str(folder / "parts")
    arguments = {"faults": faults, "marks": str(folder / "marks")}
    dataflow.run_chunks(
        plan_of(chunks), parts, Measure, arguments, quarantined, ClusterConfig(**settings), ignore_progress
    )
    return {chunk.name: parquet.read(dataflow.part_uri(parts, chunk.name))["outcome"].to_pylist() for chunk in chunks}


def plan_of(chunks: Sequence[Chunk]) -> WorkPlan:
    rows = [
        {"work_unit": chunk.name, "id": id, **dataclasses.asdict(span)}
        for chunk in chunks
        for id, span in zip(chunk.ids, chunk.spans, strict=True)
    ]
    return WorkPlan.of(pa.Table.from_pylist(rows), "id")


def ignore_progress(done: int, total: int, noun: str, detail: str = "") -> None:
    assert done <= total, f"{done} of {total} {noun}: {detail}"


def expected(chunks: Sequence[Chunk]) -> dict[str, list[str]]:
    outcomes = {chunk.name: [str(8000 + 1600 * number), "16000"] for number, chunk in enumerate(chunks)}
    outcomes["000001"][1] = "missing"
    return outcomes


def test_every_unit_gets_its_part_and_only_once(chunks, tmp_path):
    assert run(chunks, tmp_path, {}) == expected(chunks)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    assert run(chunks, tmp_path, {}) == expected(chunks)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()} == before
    assert len(list((tmp_path / "marks").iterdir())) == len(chunks), "finished chunks were worked on again"


def test_progress_is_told_while_work_goes_on_and_summed_up(chunks, tmp_path):
    (tmp_path / "marks").mkdir()
    parts = tmp_path / "parts"
    told = []

    def report(done: int, total: int, noun: str, detail: str = "") -> None:
        assert noun == "chunks"
        told.append((done, total, detail))
        assert json.loads((parts / "progress.json").read_text())["num_chunks"] == 6

    arguments = {"faults": {}, "marks": str(tmp_path / "marks")}
    work = dataflow.run_chunks(plan_of(chunks), str(parts), Measure, arguments, quarantined, ClusterConfig(), report)
    assert [(done, total) for done, total, _ in told] == [(number, 6) for number in range(1, 7)]
    assert "h/h, decode " in told[-1][2] and "dropped 1 missing" in told[-1][2]
    assert not (parts / "progress.json").exists()
    assert (work["num_done"], work["dropped"]) == (6, {"missing": 1})
    assert work["hours_done"] * 3600 == pytest.approx(sum(chunk.duration_s for chunk in chunks))
    assert all(seconds > 0 for seconds in work["worker_seconds"].values())
    again = dataflow.run_chunks(plan_of(chunks), str(parts), Measure, arguments, quarantined, ClusterConfig(), report)
    assert again == {}, "there was nothing left to do"


def test_a_lost_part_is_made_again_and_the_same(chunks, tmp_path):
    run(chunks, tmp_path, {})
    part = tmp_path / "parts" / "part-000003.parquet"
    content = part.read_bytes()
    part.unlink()
    run(chunks, tmp_path, {})
    assert part.read_bytes() == content


def test_units_that_fail_for_good_are_quarantined_and_the_rest_is_done(chunks, tmp_path):
    faults = {"000000": "dies", "000002": "raises", "000004": "dies once"}
    outcomes = run(chunks, tmp_path, faults)
    wanted = expected(chunks)
    for name in ("000000", "000002"):
        assert all(outcome.startswith("quarantined: failed 3 times") for outcome in outcomes[name]), outcomes[name]
        del outcomes[name], wanted[name]
    assert outcomes == wanted
    reason = parquet.read(dataflow.part_uri(str(tmp_path / "parts"), "000002"))["outcome"][0].as_py()
    assert "a fault on purpose" in reason


class NeverStarts(Measure):
    def __init__(self, error: Exception) -> None:
        raise error


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "model"), OSError(5, "I/O error")])
def test_a_worker_that_the_system_does_not_let_start_is_a_failure(error, chunks, tmp_path):
    parts, arguments = str(tmp_path / "parts"), {"error": error}
    with pytest.raises(RunError, match=r"a worker cannot start: .*(Permission denied|I/O error)"):
        dataflow.run_chunks(
            plan_of(chunks), parts, NeverStarts, arguments, quarantined, ClusterConfig(), ignore_progress
        )


def test_io_errors_of_one_chunk_after_the_other_end_the_run(chunks, tmp_path, monkeypatch):
    def decode_on_a_dying_disk(chunk, *_):
        failed = AudioError("io_error", "I/O error")
        return Result(seconds={"decode": 0.0}, io_errors=(chunk.spans[0].uri,)), [failed] * len(chunk.spans)

    monkeypatch.setattr(driver, "decode", decode_on_a_dying_disk)
    monkeypatch.setattr(places, "MAX_IO_ERRORS_IN_A_ROW", 4)
    with pytest.raises(RunError, match="4 files in a row gave I/O errors"):
        run(chunks, tmp_path, {})


def test_a_worker_that_a_unit_breaks_does_not_fail_the_others(chunks, tmp_path):
    outcomes = run(chunks, tmp_path, {"000001": "breaks the worker"}, max_actors=1)
    wanted = expected(chunks)
    assert outcomes.pop("000001")[0].startswith("quarantined")
    del wanted["000001"]
    assert outcomes == wanted


def test_actors_leave_a_core_for_decoding(chunks, tmp_path):
    assert run(chunks, tmp_path, {}, cpus_per_actor=0.9) == expected(chunks)


def test_gpus_that_this_machine_does_not_have_are_refused(chunks, tmp_path):
    with pytest.raises(TwistError, match=r"gpus_per_actor is 64, but this machine has"):
        run(chunks, tmp_path, {}, gpus_per_actor=64.0)


def test_more_actors_than_this_machine_has_room_for_are_refused(chunks, tmp_path):
    with pytest.raises(TwistError, match=r"min_actors is 500, but this machine has room for"):
        run(chunks, tmp_path, {}, min_actors=500)


def test_workers_that_fail_what_they_could_do_before_stop_the_run(chunks, tmp_path, monkeypatch):
    good, others = chunks[:2], chunks[2:]
    run(good, tmp_path, {})
    monkeypatch.setattr(failures, "MAX_FAILURES_IN_A_ROW", 3)
    with pytest.raises(RunError, match=r"3 chunks failed in a row, and then 00000\d, which had been done before"):
        run(chunks, tmp_path, {chunk.name: "raises" for chunk in chunks})
    assert len(list((tmp_path / "parts").glob("*.parquet"))) == len(good), f"of {len(others)} some were given up"


def test_a_hung_unit_is_cut_off(chunks, tmp_path):
    outcomes = run(chunks[:3], tmp_path, {"000001": "hangs"}, unit_time_limit_s=3.0)
    assert outcomes["000001"][0].startswith("quarantined"), outcomes
    assert outcomes["000000"] == expected(chunks)["000000"]


def test_a_run_in_which_every_unit_fails_is_an_error(chunks, tmp_path):
    with pytest.raises(RunError, match="every one of 2 chunks failed, the last with: RuntimeError: a fault"):
        run(chunks[:2], tmp_path, {chunk.name: "raises" for chunk in chunks})
    assert not list((tmp_path / "parts").glob("part-*")), "nothing was done, so nothing may look done"


def test_a_disk_that_fills_up_while_parts_are_committed(chunks, tmp_path):
    disk = tmp_path / "parts"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(RunError, match="No space left on device"):
            run(chunks, tmp_path, {})
        assert not list(disk.glob(".*.tmp")), "a half-written part was left"
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        assert run(chunks, tmp_path, {}) == expected(chunks)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_settings_that_cannot_work_are_refused():
    for settings in (
        {"max_actors": 0},
        {"min_actors": 0},
        {"min_actors": 3, "max_actors": 2},
        {"gpus_per_actor": -1},
        {"cpus_per_actor": -1},
        {"unit_time_limit_s": 0},
    ):
        with pytest.raises(TwistError, match="cluster"):
            ClusterConfig(**settings)


@pytest.mark.parametrize(
    ("why", "kind", "told"), [("no model", RunError, "cannot fetch"), ("a mistake", TwistError, "no such")]
)
def test_a_worker_says_why_it_cannot_start(chunks, tmp_path, why, kind, told):
    with pytest.raises(kind, match=told):
        run(chunks, tmp_path, {"start": why})
    assert not list((tmp_path / "marks").iterdir())
