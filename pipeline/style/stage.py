"""The stage `style`: a code for each second of every segment, in the chunks that tokenization has.

RUN/segments/ -> RUN/style/part-<work_unit>.parquet    (parts.py)

What is taken of a segment's audio is what becomes units (units/taken.py), so that codes and units have one clock. A
part's metadata holds the fingerprint of the model that made it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from model.artefacts import identity
from model.style.config import StyleConfig
from model.style.model import load_style
from pipeline.audio.read import AudioError, Clip
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.runs import SEGMENTS, STYLE
from pipeline.segments.segment import open_segments, plan_of
from pipeline.stage import Stage, digest, fingerprint_of
from pipeline.style.parts import STYLE_SCHEMA, digest_of_part, part_uris, read_parts
from pipeline.units.account import SegmentAccount, segment_columns, work_and_account
from pipeline.units.encode import as_tensors
from pipeline.units.taken import Taken, differences_by_id, take, to_metadata
from pipeline.work import dataflow
from pipeline.work.retry import take_back_dropped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.code_model import CodeModel
    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk

MODEL = "style_model"


def take_style(
    run: str, config: StyleConfig, cluster: ClusterConfig, report: ReportProgress, *, retry_dropped: bool = False
) -> None:
    """Gives codes of style to all segments that have none yet, and records what became of every segment.

    Args:
        run: The run's folder.
        config: Names the model.
        cluster: How much of the cluster to use.
        report: Called after every chunk.
        retry_dropped: Redo the chunks with segments that were dropped for reasons that may have passed.

    Raises:
        TwistError: there is no model, parts cannot be written, or no segment got codes.
    """
    if config.model is None:
        raise TwistError("style.model names no model: give the folder of one, or style-tiny-25hz, which is embedded")
    model = load_style(config.model, "cpu")
    settings = {"model": identity(config.model), "fingerprint": model.fingerprint}
    stage = Stage(run, STYLE, settings, {SEGMENTS: fingerprint_of(run, SEGMENTS)})
    with stage.begin(functools.partial(take_back_dropped, stage) if retry_dropped else None) as has_work:
        if not has_work:
            return
        parts = storage.absolute(stage.uri)
        with open_segments(run) as segments:
            plan = plan_of(segments)
            work_and_account(
                lambda: dataflow.run_chunks(plan, parts, TakeStyle, {"config": config}, _all_dropped, cluster, report),
                lambda work: _account(stage, plan.num_items, model, work),
                lambda: part_uris(run),
            )


class TakeStyle:
    """Gives codes to the segments of a chunk."""

    def __init__(self, config: StyleConfig) -> None:
        torch.set_num_threads(1)
        assert config.model is not None
        self._model = load_style(config.model, config.device)

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        taken = [
            clip if isinstance(clip, AudioError) else self._check_length(take(span, clip))
            for span, clip in zip(chunk.spans, clips, strict=True)
        ]
        wavs = [stretch.wav for stretch in taken if isinstance(stretch, Taken)]
        codes = (each.numpy().astype(np.uint16) for each in (self._model.codes(as_tensors(wavs)) if wavs else ()))
        outcomes = [next(codes) if isinstance(stretch, Taken) else stretch for stretch in taken]
        differences = differences_by_id(chunk.ids, taken)
        table = _style_table(chunk, outcomes, [s if isinstance(s, Taken) else None for s in taken])
        return table.replace_schema_metadata({MODEL: self._model.fingerprint, **to_metadata(differences)})

    def _check_length(self, taken: Taken) -> Taken | AudioError:
        if len(taken.wav) >= self._model.min_samples:
            return taken
        if taken.difference and taken.difference.lost_s:
            return AudioError(taken.difference.reason, taken.difference.detail)
        return AudioError("too_short", f"{len(taken.wav)} samples give no code of style")


def _all_dropped(chunk: Chunk, error: AudioError) -> pa.Table:
    return _style_table(chunk, [error] * len(chunk.ids), [None] * len(chunk.ids))


def _style_table(
    chunk: Chunk, outcomes: Sequence[NDArray[np.uint16] | AudioError], taken: Sequence[Taken | None]
) -> pa.Table:
    return pa.table(
        {
            **segment_columns(chunk, outcomes, taken),
            "style": [None if isinstance(outcome, AudioError) else outcome for outcome in outcomes],
        },
        schema=STYLE_SCHEMA,
    )


def _account(stage: Stage, num_planned: int, model: CodeModel, work: dict[str, Any]) -> None:
    segments = SegmentAccount()
    code_counts = np.zeros(model.num_codes, np.int64)
    digests = []
    for table in read_parts(stage.run):
        made_with = (table.schema.metadata or {}).get(MODEL.encode(), model.fingerprint.encode()).decode()
        if made_with != model.fingerprint:
            first = table["segment_id"][0]
            raise TwistError(f"the part of {stage.uri} with {first} was made with another model; delete that part")
        digests.append(digest_of_part(table))
        code_counts += np.bincount(pc.list_flatten(table["style"]).to_numpy(), minlength=model.num_codes)
        segments.add(table)
    counts = segments.counts(stage.uri, num_planned, "got codes of style")
    stage.finish(
        counts,
        segments.dropped,
        digest(model.fingerprint, *digests),
        style_model={"fingerprint": model.fingerprint, "rate_hz": model.rate_hz, "num_codes": model.num_codes},
        code_counts=code_counts.tolist(),
        lengths=segments.lengths.as_facts(),
        work=work,
    )
