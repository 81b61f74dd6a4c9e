from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TwistError
from pipeline.packing import split as split_module
from pipeline.packing.config import SplitConfig
from pipeline.packing.place import RECORDING_COLUMNS, split_by, split_recordings
from pipeline.records import SPLITS

own_splits = st.none() | st.sampled_from(SPLITS)
groups = st.dictionaries(st.text(min_size=1, max_size=4), own_splits, max_size=30)
configs = st.builds(
    SplitConfig,
    corpus_splits=st.sampled_from(["keep", "ignore"]),
    validation=st.sampled_from([0.0, 0.02, 0.3]),
    test=st.sampled_from([0.0, 0.02, 0.5]),
    seed=st.integers(0, 100),
)


def assign_splits(
    groups: dict[str, str | None], config: SplitConfig, hours: dict[str, float] | None = None
) -> dict[str, str]:
    """`split.assign_splits` with the names of splits instead of their indices; an hour each if nothing else is said."""
    own = np.array([SPLITS.index(split) if split else -1 for split in groups.values()], np.int8)
    sizes = np.array([1.0 if hours is None else hours[group] for group in groups])
    codes = split_module.assign_splits(pa.chunked_array([list(groups)], pa.string()), sizes, own, config)
    return {group: SPLITS[code] for group, code in zip(groups, codes.tolist(), strict=True)}


def unassigned(count: int) -> dict[str, str | None]:
    return {f"corpus/speaker-{number}": None for number in range(count)}


@given(groups=groups, config=configs)
def test_every_group_is_in_one_split_whatever_their_order(groups: dict[str, str | None], config: SplitConfig) -> None:
    splits = assign_splits(groups, config)
    assert splits.keys() == groups.keys()
    assert set(splits.values()) <= set(SPLITS)
    backwards = dict(reversed(groups.items()))
    assert assign_splits(backwards, config) == splits, "the order of the groups decides"


@given(groups=groups, config=configs)
def test_the_corpus_splits_are_kept_unless_ignored(groups: dict[str, str | None], config: SplitConfig) -> None:
    splits = assign_splits(groups, config)
    if config.corpus_splits == "keep":
        assert all(splits[group] == own for group, own in groups.items() if own is not None)
    else:
        assert splits == assign_splits(dict.fromkeys(groups), config), "an ignored split changed something"


@given(groups=groups, config=configs)
def test_training_and_then_the_wanted_splits_are_filled_first(
    groups: dict[str, str | None], config: SplitConfig
) -> None:
    sizes = Counter(assign_splits(groups, config).values())
    is_free = [own is None or config.corpus_splits == "ignore" for own in groups.values()]
    if any(is_free):
        assert sizes["train"] > 0, "nothing is left to train on, though there is a group to choose for it"
    wanted = ["train", *(split for split in ("validation", "test") if getattr(config, split) > 0)]
    if all(is_free) and len(groups) >= len(wanted):
        assert all(sizes[split] > 0 for split in wanted), f"a wanted split is empty: {sizes}"


@given(groups=groups, config=configs)
def test_splits_that_nobody_wants_stay_empty(groups: dict[str, str | None], config: SplitConfig) -> None:
    splits = assign_splits(dict.fromkeys(groups), config)
    for split in ("validation", "test"):
        if getattr(config, split) == 0:
            assert split not in splits.values()


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    validation=st.sampled_from([0.02, 0.15, 0.5]),
    test=st.sampled_from([0.0, 0.02, 0.3]),
    seed=st.integers(0, 20),
)
def test_hours_are_as_asked_to_within_half_of_the_smallest_speaker_left(
    sizes: list[int], validation: float, test: float, seed: int
) -> None:
    config = SplitConfig(validation=validation, test=test, seed=seed)
    hours = {f"s{number}": float(size) for number, size in enumerate(sizes)}
    splits = assign_splits(dict.fromkeys(hours), config, hours)
    left = sorted(hours[group] for group, split in splits.items() if split == "train")
    if len(left) < 2:
        return  # what training and the other share need came first
    for split, share in (("validation", validation), ("test", test)):
        mine = [hours[group] for group in splits if splits[group] == split]
        missed = abs(sum(mine) - share * sum(sizes))
        # A share above 0 has a speaker, the smallest if all are too large.
        assert missed <= left[0] / 2 + 1e-9 or len(mine) == 1, f"{split}: {missed} h off, and {left[0]} h to spare"


