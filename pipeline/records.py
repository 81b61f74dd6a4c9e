"""The records that pass from stage to stage, and their Arrow schemas: the contract of every Parquet file in a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
SPLITS = ("train", "validation", "test")
# What a corpus takes a recording's language from, the surest first.
LANGUAGE_SOURCES = (
    "corpus",  # all of it is in one language
    "recording",  # said of this very recording
    "folder",  # the recording's folder, or the subset of the corpus that it belongs to
    "recipe",  # the user, in the corpus' settings
    "show",  # said of a podcast, which may have episodes in another
    "channel",  # of an interpreter, who is silent while the floor speaks
    "unchecked",  # said of a recording that nobody has listened to
)


@dataclass(frozen=True)
class Recording:
    """One audio file, or one channel of it, as its corpus describes it. None: the corpus does not say.

    `uri` may lead into a tar or a Parquet file (location.py). `channel` None means all channels, downmixed. `split` is
    the corpus' own. `voice_activity` holds (on, off) seconds. `text` is what is said, `description` what is said about
    it (title and description). `language_source` is what the language was taken from (LANGUAGE_SOURCES).

    `origins` name what was recorded, across corpora: recordings that share one may hold the same speech. Where in its
    origins a recording lies: from `origin_start_s` to `origin_end_s`; 0 and None: it is all of it; None and None:
    somewhere in it.
    """

    recording_id: str
    corpus: str
    uri: str
    duration_s: float
    sample_rate_hz: int | None
    num_channels: int | None
    channel: int | None = None
    language: str | None = None
    speaker: str | None = None
    split: str | None = None
    text: str | None = None
    voice_activity: list[list[float]] | None = None
    language_source: str | None = None
    description: str | None = None
    origins: list[str] | None = None
    origin_start_s: float | None = None
    origin_end_s: float | None = None


RECORDING_SCHEMA = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("sample_rate_hz", pa.int32()),
        pa.field("num_channels", pa.int16()),
        pa.field("channel", pa.int16()),
        pa.field("language", pa.string()),
        pa.field("speaker", pa.string()),
        pa.field("split", pa.string()),
        pa.field("text", pa.string()),
        pa.field("voice_activity", pa.list_(pa.list_(pa.float64()))),
        pa.field("language_source", pa.string()),
        pa.field("description", pa.string()),
        pa.field("origins", pa.list_(pa.string())),
        pa.field("origin_start_s", pa.float64()),
        pa.field("origin_end_s", pa.float64()),
    ]
)


@dataclass(frozen=True)
class LanguageDecision:
    """Whether a recording stays, the language that was found, and what said so.

    `score` is the probability, by that evidence, that the recording is in a wanted language. What goes with the reason
    `uncertain_language` is in quarantine: its score lies between the two thresholds.
    """

    recording_id: str
    keep: bool
    language: str | None
    score: float | None
    evidence: str  # metadata | text | audio | none
    reason: str | None  # why it goes; None where it stays


LANGUAGE_SCHEMA = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("keep", pa.bool_(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("evidence", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)

# A stretch of speech, and all that a worker needs to read it: the plan of tokenization, in the order of chunks.
SEGMENT_SCHEMA = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("work_unit", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("channel", pa.int16()),
    ]
)

# One part file holds every segment of one chunk, the dropped ones with their reason in place of units, so that a
# single commit accounts for the whole unit.
UNITS_SCHEMA = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("units", pa.list_(pa.uint16())),
        pa.field("durations", pa.list_(pa.uint16())),
        pa.field("drop_reason", pa.string()),
        pa.field("drop_detail", pa.string()),
    ]
)

# A row per sample of the shards. `offset` is the byte of the sample's first tar header in its shard, `units_offset`
# the byte of its first unit: num_units little-endian uint16 values follow, readable without parsing the tar.
SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("units_offset", pa.int64(), nullable=False),
        pa.field("num_units", pa.int32(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("speaker", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("segment_id", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Dropped:
    """What a stage left out. `num_items` is 0 where a part of an item goes and the item itself stays."""

    id: str
    corpus: str
    reason: str
    detail: str
    duration_s: float
    num_items: int = 1


DROPPED_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("num_items", pa.int8(), nullable=False),
    ]
)


@dataclass(frozen=True)
class LabelClock:
    """When an encoder's frames are.

    Attributes:
        hop_samples: From one frame to the next.
        receptive_field_samples: What a frame comes from.
        chunk_samples: Longest stretch that was encoded at once; no frame crosses the cut behind it.
    """

    hop_samples: int
    receptive_field_samples: int
    chunk_samples: int

    def middles(self, num_frames: int) -> NDArray[np.float64]:
        """Where the middle of each of a clip's first frames lies, in samples, [F]."""
        frames_per_chunk = (self.chunk_samples - self.receptive_field_samples) // self.hop_samples + 1
        chunks, frames = np.divmod(np.arange(num_frames), frames_per_chunk)
        starts = chunks * self.chunk_samples + frames * self.hop_samples
        middles: NDArray[np.float64] = starts + self.receptive_field_samples / 2
        return middles


def to_table(records: Iterable[Any], schema: pa.Schema) -> pa.Table:
    """Records of one kind as a table with exactly the columns of `schema`."""
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for record in records:
        for name, values in columns.items():
            values.append(getattr(record, name))
    return pa.table(columns, schema=schema)


def from_table(kind: type[Any], table: pa.Table) -> list[Any]:
    """The rows of a table as records of `kind`, whose fields must be its columns."""
    names = [field.name for field in dataclasses.fields(kind)]
    columns = [table.column(name).to_pylist() for name in names]
    return [kind(*values) for values in zip(*columns, strict=True)]
