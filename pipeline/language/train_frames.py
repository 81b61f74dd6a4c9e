"""Frames of a run's segments, and of changed copies of them, to train a classifier of languages on.

    RUN/manifest/, RUN/segments/ -> frames of train and validation
    FOLDER/frames-<digest>/0-00000.safetensors ...    the same, kept, by view: a stopped training need not make them
                                                      again

Under torchrun each process makes its share of the files, and reads what the others made.

A segment has the language that its corpus states. Those in a corpus' splits validation and test, and those of some
speakers beside, are held out; of these only the first view, as it is, is used.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors
import safetensors.numpy
import torch

from model.encoder.encoder import load_encoder
from model.language_id.augment import augment
from model.language_id.frames import LanguageFrames
from model.language_id.pooled_folder import encoder_config
from model.training.step_batches import draw_order
from pipeline.audio.places import read_patiently
from pipeline.audio.read import AudioError, Span, read_spans
from pipeline.corpora.manifest import iterate_tables
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.languages import normalize_code
from pipeline.runs import MANIFEST, SEGMENTS
from pipeline.segments.segment import read_segments
from pipeline.stage import fingerprint_of
from pipeline.work.shares import make_missing, rank_and_world_size

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
HELD_OUT_SPLITS = ("validation", "test")
COLUMNS = ["recording_id", "corpus", "language", "speaker", "split"]


@dataclass(frozen=True)
class _Segment:
    uri: str
    channel: int | None
    start_s: float
    end_s: float
    language: str
    corpus: str
    speaker: str
    is_held_out: bool


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
        "max_hours_per_language": config.max_hours_per_language,
        "min_segment_s": config.min_segment_s,
        "validation_share": config.validation_share,
        "seed": config.seed,
        "views": config.views,
        "views_of": config.views_of,
    }
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    segments, num_without_language, num_beyond = _segments(run, config)
    if unknown := config.views_of.keys() - {segment.corpus for segment in segments}:
        raise TwistError(f"train_language.views_of names {sorted(unknown)[0]!r}, of which there are no segments")
    _require_both_sides(segments, config)
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
    clips: list[list[tuple[int, NDArray[np.float16]]]] = [[], []]
    for uri in files:
        tensors = _read(uri)
        lengths, of_segment, frames = tensors["num_frames"], tensors["segments"], tensors["frames"]
        starts = np.cumsum([0, *lengths])
        for start, length, segment in zip(starts[:-1], lengths, of_segment, strict=True):
            if length:
                clips[segments[segment].is_held_out].append((int(segment), frames[start : start + length]))
            else:
                unread.add(int(segment))
    frame_rate_hz = encoder.sample_rate_hz / encoder.hop_samples
    split = [
        _joined(of_split, segments, frame_rate_hz, f"{fingerprint}/{name}", run)
        for of_split, name in zip(clips, ("train", "validation"), strict=True)
    ]
    account = FramesAccount(len(segments) - len(unread), num_without_language, num_beyond, len(unread))
    return split[0], split[1], account


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


def _segments(run: str, config: LanguageTrainConfig) -> tuple[list[_Segment], int, int]:
    """Segments whose language is stated; and how many state none, and how many are too short or one too many."""
    table = read_segments(run)
    facts = _facts_of(run, table)
    order = draw_order([config.seed, 3], len(table))
    by_speaker_s: dict[tuple[str, str, str], float] = {}
    by_language_s: dict[str, float] = {}
    taken: list[tuple[int, _Segment]] = []
    num_without_language = num_beyond = 0
    # One who is held out in one recording is held out in all.
    of_held_out = {(corpus, speaker) for corpus, _, speaker, split in facts.values() if split in HELD_OUT_SPLITS}
    rows = table.select(["recording_id", "uri", "channel", "start_s", "end_s"]).to_pylist()
    for place in order:
        row = rows[place]
        corpus, tag, speaker, _ = facts[row["recording_id"]]
        language = normalize_code(tag or "")
        seconds = row["end_s"] - row["start_s"]
        of_speaker = (corpus, speaker, language)
        if not language:
            num_without_language += 1
        elif (
            seconds < config.min_segment_s
            or by_speaker_s.get(of_speaker, 0) >= 60 * config.max_minutes_per_speaker
            or by_language_s.get(language, 0) >= 3600 * config.max_hours_per_language
        ):
            num_beyond += 1
        else:
            by_speaker_s[of_speaker] = by_speaker_s.get(of_speaker, 0) + seconds
            by_language_s[language] = by_language_s.get(language, 0) + seconds
            is_held_out = (corpus, speaker) in of_held_out or _place_of(speaker) < config.validation_share
            segment = _Segment(
                row["uri"], row["channel"], row["start_s"], row["end_s"], language, corpus, speaker, is_held_out
            )
            taken.append((int(place), segment))
    if not taken:
        raise TwistError(
            f"none of the segments of {run} are in a language that their corpus states: give each corpus a `language`, "
            f"or name its folders after languages"
        )
    return [segment for _, segment in sorted(taken, key=lambda entry: entry[0])], num_without_language, num_beyond


def _require_both_sides(segments: Sequence[_Segment], config: LanguageTrainConfig) -> None:
    """Refuses speech of the wanted language alone or of others alone, before hours are spent on its frames.

    Raises:
        TwistError: it is such: to train on, held out, or in the corpora to calibrate on.
    """
    calibrating = set(config.calibrate_on or {segment.corpus for segment in segments})
    parts = {
        "speech to train on is": [segment for segment in segments if not segment.is_held_out],
        "held-out speech is": [segment for segment in segments if segment.is_held_out],
        f"held-out speech of {', '.join(sorted(calibrating))}, to calibrate on, is": [
            segment for segment in segments if segment.is_held_out and segment.corpus in calibrating
        ],
    }
    for what, part in parts.items():
        sides = {segment.language == config.wanted for segment in part}
        if sides != {False, True}:
            lacking = "other languages" if True in sides else config.wanted if sides else "any language"
            raise TwistError(f"train_language: {what} without {lacking}; give more speakers, or others to hold out")


def _facts_of(run: str, segments: pa.Table) -> dict[str, tuple[str, str | None, str, str | None]]:
    """Corpus, stated language, speaker (the recording, where none is known) and split, by recording."""
    wanted = pc.unique(segments["recording_id"])
    found = {}
    for table in iterate_tables(run, COLUMNS):
        for row in table.filter(pc.is_in(table["recording_id"], wanted)).to_pylist():
            id = row["recording_id"]
            found[id] = (row["corpus"], row["language"], row["speaker"] or id, row["split"])
    return found


def _place_of(speaker: str) -> float:
    """Where a speaker's hash lies between 0 and 1."""
    return int.from_bytes(hashlib.sha256(speaker.encode()).digest()[:8], "big") / 2**64


