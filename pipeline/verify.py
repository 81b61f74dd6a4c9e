"""Checks that what lies on disk is what it must be: checksums, and every invariant of a run's files.

Each function yields a sentence per violation, naming the file; nothing means all is well.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from pipeline import codebook, parquet, stage, storage
from pipeline.codebook_fit import STAGE as CODEBOOK
from pipeline.errors import TwistError
from pipeline.language import STAGE as LANGUAGE
from pipeline.manifest import STAGE as MANIFEST
from pipeline.manifest import read_recordings
from pipeline.pack import STAGE as SHARDS
from pipeline.segment import STAGE as SEGMENTS
from pipeline.segment import read_segments
from pipeline.shards import open_dataset
from pipeline.tokenize import STAGE as UNITS
from pipeline.tokenize import read_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.shards import Dataset

TIME_TOLERANCE_S = 1e-6
STAGES = (MANIFEST, LANGUAGE, SEGMENTS, CODEBOOK, UNITS, SHARDS)


def verify_run(run: str) -> Iterator[str]:
    """All finished stages of a run, each against itself and against what it was made from."""
    for name in STAGES:
        if stage.is_finished(run, name):
            yield from verify_stage(run, name)


def verify_stage(run: str, name: str) -> Iterator[str]:
    """One finished stage of a run.

    Raises:
        StageError: it is not finished.
    """
    stage.fingerprint_of(run, name)
    checks = {
        MANIFEST: _verify_manifest,
        SEGMENTS: _verify_segments,
        CODEBOOK: _verify_codebook,
        UNITS: _verify_units,
        SHARDS: lambda run: verify_shards(storage.join(run, SHARDS)),
    }
    yield from _verify_counts(run, name)
    yield from _verify_inputs(run, name)
    try:
        if name in checks:
            yield from checks[name](run)
    except (TwistError, FileNotFoundError) as error:
        yield str(error)


def verify_shards(uri: str) -> Iterator[str]:
    """Shards by themselves: checksums, the index against the tars, and the invariants of every sample."""
    dataset = open_dataset(uri)
    keys = dataset.manifest["key"].to_pylist()
    if len(set(keys)) != len(keys):
        yield f"{uri}: {len(keys) - len(set(keys))} keys occur twice"
    yield from _verify_splits(dataset)
    rows_by_shard: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in dataset.manifest.to_pylist():
        rows_by_shard[row["shard"]].append(row)
    described = {shard["path"] for shard in dataset.info["shards"]}
    if extra := set(storage.list_files(uri, ".tar")) ^ described:
        yield f"{uri}: the shards on disk are not those of dataset.json: {sorted(extra)[:3]}"
    for shard in dataset.info["shards"]:
        rows = sorted(rows_by_shard[shard["path"]], key=lambda row: int(row["index"]))
        yield from _verify_shard(dataset, shard, rows)


def _verify_counts(run: str, name: str) -> Iterator[str]:
    uri = storage.join(run, name, "stage.json")
    counts = stage.read_facts(run, name)["counts"]
    dropped = parquet.read(storage.join(run, name, "dropped.parquet"))
    for unit, tolerance in (("items", 0.5), ("hours", 1e-6 * max(1, counts["input"]["items"]))):
        out = counts["kept"][unit] + sum(tally[unit] for tally in counts["dropped"].values())
        if abs(out - counts["input"][unit]) > tolerance:
            yield f"{uri}: kept and dropped {unit} add up to {out}, not to the {counts['input'][unit]} that went in"
    by_reason: dict[str, float] = defaultdict(float)
    for row in dropped.to_pylist():
        by_reason[row["reason"]] += row["duration_s"] / 3600
    for reason in by_reason.keys() | counts["dropped"].keys():
        told = counts["dropped"].get(reason, {"hours": 0.0})["hours"]
        if abs(by_reason[reason] - told) > 1e-6 * max(1, len(dropped)):
            yield f"{uri}: {told} h dropped as {reason}, but dropped.parquet names {by_reason[reason]} h"


def _verify_inputs(run: str, name: str) -> Iterator[str]:
    for source, fingerprint in stage.read_facts(run, name)["inputs"].items():
        if not stage.is_finished(run, source):
            yield f"{storage.join(run, name)} was made from {source}, which is not finished"
        elif stage.fingerprint_of(run, source) != fingerprint:
            yield f"{storage.join(run, name)} was made from another {source} than the one beside it"


def _verify_manifest(run: str) -> Iterator[str]:
    ids = [recording.recording_id for recording in read_recordings(run)]
    if len(set(ids)) != len(ids):
        yield f"{storage.join(run, MANIFEST)}: {len(ids) - len(set(ids))} recording ids occur twice"


def _verify_segments(run: str) -> Iterator[str]:
    uri = storage.join(run, SEGMENTS)
    config = stage.read_facts(run, SEGMENTS)["config"]
    durations_s = {recording.recording_id: recording.duration_s for recording in read_recordings(run)}
    table = read_segments(run)
    last_id, last_end_s = "", 0.0
    names = ("segment_id", "recording_id", "start_s", "end_s")
    order = pc.sort_indices(table, [("recording_id", "ascending"), ("start_s", "ascending")])
    for id, recording_id, start_s, end_s in zip(*(table[n].take(order).to_pylist() for n in names), strict=True):
        if start_s < 0 or end_s > durations_s.get(recording_id, -1.0) + TIME_TOLERANCE_S:
            yield f"{uri}: {id} is not within its recording"
        if not config["min_s"] - TIME_TOLERANCE_S <= end_s - start_s <= config["max_s"] + TIME_TOLERANCE_S:
            yield f"{uri}: {id} is {end_s - start_s} s long"
        if recording_id == last_id and start_s < last_end_s - TIME_TOLERANCE_S:
            yield f"{uri}: {id} overlaps the segment before it"
        last_id, last_end_s = recording_id, end_s


def _verify_codebook(run: str) -> Iterator[str]:
    book = codebook.load(storage.join(run, CODEBOOK))
    if not np.isfinite(book.centroids).all():
        yield f"{storage.join(run, CODEBOOK)}: centroids are not finite"


def _verify_units(run: str) -> Iterator[str]:
    uri = storage.join(run, UNITS)
    book = codebook.load(storage.join(run, CODEBOOK))
    planned = read_segments(run)["segment_id"].to_pylist()
    found: list[str] = []
    for table in read_parts(run):
        found += table["segment_id"].to_pylist()
        yield from _verify_part(uri, table, book)
    if sorted(found) != sorted(planned):
        yield f"{uri}: {len(found)} segments are accounted for, of {len(planned)} planned ones"


def _verify_part(uri: str, table: pa.Table, book: codebook.Codebook) -> Iterator[str]:
    is_kept = pc.is_null(table["drop_reason"])
    told = (table.schema.metadata or {}).get(b"codebook", b"").decode()
    if pc.any(is_kept).as_py() and told != book.fingerprint:
        yield f"{uri}: the part with {table['segment_id'][0]} was made with another codebook"
    for row in table.filter(is_kept).to_pylist():
        where = f"{uri}: {row['segment_id']}"
        yield from _verify_runs(where, np.array(row["units"]), np.array(row["durations"]), row["num_frames"], book.num_units)


def _verify_runs(
    where: str, units: NDArray[Any], durations: NDArray[Any], num_frames: int, num_units: int
) -> Iterator[str]:
    if len(units) != len(durations) or len(units) == 0:
        yield f"{where} has {len(units)} units and {len(durations)} durations"
        return
    if durations.sum(dtype=np.int64) != num_frames or durations.min() < 1:
        yield f"{where}: durations add up to {durations.sum(dtype=np.int64)}, not to {num_frames} frames"
    if (units[1:] == units[:-1]).any():
        yield f"{where}: two neighbouring units are equal"
    if units.max() >= num_units:
        yield f"{where}: unit {units.max()} is outside the codebook of {num_units}"


def _verify_splits(dataset: Dataset) -> Iterator[str]:
    split_of: dict[str, str] = {}
    columns = ("segment_id", "speaker", "split")
    for id, speaker, split in zip(*(dataset.manifest[name].to_pylist() for name in columns), strict=True):
        group = speaker or id.rpartition("#")[0]
        if split_of.setdefault(group, split) != split:
            yield f"{dataset.uri}: {group} is in {split_of[group]} and in {split}"


def _verify_shard(dataset: Dataset, shard: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    uri = storage.join(dataset.uri, shard["path"])
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError:
        yield f"{uri} is missing"
        return
    if hashlib.sha256(content).hexdigest() != shard["sha256"] or len(content) != shard["num_bytes"]:
        yield f"{uri} does not have the checksum that dataset.json gives"
        return
    members: dict[str, dict[str, bytes]] = defaultdict(dict)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            file = tar.extractfile(member)
            members[key][extension] = file.read() if file else b""
    if list(members) != [row["key"] for row in rows] or len(rows) != shard["num_samples"]:
        yield f"{uri} does not hold the samples that the manifest lists, in their order"
        return
    for row in rows:
        parts = members[row["key"]]
        units, durations = (np.load(io.BytesIO(parts[name])) for name in ("units.npy", "durations.npy"))
        where = f"{uri}: {row['key']}"
        indexed = np.frombuffer(content, "<u2", row["num_units"], row["units_offset"])
        if not np.array_equal(indexed, units):
            yield f"{where}: the units at the manifest's offset are not those of the tar"
        if json.loads(parts["json"])["segment_id"] != row["segment_id"]:
            yield f"{where}: the tar and the manifest name different segments"
        yield from _verify_runs(where, units, durations, row["num_frames"], dataset.num_units)
