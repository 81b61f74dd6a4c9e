"""Agreement of units and labels: on printed values, against scikit-learn, and at its bounds."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.units.purity import agreement


def test_agreement_is_fairseqs():
    agrees = agreement(np.array([1, 1, 2, 2, 1, 3]), np.array(list("aabbbc")))
    assert (agrees.purity, agrees.cluster_purity) == pytest.approx((0.833333, 0.833333), abs=1e-6)
    assert agrees.mutual_information_nats == pytest.approx(0.693147, abs=1e-6)
    assert agrees.normalized_information == pytest.approx(0.6853315, abs=1e-7)


def test_agreement_equals_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    phones = generator.integers(10, size=5000)
    units = np.where(generator.random(5000) < 0.6, 3 * phones + generator.integers(3, size=5000), 29)
    agrees = agreement(units, phones)
    assert agrees.normalized_information == pytest.approx(metrics.homogeneity_score(phones, units))
    assert agrees.mutual_information_nats == pytest.approx(metrics.mutual_info_score(phones, units))
    table = metrics.cluster.contingency_matrix(phones, units)
    assert agrees.purity == pytest.approx(table.max(axis=0).sum() / 5000)
    assert agrees.cluster_purity == pytest.approx(table.max(axis=1).sum() / 5000)


def test_agreement_at_its_bounds():
    phones = np.array([0, 0, 1, 1, 2, 2])
    perfect = agreement(phones + 4, phones)
    assert (perfect.purity, perfect.cluster_purity, perfect.normalized_information) == pytest.approx((1, 1, 1))
    blind = agreement(np.array([7, 7, 7, 7, 7, 7]), phones)
    assert (blind.purity, blind.cluster_purity, blind.normalized_information) == pytest.approx((1 / 3, 1, 0))
    assert agreement(phones, np.zeros(6, np.int64)).normalized_information == 0, "one phone has no entropy to take away"
