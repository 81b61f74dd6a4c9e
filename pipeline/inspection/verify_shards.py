"""Checks shards by themselves: checksums, the index against the tars, and the invariants of every sample.

Each function yields a sentence per violation, naming the file; nothing means all is well. A damaged file is a violation
like any other, never the end of the search.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.records import SAMPLE_SCHEMA
from pipeline.shards import DATASET, MANIFEST, dataset_fingerprint, open_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.shards import Dataset

MEMBERS = {"durations.npy", "json", "units.npy"}

_Told = dict[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class _Member:
    """A file in a tar, and the bytes at which its header and its data begin."""

    offset: int
    data_offset: int
    data: bytes


def verify_shards(uri: str) -> Iterator[str]:
    """Shards by themselves: checksums, the index against the tars, and the invariants of every sample."""
    return as_violations(uri, _verify_shards(uri))


def as_violations(where: str, check: Iterator[str]) -> Iterator[str]:
    """What a check yields; where it stumbles over something damaged, a sentence on that."""
    try:
        yield from check
    except TwistError as error:
        yield str(error)
    except FileNotFoundError as error:
        yield f"{error.filename or where} is missing"
    # What reading JSON, Parquet, tar or npy data raises that is not what it should be (Arrow's errors among them).
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, tarfile.TarError) as error:
        yield f"{where} is damaged: {type(error).__name__}: {error}"


def verify_runs(
    where: str, units: NDArray[Any], durations: NDArray[Any], num_frames: int, codebook_size: int
) -> Iterator[str]:
    """One sample: units [n] and their durations in frames [n]."""
    if len(units) != len(durations) or len(units) == 0:
        yield f"{where} has {len(units)} units and {len(durations)} durations"
        return
    total = durations.sum(dtype=np.int64)
    if total != num_frames or durations.min() < 1:
        yield f"{where}: durations from {durations.min()} add up to {total}; it has {num_frames} frames"
    if (units[1:] == units[:-1]).any():
        yield f"{where}: two neighbouring units are equal"
    if units.max() >= codebook_size:
        yield f"{where}: unit {units.max()} is outside the codebook of {codebook_size}"


def _verify_shards(uri: str) -> Iterator[str]:
    dataset = open_dataset(uri)
    index_uri, manifest_uri = storage.join(uri, DATASET), storage.join(uri, MANIFEST)
    if dataset.fingerprint != dataset_fingerprint(dataset.info):
        yield f"{index_uri}: its fingerprint is not that of the codebook and shards that it names"
    manifest = _with_room(dataset.manifest)
    counted = pc.value_counts(manifest["key"])
    twice = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
    if len(twice):
        yield f"{manifest_uri}: {len(twice)} keys occur more than once, e.g. {min(twice.to_pylist())}"
    yield from _verify_splits(manifest_uri, manifest)
    shards: _Told = {(shard["path"],): shard for shard in dataset.info["shards"]}
    yield from _verify_sums(index_uri, manifest, ["shard"], shards)
    totals: _Told = {(total["corpus"], total["split"]): total for total in dataset.info["totals"]}
    yield from _verify_sums(index_uri, manifest, ["corpus", "split"], totals)
    rows = _RowsByShard(manifest)
    for path in storage.list_files(uri, ".tar"):
        if (path,) not in shards:
            yield f"{storage.join(uri, path)} is none of the shards in {DATASET}"
    counts = {split: np.zeros(dataset.codebook_size, np.int64) for split in dataset.info.get("unit_counts", {})}
    num_violations = 0
    for (path,), shard in shards.items():
        for violation in as_violations(storage.join(uri, path), _verify_shard(dataset, shard, rows.of(path), counts)):
            num_violations += 1
            yield violation
    if not num_violations:
        for split, told in dataset.info.get("unit_counts", {}).items():
            if counts[split].tolist() != told:
                yield f"{index_uri} says otherwise how often units occur in {split} than its shards do"


def _with_room(manifest: pa.Table) -> pa.Table:
    """The same rows in one piece, whose columns may each hold more than 2 GB of text."""
    text = {pa.string(): pa.large_string()}
    schema = pa.schema([(field.name, text.get(field.type, field.type)) for field in manifest.schema])
    return manifest.cast(schema).combine_chunks()


class _RowsByShard:
    """The manifest's rows, of which one shard's are Python objects at a time."""

    def __init__(self, manifest: pa.Table) -> None:
        self._manifest = manifest
        paths = pc.unique(manifest["shard"])
        number = pc.index_in(manifest["shard"], paths).to_numpy()
        self._order = np.argsort(number, kind="stable")
        self._edges = np.searchsorted(number[self._order], np.arange(len(paths) + 1))
        self._numbers = {path: place for place, path in enumerate(paths.to_pylist())}

    def of(self, path: str) -> list[dict[str, Any]]:
        """Those of one shard, in the manifest's order."""
        if path not in self._numbers:
            return []
        start, end = self._edges[self._numbers[path] : self._numbers[path] + 2]
        rows: list[dict[str, Any]] = self._manifest.take(pa.array(self._order[start:end])).to_pylist()
        return rows


