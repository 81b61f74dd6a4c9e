"""The pitch contours of a run's segments, to train a pitch tokenizer on; validation has speakers of its own.

RUN/manifest/, RUN/segments/ -> contours of train and validation
FOLDER/contours-<digest>.npz    the same, kept: a resumed training need not find them again
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.pitch.contour import Contour, extract
from model.pitch.contours import Contours
from model.training.step_batches import draw_order, iterate
from pipeline.audio.read import AudioError, Span, read_spans
from pipeline.corpora.manifest import iterate_tables
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.runs import MANIFEST, SEGMENTS
from pipeline.segments.segment import read_segments
from pipeline.stage import fingerprint_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.pitch.model_config import Extractor
    from model.pitch.train_config import PitchTrainConfig
    from pipeline.progress import ReportProgress

SPLITS = ("train", "validation")


def read_contours(
    run: str, config: PitchTrainConfig, folder: str, report: ReportProgress
) -> tuple[Contours, Contours, int]:
    """Finds the pitch of a run's segments, or of `max_hours` of them drawn at random.

    Args:
        run: Folder of a run whose segments are finished.
        config: How much to read, what share of speakers to keep for validation, and the extractor.
        folder: Where the contours are kept.
        report: Called as they are found.

    Returns:
        Those to train on, those of held-out speakers, and how many segments could not be read.

    Raises:
        TwistError: the run has no segments, or all are of one recording, or none can be read.
    """
    settings = {
        "segments": fingerprint_of(run, SEGMENTS),
        "manifest": fingerprint_of(run, MANIFEST),
        "extractor": config.model.extractor,
        "max_hours": config.max_hours,
        "seed": config.seed,
        "validation_share": config.validation_share,
    }
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    uri = storage.join(folder, f"contours-{fingerprint[:16]}.npz")
    if storage.exists(uri):
        return _read(uri, fingerprint)
    segments = _drawn(read_segments(run), config)
    is_held_out = _is_held_out(_groups(run, segments), config.validation_share)
    found: list[Contour | None] = []
    extracting = _Extracting(segments, config.model.extractor)
    for contour in iterate(extracting, 0, len(segments), config.num_workers):
        found.append(contour)
        if len(found) % 50 == 0 or len(found) == len(segments):
            report(len(found), len(segments), "segments", f"F0 by {config.model.extractor}")
    splits = []
    for name, is_in in zip(SPLITS, (~is_held_out, is_held_out), strict=True):
        contours = [found[number] for number in np.flatnonzero(is_in)]
        kept = [contour for contour in contours if contour is not None]
        if not kept:
            raise TwistError(f"none of the segments of {run} for {name} can be read")
        splits.append(Contours.of(kept, f"{fingerprint}/{name}"))
    num_unread = sum(contour is None for contour in found)
    file = io.BytesIO()
    arrays: dict[str, Any] = {
        f"{name}_{part}": getattr(contours, part)
        for name, contours in zip(SPLITS, splits, strict=True)
        for part in ("f0", "is_voiced", "offsets")
    }
    np.savez_compressed(file, num_unread=num_unread, **arrays)
    storage.put_if_absent(uri, file.getvalue())
    return splits[0], splits[1], num_unread


def _read(uri: str, fingerprint: str) -> tuple[Contours, Contours, int]:
    try:
        with np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False) as file:
            train, validation = (
                Contours(
                    file[f"{name}_f0"], file[f"{name}_is_voiced"], file[f"{name}_offsets"], f"{fingerprint}/{name}"
                )
                for name in SPLITS
            )
            return train, validation, int(file["num_unread"])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise TwistError(f"{uri} is damaged ({error}); delete it, and it is made again") from error


class _Extracting:
    """Indexed by segment, its contour; None if its audio cannot be read."""

    def __init__(self, segments: pa.Table, extractor: Extractor) -> None:
        self._segments = segments
        self._extractor = extractor

    def __getitem__(self, index: int) -> Contour | None:
        row = self._segments.slice(index, 1).to_pylist()[0]
        (wav,) = read_spans([Span(row["uri"], row["channel"], row["start_s"], row["end_s"])])
        return None if isinstance(wav, AudioError) else extract(wav, self._extractor)


def _drawn(segments: pa.Table, config: PitchTrainConfig) -> pa.Table:
    """All segments, or `max_hours` of them at random, in their order."""
    seconds = pc.subtract(segments["end_s"], segments["start_s"]).to_numpy()
    if seconds.sum() <= config.max_hours * 3600:
        return segments
    order = draw_order([config.seed, 2], len(segments))
    num_taken = max(2, int(np.searchsorted(np.cumsum(seconds[order]), config.max_hours * 3600)))
    return segments.take(np.sort(order[:num_taken]))


def _groups(run: str, segments: pa.Table) -> list[str]:
    """The speaker of each segment; its recording, where fewer than two speakers are known."""
    recordings: list[str] = segments["recording_id"].to_pylist()
    wanted = pa.array(sorted(set(recordings)))
    speaker_of: dict[str, str] = {}
    for table in iterate_tables(run, ["recording_id", "speaker"]):
        for row in table.filter(pc.is_in(table["recording_id"], wanted)).to_pylist():
            if row["speaker"] is not None:
                speaker_of[row["recording_id"]] = row["speaker"]
    if len(set(speaker_of.values())) < 2:
        return recordings
    return [speaker_of.get(id, id) for id in recordings]


def _is_held_out(groups: list[str], share: float) -> NDArray[np.bool_]:
    """Whether each segment is of a group kept for validation: the first by a hash, one at least."""
    by_hash = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    if len(by_hash) < 2:
        raise TwistError("train_pitch: all segments are of one recording, which leaves none for validation")
    held_out = set(by_hash[: min(len(by_hash) - 1, math.ceil(share * len(by_hash)))])
    return np.array([group in held_out for group in groups])
