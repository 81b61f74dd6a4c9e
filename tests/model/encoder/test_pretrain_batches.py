"""Crops, their labels and masks, and the order of clips."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.encoder.pretrain_batches import (
    STEPS_PER_GROUP,
    PretrainBatches,
    crop,
    mask_spans,
    shortest_clip_samples,
    validation_batches,
)
from model.training.step_batches import iterate
from pipeline.errors import TwistError
from pipeline.records import LabelClock
from tests.model.labelled_tones import NETWORK, LabelledTones, small_config

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONG = 1_600_000
CLOCKS = {
    "25 Hz": LabelClock(640, 720, LONG),
    "50 Hz": LabelClock(320, 400, LONG),
    "100 Hz, MFCC": LabelClock(160, 400, LONG),
    "25 Hz, in chunks": LabelClock(640, 720, 6_400),
}


class Unreadable(LabelledTones):
    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        if index == 3:
            raise TwistError("clip 3 was tokenized but can no longer be read")
        return super().__getitem__(index)


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize("start", [0, 1, 333, 4000])
def test_each_frame_has_the_label_nearest_in_time(clock: LabelClock, start: int) -> None:
    wav = np.arange(32_000, dtype=np.float32)
    chunks = [wav[begin : begin + clock.chunk_samples] for begin in range(0, len(wav), clock.chunk_samples)]
    label_middles = np.array(
        [
            chunk[begin] + clock.receptive_field_samples / 2
            for chunk in chunks
            for begin in range(0, len(chunk) - clock.receptive_field_samples + 1, clock.hop_samples)
        ]
    )
    labels = np.arange(len(label_middles), dtype=np.uint16)
    cropped, units = crop(wav, labels, start, 16_000, clock, NETWORK)
    assert cropped.tolist() == wav[start : start + 16_000].tolist()
    assert len(units) == NETWORK.num_frames(16_000)
    for frame, unit in enumerate(units):
        middle = start + frame * NETWORK.hop_samples + NETWORK.receptive_field_samples / 2
        distances = np.abs(label_middles - middle)
        assert distances[unit] == distances.min(), f"frame {frame} at {middle} has the label of {label_middles[unit]}"


def test_labels_of_the_same_clock_are_those_of_the_frames() -> None:
    clock = LabelClock(NETWORK.hop_samples, NETWORK.receptive_field_samples, LONG)
    labels = np.arange(100, dtype=np.uint16)
    wav = np.zeros(100 * clock.hop_samples + clock.receptive_field_samples, np.float32)
    assert crop(wav, labels, 0, 16_000, clock, NETWORK)[1].tolist() == list(range(NETWORK.num_frames(16_000)))
    assert crop(wav, labels, 7 * clock.hop_samples, 16_000, clock, NETWORK)[1][0] == 7


@given(
    num_clips=st.integers(1, 6),
    num_frames=st.integers(12, 300),
    share=st.floats(0.05, 0.95),
    span_frames=st.integers(1, 10),
    seed=st.integers(0, 99),
)
def test_masks_are_spans_and_equally_many_in_each_row(
    num_clips: int, num_frames: int, share: float, span_frames: int, seed: int
) -> None:
    masks = mask_spans(num_clips, num_frames, share, span_frames, np.random.default_rng(seed))
    assert masks.shape == (num_clips, num_frames)
    assert len(set(masks.sum(axis=1))) == 1, "batch norm and loss would weigh clips unequally"
    assert 1 <= masks[0].sum() <= span_frames * max(2, share * num_frames / span_frames + 1)
    alone = mask_spans(1, num_frames, share, span_frames, np.random.default_rng(seed))[0]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], alone.astype(int), [0]])))
    assert (edges[1::2] - edges[::2] >= span_frames).all(), "a masked stretch is shorter than a span"


def test_about_the_share_of_frames_is_masked() -> None:
    masks = mask_spans(200, 250, 0.65, 5, np.random.default_rng(0))
    # Spans overlap: with independent spans, a frame is in at least one with probability 1 - exp(-share).
    assert masks.mean() == pytest.approx(1 - np.exp(-0.65), abs=0.05)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_clip_comes_once_an_epoch(world_size: int) -> None:
    clips, config = LabelledTones(tuple(range(40, 104))), small_config(batch_size=8)
    batches = [PretrainBatches(clips, config, rank, world_size) for rank in range(world_size)]
    stream = np.concatenate([batches[0].clip_indices(index) for index in range(STEPS_PER_GROUP)])
    # Batches are shuffled within a group, so epochs overlap; the whole group has exactly 8 epochs.
    counts = np.bincount(stream, minlength=len(clips))
    assert counts.tolist() == [STEPS_PER_GROUP * 8 // len(clips)] * len(clips)
    assert all((other.clip_indices(5) == batches[0].clip_indices(5)).all() for other in batches)


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (1, 2), (2, 2)])
def test_ranks_and_passes_part_the_batch_of_one(world_size: int, accumulation: int) -> None:
    clips = LabelledTones()
    (whole,) = PretrainBatches(clips, small_config())[3].micro_batches
    config = small_config(gradient_accumulation=accumulation)
    parts = [PretrainBatches(clips, config, rank, world_size)[3] for rank in range(world_size)]
    pieces = [micro_batch for part in parts for micro_batch in part.micro_batches]
    for place, name in enumerate(("wav", "units", "is_masked")):
        assert torch.equal(torch.cat([piece[place] for piece in pieces]), whole[place]), name
    num_masked = int(whole[2].sum())
    assert {part.num_masked for part in parts} == {num_masked}, "each rank counts the targets of all"
    assert {part.num_unmasked for part in parts} == {whole[2].numel() - num_masked}


def test_a_batch_depends_on_seed_and_index_alone() -> None:
    clips = LabelledTones()
    one, other = PretrainBatches(clips, small_config()), PretrainBatches(clips, small_config())
    later_first = {index: other[index] for index in (200, 7)}
    for index, batch in later_first.items():
        assert all(map(torch.equal, batch.micro_batches[0], one[index].micro_batches[0])), f"batch {index}"
    reseeded = PretrainBatches(clips, small_config(seed=1))[7].micro_batches[0]
    assert not torch.equal(reseeded[2], later_first[7].micro_batches[0][2]), "the seed changes nothing"


def test_worker_processes_change_nothing() -> None:
    batches = PretrainBatches(LabelledTones(), small_config())
    here, there = (list(iterate(batches, 2, 6, num_workers)) for num_workers in (0, 2))
    assert [batch.index for batch in there] == [2, 3, 4, 5]
    for one, other in zip(here, there, strict=True):
        assert all(map(torch.equal, one.micro_batches[0], other.micro_batches[0]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_cannot_be_read_is_told_in_its_own_words(num_workers: int) -> None:
    with pytest.raises(TwistError, match=r"^clip 3 was tokenized but can no longer be read$"):
        list(iterate(PretrainBatches(Unreadable(), small_config()), 0, 10, num_workers))


def test_a_crop_is_as_long_as_the_shortest_clip_of_its_batch() -> None:
    clips, config = LabelledTones(), small_config(crop_s=1.1)
    batches = PretrainBatches(clips, config)
    lengths = set()
    for index in range(20):
        (wav, units, _), indices = batches[index].micro_batches[0], batches.clip_indices(index)
        assert wav.shape[1] == min(clips.num_samples[indices].min(), round(1.1 * 16_000))
        assert units.shape[1] == NETWORK.num_frames(wav.shape[1])
        lengths.add(wav.shape[1])
    assert len(lengths) > 1, "this test is to see crops of unequal lengths"


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_measures_the_same_crops_whatever_the_number_of_ranks(world_size: int) -> None:
    clips = LabelledTones()
    config = small_config(batch_size=world_size * 2, validation_clips=9)
    ranks = [validation_batches(clips, config, rank, world_size) for rank in range(world_size)]
    alone = validation_batches(clips, dataclasses.replace(config, batch_size=2))
    assert sum(len(wav) for batches in ranks for wav, _, _ in batches) == 9
    found = sorted(float(wav.double().sum()) for batches in ranks for batch in batches for wav in batch[0])
    assert found == sorted(float(wav.double().sum()) for batch in alone for wav in batch[0])


def test_clips_without_room_for_masks_are_left_out_or_refused() -> None:
    config = small_config(mask_span_frames=10)
    shortest = shortest_clip_samples(config)
    assert NETWORK.num_frames(shortest) == 21, "two spans and a frame beside"
    assert NETWORK.num_frames(shortest - 1) == 20
    batches = PretrainBatches(LabelledTones((5, 40, 10, 44, 50, 60)), config)
    assert batches.num_clips == 4
    assert {int(index) for step in range(9) for index in batches.clip_indices(step)} == {1, 3, 4, 5}
    with pytest.raises(TwistError, match=r"no room in crop_s, for two masked spans of 10 frames \(0\.\d\d s\)"):
        PretrainBatches(LabelledTones((5, 10)), config)
    with pytest.raises(TwistError, match="no room in crop_s"):
        PretrainBatches(LabelledTones(), small_config(crop_s=0.05))
    with pytest.raises(TwistError, match="no recording was kept for validation"):
        validation_batches(LabelledTones((5, 10)), config)


def test_batches_that_cannot_be_parted_are_refused() -> None:
    with pytest.raises(TwistError, match="batch_size 4 cannot be parted evenly among 3 processes"):
        PretrainBatches(LabelledTones(), small_config(), rank=0, world_size=3)
    with pytest.raises(TwistError, match="make it a multiple of 3"):
        PretrainBatches(LabelledTones(), small_config(gradient_accumulation=3))
