from __future__ import annotations

from collections import Counter

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inspection.accounts import differences, hashes_of, repeated

IDS = st.lists(st.sampled_from([f"corpus/é{number}" for number in range(8)]), max_size=20)


def in_pieces(ids: list[str]) -> list[pa.Array]:
    return [pa.array(ids[first : first + 3], pa.string()) for first in range(0, len(ids), 3)]


@given(came_in=IDS, out=IDS)
def test_differences_are_those_of_counting_each_id(came_in: list[str], out: list[str]) -> None:
    found = list(differences(lambda: iter(in_pieces(came_in)), lambda: iter(in_pieces(out))))
    lost, unexpected = Counter(came_in) - Counter(out), Counter(out) - Counter(came_in)
    expected = []
    if lost:
        expected.append(f"{lost.total()} items are neither kept nor dropped, e.g. {min(lost)}")
    if unexpected:
        expected.append(f"{unexpected.total()} items are there twice, or unexpected, e.g. {min(unexpected)}")
    assert found == expected


@given(ids=IDS)
def test_repeated_ids_are_counted_once_each(ids: list[str]) -> None:
    twice = Counter(ids) - Counter(set(ids))
    assert repeated(lambda: iter(in_pieces(ids))) == ((len(twice), min(twice)) if twice else None)


def test_pieces_make_no_difference_to_hashes() -> None:
    ids = [f"é{number}" for number in range(10)]
    assert hashes_of(in_pieces(ids)).tolist() == hashes_of([pa.chunked_array(in_pieces(ids))]).tolist()