def _verify_splits(manifest_uri: str, manifest: pa.Table) -> Iterator[str]:
    recordings = pc.replace_substring_regex(manifest["segment_id"], "#[^#]*$", "")
    columns = [pc.coalesce(manifest["speaker"], recordings), manifest["split"]]
    table = pa.table([*columns, manifest["segment_id"]], names=["group", "split", "segment_id"])
    counted = table.select(["group", "split"]).group_by("group").aggregate([("split", "count_distinct")])
    torn = counted.filter(pc.greater(counted["split_count_distinct"], 1))["group"]
    first_split: dict[str, str] = {}
    for row in table.filter(pc.is_in(table["group"], torn)).to_pylist():
        group, split = row["group"], row["split"]
        if first_split.setdefault(group, split) != split:
            yield f"{manifest_uri}: {group} is in {first_split[group]} and, with {row['segment_id']}, in {split}"


def _verify_sums(index_uri: str, manifest: pa.Table, columns: Sequence[str], told: _Told) -> Iterator[str]:
    """Whether dataset.json tells of each group of samples what the manifest's rows add up to."""
    wanted = {"num_samples": ("key", "count"), "num_units": ("num_units", "sum"), "num_frames": ("num_frames", "sum")}
    groups = manifest.group_by(list(columns)).aggregate(list(wanted.values())).to_pylist()
    found = {
        tuple(group[column] for column in columns): {name: group["_".join(how)] for name, how in wanted.items()}
        for group in groups
    }
    expected = {key: {name: figures[name] for name in wanted} for key, figures in told.items()}
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            yield f"{index_uri} says {expected.get(key)} of {' '.join(key)}, but {MANIFEST} lists {found.get(key)}"


def _verify_shard(
    dataset: Dataset, shard: dict[str, Any], rows: list[dict[str, Any]], counts: dict[str, NDArray[np.int64]]
) -> Iterator[str]:
    """One shard; adds how often each unit occurs in it to its split's `counts`."""
    uri = storage.join(dataset.uri, shard["path"])
    content = storage.read_bytes(uri)
    if hashlib.sha256(content).hexdigest() != shard["sha256"] or len(content) != shard["num_bytes"]:
        yield f"{uri} does not have the checksum that {DATASET} gives"
        return
    rows = sorted(rows, key=lambda row: int(row["index"]))
    samples = _read_tar(content)
    if list(samples) != [row["key"] for row in rows]:
        yield f"{uri} does not hold the samples that {MANIFEST} lists for it, in their order"
        return
    for index, (row, members) in enumerate(zip(rows, samples.values(), strict=True)):
        where = f"{uri}: {row['key']}"
        if members.keys() != MEMBERS:
            yield f"{where} has members {sorted(members)}, not {sorted(MEMBERS)}"
            continue
        units, durations = (np.load(io.BytesIO(members[name].data)) for name in ("units.npy", "durations.npy"))
        if not units.dtype == durations.dtype == np.uint16:
            yield f"{where}: units are {units.dtype} and durations {durations.dtype}, not uint16"
            continue
        yield from verify_runs(where, units, durations, row["num_frames"], dataset.codebook_size)
        if row["split"] in counts and len(units) and units.max() < dataset.codebook_size:
            counts[row["split"]] += np.bincount(units, minlength=dataset.codebook_size)
        found = _manifest_row(shard["path"], index, row["key"], members, len(units))
        if wrong := [name for name in SAMPLE_SCHEMA.names if found[name] != row[name]]:
            yield f"{storage.join(dataset.uri, MANIFEST)}: {', '.join(wrong)} of {row['key']} are not those of {uri}"


def _read_tar(content: bytes) -> dict[str, dict[str, _Member]]:
    """The members of each sample by extension, in the tar's order."""
    samples: dict[str, dict[str, _Member]] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for info in tar:
            key, _, extension = info.name.partition(".")
            file = tar.extractfile(info)
            data = file.read() if file else b""
            samples.setdefault(key, {})[extension] = _Member(info.offset, info.offset_data, data)
    return samples


def _manifest_row(path: str, index: int, key: str, members: dict[str, _Member], num_units: int) -> dict[str, Any]:
    """What the manifest must say of a sample, by its tar alone."""
    description = json.loads(members["json"].data)
    units = members["units.npy"]
    return {
        "key": key,
        "shard": path,
        "index": index,
        "offset": min(member.offset for member in members.values()),
        "units_offset": units.data_offset + len(units.data) - 2 * num_units,
        "num_units": num_units,
        "num_frames": description["num_frames"],
        "duration_s": description.get("speech_s", description["end_s"] - description["start_s"]),
        "corpus": description["corpus"],
        "speaker": description["speaker"],
        "split": path.partition("/")[0],
        "segment_id": description["segment_id"],
    }
