"""The codebook: k-means centroids over an encoder's features; a frame's unit is the index of its nearest centroid.

    RUN/codebook/codebook.safetensors     centroids [K, D] float32
    RUN/codebook/codebook.json            encoder, K, seed, frames, inertia: what a reader must know

faiss runs the Lloyd steps, on all frames that were drawn and from a k-means++ start: its own defaults drop all but 256
frames per centroid and start from random ones, which ends in a worse codebook.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError

from pipeline import storage
from pipeline.errors import TwistError
from pipeline.stage import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

WEIGHTS = "codebook.safetensors"
FACTS = "codebook.json"
# k-means++ needs K passes over its frames; so many are plenty to place K starts.
SEEDING_FRAMES_PER_UNIT = 256
# Frames nearer to each other than float32 can tell, relative to their squared norms, count as one.
SAME_FRAME_TOLERANCE = 1e-5
HELD_OUT_FRACTION = 0.05


class CodebookError(TwistError):
    """A codebook that cannot be fitted or loaded, or that belongs to another encoder."""


@dataclass(frozen=True)
class FitReport:
    """How well centroids fit frames.

    Attributes:
        num_frames: Frames that the centroids were fitted on.
        inertia: Mean squared distance of these to their centroids.
        held_out_frames: Frames kept aside.
        held_out_inertia: The same over frames that took no part in the fit; None where there are none.
        empty_units: Centroids that no fitted frame is nearest to.
        unit_perplexity: exp of the entropy of the units of the fitted frames; K where all are equally frequent.
    """

    num_frames: int
    inertia: float
    held_out_frames: int
    held_out_inertia: float | None
    empty_units: int
    unit_perplexity: float


@dataclass(frozen=True)
class Codebook:
    """Centroids [K, D] and the encoder whose features they lie among."""

    centroids: NDArray[np.float32]
    facts: dict[str, Any]

    @property
    def num_units(self) -> int:
        """K."""
        return len(self.centroids)

    @property
    def encoder_fingerprint(self) -> str:
        """The encoder whose features it was fitted on."""
        return str(self.facts["encoder"]["fingerprint"])

    @property
    def fingerprint(self) -> str:
        """The codebook's identity: equal units mean equal things only under equal fingerprints."""
        return str(self.facts["fingerprint"])


class Assigner:
    """Nearest centroids by one matrix product, on the device where the features are."""

    def __init__(self, centroids: NDArray[np.float32], device: torch.device) -> None:
        self._minus_twice = torch.from_numpy(-2 * centroids).to(device).T.contiguous()
        self._squared = torch.from_numpy((centroids**2).sum(axis=1)).to(device)

    def __call__(self, features: Tensor) -> Tensor:
        """features [F, D] float32 -> units [F] int64; of equally near centroids the first."""
        # |x - c|^2 without |x|^2, which is the same for every centroid
        return torch.addmm(self._squared, features, self._minus_twice).argmin(dim=1)


def fit(
    frames: NDArray[np.float32], num_units: int, seed: int, num_iterations: int
) -> tuple[NDArray[np.float32], FitReport]:
    """Fits centroids [K, D] to frames [N, D]; the same frames, in the same order, give the same centroids.

    Raises:
        CodebookError: there are fewer (different) frames than units, or they are not finite.
    """
    import faiss

    held_out_count = int(len(frames) * HELD_OUT_FRACTION)
    if len(frames) - held_out_count < num_units:
        raise CodebookError(
            f"{len(frames)} frames are too few to fit {num_units} units: give more audio (codebook.max_hours), draw "
            f"more frames (codebook.max_frames) or ask for fewer units"
        )
    if not np.isfinite(frames).all():
        raise CodebookError("the encoder's features hold NaN or infinite values; check its weights and dtype")
    order = np.random.default_rng(seed).permutation(len(frames))
    held_out, fitted = frames[np.sort(order[:held_out_count])], frames[np.sort(order[held_out_count:])]
    start = _plus_plus(fitted, num_units, seed)
    clustering = faiss.Kmeans(
        frames.shape[1],
        num_units,
        niter=num_iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(fitted),
    )
    clustering.train(fitted, init_centroids=start)
    centroids: NDArray[np.float32] = np.asarray(clustering.centroids)
    return centroids, _report(centroids, fitted, held_out)


def save(uri: str, centroids: NDArray[np.float32], facts: dict[str, Any]) -> Codebook:
    """Writes a codebook into the folder `uri`, the facts last; adds the fingerprint to them."""
    weights = safetensors.numpy.save({"centroids": np.ascontiguousarray(centroids, np.float32)})
    fingerprint = digest(weights, facts["encoder"]["fingerprint"])
    facts = {"num_units": len(centroids), "feature_dim": centroids.shape[1], "fingerprint": fingerprint, **facts}
    storage.write_bytes(storage.join(uri, WEIGHTS), weights)
    storage.write_bytes(storage.join(uri, FACTS), (json.dumps(facts, indent=2) + "\n").encode())
    return Codebook(centroids, facts)


