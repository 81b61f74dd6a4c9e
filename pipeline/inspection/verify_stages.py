"""Checks what is particular to each stage: the invariants of its files, and what became of everything that came in.

As in verify.py, each function yields a sentence per violation. Tables are read a row group at a time, and of 22 million
rows no more than some columns of numbers are in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import shards, stage
from pipeline.corpora.manifest import iterate_tables
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.inspection.accounts import differences, hashes_of, repeated
from pipeline.inspection.verify_shards import as_violations, verify_shards
from pipeline.inspection.verify_tars import verify_sample
from pipeline.inspection.verify_text import verify_text
from pipeline.language.filter import DECISIONS
from pipeline.packing.streams import LENGTH_TOLERANCE_S
from pipeline.pitch import parts as pitch_parts
from pipeline.runs import CODEBOOK, LANGUAGE, MANIFEST, PITCH, SEGMENTS, SHARDS, STYLE, TEXT, UNITS, WORDS
from pipeline.segments.segment import LENGTHS_FILE, SEGMENTS_FILE
from pipeline.style import parts as style_parts
from pipeline.text_shards import open_text
from pipeline.units import codebook
from pipeline.units.parts import digest_of_part, part_uris, read_part
from pipeline.words import parts as words_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.inspection.accounts import Ids
    from pipeline.units.codebook import Codebook

TIME_TOLERANCE_S = 1e-6
# Files may be longer than their table says by less than what counts as a difference (audio/read.py).
CODES_TOLERANCE = 1.0


def verify_manifest(run: str, checksums: bool) -> Iterator[str]:
    """Ids that differ, lengths that can be."""
    uri = storage.join(run, MANIFEST)
    if twice := repeated(lambda: _recording_ids(run)):
        yield f"{uri}: {twice[0]} recording ids occur more than once, e.g. {twice[1]}"
    for table in iterate_tables(run, ["recording_id", "duration_s"]):
        durations_s = table["duration_s"].to_numpy()
        for row in np.flatnonzero(~((durations_s > 0) & (durations_s < np.inf))):
            yield f"{uri}: {table['recording_id'][row]} is {durations_s[row]} s long"
    labels = [CorpusConfig(**corpus).label for corpus in stage.read_facts(run, MANIFEST)["config"]["corpora"]]
    if checksums:
        yield from _verify_files(run, MANIFEST, *(f"{label}.parquet" for label in labels))


def verify_language(run: str, checksums: bool) -> Iterator[str]:
    """A reason for each recording that goes and none for those that stay; every recording decided on, once."""
    uri = storage.join(run, LANGUAGE, DECISIONS)
    for table in parquet.iterate(uri, ["recording_id", "keep", "reason"]):
        is_odd = pc.equal(table["keep"], pc.is_valid(table["reason"]))
        for row in table.filter(is_odd).to_pylist():
            fate = "kept" if row["keep"] else "dropped"
            yield f"{uri}: {row['recording_id']} is {fate}, with {row['reason']} as the reason to drop it"
    yield from _verify_accounts(run, LANGUAGE, lambda: _recording_ids(run), lambda: _kept_recordings(run))
    if checksums:
        yield from _verify_files(run, LANGUAGE, DECISIONS)


def verify_segments(run: str, checksums: bool) -> Iterator[str]:
    """Segments within their recordings, of the lengths asked for, in order and without overlap."""
    uri = storage.join(run, SEGMENTS, SEGMENTS_FILE)
    config = stage.read_facts(run, SEGMENTS)["config"]
    recordings, durations_s = _durations(run)
    last_recording, last_end_s = np.empty(0, np.int64), np.empty(0)
    for table in parquet.iterate(uri, ["segment_id", "recording_id", "start_s", "end_s"]):
        if not len(table):
            continue
        ids = table["segment_id"]
        start_s, end_s = table["start_s"].to_numpy(), table["end_s"].to_numpy()
        recording = _hashes_of_runs(table["recording_id"])
        place = np.searchsorted(recordings, recording).clip(max=max(0, len(recordings) - 1))
        is_known = recordings[place] == recording if len(recordings) else np.zeros(len(table), bool)
        longest_s = np.where(is_known, durations_s[place], -1.0) if len(recordings) else np.full(len(table), -1.0)
        for row in np.flatnonzero((start_s < 0) | (end_s > longest_s + TIME_TOLERANCE_S)):
            yield f"{uri}: {ids[row]} is not within its recording"
        length_s = end_s - start_s
        is_fit = (config["min_s"] - TIME_TOLERANCE_S <= length_s) & (length_s <= config["max_s"] + TIME_TOLERANCE_S)
        for row in np.flatnonzero(~is_fit):
            yield f"{uri}: {ids[row]} is {length_s[row]} s long"
        # The segment before each: of the first one, the last of the row group before.
        before = np.concatenate([last_recording, recording])[-len(table) - 1 : -1]
        ended_s = np.concatenate([last_end_s, end_s])[-len(table) - 1 : -1]
        offset = len(table) - len(before)  # the very first has none before it
        is_late = (recording[offset:] == before) & (start_s[offset:] < ended_s - TIME_TOLERANCE_S)
        for row in np.flatnonzero(is_late) + offset:
            yield f"{uri}: {ids[row]} overlaps the segment before it, or is out of order"
        last_recording, last_end_s = recording[-1:], end_s[-1:]
    yield from _verify_accounts(run, SEGMENTS, lambda: _kept_recordings(run), lambda: _recordings_with_segments(uri))
    if checksums:
        yield from _verify_files(run, SEGMENTS, SEGMENTS_FILE)


def verify_words(run: str, checksums: bool) -> Iterator[str]:
    """The parts of a run's words; without checksums, only that there are any."""
    uris = words_parts.part_uris(run)
    if not checksums:
        if not uris:
            yield f"{storage.join(run, WORDS)} holds no part files"
        return
    digests = []
    for uri in uris:
        digests.append(stage.digest(storage.read_bytes(uri)))
        try:
            part = words_parts.read_part(uri)
        except TwistError as error:
            yield str(error)
            continue
        yield from as_violations(uri, _verify_words_of(uri, part))
    yield from _verify_accounts(run, WORDS, lambda: _segment_ids(run), lambda: _ids_kept(uris))
    yield from _verify_output(run, WORDS, stage.digest(*digests))


