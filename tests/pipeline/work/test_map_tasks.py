from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.work import cluster, map_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

double: Callable[[int], int] = operator.methodcaller("__mul__", 2)


@pytest.fixture
def on_cluster(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The items sent to a stand-in for the cluster, which must not be used without any."""
    sent: list[int] = []

    def map_tasks(function: Callable[[Any], Any], items: Iterable[Any], **_: Any) -> Iterator[Any]:
        number_before = len(sent)
        for item in items:
            sent.append(item)
            yield function(item)
        assert len(sent) > number_before, "Ray was started without an item for it"

    monkeypatch.setattr(cluster, "map_tasks", map_tasks)
    return sent


def test_little_is_done_here(on_cluster: list[int]) -> None:
    assert list(map_tasks.spread(double, range(9))) == [2 * n for n in range(9)]
    assert on_cluster == []


def test_much_goes_to_the_cluster_in_order(on_cluster: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_tasks, "SECONDS_HERE", 0.0)
    assert list(map_tasks.spread(double, range(9))) == [2 * n for n in range(9)]
    assert on_cluster == list(range(1, 9)), "the first tells how long one takes"


@pytest.mark.parametrize("here", [set(), {0}, {3}, {4, 5}, {8}, set(range(9)), {1, 3, 5, 7}])
def test_what_is_not_worth_it_stays(on_cluster: list[int], monkeypatch: pytest.MonkeyPatch, here: set[int]) -> None:
    monkeypatch.setattr(map_tasks, "SECONDS_HERE", 0.0)
    done = list(map_tasks.spread(double, range(9), lambda item: item not in here))
    assert done == [2 * n for n in range(9)], "something is lost, or out of order"
    assert here.isdisjoint(on_cluster)


@pytest.mark.usefixtures("on_cluster")
def test_nothing() -> None:
    assert list(map_tasks.spread(double, [])) == []


@pytest.mark.usefixtures("on_cluster")
def test_items_are_drawn_as_they_are_asked_for() -> None:
    results = map_tasks.spread(double, iter(range(10**9)))
    assert [next(results) for _ in range(3)] == [0, 2, 4]
