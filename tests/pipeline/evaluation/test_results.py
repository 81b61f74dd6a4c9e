"""A result's JSON is read as it was written; damaged or made by others, it ends in a sentence."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import TwistError
from pipeline.evaluation import results
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.results import LeftOut, result_of
from pipeline.evaluation.table import as_markdown, as_text, make_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The JSON of a result of a run."""
    items = pa.table({"item_id": list("abcd"), GROUP: list("aabb"), "right": [1.0, 0.0, 1.0, 1.0]})
    result = result_of(
        "pairs",
        "model",
        [Measure("accuracy", "right"), Measure("other", "right", where=None)],
        items,
        rule="share of right pairs",
        settings={"source": "x"},
        fingerprints={"model": "m", "data": "d"},
        level=0.95,
        seed=0,
        left_out=[LeftOut("e", "missing", "there is no such file")],
        notes=["a note"],
    )
    results.write(str(tmp_path / "run/evaluation/8"), result)
    return tmp_path / "run/evaluation/8/pairs.json"


def test_what_was_written_is_read(written: Path) -> None:
    told = results.read(str(written))
    assert told.figures["accuracy"].value == 0.75
    assert told.figures["accuracy"].num_groups == 2
    assert [measure.name for measure in told.measures] == ["accuracy", "other"]
    assert told.left_out == {"missing": 1} and told.notes == ("a note",)


def change(*place: Any, to: Any) -> Callable[[Any], None]:
    """Sets what lies at a place in a result's JSON."""

    def at_place(content: Any) -> None:
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = to

    return at_place


@pytest.mark.parametrize(
    "damage",
    [
        change("measures", 0, "name", to=["a"]),
        change("measures", 0, "numerator", to={}),
        change("measures", 0, "weight", to=3),
        change("measures", to=7),
        change("figures", "accuracy", "value", to="0.75"),
        change("figures", "accuracy", "low", to=[0]),
        change("figures", "accuracy", "num_items", to="4"),
        change("figures", "accuracy", "value", to=True),
        change("figures", to=[]),
        change("notes", to=3),
    ],
)
def test_a_result_of_other_things_is_told(damage: Callable[[Any], None], written: Path) -> None:
    content = copy.deepcopy(json.loads(written.read_text()))
    damage(content)
    written.write_text(json.dumps(content))
    with pytest.raises(TwistError, match=r"pairs\.json is no result of an evaluation, or is damaged"):
        results.read(str(written))


def test_a_flipped_bit_gives_a_table_or_a_sentence(written: Path) -> None:
    whole = written.read_bytes()
    generator = np.random.default_rng(0)
    run, num_told = str(written.parents[2]), 0
    for bit in generator.integers(8 * len(whole), size=300):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        written.write_bytes(damaged)
        try:
            table = make_table([run], all_measures=True, level=0.95, seed=0)
            assert as_text(table) and as_markdown(table)
        except TwistError:
            num_told += 1
    assert num_told > 50


def named(run: Path, checkpoint: str, groups: str = "aabb") -> Path:
    """A run with a result of a checkpoint."""
    items = pa.table({"item_id": list("abcd"), GROUP: list(groups), "right": [1.0, 0.0, 1.0, 1.0]})
    what: dict[str, Any] = {"rule": "", "settings": {}, "fingerprints": {"data": "d"}, "level": 0.95, "seed": 0}
    result = result_of("pairs", "model", [Measure("accuracy", "right")], items, **what)
    results.write(str(run / "evaluation" / checkpoint), result)
    return run


def columns_of(*places: Path) -> tuple[str, ...]:
    return make_table([str(place) for place in places], all_measures=False, level=0.95, seed=0).columns


def test_a_column_is_called_after_its_run_however_the_run_is_named(tmp_path: Path) -> None:
    run = named(tmp_path / "first", "8")
    for place in (run, run / "evaluation", run / "evaluation/8"):
        assert columns_of(place) == ("first/8",)


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [named(tmp_path / above / "run", "8") for above in ("cold", "warm")]
    assert columns_of(*runs) == ("cold/run/8", "warm/run/8")
    assert columns_of(runs[0], runs[0]) == ("run/8", "run/8")


def test_a_figure_without_an_interval_says_why(tmp_path: Path) -> None:
    run = named(tmp_path / "run", "8", "aaaa")
    table = make_table([str(run)], all_measures=False, level=0.95, seed=0)
    assert "figures of one group alone, such as one speaker (pairs)" in as_text(table)
    items = pa.table({"item_id": list("ab"), GROUP: ["Ann"] * 2, "right": [1.0, 0.0]})
    what: dict[str, Any] = {"rule": "", "settings": {}, "fingerprints": {}, "level": 0.95, "seed": 0}
    told = results.as_text(result_of("pairs", "model", [Measure("accuracy", "right")], items, **what))
    assert "no intervals: they are drawn from groups, and all items are of one, Ann" in told