@pytest.mark.parametrize("name", ["a", "speech", "my corpus"])
def test_a_share_does_not_depend_on_the_name_of_the_corpus(name: str) -> None:
    hours = {f"{name}/{number}": 0.1 * (1 + number % 4) for number in range(24)}
    splits = assign_splits(dict.fromkeys(hours), SplitConfig(validation=0.15, test=0.0), hours)
    share = math.fsum(hours[group] for group in splits if splits[group] == "validation") / math.fsum(hours.values())
    assert share == pytest.approx(0.15, abs=0.01)


def test_speakers_without_hours_fill_no_split() -> None:
    hours = {"a": 1.0, "b": 1.0, **{f"silent {number}": 0.0 for number in range(50)}}
    splits = assign_splits(dict.fromkeys(hours), SplitConfig(validation=0.1, test=0.0), hours)
    assert {splits["a"], splits["b"]} == {"train", "validation"}


def recordings_of(speakers: list[str | None], own: str | None = None) -> pa.Table:
    ids = [f"c/{number}" for number in range(len(speakers))]
    columns = [ids, ["c"] * len(ids), speakers, [own] * len(ids), ["en"] * len(ids), [None] * len(ids)]
    return pa.table([pa.array(column, pa.string()) for column in columns], RECORDING_COLUMNS)


def test_one_speaker_alone_is_split_by_recording() -> None:
    config = SplitConfig(validation=0.2, test=0.1)
    alone = recordings_of(["a"] * 10)
    assert split_by(alone) == "recording"
    assert np.bincount(split_recordings(alone, np.ones(10), config)).tolist() == [7, 2, 1]
    for speakers in (["a"] * 9 + ["b"], ["a"] * 9 + [None]):
        two = recordings_of(speakers)
        assert split_by(two) == "speaker"
        assert len(set(split_recordings(two, np.ones(10), config)[:9].tolist())) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(5))
def test_few_speakers_fill_what_is_wanted(count: int, seed: int) -> None:
    splits = assign_splits(unassigned(count), SplitConfig(seed=seed))
    expected = {1: {"train"}, 2: {"train", "validation"}}.get(count, set(SPLITS))
    assert set(splits.values()) == expected


def test_a_lone_group_without_a_split_joins_a_corpus_that_has_training_data() -> None:
    config = SplitConfig(validation=0.5, test=0.0, seed=1)
    splits = assign_splits({"a": "train", "b": "train", "c": None}, config)
    assert splits["c"] == "validation", "it could be spared, and validation was empty"


@pytest.mark.parametrize("seed", range(5))
def test_few_groups_move_when_others_come(seed: int) -> None:
    config = SplitConfig(validation=0.1, test=0.1, seed=seed)
    generator = random.Random(seed)
    hours = {group: generator.uniform(0.1, 2) for group in unassigned(220)}
    few = assign_splits(dict.fromkeys(list(hours)[:200]), config, hours)
    more = assign_splits(dict.fromkeys(hours), config, hours)
    moved = [group for group in few if few[group] != more[group]]
    assert len(moved) <= 10, f"20 speakers came, and {len(moved)} of 200 moved"


def test_shares_are_about_right_and_independent_of_names() -> None:
    config = SplitConfig(validation=0.02, test=0.05)
    for names in (unassigned(20_000), {str(number): None for number in range(20_000)}):
        sizes = Counter(assign_splits(names, config).values())
        assert sizes["validation"] / 20_000 == pytest.approx(0.02, abs=0.004)
        assert sizes["test"] / 20_000 == pytest.approx(0.05, abs=0.006)


def test_another_seed_is_another_assignment() -> None:
    one, other = (assign_splits(unassigned(1000), SplitConfig(validation=0.3, seed=seed)) for seed in (0, 1))
    same = sum(one[group] == other[group] for group in one)
    assert 450 < same < 650, "seeds are not independent of each other"


def test_shares_above_one_half_are_possible() -> None:
    sizes = Counter(assign_splits(unassigned(2_000), SplitConfig(validation=0.6, test=0.3)).values())
    assert sizes["validation"] / 2_000 == pytest.approx(0.6, abs=0.05)
    assert sizes["train"] / 2_000 == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    "shares",
    [
        {"validation": -0.1},
        {"test": -0.1},
        {"validation": 0.5, "test": 0.5},
        {"validation": 1.0},
        {"test": float("nan")},
    ],
    ids=str,
)
def test_shares_that_leave_nothing_to_train_on_are_refused(shares: dict[str, Any]) -> None:
    with pytest.raises(TwistError, match="leave some for training"):
        SplitConfig(**shares)
