"""Which chunk is next, retried or given up, and when the run stops, whatever fails and in whatever order."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.read import Span
from pipeline.errors import RunError
from pipeline.work import failures
from pipeline.work.failures import MAX_FAILURES, MAX_FAILURES_IN_A_ROW, MAX_MACHINES_LOST, FailurePolicy
from pipeline.work.plan import Chunk

if TYPE_CHECKING:
    from collections.abc import Mapping

# How an attempt at a chunk may end. After the last entry of its list a chunk is done.
DONE, FAILS, MACHINE_GOES = "done", "fails", "machine goes"


def make_chunks(count: int) -> list[Chunk]:
    return [Chunk(f"{number:04d}", ("item",), (Span("a.wav", None, 0.0, 1.0),)) for number in range(count)]


def policy_of(chunks: list[Chunk], known_to_work: Chunk | None = None) -> FailurePolicy:
    return FailurePolicy(iter(chunks), len(chunks), known_to_work)


class Run:
    """A driver without workers: up to `num_workers` chunks are in progress, and end in an order drawn by `seed`."""

    def __init__(self, policy: FailurePolicy, ends: Mapping[str, list[str]], num_workers: int = 1, seed: int = 0):
        self.done: list[str] = []
        self.given_up: dict[str, str] = {}
        self.tried: list[tuple[str, int]] = []
        """Each attempt: the chunk, and how many chunks were in progress when it started."""
        self._policy = policy
        self._ends = {name: list(each) for name, each in ends.items()}
        in_work: list[Chunk] = []
        order = random.Random(seed)
        while policy.num_queued or policy.num_suspects or in_work:
            if policy.num_suspects and not policy.num_queued and not in_work:
                policy.queue_one_suspect()
            while policy.num_queued and len(in_work) < num_workers:
                in_work.append(policy.take())
                self.tried.append((in_work[-1].name, len(in_work)))
            self._end(in_work.pop(order.randrange(len(in_work))))

    def _end(self, chunk: Chunk) -> None:
        rest = self._ends.get(chunk.name, [])
        end = rest.pop(0) if rest else DONE
        if end == DONE:
            if self._policy.succeed(chunk):
                self.done.append(chunk.name)
            return
        error = self._policy.fail(chunk, "broken") if end == FAILS else self._policy.lose(chunk)
        if error is not None:
            self.given_up[chunk.name] = error


@given(
    ends=st.lists(st.lists(st.sampled_from([FAILS, MACHINE_GOES]), max_size=20), max_size=MAX_FAILURES_IN_A_ROW - 1),
    num_workers=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_every_chunk_ends_once_and_is_given_up_only_for_its_failures(
    ends: list[list[str]], num_workers: int, seed: int
) -> None:
    chunks = make_chunks(len(ends))
    ends_of = dict(zip((chunk.name for chunk in chunks), ends, strict=True))
    run = Run(policy_of(chunks), ends_of, num_workers, seed)
    assert sorted([*run.done, *run.given_up]) == [chunk.name for chunk in chunks]
    tries = Counter(name for name, _ in run.tried)
    for name, met in ends_of.items():
        met = met[: tries[name]]
        num_failures = met.count(FAILS) + met.count(MACHINE_GOES) // MAX_MACHINES_LOST
        assert num_failures <= MAX_FAILURES
        assert (name in run.given_up) == (num_failures == MAX_FAILURES), met


@given(bad=st.sets(st.integers(0, 39), max_size=MAX_FAILURES_IN_A_ROW - 1), num_workers=st.integers(2, 6))
def test_suspects_are_tried_last_and_alone(bad: set[int], num_workers: int) -> None:
    chunks = make_chunks(40)
    names = {chunks[number].name for number in bad}
    run = Run(policy_of(chunks), {name: [FAILS] * MAX_FAILURES for name in names}, num_workers)
    assert set(run.given_up) == names
    last = run.tried[len(run.tried) - len(bad) :]
    assert {name for name, _ in last} == names
    assert all(num_in_work == 1 for _, num_in_work in last)


def test_new_chunks_are_taken_before_those_that_failed() -> None:
    chunks = make_chunks(4)
    run = Run(policy_of(chunks), {"0000": [FAILS]})
    assert [name for name, _ in run.tried] == ["0000", "0001", "0002", "0003", "0000"]


def test_a_chunk_that_takes_every_machine_with_it_fails_for_that() -> None:
    chunks = make_chunks(2)
    run = Run(policy_of(chunks), {"0001": [MACHINE_GOES] * MAX_MACHINES_LOST * MAX_FAILURES})
    assert run.given_up == {"0001": f"{MAX_MACHINES_LOST} machines went away with it"}


def test_a_chunk_that_outlives_its_machines_is_not_blamed() -> None:
    run = Run(policy_of(make_chunks(1)), {"0000": [MACHINE_GOES] * MAX_MACHINES_LOST * (MAX_FAILURES - 1)})
    assert run.done == ["0000"]


def test_many_failures_in_a_row_stop_a_run_in_which_nothing_was_done() -> None:
    chunks = make_chunks(MAX_FAILURES_IN_A_ROW + 5)
    with pytest.raises(RunError, match=f"{MAX_FAILURES_IN_A_ROW} chunks failed in a row, the last with: broken"):
        Run(policy_of(chunks), {chunk.name: [FAILS] * MAX_FAILURES for chunk in chunks})


@pytest.mark.parametrize("is_of_earlier_run", [True, False])
def test_bad_chunks_are_given_up_where_what_was_done_before_still_works(is_of_earlier_run: bool) -> None:
    known, *bad = make_chunks(2 * MAX_FAILURES_IN_A_ROW)
    ends = {chunk.name: [FAILS] * MAX_FAILURES for chunk in bad}
    policy = policy_of(bad, known) if is_of_earlier_run else policy_of([known, *bad])
    run = Run(policy, ends)
    assert sorted(run.given_up) == [chunk.name for chunk in bad]
    assert run.done == ([] if is_of_earlier_run else [known.name]), "what was done before counts once"
    tries = [name for name, _ in run.tried]
    again = tries.index(known.name, 0 if is_of_earlier_run else 1)
    assert len(set(tries[:again]) - {known.name}) == MAX_FAILURES_IN_A_ROW, "it was not tried as soon as it mattered"


def test_workers_that_fail_what_was_done_before_stop_the_run() -> None:
    known, *others = make_chunks(2 * MAX_FAILURES_IN_A_ROW)
    ends = {chunk.name: [FAILS] for chunk in (known, *others)}
    words = f"{MAX_FAILURES_IN_A_ROW} chunks failed in a row, and then {known.name}, which had been done before, with"
    with pytest.raises(RunError, match=words):
        Run(policy_of(others, known), ends)


def test_what_is_known_to_work_may_lose_its_machine() -> None:
    known, *bad = make_chunks(MAX_FAILURES_IN_A_ROW + 1)
    ends = {chunk.name: [FAILS] * MAX_FAILURES for chunk in bad}
    run = Run(policy_of(bad, known), {**ends, known.name: [MACHINE_GOES]})
    assert len(run.given_up) == len(bad)


def test_a_success_ends_a_row_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MAX_FAILURES_IN_A_ROW", 3)
    chunks = make_chunks(30)
    ends = {chunk.name: [FAILS] * MAX_FAILURES for number, chunk in enumerate(chunks) if number % 3 != 0}
    run = Run(policy_of(chunks), ends)
    assert len(run.done) == 10 and set(run.given_up) == set(ends)
    assert Counter(name for name, _ in run.tried)["0000"] == 1, "nothing done before had to be tried"


def test_workers_that_cannot_start_stop_the_run_unless_one_does() -> None:
    policy = policy_of(make_chunks(1))
    for _ in range(3):
        for _ in range(MAX_FAILURES_IN_A_ROW - 1):
            policy.worker_did_not_start("no memory")
        policy.worker_started()
    for _ in range(MAX_FAILURES_IN_A_ROW - 1):
        policy.worker_did_not_start("no memory")
    with pytest.raises(RunError, match="no worker can be started: no memory"):
        policy.worker_did_not_start("no memory")
