"""The words of whole recordings, as aligners give them, before they are cut into segments.

RUN/words/texts.parquet                        the recordings to align, with their texts, in the order of chunks
RUN/words/recordings/part-<chunk>.parquet      RECORDING_WORDS_SCHEMA: what became of each
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.audio.read import AudioError
from pipeline.files import parquet
from pipeline.records import RECORDING_WORDS_SCHEMA
from pipeline.work.plan import ChunkNames

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.audio.read import Clip
    from pipeline.corpora.alignments.labelled import Labelled
    from pipeline.records import Recording
    from pipeline.work.plan import Chunk

TEXTS = "texts.parquet"
TEXTS_SCHEMA = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("channel", pa.int16()),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("work_unit", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)


def texts_to_bytes(recordings: Iterable[tuple[Recording, float]], chunk_s: float) -> bytes:
    """Encodes the recordings to align as a Parquet file of whole chunks; each comes with its length in seconds."""
    names = ChunkNames(chunk_s)

    def tables() -> Iterator[pa.Table]:
        columns: dict[str, list[object]] = {name: [] for name in TEXTS_SCHEMA.names}
        last_name = ""
        for recording, duration_s in recordings:
            name = names.next(recording.corpus, duration_s)
            if name != last_name and len(columns["uri"]) >= parquet.ROW_GROUP_ROWS:
                yield pa.table(columns, schema=TEXTS_SCHEMA)
                columns = {name: [] for name in TEXTS_SCHEMA.names}
            last_name = name
            row = (recording.recording_id, recording.uri, recording.channel, 0.0, duration_s, name, recording.text)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
        yield pa.table(columns, schema=TEXTS_SCHEMA)

    return parquet.groups_to_bytes(tables(), TEXTS_SCHEMA)


def whole_wav(clip: Clip | AudioError) -> NDArray[np.float32] | AudioError:
    """A recording's wav [S] at 16 kHz, or why its text cannot be aligned: a text fits no recording with holes."""
    if isinstance(clip, AudioError):
        return clip
    if clip.holes:
        return AudioError(clip.holes[0].reason, f"{clip.holes[0].detail}, at {clip.holes[0].start_s:.1f} s")
    return np.asarray(clip.wav)


def words_table(ids: Sequence[str], outcomes: Sequence[list[Labelled] | AudioError]) -> pa.Table:
    """A part: of each recording its words, or why it has none."""
    errors = [outcome if isinstance(outcome, AudioError) else None for outcome in outcomes]
    words = [None if isinstance(outcome, AudioError) else as_structs(outcome) for outcome in outcomes]
    return pa.table(
        {
            "recording_id": list(ids),
            "words": words,
            "drop_reason": [error and error.reason for error in errors],
            "drop_detail": [error and error.detail for error in errors],
        },
        schema=RECORDING_WORDS_SCHEMA,
    )


def all_failed(chunk: Chunk, error: AudioError) -> pa.Table:
    """The part of a chunk that is given up."""
    return words_table(chunk.ids, [error] * len(chunk.ids))


def as_structs(words: Iterable[Labelled]) -> list[dict[str, object]]:
    """Words as a table holds them."""
    return [{"word": word, "start_s": start_s, "end_s": end_s} for word, start_s, end_s in words]
