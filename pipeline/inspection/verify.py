"""Checks that what lies on disk is what it must be: checksums, and every invariant of a run's files.

Each function yields a sentence per violation, naming the file; nothing means all is well. A damaged file is a violation
like any other, never the end of the search.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import shards, stage
from pipeline.corpora.manifest import read_recordings
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.inspection.verify_shards import as_violations, verify_runs, verify_shards
from pipeline.language.filter import DECISIONS, read_decisions
from pipeline.runs import CODEBOOK, LANGUAGE, MANIFEST, SEGMENTS, SHARDS, STAGE_NAMES, UNITS, stage_of
from pipeline.segments.segment import SEGMENTS_FILE, read_segments
from pipeline.units import codebook
from pipeline.units.parts import digest_of_part, part_uris, read_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipeline.units.codebook import Codebook

TIME_TOLERANCE_S = 1e-6


def verify_run(run: str) -> Iterator[str]:
    """All finished stages of a run, each against itself and against what it was made from."""
    for name in STAGE_NAMES:
        if stage.is_finished(run, name):
            yield from verify_stage(run, name)


def verify_folder(uri: str, kind: str) -> Iterator[str]:
    """One stage's folder; shards and codebooks also where they lie outside of a run."""
    run, _, name = uri.rpartition("/")
    if name == kind and storage.exists(storage.join(uri, stage.STAGE_JSON)):
        return verify_stage(run, name)
    return verify_shards(uri) if kind == SHARDS else as_violations(uri, _verify_codebook(uri))


def verify_stage(run: str, name: str) -> Iterator[str]:
    """One finished stage of a run.

    Raises:
        StageError: it is not finished.
    """
    stage.fingerprint_of(run, name)
    particular: dict[str, Callable[[str], Iterator[str]]] = {
        MANIFEST: _verify_manifest,
        LANGUAGE: _verify_language,
        SEGMENTS: _verify_segments,
        CODEBOOK: _verify_fitted,
        UNITS: _verify_units,
        SHARDS: _verify_packed,
    }
    checks = (_verify_counts(run, name), _verify_inputs(run, name), particular[name](run))
    for check in checks:
        yield from as_violations(storage.join(run, name), check)


def _verify_counts(run: str, name: str) -> Iterator[str]:
    uri = storage.join(run, name, stage.STAGE_JSON)
    counts = stage.read_facts(run, name)["counts"]
    source = stage_of(name).source
    source_kept = stage.read_facts(run, source)["counts"]["kept"] if source else counts["input"]
    dropped = parquet.read(storage.join(run, name, stage.DROPPED)).to_pylist()
    for measure, tolerance in (("items", 0.5), ("hours", 1e-6 * max(1, counts["input"]["items"]))):
        came_in = counts["input"][measure]
        out = counts["kept"][measure] + sum(tally[measure] for tally in counts["dropped"].values())
        if abs(out - came_in) > tolerance:
            yield f"{uri}: kept and dropped {measure} add up to {out}, not to the {came_in} that went in"
        is_comparable = measure == "hours" or (source and stage_of(source).counts == stage_of(name).counts)
        if is_comparable and abs(source_kept[measure] - came_in) > tolerance:
            yield f"{uri}: {came_in} {measure} went in, but {source} had kept {source_kept[measure]}"
    for reason in sorted({row["reason"] for row in dropped} | counts["dropped"].keys()):
        rows = [row for row in dropped if row["reason"] == reason]
        told = counts["dropped"].get(reason, {"items": 0, "hours": 0.0})
        items, hours = sum(row["num_items"] for row in rows), math.fsum(row["duration_s"] for row in rows) / 3600
        if items != told["items"] or abs(hours - told["hours"]) > 1e-6 * max(1, len(rows)):
            yield (
                f"{uri}: {told['items']} items ({told['hours']:.6f} h) were dropped as {reason}, but dropped.parquet "
                f"beside it names {items} ({hours:.6f} h)"
            )


def _verify_inputs(run: str, name: str) -> Iterator[str]:
    for source, fingerprint in stage.read_facts(run, name)["inputs"].items():
        if not stage.is_finished(run, source):
            yield f"{storage.join(run, name)} was made from {source}, which is not finished"
        elif stage.fingerprint_of(run, source) != fingerprint:
            yield f"{storage.join(run, name)} was made from another {source} than the one beside it"


def _verify_output(run: str, name: str, output: str) -> Iterator[str]:
    if not stage.is_output(run, name, output):
        yield f"{storage.join(run, name)} holds other data than when it was finished: its DONE does not fit them"


def _verify_accounts(run: str, name: str, came_in: Iterable[str], kept: Iterable[str]) -> Iterator[str]:
    """Every item that came in is either kept or dropped, once."""
    dropped = parquet.read(storage.join(run, name, stage.DROPPED))
    gone = dropped.filter(pc.equal(dropped["num_items"], 1))["id"]
    # An item that came in counts 1, one that is accounted for -1: as columns, since there may be many millions.
    ids = [_column(came_in), _column(kept), _column(gone)]
    signs = [np.full(len(column), sign, np.int8) for column, sign in zip(ids, (1, -1, -1), strict=True)]
    table = pa.table([pa.chunked_array(ids), pa.chunked_array(signs)], ["id", "n"])
    left = table.group_by("id").aggregate([("n", "sum")])
    for which, what in (
        (pc.greater(left["n_sum"], 0), "neither kept nor dropped"),
        (pc.less(left["n_sum"], 0), "there twice, or unexpected"),
    ):
        found = left.filter(which)
        if len(found):
            total, example = pc.sum(pc.abs(found["n_sum"])).as_py(), pc.min(found["id"]).as_py()
            yield f"{storage.join(run, name)}: {total} items are {what}, e.g. {example}"


