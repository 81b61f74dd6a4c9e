"""The codebook: k-means centroids over an encoder's features; a frame's unit is the index of its nearest centroid.

    RUN/codebook/codebook.safetensors     centroids [K, D] float32
    RUN/codebook/codebook.json            encoder, K, seed, frames, inertia: what a reader needs to know

pipeline/units/kmeans.py fits the centroids. A codebook that was imported may be a CTC quantizer instead, with the
weights of its layers in place of centroids: see pipeline/units/ctc_quantizer.py.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from pipeline.errors import TwistError
from pipeline.files import foreign_json, storage
from pipeline.stage import digest
from pipeline.units import ctc_quantizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.units.kmeans import FitReport

WEIGHTS = "codebook.safetensors"
FACTS = "codebook.json"
CENTROIDS = "centroids"


class CodebookError(TwistError):
    """A codebook that cannot be loaded, or that belongs to another encoder."""


@dataclass(frozen=True)
class Codebook:
    """Weights and facts about them, such as the encoder whose features they were fitted on.

    Attributes:
        weights: `centroids` [K, D] of a k-means, or the layers of a CTC quantizer by name.
        facts: The content of codebook.json.
    """

    weights: Mapping[str, NDArray[np.float32]]
    facts: dict[str, Any]

    @property
    def is_ctc(self) -> bool:
        """Whether it is a CTC quantizer, not a k-means."""
        return CENTROIDS not in self.weights

    @property
    def centroids(self) -> NDArray[np.float32]:
        """The centroids [K, D] of a k-means."""
        return self.weights[CENTROIDS]

    @property
    def codebook_size(self) -> int:
        """Number of units, K."""
        return sizes(self.weights)[1]

    @property
    def encoder_fingerprint(self) -> str:
        """Fingerprint of the encoder whose features it was fitted on."""
        return str(self.facts["encoder"]["fingerprint"])

    @property
    def fingerprint(self) -> str:
        """The codebook's identity: units can be compared only if their codebooks' fingerprints are equal."""
        return str(self.facts["fingerprint"])


class Assigner:
    """Finds nearest centroids with one matrix product, on the features' device."""

    def __init__(self, centroids: NDArray[np.float32], device: torch.device) -> None:
        import torch  # not above: who reads a codebook's facts, as `twist inspect` does, needs none

        self._minus_twice = torch.from_numpy(-2 * centroids).to(device).T.contiguous()
        self._squared = torch.from_numpy((centroids**2).sum(axis=1)).to(device)

    def __call__(self, features: Tensor) -> Tensor:
        """features of a clip [F, D] float32 -> units [F] int64; the first of equally near centroids."""
        # |x - c|^2 without |x|^2, which is the same for every centroid
        return self._squared.addmm(features, self._minus_twice).argmin(dim=1)


def save(uri: str, centroids: NDArray[np.float32], facts: dict[str, Any]) -> Codebook:
    """Writes the codebook of a k-means into the folder `uri`; adds its size and fingerprint to the facts."""
    book = of_weights({CENTROIDS: centroids}, facts)
    write(uri, book)
    return book


def write(uri: str, book: Codebook) -> None:
    """Writes a codebook into the folder `uri`, facts last."""
    storage.write_bytes(storage.join(uri, WEIGHTS), _content(book.weights))
    storage.write_bytes(storage.join(uri, FACTS), (json.dumps(book.facts, indent=2) + "\n").encode())


def of_weights(weights: Mapping[str, NDArray[np.float32]], facts: dict[str, Any]) -> Codebook:
    """A codebook of these weights, with its size and fingerprint added to the facts."""
    fingerprint = digest(_content(weights), facts["encoder"]["fingerprint"])
    feature_dim, num_units = sizes(weights)
    size = {"num_units": num_units, "feature_dim": feature_dim}
    return Codebook(weights, {**size, "fingerprint": fingerprint, **facts})


def sizes(weights: Mapping[str, NDArray[np.float32]]) -> tuple[int, int]:
    """Dimensions of the features that weights take, D, and units that they give, K."""
    centroids = weights.get(CENTROIDS)
    return ctc_quantizer.sizes(weights) if centroids is None else (centroids.shape[1], centroids.shape[0])


def _content(weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    return safetensors.numpy.save({name: np.ascontiguousarray(one, np.float32) for name, one in weights.items()})


def load(uri: str) -> Codebook:
    """Loads a codebook from its folder.

    Raises:
        CodebookError: it is missing, damaged, or not a codebook.
    """
    weights_uri = storage.join(uri, WEIGHTS)
    try:
        facts = foreign_json.parse(storage.read_bytes(storage.join(uri, FACTS)))
        weights = storage.read_bytes(weights_uri)
        tensors = safetensors.numpy.load(weights)
        fingerprint = digest(weights, facts["encoder"]["fingerprint"])
    except FileNotFoundError as error:
        raise CodebookError(f"{uri} holds no codebook ({error}); fit one with `twist codebook`") from None
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CodebookError(f"the codebook in {uri} is damaged: {type(error).__name__}: {error}") from error
    if fingerprint != facts.get("fingerprint"):
        raise CodebookError(f"{weights_uri} is not the file that {FACTS} beside it describes")
    size = (facts.get("feature_dim"), facts.get("num_units"))
    is_float32 = all(tensor.dtype == np.float32 for tensor in tensors.values())
    is_kmeans = tensors.keys() == {CENTROIDS} and tensors[CENTROIDS].ndim == 2
    if not is_float32 or not (is_kmeans or ctc_quantizer.are_layers(tensors)) or sizes(tensors) != size:
        raise CodebookError(
            f"{weights_uri} holds no float32 centroids [K, D] of the size that {FACTS} beside it gives, nor the layers "
            f"of a CTC quantizer"
        )
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise CodebookError(f"{weights_uri} holds values that are not finite")
    return Codebook(tensors, facts)


def check_encoder(codebook: Codebook, encoder: dict[str, Any]) -> None:
    """Refuses a codebook that was fitted on the features of another encoder.

    Raises:
        CodebookError: the fingerprints differ.
    """
    if codebook.encoder_fingerprint != encoder["fingerprint"]:
        theirs = codebook.facts["encoder"]
        # A codebook from before there were levels does not say that it has none.
        fitted = {key: theirs.get(key) for key in (*theirs, "level_dbfs") if theirs.get(key) != encoder.get(key)}
        before = " (encoder.level_dbfs: unchanged, for a run begun before there were levels)"
        raise CodebookError(
            f"the codebook was fitted on another encoder ({fitted}); its units mean nothing here. Use that encoder"
            f"{before if 'level_dbfs' in fitted else ''}, or fit a codebook in a new run"
        )


def facts_of(encoder: dict[str, Any], seed: int, num_iterations: int, report: FitReport) -> dict[str, Any]:
    """The facts in codebook.json, except for fingerprint and size."""
    return {"encoder": encoder, "seed": seed, "num_iterations": num_iterations, **asdict(report)}
