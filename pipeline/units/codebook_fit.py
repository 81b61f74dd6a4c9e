"""The codebook stage: draws frames evenly over the hours of a run's segments and fits the codebook to them.

    RUN/segments/ -> RUN/codebook/frames/part-<work_unit>.parquet    the drawn frames
                  -> RUN/codebook/codebook.{safetensors,json}        the centroids fitted to them

Which segments are encoded and which of their frames are drawn depends on the seed and the segments' ids alone.

If `codebook.path` names an existing codebook, nothing is drawn: it becomes the run's, for the run's encoder. Only a
folder of ours records the encoder it was fitted on, which must then be the run's.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from model.artefacts import is_name, resolve
from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from pipeline.audio.read import AudioError, Clip, whole_wavs
from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.records import Dropped
from pipeline.runs import CODEBOOK, SEGMENTS, parts_uri
from pipeline.segments.segment import open_segments
from pipeline.stage import Stage, StageCounts, Tally, fingerprint_of, read_facts
from pipeline.units import codebook, codebook_import, kmeans
from pipeline.units.config import CodebookConfig
from pipeline.units.encode import as_tensors, describe_encoder, encoder_settings
from pipeline.work import dataflow
from pipeline.work.plan import WorkPlan, name_chunks
from pipeline.work.retry import take_back_dropped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk


def fit_codebook(
    run: str,
    config: CodebookConfig,
    encoder: EncoderConfig,
    cluster: ClusterConfig,
    report: ReportProgress,
    *,
    retry_dropped: bool = False,
) -> None:
    """Draws frames, fits the codebook and writes it, or copies the one that `config.path` names.

    `retry_dropped`: draw again from what could not be read for reasons that may have passed, and fit anew.

    Raises:
        TwistError: no segment could be read, or they hold too few frames for `config.num_units`; the codebook at
            `config.path` cannot be read, or does not fit the encoder or `config.num_units`.
    """
    if config.path is not None:
        _import_codebook(run, config, encoder)
        return
    settings = {**asdict(config), "encoder": encoder_settings(encoder)}
    stage = Stage(run, CODEBOOK, settings, {SEGMENTS: fingerprint_of(run, SEGMENTS)})
    with stage.begin(functools.partial(take_back_dropped, stage) if retry_dropped else None) as has_work:
        if not has_work:
            return
        segments = draw_segments(run, config.max_hours, config.seed)
        durations = pc.subtract(segments["end_s"], segments["start_s"]).to_numpy()
        frame_rate_hz = float(describe_encoder(encoder)["frame_rate_hz"])
        # Each frame is drawn independently, which gives about max_frames without counting all frames first.
        share = min(1.0, config.max_frames / (durations.sum() * frame_rate_hz))
        parts = parts_uri(run, CODEBOOK)
        plan = WorkPlan.of(segments, "segment_id")
        arguments = {"encoder": encoder, "share": share, "seed": config.seed}
        dataflow.run_chunks(plan, parts, DrawFrames, arguments, _none_drawn, cluster, report)
        _fit_and_write(stage, segments, plan.names, config, encoder, durations)


def _import_codebook(run: str, config: CodebookConfig, encoder_config: EncoderConfig) -> None:
    assert config.path is not None
    imported = codebook_import.read(resolve(config.path), config.path)
    settings = {
        "num_units": config.num_units,
        "path": config.path if is_name(config.path) else None,  # a path may change; the checksum tells what was there
        "sha256": imported.sha256,
        "encoder": encoder_settings(encoder_config),
    }
    stage = Stage(run, CODEBOOK, settings, {})
    with stage.begin() as has_work:
        if not has_work:
            return
        encoder = describe_encoder(encoder_config)
        codebook_import.check(imported, config.num_units, encoder)
        facts = codebook_import.facts_of(imported, encoder)
        taken = codebook.of_weights(imported.weights, facts)
        codebook.write(stage.uri, taken)
        nothing_read = StageCounts.of(Tally(), Tally(), [])
        stage.finish(nothing_read, [], taken.fingerprint, imported_from=imported.source)


def draw_segments(run: str, max_hours: float, seed: int) -> pa.Table:
    """At most `max_hours` of segments, the first by a hash of seed and id, planned into new chunks."""
    with open_segments(run) as tables:
        hashes = [[_hash(seed, id) for id in table["segment_id"].to_pylist()] for table in tables]
        durations = [pc.subtract(table["end_s"], table["start_s"]).to_numpy() for table in tables]
        order = np.argsort(np.concatenate([np.array(of_table, np.uint64) for of_table in hashes]), kind="stable")
        hours = np.concatenate(durations)[order].cumsum() / 3600
        count = max(1, int(np.searchsorted(hours, max_hours, side="right")))
        is_drawn = np.zeros(len(order), np.bool_)
        is_drawn[order[:count]] = True
        by_table = np.split(is_drawn, np.cumsum([len(of_table) for of_table in hashes])[:-1])
        drawn = pa.concat_tables(table.filter(chosen) for table, chosen in zip(tables, by_table, strict=True))
    corpora = [id.partition("/")[0] for id in drawn["recording_id"].to_pylist()]
    seconds = pc.subtract(drawn["end_s"], drawn["start_s"]).to_pylist()
    # In a large run few segments of each planned chunk are drawn, perhaps one, so new chunks are formed.
    names = name_chunks(corpora, seconds, 60 * read_facts(run, SEGMENTS)["config"]["work_unit_minutes"])
    return drawn.set_column(drawn.schema.get_field_index("work_unit"), "work_unit", [names]).combine_chunks()


def _hash(seed: int, id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{id}".encode(), digest_size=8).digest(), "little")


class DrawFrames:
    """Encodes the segments of a chunk and keeps a share of their frames."""

    def __init__(self, encoder: EncoderConfig, share: float, seed: int) -> None:
        torch.set_num_threads(1)
        self._encoder = load_encoder(encoder)
        self._share = share
        self._seed = seed

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        wavs = [self._check_length(wav) for wav in whole_wavs(clips)]
        features = iter(self._encoder.encode(as_tensors([wav for wav in wavs if not isinstance(wav, AudioError)])))
        drawn = [
            wav if isinstance(wav, AudioError) else self._draw(id, next(features))
            for id, wav in zip(chunk.ids, wavs, strict=True)
        ]
        return _frames_table(chunk, drawn)

    def _check_length(self, wav: NDArray[np.float32] | AudioError) -> NDArray[np.float32] | AudioError:
        if isinstance(wav, AudioError) or len(wav) >= self._encoder.min_samples:
            return wav
        return AudioError("too_short", f"{len(wav)} samples give no frame")

    def _draw(self, id: str, features: Tensor) -> NDArray[np.float32]:
        generator = np.random.default_rng(_hash(self._seed, id))
        frames: NDArray[np.float32] = features.cpu().numpy()
        return frames[generator.random(len(frames)) < self._share]


def _none_drawn(chunk: Chunk, error: AudioError) -> pa.Table:
    return _frames_table(chunk, [error] * len(chunk.ids))


def _frames_table(chunk: Chunk, drawn: Sequence[NDArray[np.float32] | AudioError]) -> pa.Table:
    errors = [outcome if isinstance(outcome, AudioError) else None for outcome in drawn]
    num_frames = [0 if isinstance(outcome, AudioError) else len(outcome) for outcome in drawn]
    return pa.table(
        {
            "segment_id": pa.array(chunk.ids, pa.string()),
            "num_frames": pa.array(num_frames, pa.int32()),
            "frames": pa.array([None if isinstance(o, AudioError) else o.tobytes() for o in drawn], pa.binary()),
            "drop_reason": pa.array([error and error.reason for error in errors], pa.string()),
            "drop_detail": pa.array([error and error.detail for error in errors], pa.string()),
        }
    )


def _fit_and_write(
    stage: Stage,
    segments: pa.Table,
    names: Sequence[str],
    config: CodebookConfig,
    encoder_config: EncoderConfig,
    durations: NDArray[np.float64],
) -> None:
    parts = parts_uri(stage.run, CODEBOOK)
    columns = ["segment_id", "num_frames", "drop_reason", "drop_detail"]
    outcomes = pa.concat_tables(parquet.read_many([dataflow.part_uri(parts, name) for name in names], columns))
    rows = outcomes.to_pylist()
    corpora = [id.partition("/")[0] for id in segments["recording_id"].to_pylist()]
    dropped = [
        Dropped(row["segment_id"], corpus, row["drop_reason"], row["drop_detail"], float(duration_s))
        for row, corpus, duration_s in zip(rows, corpora, durations, strict=True)
        if row["drop_reason"] is not None
    ]
    if len(dropped) == len(rows):
        examples = "; ".join(f"{drop.id}: {drop.reason} ({drop.detail})" for drop in dropped[:3])
        raise TwistError(f"none of the {len(rows)} segments drawn for the codebook could be read: {examples}")
    encoder = describe_encoder(encoder_config)
    num_frames = int(outcomes["num_frames"].to_numpy().sum())
    frames = _read_frames(parts, names, num_frames, encoder["feature_dim"], config.seed)
    centroids, report = kmeans.fit(frames, config.num_units, config.seed, config.num_iterations)
    facts = codebook.facts_of(encoder, config.seed, config.num_iterations, report)
    fitted = codebook.save(stage.uri, centroids, facts)
    total = Tally(len(rows), float(durations.sum()) / 3600)
    lost = Tally(len(dropped), sum(drop.duration_s for drop in dropped) / 3600)
    kept = Tally(total.items - lost.items, total.hours - lost.hours)
    stage.finish(StageCounts.of(total, kept, dropped), dropped, fitted.fingerprint, **asdict(report))


def _read_frames(parts: str, names: Sequence[str], num_frames: int, feature_dim: int, seed: int) -> NDArray[np.float32]:
    """The drawn frames [N, D] in random order; memory holds them once, plus one part."""
    shuffled_rows = np.random.default_rng(seed).permutation(num_frames)
    frames = np.empty((num_frames, feature_dim), np.float32)
    first = 0
    for name in names:
        for content in parquet.read(dataflow.part_uri(parts, name), ["frames"])["frames"]:
            if content.is_valid:
                of_segment = np.frombuffer(content.as_buffer(), np.float32).reshape(-1, feature_dim)
                frames[shuffled_rows[first : first + len(of_segment)]] = of_segment
                first += len(of_segment)
    assert first == num_frames, f"{first} frames of {num_frames}"
    return frames
