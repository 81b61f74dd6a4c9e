"""The stage `style`: a code for each second of every segment, in the chunks that tokenization has.

RUN/segments/ -> RUN/style/part-<work_unit>.parquet    (parts.py)

What is taken of a segment's audio is what becomes units (units/taken.py), so that codes and units have one clock. A
part's metadata holds the fingerprint of the model that made it.
"""

from __future__ import annotations

import functools
import logging
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
from pipeline.files import parquet, storage
from pipeline.records import Dropped
from pipeline.runs import SEGMENTS, STYLE
from pipeline.segments.segment import open_segments, plan_of
from pipeline.stage import LengthDifferences, Stage, StageCounts, Tally, digest, fingerprint_of
from pipeline.style.parts import STYLE_SCHEMA, digest_of_part, part_uris, read_parts
from pipeline.units.encode import as_tensors
from pipeline.units.taken import Taken, differences_of, take, to_metadata
from pipeline.work import dataflow
from pipeline.work.retry import take_back_dropped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.style.model import StyleModel
    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk

logger = logging.getLogger(__name__)

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
            run_chunks = functools.partial(
                dataflow.run_chunks, plan, parts, TakeStyle, {"config": config}, _all_dropped, cluster, report
            )
            work = run_chunks()
            try:
                _account(stage, plan.num_items, model, work)
            except parquet.DamagedFileError as damage:
                logger.warning("%s; its chunk is done once more", damage)
                _delete_damaged(run)
                run_chunks()
                _account(stage, plan.num_items, model, work)


def _delete_damaged(run: str) -> None:
    """Deletes the parts that a failing disk has damaged, so that they are made again."""
    for uri in part_uris(run):
        try:
            parquet.read(uri)
        except parquet.DamagedFileError:
            storage.delete(uri)


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
        codes = iter(codes_of_clips(self._model, wavs))
        outcomes = [next(codes) if isinstance(stretch, Taken) else stretch for stretch in taken]
        differences = {
            id: stretch.difference
            for id, stretch in zip(chunk.ids, taken, strict=True)
            if isinstance(stretch, Taken) and stretch.difference
        }
        table = _style_table(chunk, outcomes, [s if isinstance(s, Taken) else None for s in taken])
        return table.replace_schema_metadata({MODEL: self._model.fingerprint, **to_metadata(differences)})

    def _check_length(self, taken: Taken) -> Taken | AudioError:
        if len(taken.wav) >= self._model.min_samples:
            return taken
        if taken.difference and taken.difference.lost_s:
            return AudioError(taken.difference.reason, taken.difference.detail)
        return AudioError("too_short", f"{len(taken.wav)} samples give no code of style")


def codes_of_clips(model: StyleModel, wavs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
    """The codes [P] of clips [S] at 16 kHz."""
    clips = as_tensors(wavs)
    if not clips:
        return []
    padded = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    found = model.codes(padded, torch.tensor([len(clip) for clip in clips]))
    return [codes.numpy().astype(np.uint16) for codes in found]


def _all_dropped(chunk: Chunk, error: AudioError) -> pa.Table:
    return _style_table(chunk, [error] * len(chunk.ids), [None] * len(chunk.ids))


def _style_table(
    chunk: Chunk, outcomes: Sequence[NDArray[np.uint16] | AudioError], taken: Sequence[Taken | None]
) -> pa.Table:
    errors = [outcome if isinstance(outcome, AudioError) else None for outcome in outcomes]
    return pa.table(
        {
            "segment_id": chunk.ids,
            "recording_id": [id.rpartition("#")[0] for id in chunk.ids],
            "start_s": [(stretch or span).start_s for stretch, span in zip(taken, chunk.spans, strict=True)],
            "end_s": [(stretch or span).end_s for stretch, span in zip(taken, chunk.spans, strict=True)],
            "style": [None if isinstance(outcome, AudioError) else outcome for outcome in outcomes],
            "drop_reason": [error and error.reason for error in errors],
            "drop_detail": [error and error.detail for error in errors],
        },
        schema=STYLE_SCHEMA,
    )


def _account(stage: Stage, num_planned: int, model: StyleModel, work: dict[str, Any]) -> None:
    dropped: list[Dropped] = []
    kept, total = Tally(), Tally()
    counts = np.zeros(model.num_codes, np.int64)
    lengths = LengthDifferences()
    digests = []
    for table in read_parts(stage.run):
        made_with = (table.schema.metadata or {}).get(MODEL.encode(), model.fingerprint.encode()).decode()
        if made_with != model.fingerprint:
            first = table["segment_id"][0]
            raise TwistError(f"the part of {stage.uri} with {first} was made with another model; delete that part")
        digests.append(digest_of_part(table))
        durations = pc.subtract(table["end_s"], table["start_s"])
        is_kept = pc.is_null(table["drop_reason"])
        total += Tally(len(table), pc.sum(durations).as_py() / 3600)
        kept_durations = durations.filter(is_kept)
        kept += Tally(len(kept_durations), (pc.sum(kept_durations).as_py() or 0.0) / 3600)
        counts += np.bincount(pc.list_flatten(table["style"]).to_numpy(), minlength=model.num_codes)
        for row in table.filter(pc.invert(is_kept)).drop_columns(["style"]).to_pylist():
            corpus = row["recording_id"].partition("/")[0]
            duration_s = row["end_s"] - row["start_s"]
            dropped.append(Dropped(row["segment_id"], corpus, row["drop_reason"], row["drop_detail"], duration_s))
        for id, difference in differences_of(table).items():
            parts_of_it = difference.drops(id, id.partition("/")[0])
            dropped += parts_of_it
            total += Tally(0, sum(drop.duration_s for drop in parts_of_it) / 3600)
            missing_s = difference.lost_s if difference.reason == "truncated" else 0.0
            lengths.add(difference.found_s + difference.unread_s, missing_s)
    if total.items != num_planned:
        raise TwistError(
            f"{stage.uri} holds {total.items} segments where the plan has {num_planned}: a part is missing or does "
            f"not belong here; run the command again, and `twist inspect --verify` if that does not help"
        )
    if not kept.items:
        examples = "; ".join(f"{drop.id}: {drop.reason} ({drop.detail})" for drop in dropped[:3])
        raise TwistError(f"none of {total.items} segments got codes of style: {examples}")
    stage.finish(
        StageCounts.of(total, kept, dropped),
        dropped,
        digest(model.fingerprint, *digests),
        style_model={"fingerprint": model.fingerprint, "rate_hz": model.rate_hz, "num_codes": model.num_codes},
        code_counts=counts.tolist(),
        lengths=lengths.as_facts(),
        work=work,
    )
