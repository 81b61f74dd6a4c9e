"""Clips to listen to: files that a user names, and utterances that a run kept aside."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.audio.read import (
    AUDIO_SUFFIXES,
    Span,
)
from pipeline.errors import TwistError
from pipeline.speaking.dataset import open_dataset
from pipeline.speaking.wav import read_clip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.speaking.tokenizer import Tokenizer

# Recordings that are read and tokenized before the next ones are.
CLIPS_AT_ONCE = 64


@dataclass(frozen=True)
class Clip:
    """A stretch of a recording, and where what is made of it is written.

    Attributes:
        name: For people: the file, or the segment's id.
        span: The stretch.
        output: The path of what is made of it, without a suffix.
    """

    name: str
    span: Span
    output: Path


def find_clips(input_path: str, output_path: str, max_s: float | None = None) -> list[Clip]:
    """The audio file of this name, or all audio files in the folder of this name.

    Args:
        input_path: A file or a folder.
        output_path: The file to write; for a folder, the folder to write into.
        max_s: Seconds to take from the beginning of each file; None: all.

    Raises:
        TwistError: the folder holds no audio.
    """
    path = Path(input_path)
    end_s = math.inf if max_s is None else max_s
    if not path.is_dir():
        return [Clip(input_path, Span(input_path, None, 0.0, end_s), Path(output_path).with_suffix(""))]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise TwistError(f"{input_path} holds no audio files")
    outputs = [Path(output_path) / file.relative_to(path) for file in found]
    # Files that differ in their suffix alone keep it, so that neither output overwrites the other.
    plain = [output.with_suffix("") for output in outputs]
    outputs = [output if plain.count(stem) > 1 else stem for output, stem in zip(outputs, plain, strict=True)]
    return [
        Clip(str(file), Span(str(file), None, 0.0, end_s), output) for file, output in zip(found, outputs, strict=True)
    ]


def held_out_clip(run: str, split: str, output_path: str, min_s: float = 3.0) -> Clip:
    """The first utterance of a split of a run's shards that lasts `min_s` (the longest where none does).

    Raises:
        TwistError: the run has no shards, or nothing in that split.
    """
    dataset = open_dataset(run)
    sample = dataset.first(split, min_s)
    spans = dataset.spans_of(sample)
    whole = replace(spans[0], end_s=spans[-1].end_s)
    return Clip(sample.segment_id, whole, Path(output_path).with_suffix(""))


def read_clips(
    clips: Sequence[Clip], tokenizer: Tokenizer, warn: Callable[[str], None]
) -> Iterator[tuple[Clip, NDArray[np.float32]]]:
    """The audio [S] of each clip that can be used, at 16 kHz; `warn` gets a sentence on each that cannot.

    Raises:
        TwistError: none can be used; where there is only one clip, this says why.
    """
    num_read = 0
    for clip in clips:
        try:
            wav = read_clip(clip.span, clip.name)
            tokenizer.require_frames(wav, clip.name)
        except TwistError as error:
            if len(clips) == 1:
                raise
            warn(f"left out: {error}")
            continue
        num_read += 1
        yield clip, wav
    if not num_read:
        raise TwistError(f"none of {len(clips)} recordings can be used")


def read_in_groups(
    clips: Sequence[Clip], tokenizer: Tokenizer, warn: Callable[[str], None]
) -> Iterator[list[tuple[Clip, NDArray[np.float32]]]]:
    """The same as `read_clips`, CLIPS_AT_ONCE at a time.

    Raises:
        TwistError: as `read_clips`.
    """
    read = read_clips(clips, tokenizer, warn)
    while group := list(itertools.islice(read, CLIPS_AT_ONCE)):
        yield group