def _made(
    batch: Sequence[tuple[int, _Segment]],
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


def _num_views(segment: _Segment, config: LanguageTrainConfig) -> int:
    return 1 if segment.is_held_out else config.views_of.get(segment.corpus, config.views)


def _read(uri: str) -> dict[str, NDArray[np.generic]]:
    try:
        tensors: dict[str, NDArray[np.generic]] = safetensors.numpy.load(storage.read_bytes(uri))
    except safetensors.SafetensorError as error:
        raise TwistError(f"{uri} is damaged ({error}); delete it, and it is made again") from error
    return tensors


def _joined(
    clips: list[tuple[int, NDArray[np.float16]]],
    segments: list[_Segment],
    frame_rate_hz: float,
    fingerprint: str,
    run: str,
) -> LanguageFrames:
    if not clips:
        name = fingerprint.rpartition("/")[2]
        raise TwistError(f"none of the segments of {run} is left for {name}; give more speakers, or validation_share")
    of_clip = [segments[number] for number, _ in clips]
    return LanguageFrames(
        np.concatenate([frames for _, frames in clips]),
        np.cumsum([0, *(len(frames) for _, frames in clips)]),
        [one.language for one in of_clip],
        [one.corpus for one in of_clip],
        [one.speaker for one in of_clip],
        frame_rate_hz,
        fingerprint,
    )
