"""Frames of a run's segments, and of changed copies of them, to train a classifier of languages on.

    RUN/manifest/, RUN/segments/ -> frames of train and validation
    FOLDER/frames-<digest>/0-00000.safetensors ...    the same, kept, by view: a stopped training need not make them
                                                      again

Under torchrun each process makes its share of the files, and reads what the others made.

Of segments that are held out (train_segments.py) only the first view, as it is, is used.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy
import torch

from model.encoder.encoder import load_encoder
from model.language_id.augment import LONGEST_VIEW, augment
from model.language_id.frames import LanguageFrames
from model.language_id.pooled_folder import encoder_config
from pipeline.audio.places import read_patiently
from pipeline.audio.read import AudioError, Span, read_spans
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.language.train_segments import TrainSegment, choose_segments, require_both_sides
from pipeline.runs import MANIFEST, SEGMENTS
from pipeline.stage import fingerprint_of
from pipeline.work.memory import GIB, memory_bytes
from pipeline.work.shares import make_missing, num_local_processes, rank_and_world_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from model.encoder.encoder import Encoder
    from model.language_id.train_config import LanguageTrainConfig
    from pipeline.progress import ReportProgress

# Raise it when the same settings start to give other frames.
EDITION = 1
NUM_WITNESSES = 8
SEGMENTS_PER_FILE = 100
# Of a machine's memory, what frames may take.
MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class FramesAccount:
    """What became of a run's segments.

    Attributes:
        num_used: Those whose frames are used.
        num_without_language: Those whose corpus states no language.
        num_beyond: Those that are too short, or beyond the limit of a speaker or a language.
        num_unread: Those that cannot be read.
    """

    num_used: int
    num_without_language: int
    num_beyond: int
    num_unread: int


def read_language_frames(
    run: str, config: LanguageTrainConfig, folder: str, report: ReportProgress
) -> tuple[LanguageFrames, LanguageFrames, FramesAccount]:
    """Makes the frames of a run's segments, or reads those that are kept.

    Args:
        run: Folder of a run whose segments are finished.
        config: Which segments, views and layer; who is held out.
        folder: Where frames are kept, local or s3://.
        report: Called as they are made.

    Returns:
        Those to train on, those held out, and what became of the segments.

    Raises:
        TwistError: the run has no segments, none states a language, or none of a side can be read.
    """
    encoder = load_encoder(encoder_config(config.encoder, config.layer, config.device))
    settings = {
        "edition": EDITION,
        "segments": fingerprint_of(run, SEGMENTS),
        "manifest": fingerprint_of(run, MANIFEST),
        "encoder": encoder.fingerprint,
        "max_minutes_per_speaker": config.max_minutes_per_speaker,
        "min_segment_s": config.min_segment_s,
        "validation_share": config.validation_share,
        "seed": config.seed,
        "views": config.views,
        "views_of": config.views_of,
    }
    chosen = choose_segments(run, config)
    segments = chosen.segments
    if chosen.is_bounded:  # else the limit changes nothing
        settings["max_hours_per_language"] = config.max_hours_per_language
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    if unknown := config.views_of.keys() - {segment.corpus for segment in segments}:
        raise TwistError(f"train_language.views_of names {sorted(unknown)[0]!r}, of which there are no segments")
    require_both_sides(segments, config)
    frame_rate_hz = encoder.sample_rate_hz / encoder.hop_samples
    sides = [_Side(segments, config, frame_rate_hz, encoder.feature_dim, is_held_out) for is_held_out in (False, True)]
    _require_memory(sides, config)
    kept_in = storage.join(folder, f"frames-{fingerprint[:16]}")
    numbered = list(enumerate(segments))
    batches = [numbered[first : first + SEGMENTS_PER_FILE] for first in range(0, len(numbered), SEGMENTS_PER_FILE)]
    # Other audio, which tells a failing place from a failing file.
    witnesses = [segments[place].uri for place in range(0, len(segments), -(-len(segments) // NUM_WITNESSES))]
    parts = list(itertools.product(range(max(config.views, *config.views_of.values(), 1)), range(len(batches))))
    files = [storage.join(kept_in, f"{view}-{number:05d}.safetensors") for view, number in parts]

    def make(places: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for place in places:
            view, number = parts[place]
            yield place, safetensors.numpy.save(_made(batches[number], view, encoder, config, witnesses))

    def told(done: int, total: int) -> None:
        report(done, total, "parts", f"of frames of {len(segments):,} segments")

    make_missing(files, make, told, *rank_and_world_size())
    unread: set[int] = set()
    for uri in files:
        tensors = _read(uri)
        lengths, of_segment, frames = tensors["num_frames"], tensors["segments"], tensors["frames"]
        starts = np.cumsum([0, *lengths])
        for start, length, segment in zip(starts[:-1], lengths, of_segment, strict=True):
            if length:
                sides[segments[segment].is_held_out].add(int(segment), frames[start : start + length])
            else:
                unread.add(int(segment))
    train, validation = (
        side.frames(f"{fingerprint}/{name}") for side, name in zip(sides, ("train", "validation"), strict=True)
    )
    used = len(segments) - len(unread)
    return train, validation, FramesAccount(used, chosen.num_without_language, chosen.num_beyond, len(unread))


class _Side:
    """Gathers the frames of what is trained on, or of what is held out, in memory that is reserved once.

    Args:
        segments: All segments.
        config: How many views there are of each.
        frame_rate_hz: Frames a second.
        feature_dim: Width of a frame.
        is_held_out: Whose frames.
    """

    def __init__(
        self,
        segments: Sequence[TrainSegment],
        config: LanguageTrainConfig,
        frame_rate_hz: float,
        feature_dim: int,
        is_held_out: bool,
    ) -> None:
        self._segments, self._frame_rate_hz, self._feature_dim = segments, frame_rate_hz, feature_dim
        own = [one for one in segments if one.is_held_out == is_held_out]
        lengths = [(one.end_s - one.start_s) * frame_rate_hz for one in own]
        num_views = [_num_views(one, config) for one in own]
        self._num_expected = math.ceil(sum(map(operator.mul, lengths, num_views)))
        self._num_most = sum(
            math.ceil(length * (1 if view == 0 else LONGEST_VIEW)) + 2
            for length, of_segment in zip(lengths, num_views, strict=True)
            for view in range(of_segment)
        )
        self._offsets = [0]
        self._numbers: list[int] = []

    @property
    def num_bytes(self) -> int:
        """Memory that all frames take, by and large, if every segment can be read."""
        return int(self._num_expected * self._feature_dim * np.dtype(np.float16).itemsize)

    @functools.cached_property
    def _frames(self) -> NDArray[np.float16]:
        # Pages that are never written take no memory.
        return np.empty((self._num_most, self._feature_dim), np.float16)

    def add(self, segment: int, frames: NDArray[np.float16]) -> None:
        """Adds the frames [F, D] of a view of a segment."""
        start = self._offsets[-1]
        assert start + len(frames) <= self._num_most, f"{self._num_most} frames were expected at most"
        self._frames[start : start + len(frames)] = frames
        self._offsets.append(start + len(frames))
        self._numbers.append(segment)

    def frames(self, fingerprint: str) -> LanguageFrames:
        """All that was added.

        Raises:
            TwistError: nothing was.
        """
        if not self._numbers:
            name = fingerprint.rpartition("/")[2]
            raise TwistError(f"train_language: none of the segments for {name} can be read")
        of_clip = [self._segments[number] for number in self._numbers]
        return LanguageFrames(
            self._frames[: self._offsets[-1]],
            np.array(self._offsets),
            [one.language for one in of_clip],
            [one.corpus for one in of_clip],
            [one.speaker for one in of_clip],
            self._frame_rate_hz,
            fingerprint,
        )


def _require_memory(sides: Sequence[_Side], config: LanguageTrainConfig) -> None:
    """Refuses more frames than the machine has room for, before hours are spent on them.

    Raises:
        TwistError: it has too little memory, or its processes together.
    """
    num_processes = num_local_processes()
    needed_gib = num_processes * sum(side.num_bytes for side in sides) / GIB
    most_gib = MEMORY_SHARE * memory_bytes() / GIB
    if needed_gib > most_gib:
        raise TwistError(
            f"train_language: frames take {needed_gib:,.1f} GiB of memory in {num_processes} process(es), and may take "
            f"{most_gib:,.1f} GiB here; lower max_hours_per_language (now {config.max_hours_per_language:g}), "
            f"max_minutes_per_speaker or views"
        )


def trained_on(clips: LanguageFrames, config: LanguageTrainConfig) -> str:
    """Hours and speakers by corpus and side, in words; of a segment only its first view counts."""
    told = []
    for corpus in dict.fromkeys(clips.corpora):
        for is_wanted, side in ((True, config.wanted), (False, "other languages")):
            of_side = [
                index
                for index, (name, language) in enumerate(zip(clips.corpora, clips.languages, strict=True))
                if name == corpus and (language == config.wanted) == is_wanted
            ]
            if of_side:
                frames = sum(int(clips.offsets[index + 1] - clips.offsets[index]) for index in of_side)
                hours = frames / clips.frame_rate_hz / 3600 / config.views_of.get(corpus, config.views)
                speakers = len({clips.speakers[index] for index in of_side})
                told.append(f"{hours:.1f} h of {side} by {speakers} speakers of {corpus}")
    return ", ".join(told)


def _made(
    batch: Sequence[tuple[int, TrainSegment]],
    view: int,
    encoder: Encoder,
    config: LanguageTrainConfig,
    witnesses: Sequence[str],
) -> dict[str, NDArray[np.generic]]:
    """The frames of one view of some segments, one behind the other: none of what cannot be read, or is held out."""
    batch = [one for one in batch if view < _num_views(one[1], config)]
    spans = [Span(one.uri, one.channel, one.start_s, one.end_s) for _, one in batch]
    frames: list[NDArray[np.float16]] = []
    of_segment: list[int] = []
    wavs = read_patiently(lambda some: list(read_spans(some)), spans, lambda span: span.uri, lambda: witnesses)
    for (number, _), wav in zip(batch, wavs, strict=True):
        of_segment.append(number)
        if isinstance(wav, AudioError) or len(wav) < encoder.min_samples:
            frames.append(np.zeros((0, encoder.feature_dim), np.float16))
            continue
        changed = wav if view == 0 else augment(wav, np.random.default_rng([config.seed, number, view]))
        (found,) = encoder.encode([torch.from_numpy(np.ascontiguousarray(changed, np.float32))])
        frames.append(found.cpu().numpy().astype(np.float16))
    return {
        "frames": np.concatenate([np.zeros((0, encoder.feature_dim), np.float16), *frames]),
        "num_frames": np.array([len(one) for one in frames], np.int64),
        "segments": np.array(of_segment, np.int64),
    }


def _num_views(segment: TrainSegment, config: LanguageTrainConfig) -> int:
    return 1 if segment.is_held_out else config.views_of.get(segment.corpus, config.views)


def _read(uri: str) -> dict[str, NDArray[np.generic]]:
    try:
        tensors: dict[str, NDArray[np.generic]] = safetensors.numpy.load(storage.read_bytes(uri))
    except safetensors.SafetensorError as error:
        raise TwistError(f"{uri} is damaged ({error}); delete it, and it is made again") from error
    return tensors
