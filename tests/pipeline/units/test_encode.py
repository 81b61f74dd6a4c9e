from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from pipeline.errors import TwistError
from pipeline.units import codebook, kmeans
from pipeline.units.codebook import Codebook, CodebookError
from pipeline.units.encode import UnitEncoder, as_tensors, encoder_settings, run_lengths

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Few kinds of units, so that they repeat.
frames_of_units = hnp.arrays(np.uint16, st.integers(0, 200), elements=st.sampled_from([0, 1, 2, 499, 65535]))


@given(frames=frames_of_units)
def test_decoding_run_lengths_gives_the_frames_back(frames: NDArray[np.uint16]) -> None:
    units, durations = run_lengths(frames)
    assert units.dtype == durations.dtype == np.uint16
    assert np.array_equal(np.repeat(units, durations), frames), "a frame was lost or moved"


@given(frames=frames_of_units)
def test_no_two_neighbours_are_equal_and_durations_add_up(frames: NDArray[np.uint16]) -> None:
    units, durations = run_lengths(frames)
    assert len(units) == len(durations)
    assert (units[1:] != units[:-1]).all(), "a run was written as two"
    assert durations.sum(dtype=np.int64) == len(frames)
    assert (durations >= 1).all()


@given(frames=frames_of_units)
def test_run_lengths_are_those_of_torch(frames: NDArray[np.uint16]) -> None:
    expected_units, expected_durations = torch.unique_consecutive(
        torch.from_numpy(frames.astype(int)), return_counts=True
    )
    units, durations = run_lengths(frames)
    assert units.tolist() == expected_units.tolist()
    assert durations.tolist() == expected_durations.tolist()


def test_the_longest_run_that_fits() -> None:
    units, durations = run_lengths(np.full(2**16 - 1, 7, np.uint16))
    assert (units.tolist(), durations.tolist()) == ([7], [65535])
    with pytest.raises(AssertionError, match="65536 frames does not fit"):
        run_lengths(np.full(2**16, 7, np.uint16))


def tones(num_samples: int, seed: int) -> NDArray[np.float32]:
    """Tones of changing pitch."""
    generator = np.random.default_rng(seed)
    pitches_hz = np.repeat(generator.uniform(100, 4000, num_samples // 4000 + 1), 4000)[:num_samples]
    wav = 0.3 * np.sin(2 * np.pi * np.cumsum(pitches_hz) / 16_000) + 0.01 * generator.standard_normal(num_samples)
    return wav.astype(np.float32)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Codebook:
    """A codebook of 30 units over MFCC frames."""
    encoder = load_encoder(EncoderConfig())
    features = encoder.encode([torch.from_numpy(tones(16_000 * 20, seed)) for seed in range(3)])
    centroids, report = kmeans.fit(torch.cat(features).numpy(), 30, seed=0, num_steps=5)
    facts = codebook.facts_of(encoder.describe(), 0, 5, report)
    return codebook.save(str(tmp_path_factory.mktemp("codebook")), centroids, facts)


@pytest.fixture(scope="module")
def encode(book: Codebook) -> UnitEncoder:
    """Clips to units."""
    return UnitEncoder(EncoderConfig(), book)


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(880, 40_000), min_size=1, max_size=6), order=st.randoms(use_true_random=False))
def test_a_clip_alone_gives_what_it_gives_in_any_batch(encode: UnitEncoder, lengths: list[int], order: object) -> None:
    wavs = [tones(length, seed=length) for length in lengths]
    alone = [encode([wav])[0] for wav in wavs]
    together = encode(wavs)
    places = list(range(len(wavs)))
    order.shuffle(places)  # type: ignore[attr-defined]
    shuffled = encode([wavs[place] for place in places])
    for place, units in enumerate(alone):
        assert np.array_equal(together[place], units), "a clip's units depend on its neighbours"
        assert np.array_equal(shuffled[places.index(place)], units), "a clip's units depend on its place"


def test_units_are_the_nearest_centroids_of_the_encoders_frames(encode: UnitEncoder, book: Codebook) -> None:
    wav = tones(30_000, seed=5)
    features = load_encoder(EncoderConfig()).encode([torch.from_numpy(wav)])[0].double().numpy()
    expected = ((features[:, None] - book.centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    units = encode([wav])[0]
    assert units.dtype == np.uint16
    assert units.tolist() == expected.tolist()
    assert len(units) == encode.num_frames(len(wav))


def test_no_clips_give_nothing(encode: UnitEncoder) -> None:
    assert encode([]) == []


def test_tensors_are_over_the_same_memory_even_where_it_is_read_only() -> None:
    wav = tones(1_000, seed=0)
    wav.flags.writeable = False  # as in Ray's object store
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tensor,) = as_tensors([wav])
    assert tensor.data_ptr() == wav.ctypes.data
    assert tensor.numpy().tolist() == wav.tolist()


def test_the_shortest_clip_has_one_frame(encode: UnitEncoder) -> None:
    shortest = load_encoder(EncoderConfig()).min_samples
    assert len(encode([tones(shortest, seed=0)])[0]) == encode.num_frames(shortest) == 1
    assert encode.num_frames(shortest - 1) == 0
    with pytest.raises(TwistError, match="too few for one frame"):
        encode([tones(shortest - 1, seed=0)])


def test_units_above_32767_survive(book: Codebook) -> None:
    generator = np.random.default_rng(0)
    far = 1e6 + generator.standard_normal((40_000, book.centroids.shape[1])).astype(np.float32)
    far[-len(book.centroids) :] = book.centroids
    large = Codebook({"centroids": far}, {**book.facts, "num_units": len(far)})
    wav = tones(30_000, seed=6)
    shifted = UnitEncoder(EncoderConfig(), large)([wav])[0].astype(int) - (40_000 - 30)
    assert shifted.tolist() == UnitEncoder(EncoderConfig(), book)([wav])[0].tolist()


def test_another_encoders_codebook_is_refused(book: Codebook) -> None:
    other = Codebook(book.weights, {**book.facts, "encoder": {**book.facts["encoder"], "fingerprint": "other"}})
    with pytest.raises(CodebookError, match="fitted on another encoder"):
        UnitEncoder(EncoderConfig(), other)


def test_settings_leave_out_where_it_runs(tmp_path: Path) -> None:
    settings_of = encoder_settings(EncoderConfig(device="cpu"))
    assert settings_of == encoder_settings(EncoderConfig(device="auto")), "a run could not move to another machine"
    assert settings_of != encoder_settings(EncoderConfig(max_chunk_s=10))
    assert encoder_settings(EncoderConfig("hubert", str(tmp_path), 9)) != encoder_settings(
        EncoderConfig("hubert", str(tmp_path), 11)
    )
