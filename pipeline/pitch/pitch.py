"""The pitch of every segment's audio as codes, at the tokenizer's fixed rate.

    RUN/segments/ -> RUN/pitch/part-<work_unit>.parquet    (parts.py)

The work is on CPUs, in the chunks of the units' plan, and is taken up in the same way. Of a segment the same stretch is
taken as for its units, so that codes and units are of one length.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from model.pitch.contour import extract
from model.pitch.tokenizer import load_pitch_tokenizer
from pipeline.audio.read import AudioError, Clip
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.pitch.parts import digest_of_part, part_uris, read_part
from pipeline.records import PITCH_SCHEMA
from pipeline.runs import PITCH, SEGMENTS
from pipeline.segments.segment import open_segments, plan_of
from pipeline.stage import Stage, digest, fingerprint_of
from pipeline.units.account import SegmentAccount, segment_columns, work_and_account
from pipeline.units.taken import Taken, differences_by_id, take, to_metadata
from pipeline.work import dataflow
from pipeline.work.retry import take_back_dropped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.pitch.tokenizer import PitchTokenizer
    from pipeline.pitch.config import PitchConfig
    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk

FINGERPRINT = b"pitch_model"


def tokenize_pitch(
    run: str, config: PitchConfig, cluster: ClusterConfig, report: ReportProgress, *, retry_dropped: bool = False
) -> None:
    """Finds the pitch of all segments that are not done yet, and records what became of every segment.

    Args:
        run: The run's folder.
        config: The pitch tokenizer.
        cluster: How much of the cluster to use; no GPU is.
        report: Called after every chunk.
        retry_dropped: Redo the chunks with segments that were dropped for reasons that may have passed.

    Raises:
        TwistError: no tokenizer is named, it cannot be loaded, or no segment gave codes.
    """
    if config.model is None:
        raise TwistError("no pitch tokenizer is named: set pitch.model, to pitch-tiny for the one that comes along")
    tokenizer = load_pitch_tokenizer(config.model, config.extractor)
    stage = Stage(run, PITCH, {"model": tokenizer.fingerprint}, {SEGMENTS: fingerprint_of(run, SEGMENTS)})
    with stage.begin(functools.partial(take_back_dropped, stage) if retry_dropped else None) as has_work:
        if not has_work:
            return
        arguments = {"model": config.model, "extractor": config.extractor}
        parts, on_cpus = storage.absolute(stage.uri), replace(cluster, gpus_per_actor=0.0)
        with open_segments(run) as segments:
            plan = plan_of(segments)
            work_and_account(
                lambda: dataflow.run_chunks(plan, parts, FindPitch, arguments, _all_dropped, on_cpus, report),
                lambda work: _account(stage, plan.num_items, tokenizer, work),
                lambda: part_uris(run),
            )


class FindPitch:
    """Finds the pitch of the segments of a chunk."""

    def __init__(self, model: str, extractor: Any = None) -> None:
        torch.set_num_threads(1)
        self._tokenizer = load_pitch_tokenizer(model, extractor)

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        taken = [
            clip if isinstance(clip, AudioError) else take(span, clip)
            for span, clip in zip(chunk.spans, clips, strict=True)
        ]
        found = [one if isinstance(one, AudioError) else self._pitch_of(one) for one in taken]
        stretches = [
            stretch if isinstance(stretch, Taken) and not isinstance(pitch, AudioError) else None
            for stretch, pitch in zip(taken, found, strict=True)
        ]
        differences = differences_by_id(chunk.ids, stretches)
        table = _table(chunk, found, stretches)
        fingerprint = {FINGERPRINT.decode(): self._tokenizer.fingerprint}
        return table.replace_schema_metadata({**fingerprint, **to_metadata(differences)})

    def _pitch_of(self, taken: Taken) -> tuple[list[int], float | None] | AudioError:
        """The codes and the mean F0 of a stretch."""
        if len(taken.wav) < self._tokenizer.hop_samples:
            if taken.difference and taken.difference.lost_s:
                return AudioError(taken.difference.reason, taken.difference.detail)
            return AudioError("too_short", f"{len(taken.wav)} samples give no code of pitch")
        contour = extract(taken.wav, self._tokenizer.extractor)
        return self._tokenizer.codes_of_contour(contour).tolist(), contour.mean_hz


def _all_dropped(chunk: Chunk, error: AudioError) -> pa.Table:
    return _table(chunk, [error] * len(chunk.ids), [None] * len(chunk.ids))


def _table(
    chunk: Chunk, found: Sequence[tuple[list[int], float | None] | AudioError], taken: Sequence[Taken | None]
) -> pa.Table:
    pitch = [(None, None) if isinstance(one, AudioError) else one for one in found]
    return pa.table(
        {
            **segment_columns(chunk, found, taken),
            "pitch": [codes for codes, _ in pitch],
            "f0_mean_hz": [mean_hz for _, mean_hz in pitch],
        },
        schema=PITCH_SCHEMA,
    )


def _account(stage: Stage, num_planned: int, tokenizer: PitchTokenizer, work: dict[str, Any]) -> None:
    segments = SegmentAccount()
    uses: Counter[int] = Counter()
    num_unvoiced = 0
    digests = []
    for uri in part_uris(stage.run):
        part = read_part(uri)
        made_with = (part.schema.metadata or {}).get(FINGERPRINT, tokenizer.fingerprint.encode()).decode()
        if made_with != tokenizer.fingerprint:
            raise TwistError(f"{uri} was made with another pitch tokenizer; delete it")
        digests.append(digest_of_part(part))
        is_unvoiced = pc.and_(pc.is_null(part["drop_reason"]), pc.is_null(part["f0_mean_hz"]))
        num_unvoiced += pc.sum(is_unvoiced).as_py() or 0
        codes = pc.list_flatten(part["pitch"]).to_numpy()
        uses.update({code: int(count) for code, count in enumerate(np.bincount(codes)) if count})
        segments.add(part)
    counts = segments.counts(stage.uri, num_planned, "has pitch")
    stage.finish(
        counts,
        segments.dropped,
        digest(tokenizer.fingerprint, *digests),
        pitch_model={
            "fingerprint": tokenizer.fingerprint,
            "extractor": tokenizer.extractor,
            "rate_hz": tokenizer.rate_hz,
            "num_codes": tokenizer.num_codes,
        },
        num_pitch_codes=sum(uses.values()),
        code_uses=[uses[code] for code in range(tokenizer.num_codes)],
        segments_without_voice=num_unvoiced,
        work=work,
    )