def _column(ids: Iterable[str]) -> pa.Array:
    if isinstance(ids, pa.ChunkedArray):
        return ids.cast(pa.large_string()).combine_chunks()
    return pa.array(ids, pa.large_string())


def _kept_ids(part: pa.Table) -> pa.ChunkedArray:
    return part.filter(pc.is_null(part["drop_reason"]))["segment_id"]


def _joined(columns: Iterable[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())


def _verify_manifest(run: str) -> Iterator[str]:
    uri = storage.join(run, MANIFEST)
    recordings = read_recordings(run)
    ids = Counter(recording.recording_id for recording in recordings)
    if twice := ids - Counter(set(ids)):
        yield f"{uri}: {len(twice)} recording ids occur more than once, e.g. {min(twice)}"
    for recording in recordings:
        if not 0 < recording.duration_s < math.inf:
            yield f"{uri}: {recording.recording_id} is {recording.duration_s} s long"
    labels = [CorpusConfig(**corpus).label for corpus in stage.read_facts(run, MANIFEST)["config"]["corpora"]]
    files = [storage.join(uri, f"{label}.parquet") for label in labels]
    yield from _verify_output(run, MANIFEST, stage.digest(*map(storage.read_bytes, files)))


def _verify_language(run: str) -> Iterator[str]:
    uri = storage.join(run, LANGUAGE, DECISIONS)
    decisions = read_decisions(run)
    for decision in decisions.values():
        if decision.keep != (decision.reason is None):
            fate = "kept" if decision.keep else "dropped"
            yield f"{uri}: {decision.recording_id} is {fate}, with {decision.reason} as the reason to drop it"
    kept = [id for id, decision in decisions.items() if decision.keep]
    yield from _verify_accounts(run, LANGUAGE, (recording.recording_id for recording in read_recordings(run)), kept)
    yield from _verify_output(run, LANGUAGE, stage.digest(storage.read_bytes(uri)))


def _verify_segments(run: str) -> Iterator[str]:
    uri = storage.join(run, SEGMENTS, SEGMENTS_FILE)
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
    kept = [id for id, decision in read_decisions(run).items() if decision.keep]
    yield from _verify_accounts(run, SEGMENTS, kept, set(table["recording_id"].to_pylist()))
    yield from _verify_output(run, SEGMENTS, stage.digest(storage.read_bytes(uri)))


def _verify_fitted(run: str) -> Iterator[str]:
    """The codebook of a run: by itself, and against what its stage says."""
    uri = storage.join(run, CODEBOOK)
    yield from _verify_codebook(uri)
    yield from _verify_output(run, CODEBOOK, codebook.load(uri).fingerprint)


def _verify_codebook(uri: str) -> Iterator[str]:
    book = codebook.load(uri)
    if not np.isfinite(book.centroids).all():
        yield f"{storage.join(uri, codebook.WEIGHTS)}: centroids are not finite"


def _verify_units(run: str) -> Iterator[str]:
    book = codebook.load(storage.join(run, CODEBOOK))
    kept: list[pa.ChunkedArray] = []
    part_digests = []
    for uri in part_uris(run):
        try:
            part = read_part(uri)
        except TwistError as error:
            yield str(error)
            continue
        kept.append(_kept_ids(part))
        part_digests.append(digest_of_part(part))
        yield from as_violations(uri, _verify_part(uri, part, book))
    yield from _verify_accounts(run, UNITS, read_segments(run)["segment_id"], _joined(kept))
    yield from _verify_output(run, UNITS, stage.digest(book.fingerprint, *part_digests))


def _verify_part(uri: str, part: pa.Table, book: Codebook) -> Iterator[str]:
    is_kept = pc.is_null(part["drop_reason"])
    told = (part.schema.metadata or {}).get(b"codebook", b"").decode(errors="replace")
    if pc.any(is_kept).as_py() and told != book.fingerprint:
        yield f"{uri} was made with another codebook than the one beside it"
    for row in part.filter(is_kept).to_pylist():
        units, durations = (np.array(row[name] or [], np.int64) for name in ("units", "durations"))
        where = f"{uri}: {row['segment_id']}"
        yield from verify_runs(where, units, durations, row["num_frames"], book.codebook_size)


def _verify_packed(run: str) -> Iterator[str]:
    """The shards of a run: by themselves, and against the units that they were made from."""
    uri = storage.join(run, SHARDS)
    yield from verify_shards(uri)
    dataset = shards.open_dataset(uri)
    if dataset.info["codebook"]["fingerprint"] != codebook.load(storage.join(run, CODEBOOK)).fingerprint:
        yield f"{storage.join(uri, shards.DATASET)} names another codebook than the one in {run}"
    tokenized = _joined(_kept_ids(read_part(part_uri)) for part_uri in part_uris(run))
    yield from _verify_accounts(run, SHARDS, tokenized, shards.segment_ids(dataset))
    yield from _verify_output(run, SHARDS, dataset.fingerprint)
