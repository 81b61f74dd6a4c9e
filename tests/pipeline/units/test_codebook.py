from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.units import codebook
from pipeline.units.codebook import Assigner, CodebookError
from pipeline.units.kmeans import FitReport

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Frames = NDArray[np.float32]

ENCODER = {"name": "mfcc", "layer": None, "frame_rate_hz": 25.0, "fingerprint": "encoder-1"}
CENTROIDS = np.random.default_rng(0).standard_normal((10, 12)).astype(np.float32)
REPORT = FitReport(475, 1.5, 25, 1.75, 0, 9.25)


def squared_distances(centroids: NDArray[Any], frames: Frames) -> NDArray[np.float64]:
    differences = frames[:, None].astype(np.float64) - centroids[None].astype(np.float64)
    distances: NDArray[np.float64] = (differences**2).sum(axis=2)
    return distances


@pytest.fixture(scope="module")
def clusters() -> tuple[Frames, Frames]:
    """Frames [4000, 12] around centroids [30, 12]."""
    generator = np.random.default_rng(0)
    centroids = 6 * generator.standard_normal((30, 12))
    frames = centroids[generator.integers(30, size=4000)] + generator.standard_normal((4000, 12))
    return frames.astype(np.float32), centroids.astype(np.float32)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_frames=st.integers(1, 40),
    codebook_size=st.integers(1, 70),
    dim=st.integers(1, 24),
)
def test_assigner_finds_the_nearest_centroid(seed: int, num_frames: int, codebook_size: int, dim: int) -> None:
    generator = np.random.default_rng(seed)
    frames = (10 * generator.standard_normal((num_frames, dim))).astype(np.float32)
    centroids = (10 * generator.standard_normal((codebook_size, dim))).astype(np.float32)
    units = Assigner(centroids, torch.device("cpu"))(torch.from_numpy(frames))
    assert units.shape == (num_frames,)
    assert units.dtype == torch.int64
    distances = squared_distances(centroids, frames)
    excess = distances[np.arange(num_frames), units.numpy()] - distances.min(axis=1)
    assert (excess <= 1e-5 * (frames.astype(np.float64) ** 2).sum(axis=1) + 1e-4).all(), (
        "a nearer centroid was passed over"
    )


def test_assigner_agrees_with_float64_and_faiss_on_clusters(clusters: tuple[Frames, Frames]) -> None:
    frames, centroids = clusters
    units = Assigner(centroids, torch.device("cpu"))(torch.from_numpy(frames)).numpy()
    assert np.array_equal(units, squared_distances(centroids, frames).argmin(axis=1))
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    assert np.array_equal(units, index.search(frames, 1)[1][:, 0])


def test_assignment_does_not_depend_on_the_batch(clusters: tuple[Frames, Frames]) -> None:
    frames, centroids = clusters
    assign = Assigner(centroids, torch.device("cpu"))
    features = torch.from_numpy(frames[:300])
    together = assign(features)
    one_by_one = torch.cat([assign(feature[None]) for feature in features])
    assert torch.equal(together, one_by_one), "a frame's unit depends on its neighbours"
    assert torch.equal(together.flip(0), assign(features.flip(0)))