def verify_fitted(run: str) -> Iterator[str]:
    """The codebook of a run: by itself, and against what its stage says. It is small: its checksum is always read."""
    uri = storage.join(run, CODEBOOK)
    yield from verify_codebook(uri)
    yield from _verify_output(run, CODEBOOK, codebook.load(uri).fingerprint)


def verify_codebook(uri: str) -> Iterator[str]:
    """A codebook by itself."""
    book = codebook.load(uri)
    if not all(np.isfinite(weights).all() for weights in book.weights.values()):
        yield f"{storage.join(uri, codebook.WEIGHTS)}: {'weights' if book.is_ctc else 'centroids'} are not finite"


def verify_units(run: str, checksums: bool) -> Iterator[str]:
    """The parts of a run's units; without checksums, only that there are any."""
    book = codebook.load(storage.join(run, CODEBOOK))
    uris = part_uris(run)
    if not checksums:
        if not uris:
            yield f"{storage.join(run, UNITS)} holds no part files"
        return
    whole, digests = [], []
    for uri in uris:
        try:
            part = read_part(uri)
        except TwistError as error:
            yield str(error)
            continue
        whole.append(uri)
        digests.append(digest_of_part(part))
        yield from as_violations(uri, _verify_part(uri, part, book))
    yield from _verify_accounts(run, UNITS, lambda: _segment_ids(run), lambda: _ids_kept(whole))
    yield from _verify_output(run, UNITS, stage.digest(book.fingerprint, *digests))


def verify_pitch(run: str, checksums: bool) -> Iterator[str]:
    """The parts of a run's pitch; without checksums, only that there are any."""
    uris = pitch_parts.part_uris(run)
    if not checksums:
        if not uris:
            yield f"{storage.join(run, PITCH)} holds no part files"
        return
    model = stage.read_facts(run, PITCH)["pitch_model"]
    whole, digests = [], []
    for uri in uris:
        try:
            part = pitch_parts.read_part(uri)
        except TwistError as error:
            yield str(error)
            continue
        whole.append(uri)
        digests.append(pitch_parts.digest_of_part(part))
        yield from as_violations(uri, _verify_pitch_of(uri, part, model))
    yield from _verify_accounts(run, PITCH, lambda: _segment_ids(run), lambda: _ids_kept(whole))
    yield from _verify_output(run, PITCH, stage.digest(model["fingerprint"], *digests))


def verify_packed(run: str, checksums: bool) -> Iterator[str]:
    """The shards of a run: by themselves, and against the units that they were made from."""
    uri = storage.join(run, SHARDS)
    yield from verify_shards(uri, checksums)
    dataset = shards.open_dataset(uri)
    if dataset.info["codebook"]["fingerprint"] != codebook.load(storage.join(run, CODEBOOK)).fingerprint:
        yield f"{storage.join(uri, shards.DATASET)} names another codebook than the one in {run}"
    if checksums:
        parts = part_uris(run)
        yield from _verify_accounts(run, SHARDS, lambda: _ids_kept(parts), lambda: shards.segment_ids(dataset))
    yield from _verify_output(run, SHARDS, dataset.fingerprint)