def load(uri: str) -> Codebook:
    """Loads a codebook from its folder.

    Raises:
        CodebookError: it is not there, damaged, or not a codebook.
    """
    weights_uri = storage.join(uri, WEIGHTS)
    try:
        facts = json.loads(storage.read_bytes(storage.join(uri, FACTS)))
        weights = storage.read_bytes(weights_uri)
        tensors = safetensors.numpy.load(weights)
        fingerprint = digest(weights, facts["encoder"]["fingerprint"])
    except FileNotFoundError as error:
        raise CodebookError(f"{uri} holds no codebook ({error}); fit one with `twist codebook`") from None
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CodebookError(f"the codebook in {uri} is damaged: {type(error).__name__}: {error}") from error
    if fingerprint != facts.get("fingerprint"):
        raise CodebookError(f"{weights_uri} is not the file that {FACTS} beside it describes")
    centroids = tensors.get("centroids")
    shape = (facts.get("num_units"), facts.get("feature_dim"))
    if centroids is None or centroids.dtype != np.float32 or centroids.shape != shape:
        raise CodebookError(f"{weights_uri} holds no float32 centroids [K, D] of the size that {FACTS} beside it gives")
    return Codebook(centroids, facts)


def check_encoder(codebook: Codebook, encoder: dict[str, Any]) -> None:
    """Refuses a codebook that was fitted on the features of another encoder.

    Raises:
        CodebookError: the fingerprints differ.
    """
    if codebook.encoder_fingerprint != encoder["fingerprint"]:
        fitted = {key: value for key, value in codebook.facts["encoder"].items() if value != encoder.get(key)}
        raise CodebookError(
            f"the codebook was fitted on another encoder ({fitted}); its units mean nothing here. Use that encoder, or "
            f"fit a codebook in a new run"
        )


def facts_of(encoder: dict[str, Any], seed: int, num_iterations: int, report: FitReport) -> dict[str, Any]:
    """What codebook.json says beside the fingerprint and the size."""
    return {"encoder": encoder, "seed": seed, "num_iterations": num_iterations, **asdict(report)}


def _plus_plus(frames: NDArray[np.float32], num_units: int, seed: int) -> NDArray[np.float32]:
    """k-means++ starts [K, D] from a sample of frames (Arthur and Vassilvitskii, 2007).

    Greedy, as in scikit-learn, with which fairseq fits HuBERT's codebooks: each start is the best of a few draws.
    """
    generator = np.random.default_rng(seed + 1)
    count = min(len(frames), SEEDING_FRAMES_PER_UNIT * num_units)
    sample = frames[np.sort(generator.choice(len(frames), count, replace=False))]
    centred = torch.from_numpy(sample - sample.mean(axis=0))  # small squares, whose differences round little
    squared = (centred**2).sum(dim=1)

    def distances_to(starts: NDArray[np.int64]) -> Tensor:
        """Squared distances [S, F] of all frames to some."""
        sums = squared + squared[starts, None]
        distances = sums - 2 * centred[starts] @ centred.T
        # Rounding must not make a frame a second start: the unit would stay empty.
        return distances.masked_fill_(distances < SAME_FRAME_TOLERANCE * sums, 0.0)

    chosen = [int(generator.integers(count))]
    nearest = distances_to(np.array(chosen))[0]
    num_draws = 2 + int(np.log(num_units))
    while len(chosen) < num_units:
        cumulated = np.cumsum(nearest.numpy(), dtype=np.float64)
        if cumulated[-1] == 0:
            raise CodebookError(f"the features hold only {len(chosen)} different frames; ask for fewer units")
        draws = np.searchsorted(cumulated, generator.random(num_draws) * cumulated[-1], side="right")
        nearest_by_draw = torch.minimum(nearest, distances_to(draws))
        best = int(nearest_by_draw.sum(dim=1, dtype=torch.float64).argmin())
        chosen.append(int(draws[best]))
        nearest = nearest_by_draw[best]
    return sample[chosen]


def _report(centroids: NDArray[np.float32], fitted: NDArray[np.float32], held_out: NDArray[np.float32]) -> FitReport:
    distances, units = _search(centroids, fitted)
    counts = np.bincount(units, minlength=len(centroids))
    shares = counts[counts > 0] / counts.sum()
    return FitReport(
        num_frames=len(fitted),
        inertia=float(distances.mean()),
        held_out_frames=len(held_out),
        held_out_inertia=float(_search(centroids, held_out)[0].mean()) if len(held_out) else None,
        empty_units=int((counts == 0).sum()),
        unit_perplexity=float(np.exp(-(shares * np.log(shares)).sum())),
    )


def _search(
    centroids: NDArray[np.float32], frames: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    import faiss

    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    distances, units = index.search(frames, 1)
    return distances[:, 0], units[:, 0]
