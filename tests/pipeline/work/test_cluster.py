"""A function mapped over the cluster: results in order, few tasks in flight, and the function's own errors."""

from __future__ import annotations

import functools
import os
import subprocess
import time
from pathlib import Path

import pytest
import ray

from pipeline.errors import RunError, TwistError
from pipeline.work import cluster
from pipeline.work.cluster import map_tasks

pytestmark = pytest.mark.xdist_group("ray")


def square_slowly_at_first(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0)
    return number**2


def refuse_seven(kind: type[Exception], number: int) -> int:
    if number == 7:
        raise kind("seven is not wanted")
    return number


def die_once(folder: Path, number: int) -> int:
    """Kills its worker the first time that it sees a number."""
    try:
        (folder / str(number)).touch(exist_ok=False)
    except FileExistsError:
        return number
    os._exit(1)


def die_at_two(folder: Path, number: int) -> int:
    return die_once(folder, number) if number == 2 else number


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(map_tasks(square_slowly_at_first, range(40))) == [number**2 for number in range(40)]
    assert list(map_tasks(square_slowly_at_first, [])) == []


def test_items_are_drawn_as_there_is_room_for_them() -> None:
    drawn = 0

    def items():
        nonlocal drawn
        for number in range(1000):
            drawn += 1
            yield number

    results = map_tasks(square_slowly_at_first, items())
    assert next(results) == 0
    assert drawn <= cluster.TASKS_PER_CORE * max(2, os.cpu_count() or 1)
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("raised", "seen"), [(TwistError, TwistError), (OSError, OSError), (KeyError, RunError)])
def test_what_goes_wrong_is_raised_here(raised: type[Exception], seen: type[Exception]) -> None:
    results = map_tasks(functools.partial(refuse_seven, raised), range(20))
    with pytest.raises(seen, match="seven is not wanted"):
        list(results)


def test_a_worker_that_dies_costs_nothing(tmp_path: Path) -> None:
    assert list(map_tasks(functools.partial(die_once, tmp_path), range(4))) == [0, 1, 2, 3]


class LoadsOnce:
    """Loads what it needs at its first call, and says where and when."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_loaded = False

    def __call__(self, number: int) -> int:
        if not self._is_loaded:
            (self._folder / f"loaded-{os.getpid()}").touch(exist_ok=False)
            self._is_loaded = True
        return square_slowly_at_first(number)


def test_actors_keep_their_function_and_give_results_in_order(tmp_path: Path) -> None:
    config = cluster.ClusterConfig(max_actors=2)
    assert list(cluster.map_actors(LoadsOnce(tmp_path), range(20), config)) == [number**2 for number in range(20)]
    assert 1 <= len(list(tmp_path.iterdir())) <= 2
    assert list(cluster.map_actors(LoadsOnce(tmp_path), [], config)) == []


def test_an_actor_that_dies_is_started_anew(tmp_path: Path) -> None:
    config = cluster.ClusterConfig(max_actors=1)
    assert list(cluster.map_actors(functools.partial(die_at_two, tmp_path), range(4), config)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("raised", "seen"), [(TwistError, TwistError), (KeyError, RunError)])
def test_what_goes_wrong_in_an_actor_is_raised_here(raised: type[Exception], seen: type[Exception]) -> None:
    with pytest.raises(seen, match="seven is not wanted"):
        list(cluster.map_actors(functools.partial(refuse_seven, raised), range(9), cluster.ClusterConfig()))


def test_a_cluster_that_cannot_be_joined_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:

    def fail(**_: object) -> None:
        raise Exception("The node\ndid not answer.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(RunError, match=r"cannot join the Ray cluster at 10.0.0.1:6379 \(The node did not answer.\)"):
        cluster.connect()


@pytest.mark.parametrize("num_failures", [1, 2])
def test_ray_that_does_not_start_is_tried_again_and_leaves_nothing(
    num_failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:

    started: list[subprocess.Popen[bytes]] = []

    def init(**_: object) -> None:
        if len(started) == num_failures:
            return
        started.append(subprocess.Popen(["sleep", "600"]))
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", init)
    if num_failures == 1:
        cluster.connect()
    else:
        with pytest.raises(RunError, match=r"Ray does not start .*The current node timed out during startup"):
            cluster.connect()
    assert len(started) == num_failures
    for process in started:
        process.wait(timeout=60)
