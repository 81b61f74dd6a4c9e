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

from pipeline import codebook
from pipeline.codebook import Assigner, CodebookError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Frames = NDArray[np.float32]

ENCODER = {"name": "mfcc", "layer": None, "frame_rate_hz": 25.0, "fingerprint": "encoder-1"}
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


def plain_kmeans(frames: Frames, num_units: int, num_iterations: int, seed: int) -> NDArray[np.float64]:
    """Lloyd's algorithm from k-means++ starts, written out in numpy."""
    generator = np.random.default_rng(seed)
    centroids = frames[[generator.integers(len(frames))]].astype(np.float64)
    while len(centroids) < num_units:
        nearest = squared_distances(centroids, frames).min(axis=1)
        centroids = np.vstack([centroids, frames[generator.choice(len(frames), p=nearest / nearest.sum())]])
    for _ in range(num_iterations):
        units = squared_distances(centroids, frames).argmin(axis=1)
        for unit in np.unique(units):
            centroids[unit] = frames[units == unit].mean(axis=0)
    return centroids


@pytest.fixture(scope="module")
def fitted() -> tuple[Frames, Frames, codebook.FitReport]:
    """Frames, and the codebook that was fitted to them."""
    frames = clustered(4000)
    return frames, *codebook.fit(frames, K, seed=0, num_iterations=20)


def test_the_same_frames_and_seed_give_the_same_bytes(fitted: tuple[Frames, Frames, codebook.FitReport]) -> None:
    frames, centroids, report = fitted
    again, report_again = codebook.fit(frames, K, seed=0, num_iterations=20)
    assert again.tobytes() == centroids.tobytes(), "the same fit came out differently"
    assert report_again == report
    other, _ = codebook.fit(frames, K, seed=1, num_iterations=20)
    assert other.tobytes() != centroids.tobytes(), "the seed changes nothing"


def test_the_number_of_threads_changes_nothing(fitted: tuple[Frames, Frames, codebook.FitReport]) -> None:
    frames, centroids, _ = fitted
    num_threads = faiss.omp_get_max_threads()
    try:
        for num in (1, 3):
            faiss.omp_set_num_threads(num)
            again, _ = codebook.fit(frames, K, seed=0, num_iterations=20)
            assert again.tobytes() == centroids.tobytes(), f"{num} threads give another codebook"
    finally:
        faiss.omp_set_num_threads(num_threads)


def test_as_good_as_a_plain_kmeans_on_frames_of_neither(fitted: tuple[Frames, Frames, codebook.FitReport]) -> None:
    frames, _, _ = fitted
    unseen = clustered(6000)[4000:]  # around the same centres, which are drawn first
    plain = [inertia(plain_kmeans(frames, K, 20, seed), unseen) for seed in range(4)]
    ours = [inertia(codebook.fit(frames, K, seed, num_iterations=20)[0], unseen) for seed in range(4)]
    assert np.mean(ours) <= np.mean(plain), f"plain Lloyd from k-means++ starts does better: {plain}, not {ours}"


def test_not_worse_than_faiss_with_its_defaults(fitted: tuple[Frames, Frames, codebook.FitReport]) -> None:
    frames, centroids, _ = fitted
    defaults = faiss.Kmeans(frames.shape[1], K, niter=20)
    defaults.train(frames)
    assert inertia(centroids, frames) <= inertia(defaults.centroids, frames), "random starts do better"


def test_well_spread_frames_leave_no_unit_empty() -> None:
    for seed in range(5):
        centroids, report = codebook.fit(clustered(3000, seed), K, seed, num_iterations=10)
        assert report.empty_units == 0
        assert len(np.unique(centroids, axis=0)) == K, "two units have one centroid"


