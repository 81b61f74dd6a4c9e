"""Shards for reading by people: samples with their units, facts and audio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import shards
from pipeline.audio.read import AudioError, Span, read_spans
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.runs import SEGMENTS, SHARDS
from pipeline.segments.segment import open_segments
from pipeline.speaking.units import Units

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.shards import Dataset, Sample


class SpeechDataset:
    """The samples of finished shards, in the order of the shards. Nothing is read before it is asked for.

    Args:
        dataset: The shards.
        run: The run that they were packed in, which knows the recordings; None: audio cannot be read.
    """

    def __init__(self, dataset: Dataset, run: str | None) -> None:
        self._dataset = dataset
        self._run = run

    @property
    def codebook_size(self) -> int:
        """How many different units there are."""
        return self._dataset.codebook_size

    @property
    def codebook_fingerprint(self) -> str:
        """The codebook that the units come from."""
        return str(self._dataset.info["codebook"]["fingerprint"])

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return float(self._dataset.info["frame_rate_hz"])

    def __len__(self) -> int:
        return sum(shard["num_samples"] for shard in self._dataset.info["shards"])

    def __iter__(self) -> Iterator[Sample]:
        return self.samples()

    def samples(self, split: str | None = None) -> Iterator[Sample]:
        """The samples of one split, or of all.

        Raises:
            TwistError: a shard is missing or damaged.
        """
        for shard in self._dataset.info["shards"]:
            if split in (None, shard["path"].partition("/")[0]):
                yield from shards.read_shard(self._dataset.uri, shard)

    def find(self, sample_id: str) -> Sample:
        """The sample with this `key` or `segment_id`. Only the manifest and that sample are read.

        Raises:
            TwistError: there is none, or its shard is missing or damaged.
        """
        num_before = 0
        for table in self._dataset.rows(["key", "segment_id"]):
            is_it = pc.or_(pc.equal(table["key"], sample_id), pc.equal(table["segment_id"], sample_id))
            place = pc.index(is_it, pa.scalar(True)).as_py()
            if place >= 0:
                row = self._dataset.row(num_before + place)
                return shards.read_sample(self._dataset.uri, row)
            num_before += len(table)
        raise TwistError(
            f"{self._dataset.uri} has no sample {sample_id}; `twist inspect` shows what was dropped, and why"
        )

    def first(self, split: str, min_s: float) -> Sample:
        """The first sample of a split that lasts `min_s`, or the longest one where none does.

        Raises:
            TwistError: the split is empty.
        """
        return shards.read_sample(self._dataset.uri, shards.first_sample(self._dataset, split, min_s))

    def units_of(self, sample: Sample) -> Units:
        """The units of a sample, with their times. (A sample of several segments has no pauses between them.)"""
        return Units(sample.units, sample.durations, self.frame_rate_hz, self.codebook_fingerprint)

    def audio_of(self, sample: Sample) -> tuple[NDArray[np.float32], int]:
        """The audio that a sample's units were made from, cut out of the original recording: wav [S], and its rate.

        Raises:
            TwistError: the shards were opened without their run, or the recording cannot be read any more.
        """
        wavs = []
        for wav in read_spans(self.spans_of(sample)):
            if isinstance(wav, AudioError):
                raise TwistError(f"the audio of {sample.segment_id} cannot be read: {wav}")
            wavs.append(wav)
        return np.concatenate(wavs), SAMPLE_RATE_HZ

    def spans_of(self, sample: Sample) -> list[Span]:
        """Where in its recording each segment of a sample lies.

        Raises:
            TwistError: the shards were opened without their run, or are not those of its segments.
        """
        if self._run is None:
            raise TwistError(
                f"{self._dataset.uri} does not know its recordings; open the run that these shards were packed in"
            )
        wanted: Sequence[str] = sample.segments or (sample.segment_id,)
        found: dict[str, Span] = {}
        with open_segments(self._run) as groups:
            for table in groups:
                rows = table.filter(pc.is_in(table["segment_id"], pa.array(wanted, pa.string())))
                for row in rows.to_pylist():
                    found[row["segment_id"]] = Span(row["uri"], row["channel"], row["start_s"], row["end_s"])
                if len(found) == len(wanted):
                    return [found[segment_id] for segment_id in wanted]
        raise TwistError(f"{self._run} has no segment {next(one for one in wanted if one not in found)}")


def open_dataset(source: str | Path) -> SpeechDataset:
    """The shards of a run, or in a folder.

    Args:
        source: A run's folder, or one of shards; local or s3://. Audio can be read from a run (or its RUN/shards) only.

    Raises:
        TwistError: there are no finished shards.
    """
    folder = str(source).rstrip("/")
    if storage.exists(storage.join(folder, shards.DATASET)):
        above, _, name = storage.absolute(folder).rpartition("/")
        is_in_run = name == SHARDS and storage.exists(storage.join(above, SEGMENTS, "DONE"))
        return SpeechDataset(shards.open_dataset(folder), above if is_in_run else None)
    return SpeechDataset(shards.open_dataset(storage.join(folder, SHARDS)), folder)
