from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from model.training.optim import adamw, set_learning_rate
from model.training.schedule import Schedule, learning_rate


class TiedModel(nn.Module):
    """A table with a tied head, a matrix and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.inner = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight


def test_only_matrices_decay() -> None:
    model = TiedModel()
    optimizer = adamw(model, (0.9, 0.98), weight_decay=0.1)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(model.inner.weight)}, "biases, norms and tables (and a head tied to one) must not decay"
    in_groups = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(in_groups) == sorted(id(p) for p in model.parameters()), "each parameter belongs to exactly one group"


def test_set_learning_rate_reaches_all_groups() -> None:
    optimizer = adamw(TiedModel(), (0.9, 0.98), weight_decay=0.1)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@given(
    schedule=st.sampled_from(["inverse_sqrt", "cosine"]),
    warmup_steps=st.integers(0, 50),
    more_steps=st.integers(1, 500),
    peak=st.floats(1e-6, 1.0),
    share=st.floats(0, 1),
)
def test_rate_rises_then_falls_to_the_final_rate(
    schedule: Schedule, warmup_steps: int, more_steps: int, peak: float, share: float
) -> None:
    num_steps = warmup_steps + more_steps
    final = peak * share
    rates = [
        learning_rate(step, schedule, peak=peak, final=final, warmup_steps=warmup_steps, num_steps=num_steps)
        for step in range(1, num_steps + 1)
    ]
    rising, falling = rates[:warmup_steps], rates[warmup_steps:]
    tolerance = 1e-9 * peak
    assert all(0 <= rate <= peak + tolerance for rate in rates), "no rate may exceed the peak"
    assert rising == sorted(rising), "the rate must not fall during warm-up"
    assert all(b <= a + tolerance for a, b in itertools.pairwise(falling)), "it must not rise afterwards"
    assert all(rate >= final - tolerance for rate in falling), "it must not fall below the final rate"


def test_paper_rates_for_a_warm_start() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, "inverse_sqrt", peak=4e-4, final=8e-5, warmup_steps=100, num_steps=400_000)

    assert math.isclose(rate(50), 2e-4)
    assert math.isclose(rate(100), 4e-4)
    assert math.isclose(rate(400), 2e-4), "four times the warm-up halves the rate"
    assert math.isclose(rate(2500), 8e-5)
    assert math.isclose(rate(400_000), 8e-5)


def test_cosine_equals_transformers() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    reference = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=10, num_training_steps=100)
    for step in range(1, 101):
        optimizer.step()
        reference.step()
        ours = learning_rate(step, "cosine", peak=0.5, final=0.0, warmup_steps=10, num_steps=100)
        assert ours == pytest.approx(reference.get_last_lr()[0], abs=1e-12), f"step {step}"