def verify_packed_text(run: str, checksums: bool) -> Iterator[str]:
    """The text shards of a run: by themselves, and that they are those that the stage wrote."""
    uri = storage.join(run, TEXT)
    yield from verify_text(uri, checksums)
    dataset = open_text(uri)
    kept = stage.read_facts(run, TEXT)["counts"]["kept"]["items"]
    if (found := sum(total["num_documents"] for total in dataset.info["totals"])) != kept:
        yield f"{storage.join(uri, shards.DATASET)} counts {found} documents, but the stage kept {kept}"
    yield from _verify_output(run, TEXT, dataset.fingerprint)


def verify_style(run: str, checksums: bool) -> Iterator[str]:
    """The parts of a run's codes of style; without checksums, only that there are any."""
    uris = style_parts.part_uris(run)
    if not checksums:
        if not uris:
            yield f"{storage.join(run, STYLE)} holds no part files"
        return
    model = stage.read_facts(run, STYLE)["style_model"]
    whole, digests = [], []
    for uri in uris:
        try:
            part = style_parts.read_part(uri)
        except TwistError as error:
            yield str(error)
            continue
        whole.append(uri)
        digests.append(style_parts.digest_of_part(part))
        yield from as_violations(uri, _verify_codes_of(uri, part, model))
    yield from _verify_accounts(run, STYLE, lambda: _segment_ids(run), lambda: _ids_kept(whole))
    yield from _verify_output(run, STYLE, stage.digest(model["fingerprint"], *digests))


def _verify_part(uri: str, part: pa.Table, book: Codebook) -> Iterator[str]:
    is_kept = pc.is_null(part["drop_reason"])
    stated = (part.schema.metadata or {}).get(b"codebook", b"").decode(errors="replace")
    if pc.any(is_kept).as_py() and stated != book.fingerprint:
        yield f"{uri} was made with another codebook than the one beside it"
    for row in part.filter(is_kept).to_pylist():
        units, durations = (np.array(row[name] or [], np.int64) for name in ("units", "durations"))
        where = f"{uri}: {row['segment_id']}"
        yield from verify_sample(where, units, durations, row["num_frames"], book.codebook_size)


def _verify_pitch_of(uri: str, part: pa.Table, model: dict[str, Any]) -> Iterator[str]:
    """Codes or a reason for each segment; as many codes as its time holds, each of the codebook; a mean F0."""
    for row in part.to_pylist():
        where = f"{uri}: {row['segment_id']}"
        codes = row["pitch"]
        if bool(codes) == (row["drop_reason"] is not None):
            yield f"{where} has {len(codes or ())} codes, with {row['drop_reason']} as the reason to drop it"
            continue
        if not codes:
            continue
        expected = (row["end_s"] - row["start_s"]) * model["rate_hz"]
        if not expected - 1 - CODES_TOLERANCE <= len(codes) <= expected + CODES_TOLERANCE:
            yield f"{where} has {len(codes)} codes of pitch where its time holds {expected:.2f}"
        if max(codes) >= model["num_codes"]:
            yield f"{where}: pitch {max(codes)} is outside the codebook of {model['num_codes']}"
        if row["f0_mean_hz"] is not None and not 0 < row["f0_mean_hz"] < np.inf:
            yield f"{where}: its mean F0 is {row['f0_mean_hz']} Hz"


def _verify_words_of(uri: str, part: pa.Table) -> Iterator[str]:
    """Words or a reason for each segment; times that rise, without overlap, within the segment."""
    for row in part.to_pylist():
        where = f"{uri}: {row['segment_id']}"
        if bool(row["words"]) == (row["drop_reason"] is not None):
            yield f"{where} has {len(row['words'] or ())} words, with {row['drop_reason']} as the reason to drop it"
        before_s = 0.0
        for word in row["words"] or ():
            if word["word"] != word["word"].strip() or not word["word"]:
                yield f"{where}: {word['word']!r} is no word"
            if not before_s <= word["start_s"] < word["end_s"]:
                yield f"{where}: {word['word']!r} from {word['start_s']} to {word['end_s']} s, after {before_s} s"
            before_s = word["end_s"]
        if before_s > row["end_s"] - row["start_s"] + TIME_TOLERANCE_S:
            yield f"{where}: its last word ends at {before_s} s, behind the segment"


