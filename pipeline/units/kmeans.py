"""k-means over an encoder's frames, at the cost of a few passes over them.

1. Greedy k-means++ finds initial centroids in a small sample.
2. Lloyd's steps run on growing samples and last on all frames, so that most progress is made where steps are cheap.

faiss runs the steps. Its defaults would give a worse codebook: they silently drop all but 256 frames per centroid, and
start from random ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

HELD_OUT_FRACTION = 0.05
# Frames per centroid: in the sample for k-means++, and in the growing samples for the first steps.
SEEDING_FRAMES_PER_UNIT = 32
STEPPING_FRAMES_PER_UNIT = (64, 256)
STEPS_PER_SAMPLE = 10
# Frames whose squared distance is below this share of their squared norms, float32's rounding, count as equal.
SAME_FRAME_TOLERANCE = 1e-5
# Frames that are checked at once for NaN and infinite values.
FRAMES_AT_ONCE = 65_536


class FitError(TwistError):
    """The frames are too few, too much alike, or not finite."""


@dataclass(frozen=True)
class FitReport:
    """How well centroids fit frames.

    Attributes:
        num_frames: Frames that the centroids were fitted on.
        inertia: Mean squared distance of these frames to their centroids.
        held_out_frames: Frames held out of the fit.
        held_out_inertia: Mean squared distance of these to their centroids; None if there are none.
        empty_units: Number of centroids that are nearest to no fitted frame.
        unit_perplexity: exp of the entropy of the units of the fitted frames; K where all are equally frequent.
    """

    num_frames: int
    inertia: float
    held_out_frames: int
    held_out_inertia: float | None
    empty_units: int
    unit_perplexity: float


def fit(
    frames: NDArray[np.float32], codebook_size: int, seed: int, num_steps: int
) -> tuple[NDArray[np.float32], FitReport]:
    """Fits centroids; the same frames in the same order give the same centroids, on the same number of threads.

    Args:
        frames: [N, D] in random order: the first ones are held out, and samples are the first of the rest.
        codebook_size: Centroids to fit, K.
        seed: Seed of k-means++ and of faiss.
        num_steps: Lloyd's steps on all frames.

    Returns:
        centroids [K, D], and how well they fit.

    Raises:
        FitError: there are fewer (different) frames than units, or they are not finite.
    """
    num_held_out = int(len(frames) * HELD_OUT_FRACTION)
    held_out, fitted = frames[:num_held_out], frames[num_held_out:]
    if len(fitted) < codebook_size:
        raise FitError(
            f"{len(frames)} frames are too few to fit {codebook_size} units: give more audio (codebook.max_hours), "
            f"draw more frames (codebook.max_frames) or ask for fewer units"
        )
    if not all(np.isfinite(part).all() for part in np.array_split(frames, -(-len(frames) // FRAMES_AT_ONCE))):
        raise FitError("the encoder's features hold NaN or infinite values; check its weights and dtype")
    centroids = plus_plus(fitted[: SEEDING_FRAMES_PER_UNIT * codebook_size], codebook_size, seed)
    for frames_per_unit in STEPPING_FRAMES_PER_UNIT:
        if frames_per_unit * codebook_size < len(fitted):
            centroids = lloyd(fitted[: frames_per_unit * codebook_size], centroids, STEPS_PER_SAMPLE, seed)
    centroids = lloyd(fitted, centroids, num_steps, seed)
    return centroids, _report(centroids, fitted, held_out)


def plus_plus(sample: NDArray[np.float32], codebook_size: int, seed: int) -> NDArray[np.float32]:
    """Initial centroids [K, D] by k-means++ from a sample of frames [N, D] (Arthur and Vassilvitskii, 2007).

    Greedy: each is the best of a few draws, as in scikit-learn, with which fairseq fits HuBERT's codebooks.

    Raises:
        FitError: there are fewer different frames than units.
    """
    generator = np.random.default_rng(seed)
    centred = torch.from_numpy(sample - sample.mean(axis=0))  # small squares, whose differences lose little to rounding
    squared = (centred**2).sum(dim=1)

    def distances_to(starts: NDArray[np.int64]) -> Tensor:
        """Squared distances [S, N] from the frames `starts` [S] to all frames."""
        sums = squared + squared[starts, None]
        distances = torch.addmm(sums, centred[starts], centred.T, alpha=-2)
        # Rounding must not let a frame be drawn twice: the second unit would stay empty.
        return distances.masked_fill_(distances < SAME_FRAME_TOLERANCE * sums, 0.0)

    chosen = [int(generator.integers(len(sample)))]
    nearest = distances_to(np.array(chosen))[0]
    num_draws = 2 + int(np.log(codebook_size))
    while len(chosen) < codebook_size:
        cumulated = np.cumsum(nearest.numpy(), dtype=np.float64)
        if cumulated[-1] == 0:
            raise FitError(f"the features hold only {len(chosen)} different frames; ask for fewer units")
        draws = np.searchsorted(cumulated, generator.random(num_draws) * cumulated[-1], side="right")
        nearest_by_draw = torch.minimum(nearest, distances_to(draws))
        best = int(nearest_by_draw.sum(dim=1, dtype=torch.float64).argmin())
        chosen.append(int(draws[best]))
        nearest = nearest_by_draw[best]
    return sample[chosen]


def lloyd(
    frames: NDArray[np.float32], centroids: NDArray[np.float32], num_steps: int, seed: int
) -> NDArray[np.float32]:
    """Centroids [K, D] after `num_steps` of Lloyd's steps on frames [N, D].

    A centroid that loses all its frames is moved into a large cluster.
    """
    import faiss

    steps = faiss.Kmeans(
        frames.shape[1],
        len(centroids),
        niter=num_steps,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(frames),
    )
    steps.train(frames, init_centroids=centroids)
    return np.asarray(steps.centroids)


def search(
    centroids: NDArray[np.float32], frames: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Squared distance [N] from each of frames [N, D] to the nearest of centroids [K, D], and that one's index [N]."""
    import faiss

    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    distances, units = index.search(frames, 1)
    return distances[:, 0], units[:, 0]


def _report(centroids: NDArray[np.float32], fitted: NDArray[np.float32], held_out: NDArray[np.float32]) -> FitReport:
    distances, units = search(centroids, fitted)
    counts = np.bincount(units, minlength=len(centroids))
    shares = counts[counts > 0] / counts.sum()
    return FitReport(
        num_frames=len(fitted),
        inertia=float(distances.mean()),
        held_out_frames=len(held_out),
        held_out_inertia=float(search(centroids, held_out)[0].mean()) if len(held_out) else None,
        empty_units=int((counts == 0).sum()),
        unit_perplexity=float(np.exp(-(shares * np.log(shares)).sum())),
    )
