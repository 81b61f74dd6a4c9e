"""The main job: every segment's audio to units.

    RUN/segments/, RUN/codebook/ -> RUN/units/part-<work_unit>.parquet    (parts.py)

A part's metadata holds the fingerprints of the encoder and codebook that made it, and how loud its segments are: not in
a column, since every reader of parts checks their columns, and parts from before there were levels stay readable.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from model.encoder.config import EncoderConfig
from model.encoder.level import LOWEST_DBFS, dbfs
from pipeline.audio.read import AudioError, Clip
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.records import UNITS_SCHEMA
from pipeline.runs import CODEBOOK, SEGMENTS, UNITS
from pipeline.segments.segment import open_segments, plan_of
from pipeline.stage import Stage, digest, fingerprint_of
from pipeline.units import codebook
from pipeline.units.account import SegmentAccount, segment_columns, work_and_account
from pipeline.units.encode import UnitEncoder, as_tensors, describe_encoder, encoder_settings, run_lengths
from pipeline.units.parts import digest_of_part, part_uris, read_parts
from pipeline.units.taken import Taken, differences_by_id, take, to_metadata
from pipeline.work import dataflow
from pipeline.work.retry import take_back_dropped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk

LEVELS = "levels_dbfs"


def tokenize(
    run: str, encoder: EncoderConfig, cluster: ClusterConfig, report: ReportProgress, *, retry_dropped: bool = False
) -> None:
    """Tokenizes all segments that are not done yet, and records what became of every segment.

    Args:
        run: The run's folder.
        encoder: What the run's codebook was fitted on.
        cluster: How much of the cluster to use.
        report: Called after every chunk.
        retry_dropped: Redo the chunks with segments that were dropped for reasons that may have passed.

    Raises:
        TwistError: the codebook belongs to another encoder, parts cannot be written, or no segment gave units.
    """
    inputs = {name: fingerprint_of(run, name) for name in (SEGMENTS, CODEBOOK)}
    stage = Stage(run, UNITS, {"encoder": encoder_settings(encoder)}, inputs)
    with stage.begin(functools.partial(take_back_dropped, stage) if retry_dropped else None) as has_work:
        if not has_work:
            return
        book = codebook.load(storage.join(run, CODEBOOK))
        codebook.check_encoder(book, describe_encoder(encoder))
        arguments = {"encoder": encoder, "codebook_uri": storage.absolute(storage.join(run, CODEBOOK))}
        parts = storage.absolute(stage.uri)
        with open_segments(run) as segments:
            plan = plan_of(segments)
            work_and_account(
                lambda: dataflow.run_chunks(plan, parts, Tokenize, arguments, _all_dropped, cluster, report),
                lambda work: _account(stage, plan.num_items, book, work),
                lambda: part_uris(run),
            )


class Tokenize:
    """Encodes the segments of a chunk and assigns their frames to units."""

    def __init__(self, encoder: EncoderConfig, codebook_uri: str) -> None:
        torch.set_num_threads(1)
        book = codebook.load(codebook_uri)
        self._encode = UnitEncoder(encoder, book)
        self._metadata = {"codebook": book.fingerprint, "encoder": book.encoder_fingerprint}

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        taken = [
            clip if isinstance(clip, AudioError) else self._check_length(take(span, clip))
            for span, clip in zip(chunk.spans, clips, strict=True)
        ]
        wavs = [stretch.wav for stretch in taken if isinstance(stretch, Taken)]
        units = iter(self._encode(wavs))
        outcomes = [next(units) if isinstance(stretch, Taken) else stretch for stretch in taken]
        differences = differences_by_id(chunk.ids, taken)
        table = _units_table(chunk, outcomes, [s if isinstance(s, Taken) else None for s in taken])
        levels = {LEVELS: json.dumps(level_counts(wavs))}
        return table.replace_schema_metadata({**self._metadata, **levels, **to_metadata(differences)})

    def _check_length(self, taken: Taken) -> Taken | AudioError:
        if self._encode.num_frames(len(taken.wav)) > 0:
            return taken
        if taken.difference and taken.difference.lost_s:
            return AudioError(taken.difference.reason, taken.difference.detail)
        return AudioError("too_short", f"{len(taken.wav)} samples give no frame")


def level_counts(wavs: Sequence[NDArray[np.float32]]) -> dict[str, int]:
    """How many clips have each level, in whole dB below full scale, rounded; of those below LOWEST_DBFS, that."""
    levels = sorted(round(max(dbfs(wav), LOWEST_DBFS)) for wav in as_tensors(wavs))
    return {str(level): count for level, count in Counter(levels).items()}


def _all_dropped(chunk: Chunk, error: AudioError) -> pa.Table:
    return _units_table(chunk, [error] * len(chunk.ids), [None] * len(chunk.ids))


def _units_table(
    chunk: Chunk, outcomes: Sequence[NDArray[np.uint16] | AudioError], taken: Sequence[Taken | None]
) -> pa.Table:
    runs = [None if isinstance(outcome, AudioError) else run_lengths(outcome) for outcome in outcomes]
    return pa.table(
        {
            **segment_columns(chunk, outcomes, taken),
            "num_frames": [0 if isinstance(outcome, AudioError) else len(outcome) for outcome in outcomes],
            "units": [run and run[0] for run in runs],
            "durations": [run and run[1] for run in runs],
        },
        schema=UNITS_SCHEMA,
    )


def _account(stage: Stage, num_planned: int, book: codebook.Codebook, work: dict[str, Any]) -> None:
    segments = SegmentAccount()
    num_units = num_frames = 0
    levels: Counter[int] = Counter()
    part_digests = []
    for table in read_parts(stage.run):
        made_with = (table.schema.metadata or {}).get(b"codebook", book.fingerprint.encode()).decode()
        if made_with != book.fingerprint:
            first = table["segment_id"][0]
            raise TwistError(f"the part of {stage.uri} with {first} was made with another codebook; delete that part")
        part_digests.append(digest_of_part(table))
        in_part = json.loads((table.schema.metadata or {}).get(LEVELS.encode(), b"{}"))
        levels.update({int(level): count for level, count in in_part.items()})
        num_frames += pc.sum(table["num_frames"]).as_py()
        num_units += pc.sum(pc.list_value_length(table["units"])).as_py() or 0
        segments.add(table)
    counts = segments.counts(stage.uri, num_planned, "could be tokenized")
    output = digest(book.fingerprint, *part_digests)
    rates = _rates(segments.kept.hours, num_frames, num_units)
    stage.finish(
        counts,
        segments.dropped,
        output,
        **rates,
        levels_dbfs=dict(sorted(levels.items())),
        lengths=segments.lengths.as_facts(),
        segments_with_channels_left_out=segments.num_with_channels_left_out,
        work=work,
    )


def _rates(hours: float, num_frames: int, num_units: int) -> dict[str, Any]:
    return {
        "num_frames": num_frames,
        "num_units": num_units,
        "units_per_hour_before": round(num_frames / hours, 1),
        "units_per_hour": round(num_units / hours, 1),
    }
