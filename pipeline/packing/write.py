"""Writes the shards: first partitions each batch's segments by shard, then writes each partition's shards."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import shards
from pipeline.files import parquet, partitioned, storage
from pipeline.packing.streams import Stream, codes_of_sample, codes_of_segments
from pipeline.packing.words import Speller, times_in_sample, words_of_segments
from pipeline.records import sample_schema
from pipeline.shards import Sample
from pipeline.units.parts import Batch, Flat, read_kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAN_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("index", pa.int32()),
        ("member", pa.int32()),
        ("sample_id", pa.large_string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("sample_rate_hz", pa.int32()),
        ("uri", pa.string()),
        ("channel", pa.int16()),
    ]
)
# What a sample has of its recording.
OF_RECORDING = ("corpus", "speaker", "language", "uri", "channel", "sample_rate_hz")


@dataclass(frozen=True)
class Deal:
    """Partitions a batch's segments by the task that will write their shards.

    Attributes:
        folder: Folder for intermediate files, which has a plan (PLAN_SCHEMA) for each batch.
        num_shards: Number of shards.
        num_partitions: Number of tasks that write shards; each writes consecutive ones.
        words: Folder of the segments' words; None: samples carry none.
        streams: The segments' pitch and style; none: samples carry neither.
    """

    folder: str
    num_shards: int
    num_partitions: int
    words: str | None = None
    streams: tuple[Stream, ...] = ()

    def plan_uri(self, batch: int) -> str:
        """The plan of a batch: the shard and sample of each segment."""
        return storage.join(self.folder, f"plan-{batch:06d}.parquet")

    def samples_uri(self, batch: int) -> str:
        """A batch's segments, partitioned."""
        return storage.join(self.folder, f"samples-{batch:06d}.scatter")

    def __call__(self, batch: Batch) -> None:
        """Partitions one batch, unless its file exists."""
        if storage.exists(self.samples_uri(batch.number)):
            return
        plan = parquet.read(self.plan_uri(batch.number))
        tables = [table.select(["segment_id", "start_s", "end_s", "units", "durations"]) for table in read_kept(batch)]
        if self.words is not None:
            tables = [
                table.append_column(
                    "words", words_of_segments(table, storage.join(self.words, part.rpartition("/")[2]))
                )
                for part, table in zip(batch.parts, tables, strict=True)
            ]
        for stream in self.streams:
            sums = stream.checksums()
            tables = [
                table.append_column(stream.name, codes_of_segments(table, part.rpartition("/")[2], stream, sums))
                for part, table in zip(batch.parts, tables, strict=True)
            ]
        table = pa.concat_tables(tables)
        assert len(table) == len(plan), f"batch {batch.number} has {len(table)} segments, its plan {len(plan)}"
        for field in PLAN_SCHEMA:
            table = table.append_column(field, plan[field.name])
        table = table.filter(pa.array(plan["shard"].to_numpy() >= 0))
        partitions = table["shard"].to_numpy().astype(np.int64) * self.num_partitions // self.num_shards
        partitioned.write(self.samples_uri(batch.number), table, partitions, self.num_partitions)


@dataclass(frozen=True)
class Fill:
    """Writes the shards of one partition.

    Attributes:
        deal: How the segments were partitioned.
        uri: The folder of the shards.
        names: Paths of all shards.
        num_batches: Number of batches.
        codebook_size: Number of kinds of units.
        frame_rate_hz: The encoder's.
        tokenizer: Folder of the text LM's tokenizer; None: samples carry no words.
    """

    deal: Deal
    uri: str
    names: tuple[str, ...]
    num_batches: int
    codebook_size: int
    frame_rate_hz: float
    tokenizer: str | None = None

    def rows_uri(self, partition: int) -> str:
        """The manifest rows of the partition's shards."""
        return storage.join(self.deal.folder, f"rows-{partition:06d}.parquet")

    def told_uri(self, partition: int) -> str:
        """What dataset.json says about the partition's shards, with each one's unit counts; written last."""
        return storage.join(self.deal.folder, f"shards-{partition:06d}.json")

    def __call__(self, partition: int) -> None:
        """Writes one partition's shards, unless they are complete."""
        if storage.exists(self.told_uri(partition)):
            return
        files = [self.deal.samples_uri(number) for number in range(self.num_batches)]
        tables = [table for table in partitioned.gather(files, partition) if table is not None]
        table = pa.concat_tables(tables)
        keys = [table[name].to_numpy() for name in ("member", "index", "shard")]
        order = np.lexsort(keys)
        shard_of_row = keys[2][order]
        told: list[dict[str, Any]] = []
        schema = sample_schema(words=self.tokenizer is not None, streams=bool(self.deal.streams))
        rows = [schema.empty_table()]
        for shard in np.unique(shard_of_row).tolist():
            start, end = np.searchsorted(shard_of_row, [shard, shard + 1])
            of_shard = table.take(pa.array(order[start:end]))
            samples = _samples(of_shard, self.names[shard].partition("/")[0])
            if self.tokenizer is not None:
                samples = _with_words(samples, of_shard, Speller(self.tokenizer, self.frame_rate_hz))
            if self.deal.streams:
                samples = _with_streams(samples, of_shard, self.deal.streams, self.frame_rate_hz)
            description, shard_rows = shards.write_shard(self.uri, self.names[shard], samples)
            counts = np.zeros(self.codebook_size, np.int64)
            for sample in samples:
                counts += np.bincount(sample.units, minlength=self.codebook_size)
            told.append(
                {
                    "split": samples[0].split,
                    "description": description,
                    "unit_counts": counts.tolist(),
                    "figures": _figures(samples),
                }
            )
            rows.append(pa.Table.from_pylist(shard_rows, schema=schema))
        parquet.write(self.rows_uri(partition), pa.concat_tables(rows))
        storage.write_bytes(self.told_uri(partition), json.dumps(told).encode())


