"""Viterbi's algorithm against all ways to say a text, on problems small enough to try them all."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.ctc.viterbi import align, frames_needed

BLANK = 0


def best_score(log_probs: torch.Tensor, units: list[int]) -> float:
    """The score of the best of all labellings of the frames that say the text once repeats and blanks are gone."""
    best = -math.inf
    for labels in itertools.product({BLANK, *units}, repeat=len(log_probs)):
        said = [label for label, _ in itertools.groupby(labels) if label != BLANK]
        if said == units:
            best = max(best, sum(float(log_probs[frame, label]) for frame, label in enumerate(labels)))
    return best


@st.composite
def problems(draw: st.DrawFn) -> list[tuple[torch.Tensor, list[int]]]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    batch = []
    for _ in range(draw(st.integers(1, 3))):
        num_frames = draw(st.integers(1, 6))
        units = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
        batch.append((torch.randn(num_frames, 4, generator=generator).log_softmax(dim=-1), units))
    return batch


@given(problems())
def test_no_way_to_say_a_text_is_likelier(batch: list[tuple[torch.Tensor, list[int]]]) -> None:
    log_probs, targets = map(list, zip(*batch, strict=True))
    paths = align(log_probs, targets, BLANK)
    for frames, units, path in zip(log_probs, targets, paths, strict=True):
        expected = best_score(frames, units)
        assert (path is None) == (expected == -math.inf) == (frames_needed(units) > len(frames))
        if path is not None:
            labels = [units[place] if place >= 0 else BLANK for place in path.tolist()]
            said = [place for place, _ in itertools.groupby(path.tolist()) if place >= 0]
            assert said == list(range(len(units))), "each unit is said once, in order"
            score = sum(float(frames[frame, label]) for frame, label in enumerate(labels))
            assert score == pytest.approx(expected, abs=1e-5)


def test_a_long_text_is_where_it_was_put() -> None:
    """Beyond what can be tried: more frames than scores are kept for, and a batch of other lengths."""
    generator = torch.Generator().manual_seed(0)
    log_probs, targets, expected = [], [], []
    for num_units in (1, 40, 150):
        units = torch.randint(1, 20, (num_units,), generator=generator).tolist()
        lengths = torch.randint(1, 4, (2 * num_units + 1,), generator=generator).tolist()
        states = [BLANK if place % 2 == 0 else units[place // 2] for place in range(len(lengths))]
        places = [-1 if place % 2 == 0 else place // 2 for place in range(len(lengths))]
        path = torch.tensor([place for place, length in zip(places, lengths, strict=True) for _ in range(length)])
        labels = torch.tensor([state for state, length in zip(states, lengths, strict=True) for _ in range(length)])
        frames = torch.full((len(labels), 20), -8.0)
        frames[torch.arange(len(labels)), labels] = -0.01
        log_probs.append(frames)
        targets.append(units)
        expected.append(path)
    for path, wanted in zip(align(log_probs, targets, BLANK), expected, strict=True):
        assert path is not None and torch.equal(path, wanted)


def test_a_text_without_units_has_no_path() -> None:
    assert align([torch.zeros(3, 4)], [[]], BLANK) == [None]