def test_the_report_says_what_is_so(fitted: tuple[Frames, Frames, codebook.FitReport]) -> None:
    frames, centroids, report = fitted
    assert (report.num_frames, report.held_out_frames) == (3800, 200)
    every = inertia(centroids, frames)
    told = (report.inertia * 3800 + (report.held_out_inertia or 0.0) * 200) / 4000
    assert told == pytest.approx(every, rel=1e-4), "fitted and kept-aside frames are not all frames"
    assert (report.held_out_inertia or 0.0) > report.inertia, "frames that took no part should lie farther off"
    assert 1 < report.unit_perplexity <= K


def test_too_few_frames_to_keep_any_aside_are_reported_so() -> None:
    _, report = codebook.fit(clustered(19), 4, seed=0, num_iterations=5)
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
    with pytest.raises(CodebookError, match=message):
        codebook.fit(frames, K, seed=0, num_iterations=5)


def test_one_nan_among_many_frames_is_found() -> None:
    frames = clustered(500)
    frames[123, 4] = np.nan
    with pytest.raises(CodebookError, match="check its weights and dtype"):
        codebook.fit(frames, K, seed=0, num_iterations=5)


def test_frames_far_from_zero_are_fitted_as_well() -> None:
    frames = clustered(2000)
    _, near = codebook.fit(frames, K, seed=0, num_iterations=10)
    _, far = codebook.fit(frames + 100, K, seed=0, num_iterations=10)
    assert far.empty_units == 0
    assert far.inertia == pytest.approx(near.inertia, rel=0.05), "an offset of all frames should change next to nothing"


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1), num_frames=st.integers(1, 40), num_units=st.integers(1, 70), dim=st.integers(1, 24)
)
def test_assigner_finds_the_nearest_centroid(seed: int, num_frames: int, num_units: int, dim: int) -> None:
    generator = np.random.default_rng(seed)
    frames = (10 * generator.standard_normal((num_frames, dim))).astype(np.float32)
    centroids = (10 * generator.standard_normal((num_units, dim))).astype(np.float32)
    units = Assigner(centroids, torch.device("cpu"))(torch.from_numpy(frames))
    assert units.shape == (num_frames,)
    assert units.dtype == torch.int64
    distances = squared_distances(centroids, frames)
    excess = distances[np.arange(num_frames), units.numpy()] - distances.min(axis=1)
    assert (excess <= 1e-5 * (frames.astype(np.float64) ** 2).sum(axis=1) + 1e-4).all(), (
        "a nearer centroid was passed over"
    )


def test_assigner_agrees_with_float64_and_faiss_on_clusters(fitted: tuple[Frames, Frames, codebook.FitReport]) -> None:
    frames, centroids, _ = fitted
    units = Assigner(centroids, torch.device("cpu"))(torch.from_numpy(frames)).numpy()
    assert np.array_equal(units, squared_distances(centroids, frames).argmin(axis=1))
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    assert np.array_equal(units, index.search(frames, 1)[1][:, 0])


def test_assignment_does_not_depend_on_the_batch(fitted: tuple[Frames, Frames, codebook.FitReport]) -> None:
    frames, centroids, _ = fitted
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
    centroids, report = codebook.fit(clustered(500), 10, seed=0, num_iterations=3)
    codebook.save(str(tmp_path / "codebook"), centroids, codebook.facts_of(ENCODER, 0, 3, report))
    return tmp_path / "codebook"


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    centroids, report = codebook.fit(clustered(500), 10, seed=0, num_iterations=3)
    saved = codebook.save(str(tmp_path), centroids, codebook.facts_of(ENCODER, 0, 3, report))
    loaded = codebook.load(str(tmp_path))
    assert loaded.centroids.tobytes() == centroids.tobytes()
    assert loaded.facts == saved.facts
    assert (loaded.num_units, loaded.encoder_fingerprint) == (10, "encoder-1")
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
    centroids, report = codebook.fit(clustered(500), 10, seed=0, num_iterations=3)
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
    "facts", ["[]", "{}", '{"encoder": "mfcc"}', '{"encoder": {}}', "null", "7", "not JSON", "\udcff"]
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
