"""Discriminators and losses: what each map sees, the published size, and losses by their formulas."""

from __future__ import annotations

import pytest
import torch

from model.vocoder.discriminators import Discriminators, PeriodDiscriminator
from model.vocoder.losses import adversarial_loss, discriminator_loss, duration_loss, feature_loss


def test_size_is_the_published_one() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        whole = Discriminators(1024)
    count = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (("periods", whole.periods), ("scales", whole.scales))
    }
    # Of the official repository's MultiPeriodDiscriminator and MultiScaleDiscriminator: 41.1M and 29.6M.
    assert count["periods"] == pytest.approx(41.1e6, rel=0.01)
    assert count["scales"] == pytest.approx(29.6e6, rel=0.01)


def test_a_period_discriminator_sees_each_phase_alone() -> None:
    torch.manual_seed(0)
    discriminator = PeriodDiscriminator(3, 128).eval()
    wav = torch.randn(1, 300)
    changed = wav.clone()
    changed[0, 1::3] += 1  # one phase of three
    for before, after in zip(discriminator(wav)[:-1], discriminator(changed)[:-1], strict=True):
        is_same = (before == after).flatten(0, 2).all(dim=0)
        assert is_same.tolist() == [True, False, True]


def test_any_length_has_scores() -> None:
    torch.manual_seed(0)
    discriminators = Discriminators(128)
    for num_samples in (1000, 1001, 1009):
        maps = discriminators(torch.randn(2, num_samples))
        assert len(maps) == 8
        assert all(each[-1].ndim == 2 and len(each[-1]) == 2 for each in maps)
        assert [len(each) for each in maps] == [6] * 5 + [8] * 3


def test_rows_do_not_depend_on_each_other() -> None:
    torch.manual_seed(0)
    discriminators = Discriminators(128).eval()
    wav = torch.randn(3, 900)
    together, alone = discriminators(wav), discriminators(wav[1:2])
    for one, other in zip(together, alone, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)


def test_losses_by_their_formulas() -> None:
    real = [[torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 1.0]])], [torch.tensor([[3.0]]), torch.tensor([[2.0]])]]
    made = [[torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.0]])], [torch.tensor([[1.0]]), torch.tensor([[-1.0]])]]
    assert discriminator_loss(real, made).item() == pytest.approx((0.25 / 2 + 0.25 / 2) + (1 + 1))
    assert adversarial_loss(made).item() == pytest.approx((0.25 + 1) / 2 + 4)
    assert feature_loss(real, made).item() == pytest.approx((1 + 2) / 2 + 2), "scores are no features"


def test_duration_loss_leaves_out_what_is_no_unit() -> None:
    durations = torch.tensor([[3, 1, 0], [7, 0, 0]])
    told = torch.log(torch.tensor([[4.0, 2.0, 9.0], [8.0, 1.0, 5.0]]))
    total, count = duration_loss(told, durations)
    assert (total.item(), count.item()) == (pytest.approx(0, abs=1e-9), 3)
    total, _ = duration_loss(told + 0.5, durations)
    assert total.item() == pytest.approx(3 * 0.25)