def _verify_codes_of(uri: str, part: pa.Table, model: dict[str, Any]) -> Iterator[str]:
    """Codes or a reason for each segment; codes that the model has, as many as the segment lasts."""
    for row in part.to_pylist():
        where, codes = f"{uri}: {row['segment_id']}", row["style"]
        if (codes is None) == (row["drop_reason"] is None) or codes == []:
            yield f"{where} has {codes} as style, with {row['drop_reason']} as the reason to drop it"
        if not codes:
            continue
        if max(codes) >= model["num_codes"]:
            yield f"{where}: style has code {max(codes)}, of a model of {model['num_codes']}"
        length_s = row["end_s"] - row["start_s"]
        if abs(len(codes) / model["rate_hz"] - length_s) > 1 / model["rate_hz"] + LENGTH_TOLERANCE_S:
            yield f"{where} has {len(codes)} codes of style, but lasts {length_s:.2f} s"


def _verify_files(run: str, name: str, *files: str) -> Iterator[str]:
    """Whether the files that a stage wrote are those of which its DONE is the checksum."""
    return _verify_output(run, name, stage.digest_of_files(storage.join(run, name, file) for file in files))


def _verify_output(run: str, name: str, output: str) -> Iterator[str]:
    if not stage.is_output(run, name, output):
        yield f"{storage.join(run, name)} holds other data than when it was finished: its DONE does not fit them"


def _verify_accounts(run: str, name: str, came_in: Ids, kept: Ids) -> Iterator[str]:
    """Every item that came in is either kept or dropped, once."""

    def accounted_for() -> Iterator[pa.Array | pa.ChunkedArray]:
        yield from kept()
        # 0 stands for a part of an item that itself stays.
        for table in parquet.iterate(storage.join(run, name, stage.DROPPED), ["id", "num_items"]):
            yield table["id"].filter(pc.equal(table["num_items"], 1))

    for difference in differences(came_in, accounted_for):
        yield f"{storage.join(run, name)}: {difference}"


def _recording_ids(run: str) -> Iterator[pa.ChunkedArray]:
    return (table["recording_id"] for table in iterate_tables(run, ["recording_id"]))


def _kept_recordings(run: str) -> Iterator[pa.ChunkedArray]:
    for table in parquet.iterate(storage.join(run, LANGUAGE, DECISIONS), ["recording_id", "keep"]):
        yield table["recording_id"].filter(table["keep"])


def _recordings_with_segments(uri: str) -> Iterator[pa.Array]:
    """The recording of each run of neighbouring segments; one that comes again later is there twice."""
    last = None
    for table in parquet.iterate(uri, ["recording_id"]):
        runs = pc.run_end_encode(table["recording_id"].combine_chunks()).values
        if len(runs):
            yield runs[1:] if runs[0].as_py() == last else runs
            last = runs[-1].as_py()


def _segment_ids(run: str) -> Iterator[pa.ChunkedArray]:
    uri = storage.join(run, SEGMENTS, SEGMENTS_FILE)
    return (table["segment_id"] for table in parquet.iterate(uri, ["segment_id"]))


def _ids_kept(parts: list[str]) -> Iterator[pa.ChunkedArray]:
    for part in parquet.read_many(parts, ["segment_id", "drop_reason"]):
        yield part["segment_id"].filter(pc.is_null(part["drop_reason"]))


def _durations(run: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Hashes of the recordings' ids, in ascending order, and how long each recording is: stated, or found out."""
    lengths = [np.empty(0)]

    def ids() -> Iterator[pa.ChunkedArray]:
        for table in iterate_tables(run, ["recording_id", "duration_s"]):
            lengths.append(table["duration_s"].to_numpy())
            yield table["recording_id"]

    hashes = hashes_of(ids())
    order = np.argsort(hashes)
    hashes, durations_s = hashes[order], np.concatenate(lengths)[order]
    uri = storage.join(run, SEGMENTS, LENGTHS_FILE)
    # Runs that were begun before lengths were counted have no such file.
    is_there = "lengths" in stage.read_facts(run, SEGMENTS)
    for table in parquet.iterate(uri, ["recording_id", "actual_s"]) if is_there else ():
        found = np.searchsorted(hashes, hashes_of([table["recording_id"]])).clip(max=max(0, len(hashes) - 1))
        durations_s[found] = table["actual_s"].to_numpy()
    return hashes, durations_s


def _hashes_of_runs(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Hashes of texts of which neighbours are mostly equal, each computed once."""
    coded = column.combine_chunks().dictionary_encode()
    hashes: NDArray[np.int64] = hashes_of([coded.dictionary])[coded.indices.to_numpy()]
    return hashes
