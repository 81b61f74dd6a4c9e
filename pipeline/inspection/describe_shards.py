"""What shards hold: totals, lengths, and the statistics of their units. The manifest is read a row group at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.files import storage
from pipeline.inspection import figures
from pipeline.records import SPLITS
from pipeline.shards import DatasetError, open_dataset

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from pipeline.shards import Dataset

NUM_EXAMPLES = 3
NUM_EXAMPLE_UNITS = 12


def describe_shards(uri: str) -> dict[str, Any]:
    """Shards by themselves: totals, lengths, and the statistics of their units.

    Raises:
        DatasetError: there are no finished shards, or a tar is missing or damaged.
    """
    dataset = open_dataset(uri)
    encoder = dataset.info["encoder"]
    lengths = _lengths(dataset)
    hours = lengths["hours"]
    return {
        "fingerprint": dataset.fingerprint,
        "codebook": dataset.info["codebook"]["fingerprint"],
        "encoder": encoder["name"],
        "frame_rate_hz": dataset.info["frame_rate_hz"],
        "codebook_size": dataset.codebook_size,
        "num_shards": len(dataset.info["shards"]),
        **lengths,
        "units_per_hour_before": lengths["num_frames"] / hours,
        "units_per_hour": lengths["num_units"] / hours,
        "remarks": figures.remarks(encoder, dataset.codebook_size, lengths["num_units"] / hours),
        "totals": dataset.info["totals"],
        "languages": dataset.info["languages"],
        **figures.unit_statistics(count_units(dataset, SPLITS)),
        "words": dataset.info.get("text"),
        "examples": _examples(dataset),
    }


def _lengths(dataset: Dataset) -> dict[str, Any]:
    """Sums over the samples, and how long these are."""
    durations_s: list[NDArray[np.float64]] = []
    num_units: list[NDArray[np.int32]] = []
    num_frames = 0
    speakers: set[str] = set()
    for table in dataset.rows(["duration_s", "num_units", "num_frames", "speaker"]):
        durations_s.append(table["duration_s"].to_numpy())
        num_units.append(table["num_units"].to_numpy())
        num_frames += pc.sum(table["num_frames"]).as_py() or 0
        speakers.update(pc.unique(table["speaker"]).to_pylist())
    described: dict[str, Any] = {"num_frames": num_frames, "num_speakers": len(speakers - {None})}
    seconds = np.concatenate(durations_s)
    del durations_s
    described |= {"num_samples": len(seconds), "hours": float(seconds.sum()) / 3600}
    described |= {"samples_s": figures.quantiles(seconds), "samples_s_histogram": figures.bins(seconds)}
    del seconds
    units = np.concatenate(num_units)
    del num_units
    described |= {"num_units": int(units.sum(dtype=np.int64))}
    return described | {"samples_units": figures.quantiles(units), "samples_units_histogram": figures.bins(units)}


def count_units(dataset: Dataset, splits: Collection[str]) -> NDArray[np.int64]:
    """How often each unit occurs in some splits [codebook_size].

    dataset.json says so; older ones do not, and then the tars are read.

    Raises:
        DatasetError: a tar is missing, or does not hold what the manifest says.
    """
    counts = np.zeros(dataset.codebook_size, np.int64)
    stated: dict[str, list[int]] = dataset.info.get("unit_counts", {})
    if stated and all(len(counts_of_split) == dataset.codebook_size for counts_of_split in stated.values()):
        return sum((np.array(stated[split]) for split in splits if split in stated), start=counts)
    for shard, rows in _runs_of_shards(dataset, splits):
        for units in _units_of(dataset, shard, rows):
            counts += figures.count_units(units, dataset.codebook_size, storage.join(dataset.uri, shard))
    return counts


def _runs_of_shards(dataset: Dataset, splits: Collection[str]) -> Iterator[tuple[str, pa.Table]]:
    """Places of units, by shard; a shard comes again where another row group has more of it."""
    for table in dataset.rows(["split", "shard", "num_units", "units_offset"]):
        wanted = table.filter(pc.is_in(table["split"], pa.array(splits, pa.string())))
        for shard in pc.unique(wanted["shard"]).to_pylist():
            yield shard, wanted.filter(pc.equal(wanted["shard"], shard))


def _units_of(dataset: Dataset, shard: str, rows: pa.Table) -> list[NDArray[np.uint16]]:
    uri = storage.join(dataset.uri, shard)
    places = zip(rows["num_units"].to_pylist(), rows["units_offset"].to_pylist(), strict=True)
    try:
        content = storage.read_bytes(uri)
        return [np.frombuffer(content, "<u2", num_units, offset) for num_units, offset in places]
    except FileNotFoundError:
        raise DatasetError(f"{uri} is missing; `twist inspect --verify` says what else is wrong") from None
    except ValueError as error:
        raise DatasetError(f"{uri} ends too soon; `twist inspect --verify` says what else is wrong") from error


def _examples(dataset: Dataset) -> list[dict[str, Any]]:
    columns = ["key", "split", "corpus", "speaker", "duration_s", "num_units", "shard", "units_offset"]
    rows = dataset.head(NUM_EXAMPLES).select(columns)
    units = [_example_units(dataset, rows.slice(i, 1)) for i in range(len(rows))]
    return [
        {**row, "first_units": first[:NUM_EXAMPLE_UNITS].tolist()}
        for row, first in zip(rows.select(columns[:6]).to_pylist(), units, strict=True)
    ]


def _example_units(dataset: Dataset, row: pa.Table) -> NDArray[np.uint16]:
    """The units of one sample, of whose shard nothing else is read."""
    uri = storage.join(dataset.uri, row["shard"][0].as_py())
    num_units, offset = row["num_units"][0].as_py(), row["units_offset"][0].as_py()
    try:
        data = storage.read_range(uri, offset, 2 * num_units)
    except FileNotFoundError:
        raise DatasetError(f"{uri} is missing; `twist inspect --verify` says what else is wrong") from None
    if len(data) < 2 * num_units:
        raise DatasetError(f"{uri} ends too soon; `twist inspect --verify` says what else is wrong")
    units = np.frombuffer(data, "<u2")
    figures.count_units(units, dataset.codebook_size, uri)
    return units
