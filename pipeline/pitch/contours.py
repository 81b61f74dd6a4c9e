"""The pitch contours of a run's segments, to train a pitch tokenizer on; validation has speakers of its own.

RUN/manifest/, RUN/segments/ -> contours of train and validation
FOLDER/contours-<digest>/part-<chunk>.npz    the same, kept: a resumed training need not find them again

Under torchrun each process finds its share of the chunks, and reads what the others found.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.pitch.contour import Contour, extract, method_of
from model.pitch.contours import Contours
from model.training.step_batches import iterate
from pipeline.audio.places import read_patiently
from pipeline.audio.read import AudioError, read_spans
from pipeline.corpora.manifest import iterate_tables
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.runs import MANIFEST, SEGMENTS
from pipeline.stage import fingerprint_of
from pipeline.units.codebook_fit import draw_segments
from pipeline.work.plan import WorkPlan
from pipeline.work.shares import make_missing, rank_and_world_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from model.pitch.model_config import Extractor
    from model.pitch.train_config import PitchTrainConfig
    from pipeline.progress import ReportProgress

SPLITS = ("train", "validation")
NUM_WITNESSES = 5


def read_contours(
    run: str, config: PitchTrainConfig, folder: str, report: ReportProgress
) -> tuple[Contours, Contours, int]:
    """Finds the pitch of a run's segments, or of `max_hours` of them drawn at random.

    Args:
        run: Folder of a run whose segments are finished.
        config: How much to read, what share of speakers to keep for validation, and the extractor.
        folder: Where the contours are kept, which all processes can access.
        report: Called as they are found.

    Returns:
        Those to train on, those of held-out speakers, and how many segments could not be read.

    Raises:
        TwistError: the run has no segments, or all are of one recording, or none can be read.
        ConnectionError: the place of the audio fails, and goes on failing; nothing is kept of the chunk.
    """
    settings = {
        "segments": fingerprint_of(run, SEGMENTS),
        "manifest": fingerprint_of(run, MANIFEST),
        "extractor": method_of(config.model.extractor),
        "max_hours": config.max_hours,
        "seed": config.seed,
        "validation_share": config.validation_share,
    }
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    segments = draw_segments(run, config.max_hours, config.seed)
    is_held_out = _is_held_out(_groups(run, segments), config.validation_share)
    plan = WorkPlan.of(segments, "segment_id")
    parts = storage.join(folder, f"contours-{fingerprint[:16]}")
    _find(plan, parts, config, report, *rank_and_world_size())
    found = [contour for name in plan.names for contour in _read(_part_uri(parts, name))]
    splits = []
    for name, is_in in zip(SPLITS, (~is_held_out, is_held_out), strict=True):
        contours = [found[number] for number in np.flatnonzero(is_in)]
        kept = [contour for contour in contours if contour is not None]
        if not kept:
            raise TwistError(f"none of the segments of {run} for {name} can be read")
        splits.append(Contours.of(kept, f"{fingerprint}/{name}"))
    return splits[0], splits[1], sum(contour is None for contour in found)


def _find(
    plan: WorkPlan, parts: str, config: PitchTrainConfig, report: ReportProgress, rank: int, world_size: int
) -> None:
    """Finds this process's share of the chunks that are not kept yet, and waits for that of the others."""

    def make(numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        extracting = _Extracting(plan, numbers, config.model.extractor)
        for number, contours in iterate(extracting, 0, len(numbers), config.num_workers):
            yield number, _to_bytes(contours)

    def told(done: int, total: int) -> None:
        report(done, total, "chunks", f"F0 by {config.model.extractor}")

    make_missing([_part_uri(parts, name) for name in plan.names], make, told, rank, world_size)


def _part_uri(parts: str, chunk: str) -> str:
    return storage.join(parts, f"part-{chunk}.npz")


def _to_bytes(contours: Sequence[Contour | None]) -> bytes:
    file = io.BytesIO()
    read = [contour for contour in contours if contour is not None]
    np.savez_compressed(
        file,
        f0=np.concatenate([np.zeros(0, np.float32), *(one.f0 for one in read)]),
        is_voiced=np.concatenate([np.zeros(0, np.bool_), *(one.is_voiced for one in read)]),
        # -1: cannot be read
        num_frames=np.array([-1 if contour is None else len(contour) for contour in contours], np.int64),
    )
    return file.getvalue()


def _read(uri: str) -> list[Contour | None]:
    try:
        with np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False) as file:
            f0, is_voiced, num_frames = file["f0"], file["is_voiced"], file["num_frames"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise TwistError(f"{uri} is damaged ({error}); delete it, and it is made again") from error
    ends = np.cumsum(np.maximum(num_frames, 0))
    return [
        Contour(f0[end - length : end], is_voiced[end - length : end]) if length >= 0 else None
        for end, length in zip(ends, num_frames, strict=True)
    ]


class _Extracting:
    """Indexed by place among `numbers`: the number of a chunk, and its contours; None where audio cannot be read."""

    def __init__(self, plan: WorkPlan, numbers: Sequence[int], extractor: Extractor) -> None:
        self._plan = plan
        self._numbers = numbers
        self._extractor = extractor

    def __getitem__(self, index: int) -> tuple[int, list[Contour | None]]:
        number = self._numbers[index]
        spans = self._plan[number].spans
        wavs = read_patiently(lambda some: list(read_spans(some)), spans, lambda span: span.uri, self._witnesses)
        return number, [None if isinstance(wav, AudioError) else extract(wav, self._extractor) for wav in wavs]

    def _witnesses(self) -> list[str]:
        """Other audio of the draw, which tells a failing place from a failing file."""
        return [self._plan[number].spans[0].uri for number in range(min(len(self._plan), NUM_WITNESSES))]


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