def _samples(table: pa.Table, split: str) -> list[Sample]:
    """The samples of one shard, from its segments in order."""
    flat = Flat.of(table)
    names = ("segment_id", "start_s", "end_s", "sample_id", "member", *OF_RECORDING)
    columns = {name: table[name].to_pylist() for name in names}
    firsts = [row for row, member in enumerate(columns["member"]) if member == 0]
    samples = []
    for first, end in zip(firsts, [*firsts[1:], len(table)], strict=True):
        units, durations = joined([flat.segment(row) for row in range(first, end)])
        segment_id = columns["sample_id"][first] or columns["segment_id"][first]
        lengths_s = [columns["end_s"][row] - columns["start_s"][row] for row in range(first, end)]
        samples.append(
            Sample(
                key=shards.make_key(segment_id),
                segment_id=segment_id,
                split=split,
                start_s=columns["start_s"][first],
                end_s=columns["end_s"][end - 1],
                units=units,
                durations=durations,
                segments=tuple(columns["segment_id"][first:end]) if end - first > 1 else (),
                speech_s=sum(lengths_s) if end - first > 1 else None,
                **{name: columns[name][first] for name in OF_RECORDING},
            )
        )
    return samples


def _with_words(samples: list[Sample], table: pa.Table, speller: Speller) -> list[Sample]:
    """The samples of one shard with the words of their segments, the rows of `table`."""
    words = table["words"].to_pylist()
    timed = [
        times_in_sample(words[first : first + len(num_frames)], num_frames, speller.frame_rate_hz)
        for first, num_frames in _frames_of_segments(table)
    ]
    of_samples = speller.words_of(timed, [sample.durations for sample in samples])
    return [replace(sample, words=of_sample) for sample, of_sample in zip(samples, of_samples, strict=True)]


def _with_streams(
    samples: list[Sample], table: pa.Table, streams: tuple[Stream, ...], frame_rate_hz: float
) -> list[Sample]:
    """The samples of one shard with the pitch and style of their segments, the rows of `table`."""
    columns = {stream.name: _lists(table[stream.name]) for stream in streams}
    found = []
    for sample, (first, num_frames) in zip(samples, _frames_of_segments(table), strict=True):
        end = first + len(num_frames)
        pitch, style = (
            codes_of_sample(columns[stream.name][first:end], num_frames, frame_rate_hz, stream) for stream in streams
        )
        has_both = pitch is not None and style is not None
        found.append(replace(sample, pitch=pitch, style=style) if has_both else sample)
    return found


def _frames_of_segments(table: pa.Table) -> list[tuple[int, list[int]]]:
    """Of each sample the row of its first segment, and the frames of each of its segments."""
    flat = Flat.of(table)
    firsts = np.flatnonzero(table["member"].to_numpy() == 0).tolist()
    return [
        (first, [int(flat.segment(row)[1].sum(dtype=np.int64)) for row in range(first, end)])
        for first, end in zip(firsts, [*firsts[1:], len(table)], strict=True)
    ]


def _lists(column: pa.ChunkedArray) -> list[NDArray[np.uint16] | None]:
    """The arrays of a column of lists; None for null."""
    lists = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    arrays = np.split(pc.list_flatten(lists).to_numpy(zero_copy_only=False), np.cumsum(lengths)[:-1])
    is_there = pc.is_valid(lists).to_numpy(zero_copy_only=False).tolist()
    return [array if there else None for array, there in zip(arrays, is_there, strict=True)]


def _figures(samples: list[Sample]) -> list[dict[str, Any]]:
    """Sums figures over the samples of each corpus and language."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.corpus, sample.language or "unknown"].append(sample)
    return [
        {
            "corpus": corpus,
            "split": group[0].split,
            "language": language,
            "num_samples": len(group),
            "duration_s": math.fsum(sample.duration_s for sample in group),
            "num_units": sum(len(sample.units) for sample in group),
            "num_frames": sum(sample.num_frames for sample in group),
            "with_words": _figures_of_words([sample for sample in group if sample.words is not None]),
            "with_streams": _figures_of_streams([sample for sample in group if sample.pitch is not None]),
        }
        for (corpus, language), group in sorted(groups.items())
    ]


def _figures_of_words(samples: list[Sample]) -> dict[str, Any]:
    words = [sample.words for sample in samples if sample.words is not None]
    return {
        "num_samples": len(samples),
        "duration_s": math.fsum(sample.duration_s for sample in samples),
        "num_words": sum(len(of_sample.table) for of_sample in words),
        "num_text_tokens": sum(len(of_sample.tokens) for of_sample in words),
    }


def _figures_of_streams(samples: list[Sample]) -> dict[str, Any]:
    return {
        "num_samples": len(samples),
        "duration_s": math.fsum(sample.duration_s for sample in samples),
        "num_pitch": sum(len(sample.pitch) for sample in samples if sample.pitch is not None),
        "num_style": sum(len(sample.style) for sample in samples if sample.style is not None),
    }


def joined(
    segments: list[tuple[NDArray[np.uint16], NDArray[np.uint16]]],
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Joins the units and durations of neighbouring segments; a unit at both sides of a join becomes one run."""
    if len(segments) == 1:
        return segments[0]
    units, durations = (np.concatenate(parts) for parts in zip(*segments, strict=True))
    starts = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]]))
    total = np.add.reduceat(durations.astype(np.int64), starts)
    assert total.max() < 2**16, f"a run of {total.max()} frames does not fit uint16"
    return units[starts], total.astype(np.uint16)
