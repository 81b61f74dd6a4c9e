"""Confidence intervals of perplexities: a bootstrap over the speakers that these were measured on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.lm.samples import UnitSamples

MEAN = "mean"


def speakers_of(samples: UnitSamples) -> list[str]:
    """The speaker of each sample, with the corpus; where that is not known, its recording."""
    rows = samples.manifest_rows()
    speakers: list[str] = []
    one_each: dict[str, str] = {}
    first_row = start = 0
    for table in samples.dataset.rows(["speaker", "segment_id", "corpus"]):
        end = int(np.searchsorted(rows, first_row + len(table)))
        here = table.take(pa.array(rows[start:end] - first_row))
        told = zip(*(here[name].to_pylist() for name in ("corpus", "speaker", "segment_id")), strict=True)
        owners = (
            f"recording {segment_id.rpartition('#')[0]}" if speaker is None else f"{corpus} speaker {speaker}"
            for corpus, speaker, segment_id in told
        )
        speakers += [one_each.setdefault(owner, owner) for owner in owners]
        first_row += len(table)
        start = end
    return speakers


def perplexity_intervals(
    nll: NDArray[np.float64],
    num_targets: NDArray[np.integer],
    corpora: Sequence[str] | NDArray[np.str_],
    speakers: Sequence[str] | NDArray[np.integer],
    *,
    level: float = 0.95,
    num_draws: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of each corpus' perplexity, and of their mean.

    Each draw takes as many speakers as a corpus has, with replacement, and all samples of each: samples of one speaker
    are no independent evidence. A corpus of one speaker has an interval of no width, which says nothing.

    Args:
        nll: Nats of each sample, [num_samples].
        num_targets: Units scored in each, [num_samples].
        corpora: The corpus of each.
        speakers: Whom each is of.
        level: Share of draws within the interval.
        num_draws: Resampled data sets.
        seed: Of the draws.

    Returns:
        (low, high) by corpus, and under `mean` of the mean of the corpora.
    """
    rng = np.random.default_rng(seed)
    names = np.asarray(corpora)
    drawn = {}
    for corpus in np.unique(names):
        here = names == corpus
        _, owner = np.unique(np.asarray(speakers)[here], return_inverse=True)
        nats, targets = np.bincount(owner, nll[here]), np.bincount(owner, num_targets[here])
        perplexities = np.empty(num_draws)
        for draw in range(num_draws):
            chosen = rng.integers(len(nats), size=len(nats))
            with np.errstate(over="ignore"):
                perplexities[draw] = np.exp(nats[chosen].sum() / targets[chosen].sum())
        drawn[str(corpus)] = perplexities
    drawn[MEAN] = np.mean(list(drawn.values()), axis=0)
    tails = [(1 - level) / 2, (1 + level) / 2]
    bounds = {name: np.quantile(perplexities, tails) for name, perplexities in drawn.items()}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}
