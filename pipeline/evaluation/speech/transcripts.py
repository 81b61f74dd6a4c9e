"""Transcripts by an ASR, made once and kept: what was made before an interruption is not made again.

    <folder>/transcripts/<key>/part-*.parquet    a row a piece of audio (SCHEMA)

The key is a hash of the audio (or of what it is synthesized from), of the ASR and of how it decodes. What could not be
read for reasons that may have passed is tried once more in each later evaluation.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.audio.read import AudioError, as_16_khz
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.speech.kept_parts import kept_parts
from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.stage import digest
from pipeline.work.retry import parts_to_retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.speech.asr import Asr
    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig

    Read = Callable[[Sequence[str]], Iterable[NDArray[np.float32] | AudioError]]

SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("drop_reason", pa.string()),
        pa.field("drop_detail", pa.string()),
    ]
)
# Pieces of audio that an actor hears, and whose transcripts are kept, together.
ITEMS_AT_ONCE = 32


@dataclass(frozen=True)
class Transcripts:
    """What was heard, by item ("": nothing), in how many seconds; and the items whose audio cannot be had."""

    of: Mapping[str, str]
    duration_s: Mapping[str, float]
    left_out: tuple[LeftOut, ...]


def transcripts_of(
    folder: str,
    item_ids: Sequence[str],
    audio_fingerprint: str,
    read: Read,
    asr: Asr,
    cluster: ClusterConfig,
    report: ReportProgress,
) -> Transcripts:
    """The transcript of each item: those in `folder` if they were made before, else made now.

    Args:
        folder: Where transcripts are kept, e.g. RUN/evaluation.
        item_ids: The items; unique.
        audio_fingerprint: A hash of all their audio, or of what it is made from.
        read: Gives the audio of some items, wav [S] at 16 kHz, or what keeps it from being had.
        asr: What hears, in actors on Ray.
        cluster: How much of the cluster to use.
        report: Called after every ITEMS_AT_ONCE items.

    Raises:
        TwistError: the ASR cannot be loaded.
        RunError: actors die, or a disk or store fails.
    """
    how = json.dumps(asr.settings, sort_keys=True)
    kept = storage.join(folder, "transcripts", digest(how, audio_fingerprint, *item_ids)[:16])
    for uri in parts_to_retry(kept):
        storage.delete(uri)

    def take(some: slice) -> list[tuple[str, NDArray[np.float32] | AudioError]]:
        return list(zip(item_ids[some], read(item_ids[some]), strict=True))

    hear = functools.partial(_hear, asr)
    parts = kept_parts(kept, len(item_ids), ITEMS_AT_ONCE, take, hear, cluster, report, "transcripts")
    texts: dict[str, str] = {}
    durations_s: dict[str, float] = {}
    left_out = []
    for row in (row for part in parts for row in part.to_pylist()):
        if row["text"] is None:
            left_out.append(LeftOut(row["item_id"], row["drop_reason"], row["drop_detail"]))
        else:
            texts[row["item_id"]], durations_s[row["item_id"]] = row["text"], row["duration_s"]
    return Transcripts(texts, durations_s, tuple(left_out))


def as_heard(wav: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32] | AudioError:
    """What a voice said, wav [S] of its own rate, at 16 kHz. A voice that says nothing is heard, too: as silence."""
    silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
    try:
        return as_16_khz(wav, sample_rate_hz) if len(wav) else silence
    except AudioError as error:
        return silence if error.reason == "silent" else error


def _hear(asr: Asr, items: Sequence[tuple[str, NDArray[np.float32] | AudioError]]) -> pa.Table:
    rows = []
    for item_id, wav in items:
        if isinstance(wav, AudioError):
            why = {"drop_reason": wav.reason, "drop_detail": wav.detail}
            rows.append({"item_id": item_id, "duration_s": 0.0, **why})
        else:
            rows.append({"item_id": item_id, "duration_s": len(wav) / SAMPLE_RATE_HZ, "text": asr(wav)})
    return pa.Table.from_pylist(rows, SCHEMA)
