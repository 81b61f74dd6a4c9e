"""Which candidates become pairs: each is kept or dropped with a reason, and the order comes from the seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.errors import TwistError
from pipeline.preferences.candidates import Candidate
from pipeline.preferences.config import ContinuationsConfig, PreferencesConfig
from pipeline.preferences.prepare import filtered


def candidate(name: str, text: str | None = "no word twice", chosen: int = 1, split: str | None = None) -> Candidate:
    prompt, good, bad = (np.array([unit], np.uint16) for unit in (0, chosen, 2))
    return Candidate(name, (prompt, good, bad), text and ("", text, "what"), 1.5, split)  # type: ignore[arg-type]


def test_kept_and_dropped_add_up() -> None:
    candidates = [
        candidate("fine"),
        candidate("untold", text=None),
        candidate("loops", text="so so so so"),
        candidate("same", chosen=2),
        Candidate("gone", None, None, 0.0, reason="missing", detail="prompt: there is no such file"),
    ]
    found = filtered(candidates, PreferencesConfig())
    assert sorted(pair.pair_id for pair in found.pairs) == ["fine", "untold"]
    assert [(drop.id, drop.reason) for drop in found.dropped] == [
        ("gone", "missing"),
        ("loops", "auto_bleu"),
        ("same", "same_endings"),
    ]
    assert found.num_without_text == 1
    unfiltered = filtered(candidates, PreferencesConfig(max_auto_bleu=None))
    assert "loops" in {pair.pair_id for pair in unfiltered.pairs}


def test_the_order_and_what_is_held_out_depend_on_seed_and_id_alone() -> None:
    candidates = [candidate(str(number)) for number in range(400)]
    config = PreferencesConfig(validation_share=0.25)
    found = filtered(candidates, config)
    again = filtered(candidates[::-1], config)
    assert [pair.pair_id for pair in found.pairs] == [pair.pair_id for pair in again.pairs]
    held_out = {pair.pair_id for pair in found.pairs if pair.split == "validation"}
    assert 70 < len(held_out) < 130
    other = filtered(candidates, dataclasses.replace(config, seed=1))
    assert [pair.pair_id for pair in found.pairs] != [pair.pair_id for pair in other.pairs]
    told = filtered([candidate("a", split="validation"), candidate("b", split="train")], config)
    assert {pair.pair_id: pair.split for pair in told.pairs} == {"a": "validation", "b": "train"}


@pytest.mark.parametrize("settings", [{"voices": ()}, {"max_auto_bleu": 0}, {"validation_share": 1}, {"seed": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(TwistError, match=f"preferences.{next(iter(settings))} is"):
        PreferencesConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(TwistError, match=r"continuations.num_continuations is 1"):
        ContinuationsConfig(num_continuations=1)