def test_of_equally_near_centroids_the_first_is_taken() -> None:
    centroids = np.array([[1, 0], [0, 1], [-1, 0], [0, 1]], np.float32)
    units = Assigner(centroids, torch.device("cpu"))(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert units.tolist() == [0, 1]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A codebook's folder."""
    centroids, report = CENTROIDS, REPORT
    codebook.save(str(tmp_path / "codebook"), centroids, codebook.facts_of(ENCODER, 0, 3, report))
    return tmp_path / "codebook"


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    centroids, report = CENTROIDS, REPORT
    saved = codebook.save(str(tmp_path), centroids, codebook.facts_of(ENCODER, 0, 3, report))
    loaded = codebook.load(str(tmp_path))
    assert loaded.centroids.tobytes() == centroids.tobytes()
    assert loaded.facts == saved.facts
    assert (loaded.codebook_size, loaded.encoder_fingerprint) == (10, "encoder-1")
    assert loaded.facts["inertia"] == report.inertia
    json.loads((tmp_path / "codebook.json").read_text(), parse_constant=pytest.fail)


def test_saving_again_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    loaded = codebook.load(str(saved))
    facts = {
        name: value for name, value in loaded.facts.items() if name not in ("fingerprint", "num_units", "feature_dim")
    }
    codebook.save(str(tmp_path / "again"), loaded.centroids, facts)
    for name in (codebook.WEIGHTS, codebook.FACTS):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_fingerprint_is_of_centroids_and_encoder(tmp_path: Path) -> None:
    centroids, report = CENTROIDS, REPORT
    facts = codebook.facts_of(ENCODER, 0, 3, report)
    book = codebook.save(str(tmp_path / "a"), centroids, facts)
    other_encoder = codebook.save(str(tmp_path / "b"), centroids, {**facts, "encoder": {**ENCODER, "fingerprint": "2"}})
    other_centroids = codebook.save(str(tmp_path / "c"), centroids + 1, facts)
    other_seed = codebook.save(str(tmp_path / "d"), centroids, {**facts, "seed": 7})
    assert len({book.fingerprint, other_encoder.fingerprint, other_centroids.fingerprint}) == 3
    assert other_seed.fingerprint == book.fingerprint, "equal units got different names"


def test_a_missing_codebook_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CodebookError, match=r"holds no codebook .* fit one with `twist codebook`"):
        codebook.load(str(tmp_path))


def test_missing_centroids_are_missed(saved: Path) -> None:
    (saved / codebook.WEIGHTS).unlink()
    with pytest.raises(CodebookError, match=r"codebook\.safetensors"):
        codebook.load(str(saved))


@pytest.mark.parametrize("name", [codebook.WEIGHTS, codebook.FACTS])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved: Path, name: str, kept: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CodebookError, match="damaged"):
        codebook.load(str(saved))


def test_changed_centroids_are_refused(saved: Path) -> None:
    content = bytearray((saved / codebook.WEIGHTS).read_bytes())
    content[-5] ^= 1
    (saved / codebook.WEIGHTS).write_bytes(content)
    with pytest.raises(CodebookError, match=r"is not the file that codebook\.json beside it describes"):
        codebook.load(str(saved))


@pytest.mark.parametrize(
    "facts",
    ["[]", "{}", '{"encoder": "mfcc"}', '{"encoder": {}}', "null", "7", "not JSON", "\udcff", "[" * 100_000],
    ids=lambda facts: ascii(facts[:20]),
)
def test_facts_of_another_kind_are_refused(saved: Path, facts: str) -> None:
    (saved / codebook.FACTS).write_bytes(facts.encode("utf-8", "surrogateescape"))
    with pytest.raises(CodebookError, match="damaged"):
        codebook.load(str(saved))


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": np.zeros((10, 12), np.float32)},
        {"centroids": np.zeros((10, 12), np.float16)},
        {"centroids": np.zeros(120, np.float32)},
        {"centroids": np.zeros((11, 12), np.float32)},
        {},
    ],
    ids=["other name", "other dtype", "one dimension", "other size", "nothing"],
)
def test_a_safetensors_file_of_something_else_is_refused(saved: Path, tensors: dict[str, NDArray[Any]]) -> None:
    weights = safetensors.numpy.save(tensors)
    (saved / codebook.WEIGHTS).write_bytes(weights)
    facts = json.loads((saved / codebook.FACTS).read_text())
    facts["fingerprint"] = codebook.digest(weights, ENCODER["fingerprint"])
    (saved / codebook.FACTS).write_text(json.dumps(facts))
    with pytest.raises(CodebookError, match=r"holds no float32 centroids \[K, D\]"):
        codebook.load(str(saved))


def test_another_encoders_codebook_is_refused(saved: Path) -> None:
    book = codebook.load(str(saved))
    codebook.check_encoder(book, ENCODER)
    with pytest.raises(CodebookError, match=r"fitted on another encoder \({'name': 'mfcc'"):
        codebook.check_encoder(book, {**ENCODER, "name": "hubert", "fingerprint": "encoder-2"})
