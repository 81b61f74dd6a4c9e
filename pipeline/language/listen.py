"""Classifies the language of recordings by a few windows of speech each, on GPU actors if there are GPUs.

    Recording -> windows -> chunks -> RUN/language/audio/part-*.parquet -> AudioEvidence

Windows are spread over a recording, or over its speech if the corpus says where that is. Each slot has a second window
nearby, which is used if the first holds too little speech: jingles and applause have no language.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from pipeline.audio.read import AudioError, Clip, whole_wavs
from pipeline.files import parquet, storage
from pipeline.language.decide import AudioEvidence
from pipeline.languages import normalize_code
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.runs import LANGUAGE, stage_of
from pipeline.work import dataflow
from pipeline.work.plan import ChunkNames, WorkPlan
from pipeline.work.retry import RETRIED_REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.language.config import AudioLanguageConfig
    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig
    from pipeline.work.plan import Chunk

PLAN_SCHEMA = pa.schema(
    [
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("channel", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("work_unit", pa.string()),
    ]
)
# Centres of the first and second window of a slot, as shares of its length.
CENTRES_IN_SLOT = (0.5, 0.2)
# Shorter audio says nothing about its language.
SHORTEST_S = 0.5
# Probabilities are rounded: further decimals differ between machines.
DECIMALS = 4
NEGLIGIBLE = 0.0005

Windows = list[tuple[float, float]]
"""(start, end) seconds."""


class Excerpts(NamedTuple):
    """The windows to listen to in one recording; other fields as in Recording.

    Attributes:
        windows: For each slot, the windows to try in turn.
    """

    recording_id: str
    corpus: str
    uri: str
    channel: int | None
    windows: list[Windows]


def choose_windows(
    duration_s: float, voice_activity: Sequence[Sequence[float]] | None, config: AudioLanguageConfig
) -> list[Windows]:
    """Chooses the windows to listen to in a recording.

    Args:
        duration_s: The recording's length; one not longer than a window is listened to whole.
        voice_activity: (on, off) seconds of speech, if known; windows are then spread over these.
        config: How many windows, and how long.

    Returns:
        For each slot, the windows to try in turn, each `window_s` long; empty if the recording is too short.
    """
    if duration_s < SHORTEST_S:
        return []
    if duration_s <= config.window_s:
        return [[(0.0, duration_s)]]
    speech = _in_order(voice_activity, duration_s) or [(0.0, duration_s)]
    speech_s = sum(off_s - on_s for on_s, off_s in speech)
    wanted = min(config.max_windows, max(config.min_windows, int(speech_s // config.one_window_every_s)))
    num_slots = max(1, min(wanted, int(speech_s // config.window_s)))
    slots: list[Windows] = []
    for number in range(num_slots):
        windows: Windows = []
        for share in CENTRES_IN_SLOT:
            centre_s = _time_of((number + share) * speech_s / num_slots, speech)
            start_s = round(min(max(0.0, centre_s - config.window_s / 2), duration_s - config.window_s), 3)
            if all(abs(start_s - other_s) >= config.window_s / 2 for other_s, _ in windows):
                windows.append((start_s, start_s + config.window_s))
        slots.append(windows)
    return slots


def _in_order(regions: Sequence[Sequence[float]] | None, duration_s: float) -> Windows:
    """Clips regions of speech to the recording, sorts them and removes overlaps."""
    tidied: Windows = []
    for on_s, off_s in sorted((max(0.0, r[0]), min(r[1], duration_s)) for r in regions or ()):
        on_s = max(on_s, tidied[-1][1]) if tidied else on_s
        if on_s < off_s:
            tidied.append((on_s, off_s))
    return tidied


def _time_of(spoken_s: float, speech: Windows) -> float:
    """The time at which `spoken_s` seconds of speech have passed."""
    for on_s, off_s in speech:
        if spoken_s <= off_s - on_s:
            return on_s + spoken_s
        spoken_s -= off_s - on_s
    return speech[-1][1]


def listen(
    stage_uri: str,
    excerpts: Iterable[Excerpts],
    config: AudioLanguageConfig,
    cluster: ClusterConfig,
    report: ReportProgress,
) -> tuple[dict[str, Any], Iterator[tuple[str, AudioEvidence]]]:
    """Classifies recordings and writes a part file per chunk.

    Returns:
        What the work took, for stage.json; and recording ids and verdicts in the given order.
    """
    plan = _plan(excerpts, config)
    if not len(plan):
        return {}, iter(())
    parts = storage.join(stage_uri, stage_of(LANGUAGE).parts)
    work = dataflow.run_chunks(plan, parts, HearLanguage, {"config": config}, _all_failed, cluster, report)
    return work, _read(dataflow.part_uri(parts, name) for name in plan.names)


def _plan(excerpts: Iterable[Excerpts], config: AudioLanguageConfig) -> WorkPlan:
    names = ChunkNames(config.work_unit_minutes * 60)

    def tables() -> Iterator[pa.Table]:
        columns: dict[str, list[object]] = {name: [] for name in PLAN_SCHEMA.names}
        for recording in excerpts:
            # All windows of a recording share a chunk, because the worker averages over its slots.
            seconds = sum(end_s - start_s for windows in recording.windows for start_s, end_s in windows)
            chunk = names.next(recording.corpus, seconds)
            for number, windows in enumerate(recording.windows):
                for start_s, end_s in windows:
                    id = f"{recording.recording_id}#{number}"
                    row = (id, recording.uri, recording.channel, start_s, end_s, chunk)
                    for column, value in zip(columns.values(), row, strict=True):
                        column.append(value)
            if len(columns["uri"]) >= parquet.ROW_GROUP_ROWS:
                yield pa.table(columns, schema=PLAN_SCHEMA)
                columns = {name: [] for name in PLAN_SCHEMA.names}
        yield pa.table(columns, schema=PLAN_SCHEMA)

    return WorkPlan.of(pa.concat_tables(tables()).combine_chunks(), "recording_id")


class HearLanguage:
    """Classifies the windows of a chunk that hold speech.

    Args:
        config: Model and windows.
    """

    def __init__(self, config: AudioLanguageConfig) -> None:
        import torch  # not above: who reads decisions, as `twist inspect` does, needs none

        from model.language_id.classifier import load_language_classifier
        from pipeline.audio.voice_activity import SpeechDetector

        assert config.model is not None
        torch.set_num_threads(1)
        self._config = config
        self._classify = load_language_classifier(config.model)
        self._codes = [normalize_code(label) or label for label in self._classify.labels]
        self._detect = SpeechDetector(config.speech_threshold)

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table:
        import torch

        chosen: dict[str, list[NDArray[np.float32]]] = {}
        errors: dict[str, AudioError] = {}
        windows = zip(chunk.ids, whole_wavs(clips), strict=True)
        for slot, windows_of_slot in itertools.groupby(windows, key=lambda window: window[0]):
            recording_id = slot.rpartition("#")[0]
            chosen.setdefault(recording_id, [])
            for _, wav in windows_of_slot:
                if isinstance(wav, AudioError):
                    errors.setdefault(recording_id, wav)
                elif self._holds_speech(wav):
                    chosen[recording_id].append(wav)
                    break
        tensors = [torch.from_numpy(wav) for wavs_of_one in chosen.values() for wav in wavs_of_one]
        rows = iter(self._classify(tensors) if tensors else torch.zeros(0, len(self._codes)))
        # Per recording: probabilities, its read error, or no_speech.
        outcomes: dict[str, AudioEvidence] = {}
        for recording_id, wavs_of_one in chosen.items():
            error = errors.get(recording_id)
            if wavs_of_one:
                mean = torch.stack([next(rows) for _ in wavs_of_one]).double().mean(dim=0)
                # Heard in part, for a reason that may pass: noted, so that it can be heard again.
                failure = error.reason if error and error.reason in RETRIED_REASONS else None
                outcomes[recording_id] = AudioEvidence(self._by_language(mean.tolist()), len(wavs_of_one), failure)
            else:
                outcomes[recording_id] = AudioEvidence(failure=error.reason if error else "no_speech")
        return _table(outcomes)

    def _holds_speech(self, wav: NDArray[np.float32]) -> bool:
        if len(wav) < SHORTEST_S * SAMPLE_RATE_HZ:
            return False
        needed_s = min(self._config.min_speech_s, len(wav) / SAMPLE_RATE_HZ / 2)
        return sum(off_s - on_s for on_s, off_s in self._detect(wav)) >= needed_s

    def _by_language(self, probabilities: Sequence[float]) -> dict[str, float]:
        by_language: dict[str, float] = {}
        for code, probability in zip(self._codes, probabilities, strict=True):
            by_language[code] = by_language.get(code, 0.0) + probability
        order = sorted(by_language, key=lambda code: (-by_language[code], code))
        return {code: round(by_language[code], DECIMALS) for code in order if by_language[code] >= NEGLIGIBLE}


def _all_failed(chunk: Chunk, error: AudioError) -> pa.Table:
    return _table({id.rpartition("#")[0]: AudioEvidence(failure=error.reason) for id in chunk.ids})


def _table(outcomes: dict[str, AudioEvidence]) -> pa.Table:
    verdicts = outcomes.values()
    return pa.table(
        {
            "recording_id": pa.array(outcomes, pa.string()),
            "num_windows": pa.array([one.num_windows for one in verdicts], pa.int16()),
            "languages": pa.array([list(one.probabilities) for one in verdicts], pa.list_(pa.string())),
            "probabilities": pa.array([list(one.probabilities.values()) for one in verdicts], pa.list_(pa.float64())),
            "drop_reason": pa.array([one.failure for one in verdicts], pa.string()),
        }
    )


def _read(parts: Iterable[str]) -> Iterator[tuple[str, AudioEvidence]]:
    for part in parquet.read_many(parts):
        for row in part.to_pylist():
            probabilities = dict(zip(row["languages"], row["probabilities"], strict=True))
            assert not any(map(math.isnan, probabilities.values())), f"{row['recording_id']} was heard as NaN"
            yield row["recording_id"], AudioEvidence(probabilities, row["num_windows"], row["drop_reason"])
