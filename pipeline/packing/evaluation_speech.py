"""Reads the evaluation sets whose speech is kept out of training (decontaminate.py).

An evaluation set is a folder of audio (tokenized with the run's encoder and codebook), a JSONL of units as written by
slamkit and others, or a folder of shards.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.audio.places import read_patiently
from pipeline.audio.read import AUDIO_SUFFIXES, AudioError, Span, probe, read_spans
from pipeline.errors import RunError, TwistError
from pipeline.files import foreign_json, storage
from pipeline.files.places import DOUBTFUL_REASONS
from pipeline.packing.config import EvaluationSet
from pipeline.packing.decontaminate import Clip, EvaluationIndex
from pipeline.shards import DATASET, open_dataset, read_tar
from pipeline.units.encode import UnitEncoder, run_lengths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from model.encoder.config import EncoderConfig
    from pipeline.units.codebook import Codebook

# A clip with fewer units would match unrelated speech.
MIN_CLIP_UNITS = 12
LONGEST_CLIP_S = 60.0


def read_evaluation_sets(
    sets: Sequence[EvaluationSet], encoder: EncoderConfig, book: Codebook
) -> tuple[EvaluationIndex, int]:
    """Reads all evaluation sets, tokenizing those that are audio.

    Returns:
        The index, and the number of clips that are too short to search for.

    Raises:
        TwistError: a set is missing or has no clips, or a clip cannot be read; none is skipped silently.
        RunError: a clip cannot be read for a reason that may pass.
    """
    clips: list[Clip] = []
    num_short = 0
    for one in sets:
        before = len(clips) + num_short
        for name, units, durations in _read(one, encoder, book):
            if len(units) < MIN_CLIP_UNITS:
                num_short += 1
            else:
                clips.append(Clip(f"{one.label}/{name}", units, durations, one.min_similarity, one.min_overlap))
        if len(clips) + num_short == before:
            raise TwistError(f"the evaluation set {one.label} has nothing at {one.path}; mend pack.decontaminate")
    return EvaluationIndex.of(clips), num_short


_Units = tuple[str, "NDArray[np.uint16]", "NDArray[np.uint16]"]


def _read(one: EvaluationSet, encoder: EncoderConfig, book: Codebook) -> Iterator[_Units]:
    if one.path.endswith((".jsonl", ".json")):
        return _read_jsonl(one, book.codebook_size)
    if storage.exists(storage.join(one.path, DATASET)):
        return _read_shards(one, book)
    return _tokenize(one, encoder, book)


def _read_jsonl(one: EvaluationSet, codebook_size: int) -> Iterator[_Units]:
    """Reads lines with `units`, optional `durations` (default: 1 frame each) and `file_name`, `id` or `name`."""
    try:
        lines = storage.read_bytes(one.path).decode().splitlines()
    except FileNotFoundError:
        raise TwistError(f"there is no evaluation set {one.path}; mend pack.decontaminate") from None
    for number, line in enumerate(lines, start=1):
        try:
            row: dict[str, Any] = foreign_json.parse(line)
            units = np.array(row["units"] if "units" in row else row["audio_repr"], np.int64)
            durations = np.array(row.get("durations") or row.get("duration") or np.ones(len(units)), np.int64)
            if units.shape != durations.shape or units.ndim != 1 or (len(units) and units.min() < 0):
                raise ValueError("units and durations do not fit together")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TwistError(f"{one.path}, line {number}, is no clip of units: {error}") from error
        if len(units) and units.max() >= codebook_size:
            raise TwistError(f"{one.path}, line {number}, has unit {units.max()}, the codebook only {codebook_size}")
        frames = np.repeat(units, durations).astype(np.uint16)
        name = next((str(row[key]) for key in ("file_name", "id", "name") if key in row), f"line {number}")
        yield (name, *run_lengths(frames))


def _read_shards(one: EvaluationSet, book: Codebook) -> Iterator[_Units]:
    import webdataset

    dataset = open_dataset(one.path)
    if dataset.info["codebook"]["fingerprint"] != book.fingerprint:
        raise TwistError(f"the evaluation set {one.path} was tokenized with another codebook than this run's")
    for shard in dataset.info["shards"]:
        content = io.BytesIO(read_tar(one.path, shard))
        files = webdataset.tariterators.tar_file_iterator(content)
        samples: dict[str, dict[str, bytes]] = {}
        for file in files:
            key, _, extension = file["fname"].partition(".")
            samples.setdefault(key, {})[extension] = file["data"]
        for key, sample in samples.items():
            units, durations = (np.load(io.BytesIO(sample[f"{kind}.npy"])) for kind in ("units", "durations"))
            yield key, units, durations


def _tokenize(one: EvaluationSet, encoder: EncoderConfig, book: Codebook) -> Iterator[_Units]:
    names = [name for name in storage.list_files(one.path) if name.lower().endswith(tuple(AUDIO_SUFFIXES))]
    encode = UnitEncoder(encoder, book) if names else None
    others = [storage.join(one.path, name) for name in names]
    for name in names:
        uri = storage.join(one.path, name)
        [wavs] = read_patiently(lambda uris: list(map(_read_clips, uris)), [uri], str, lambda: others)
        if isinstance(wavs, AudioError):
            message = f"the evaluation set {one.label} has a file that cannot be read, {uri}: {wavs}"
            raise RunError(message) if wavs.reason in DOUBTFUL_REASONS else TwistError(message)
        assert encode is not None
        for number, frames in enumerate(encode(wavs)):
            yield (name if len(wavs) == 1 else f"{name}, part {number + 1}", *run_lengths(frames))


def _read_clips(uri: str) -> list[NDArray[np.float32]] | AudioError:
    """A file's audio in wavs [S] of at most LONGEST_CLIP_S, or why it cannot be read."""
    try:
        duration_s = probe(uri).duration_s
    except AudioError as error:
        return error
    starts = np.arange(0, max(duration_s, 1e-3), LONGEST_CLIP_S).tolist()
    spans = [Span(uri, None, start, min(start + LONGEST_CLIP_S, duration_s)) for start in starts]
    wavs: list[NDArray[np.float32]] = []
    for wav in read_spans(spans):
        if isinstance(wav, AudioError):
            return wav
        wavs.append(wav)
    return wavs
