"""One recording's path through every stage, as plain data. Memory and time do not grow with what else the run holds:
tables are searched a row group at a time (files/find_rows.py), and parts are opened by the name of their chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from pipeline import shards
from pipeline.corpora.manifest import table_uris
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.files.find_rows import find_rows
from pipeline.language.filter import DECISIONS
from pipeline.runs import LANGUAGE, SEGMENTS, SHARDS, STAGES, UNITS, WORDS, part_file
from pipeline.segments.segment import SEGMENTS_FILE
from pipeline.stage import DROPPED, is_finished
from pipeline.tracing.names import find_named
from pipeline.tracing.remedies import remedy

if TYPE_CHECKING:
    from collections.abc import Sequence

OF_SAMPLE = ("key", "shard", "index", "offset", "split", "segment_id")


def trace(run: str, name: str) -> dict[str, Any]:
    """What became of a recording, or of one of its segments or samples.

    Args:
        run: The run's folder.
        name: The id of a recording or segment, the key of a sample, or a file of audio.

    Returns:
        `name`, `recording_id`, `is_whole` (no segment was named), `recording` (its row of the manifest), `language`
        (its decision), `segments` (a dict each: ids, times, chunk, `words`, `num_units`, `num_frames`, `first_units`,
        `sample`), `dropped` (a dict each: `stage`, `id`, `reason`, `detail`, `duration_s`, `remedy`), `copies` (what
        was dropped as a copy of a segment) and `finished`, the stages that are. None and empty where a stage has not
        come so far.

    Raises:
        TwistError: the run has nothing of that name.
        StageError: its manifest is not finished.
    """
    named = find_named(run, name)
    finished = [row.name for row in STAGES if is_finished(run, row.name)]
    traced: dict[str, Any] = {
        "name": name,
        "recording_id": named.recording_id,
        "is_whole": not named.segment_ids,
        "recording": None,
        "language": None,
        "segments": [],
        "finished": finished,
    }
    for uri in table_uris(run):
        for row in find_rows(uri, "recording_id", [named.recording_id], is_unique=True).to_pylist():
            traced["recording"] = row
    if LANGUAGE in finished:
        decisions = find_rows(storage.join(run, LANGUAGE, DECISIONS), "recording_id", [named.recording_id])
        traced["language"] = next(iter(decisions.to_pylist()), None)
    if SEGMENTS in finished:
        rows = find_rows(storage.join(run, SEGMENTS, SEGMENTS_FILE), "recording_id", [named.recording_id])
        known = rows["segment_id"].to_pylist()
        if unknown := [id for id in named.segment_ids if id not in known]:
            some = ", ".join(known[:5])
            raise TwistError(f"{named.recording_id} has no segment {unknown[0]}; it has {len(known)}: {some}")
        wanted = rows.select(["segment_id", "start_s", "end_s", "work_unit"]).to_pylist()
        traced["segments"] = [row for row in wanted if row["segment_id"] in (named.segment_ids or known)]
        _add_units(run, traced["segments"])
        _add_words(run, traced["segments"])
    ids = [segment["segment_id"] for segment in traced["segments"]]
    if SHARDS in finished:
        _add_samples(run, traced["segments"])
    traced["dropped"] = _drops(run, [named.recording_id, *ids], finished)
    traced["copies"] = _copies(run, ids) if SHARDS in finished and len(ids) == 1 else []
    return traced


def _rows_of_parts(run: str, stage: str, segments: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The segments' rows in the parts of a stage, by segment; none for chunks that are not done."""
    rows: dict[str, dict[str, Any]] = {}
    for chunk in dict.fromkeys(segment["work_unit"] for segment in segments):
        uri = storage.join(run, stage, part_file(chunk))
        if storage.exists(uri):
            ids = [segment["segment_id"] for segment in segments if segment["work_unit"] == chunk]
            rows |= {row["segment_id"]: row for row in find_rows(uri, "segment_id", ids).to_pylist()}
    return rows


def _add_units(run: str, segments: Sequence[dict[str, Any]]) -> None:
    rows = _rows_of_parts(run, UNITS, segments)
    for segment in segments:
        row = rows.get(segment["segment_id"], {})
        units = row.get("units")
        segment["num_units"] = None if units is None else len(units)
        segment["num_frames"] = row.get("num_frames")
        segment["first_units"] = (units or [])[:10]


def _add_words(run: str, segments: Sequence[dict[str, Any]]) -> None:
    rows = _rows_of_parts(run, WORDS, segments)
    for segment in segments:
        words = rows.get(segment["segment_id"], {}).get("words")
        segment["words"] = None if words is None else " ".join(word["word"] for word in words)


def _add_samples(run: str, segments: Sequence[dict[str, Any]]) -> None:
    """Adds to each segment where in the shards its sample is, or None."""
    sample_of = {segment["segment_id"]: segment["segment_id"] for segment in segments}
    groups = storage.join(run, SHARDS, shards.GROUPS)
    if storage.exists(groups):
        for row in find_rows(groups, "segment", sample_of, is_unique=True).to_pylist():
            sample_of[row["segment"]] = row["sample"]
    rows = find_rows(
        storage.join(run, SHARDS, shards.MANIFEST), "segment_id", set(sample_of.values()), is_unique=True
    ).to_pylist()
    samples = {row["segment_id"]: {name: row[name] for name in OF_SAMPLE} for row in rows}
    for segment in segments:
        segment["sample"] = samples.get(sample_of[segment["segment_id"]])


def _drops(run: str, ids: Sequence[str], finished: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"stage": stage, **row, "remedy": remedy(stage, row["reason"])}
        for stage in finished
        if storage.exists(uri := storage.join(run, stage, DROPPED))
        for row in find_rows(uri, "id", ids).to_pylist()
    ]


def _copies(run: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    """What packing dropped as copies of a segment, which their details name."""
    return [
        row
        for table in parquet.iterate(storage.join(run, SHARDS, DROPPED), ["id", "reason", "detail"], in_ranges=True)
        for id in ids
        for row in table.filter(pc.match_substring(table["detail"], id)).to_pylist()
        if row["reason"] in ("duplicate", "near_duplicate")
    ]
