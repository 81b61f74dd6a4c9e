"""Centroids against plain k-means, faiss' defaults and scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pytest

from pipeline.units import kmeans
from pipeline.units.kmeans import FitError, FitReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Frames = NDArray[np.float32]

K = 30


def clustered(num_frames: int, seed: int = 0, num_clusters: int = K, dim: int = 12) -> Frames:
    """Frames around well-spread centres, some of them far more frequent than others."""
    generator = np.random.default_rng(seed)
    centres = 6 * generator.standard_normal((num_clusters, dim))
    owners = generator.choice(num_clusters, num_frames, p=generator.dirichlet(np.full(num_clusters, 0.7)))
    return (centres[owners] + generator.standard_normal((num_frames, dim))).astype(np.float32)


def inertia(centroids: NDArray[Any], frames: Frames) -> float:
    return float(squared_distances(centroids, frames).min(axis=1).mean())


def squared_distances(centroids: NDArray[Any], frames: Frames) -> NDArray[np.float64]:
    differences = frames[:, None].astype(np.float64) - centroids[None].astype(np.float64)
    distances: NDArray[np.float64] = (differences**2).sum(axis=2)
    return distances


def plain_kmeans(frames: Frames, codebook_size: int, num_steps: int, seed: int) -> NDArray[np.float64]:
    """Lloyd's algorithm from k-means++ starts, written out in numpy."""
    generator = np.random.default_rng(seed)
    centroids = frames[[generator.integers(len(frames))]].astype(np.float64)
    while len(centroids) < codebook_size:
        nearest = squared_distances(centroids, frames).min(axis=1)
        centroids = np.vstack([centroids, frames[generator.choice(len(frames), p=nearest / nearest.sum())]])
    for _ in range(num_steps):
        units = squared_distances(centroids, frames).argmin(axis=1)
        for unit in np.unique(units):
            centroids[unit] = frames[units == unit].mean(axis=0)
    return centroids


@pytest.fixture(scope="module")
def fitted() -> tuple[Frames, Frames, FitReport]:
    """Frames, and the codebook that was fitted to them."""
    frames = clustered(4000)
    return frames, *kmeans.fit(frames, K, seed=0, num_steps=20)


def test_the_same_frames_and_seed_give_the_same_bytes(fitted: tuple[Frames, Frames, FitReport]) -> None:
    frames, centroids, report = fitted
    again, report_again = kmeans.fit(frames, K, seed=0, num_steps=20)
    assert again.tobytes() == centroids.tobytes(), "the same fit came out differently"
    assert report_again == report
    other, _ = kmeans.fit(frames, K, seed=1, num_steps=20)
    assert other.tobytes() != centroids.tobytes(), "the seed changes nothing"


def test_the_number_of_threads_changes_nothing(fitted: tuple[Frames, Frames, FitReport]) -> None:
    frames, centroids, _ = fitted
    num_threads = faiss.omp_get_max_threads()
    try:
        for num in (1, 3):
            faiss.omp_set_num_threads(num)
            again, _ = kmeans.fit(frames, K, seed=0, num_steps=20)
            assert again.tobytes() == centroids.tobytes(), f"{num} threads give another codebook"
    finally:
        faiss.omp_set_num_threads(num_threads)


def test_as_good_as_a_plain_kmeans_on_frames_of_neither(fitted: tuple[Frames, Frames, FitReport]) -> None:
    frames, _, _ = fitted
    unseen = clustered(6000)[4000:]  # around the same centres, which are drawn first
    plain = [inertia(plain_kmeans(frames, K, 20, seed), unseen) for seed in range(4)]
    ours = [inertia(kmeans.fit(frames, K, seed, num_steps=20)[0], unseen) for seed in range(4)]
    assert np.mean(ours) <= np.mean(plain), f"plain Lloyd from k-means++ starts does better: {plain}, not {ours}"


def test_not_worse_than_faiss_with_its_defaults(fitted: tuple[Frames, Frames, FitReport]) -> None:
    frames, centroids, _ = fitted
    defaults = faiss.Kmeans(frames.shape[1], K, niter=20)
    defaults.train(frames)
    assert inertia(centroids, frames) <= inertia(defaults.centroids, frames), "random starts do better"


def test_well_spread_frames_leave_no_unit_empty() -> None:
    for seed in range(5):
        centroids, report = kmeans.fit(clustered(3000, seed), K, seed, num_steps=10)
        assert report.empty_units == 0
        assert len(np.unique(centroids, axis=0)) == K, "two units have one centroid"


def test_the_report_says_what_is_so(fitted: tuple[Frames, Frames, FitReport]) -> None:
    frames, centroids, report = fitted
    assert (report.num_frames, report.held_out_frames) == (3800, 200)
    assert report.held_out_inertia == pytest.approx(inertia(centroids, frames[:200]), rel=1e-4)
    assert report.inertia == pytest.approx(inertia(centroids, frames[200:]), rel=1e-4)
    assert 1 < report.unit_perplexity <= K


def test_too_few_frames_to_keep_any_aside_are_reported_so() -> None:
    _, report = kmeans.fit(clustered(19), 4, seed=0, num_steps=5)
    assert report.held_out_frames == 0
    assert report.held_out_inertia is None, "NaN is no JSON"


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (clustered(20), "20 frames are too few to fit 30 units"),
        (np.zeros((0, 12), np.float32), "0 frames are too few"),
        (np.full((200, 12), np.nan, np.float32), "NaN"),
        (np.full((200, 12), np.inf, np.float32), "NaN or infinite"),
        (np.full((200, 39), 3.3, np.float32), "only 1 different frames"),
        (np.full((200, 39), 0.0, np.float32), "only 1 different frames"),
        (np.repeat(50 * clustered(7), 100, axis=0), "only 7 different frames"),
        (np.repeat(clustered(7, dim=768) + 1000, 100, axis=0), "only 7 different frames"),
    ],
    ids=["fewer than units", "none", "NaN", "infinite", "all equal", "all zero", "7 kinds", "7 kinds far from zero"],
)
def test_frames_that_cannot_be_fitted_are_refused(frames: Frames, message: str) -> None:
    with pytest.raises(FitError, match=message):
        kmeans.fit(frames, K, seed=0, num_steps=5)


def test_one_nan_among_many_frames_is_found() -> None:
    frames = clustered(500)
    frames[123, 4] = np.nan
    with pytest.raises(FitError, match="check its weights and dtype"):
        kmeans.fit(frames, K, seed=0, num_steps=5)


def test_frames_far_from_zero_are_fitted_as_well() -> None:
    frames = clustered(2000)
    _, near = kmeans.fit(frames, K, seed=0, num_steps=10)
    _, far = kmeans.fit(frames + 100, K, seed=0, num_steps=10)
    assert far.empty_units == 0
    assert far.inertia == pytest.approx(near.inertia, rel=0.05), "an offset of all frames should change next to nothing"
