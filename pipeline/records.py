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
# Where a recording's language tag comes from, the most reliable source first.
LANGUAGE_SOURCES = (
    "corpus",  # the whole corpus is in one language
    "recording",  # stated for this very recording
    "folder",  # the recording's folder, or the subset of the corpus that it belongs to
    "recipe",  # the user, in the corpus' settings
    "show",  # stated for a podcast, which may have episodes in another language
    "channel",  # an interpreter's, who is silent while the floor speaks
    "folder_name",  # how somebody has called the folder that the recording lies in
    "unchecked",  # stated for a recording that nobody has listened to
)


@dataclass(frozen=True)
class Recording:
    """One audio file, or one channel of it, as its corpus describes it. None: the corpus does not say.

    `uri` may point into a tar or a Parquet file (files/audio_uri.py). `channel` None means all channels, downmixed.
    `split` is the corpus' own. `voice_activity` holds (on, off) seconds. `text` is the transcript, `description` the
    title and description. `language_source` is one of LANGUAGE_SOURCES.

    `origins` identify the original recordings across corpora: recordings that share an origin may hold the same speech.
    A recording covers its origins from `origin_start_s` to `origin_end_s`; 0 and None: all of each; None and None: an
    unknown part.
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
    """Whether a recording stays, its language, and the evidence for that.

    `score` is the probability, by that evidence, that the recording is in a wanted language. Recordings dropped as
    `uncertain_language` are in quarantine: their score lies between the two thresholds.
    """

    recording_id: str
    keep: bool
    language: str | None
    score: float | None
    evidence: str  # metadata | text | audio | audio:embedded | none
    reason: str | None  # why it is dropped; None if it stays


# Evidence of a classifier that was trained on little, as the embedded one: see pipeline/language/decide.py.
EMBEDDED_EVIDENCE = "audio:embedded"

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

# The number of no phone: that of a frame of which no alignment tells.
NO_PHONE = -1

# A stretch of speech, with all that a worker needs to read it. Rows in the order of chunks: the plan of tokenization.
SEGMENT_SCHEMA = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("work_unit", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("channel", pa.int16()),
        # The last segment of a recording that nobody has listened to: if the file goes on behind it, up to so many
        # seconds more belong to it. Null for the others.
        pa.field("reads_on_s", pa.float64()),
    ]
)

# Recordings whose audio is longer or shorter than was stated, as far as searching for speech has found.
LENGTH_SCHEMA = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("stated_s", pa.float64(), nullable=False),
        pa.field("actual_s", pa.float64(), nullable=False),
    ]
)

# One part file holds every segment of one chunk, also the dropped ones (a reason in place of units), so that a single
# commit accounts for the whole chunk.
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

# The words of a text and when they are said. A word is written as in its text; words that have one time in common are
# one, with a blank between them.
WORDS_TYPE = pa.list_(pa.struct([("word", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]))

# Times are in seconds from the start of the recording, and not checked yet.
RECORDING_WORDS_SCHEMA = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("words", WORDS_TYPE),
        pa.field("drop_reason", pa.string()),
        pa.field("drop_detail", pa.string()),
    ]
)

# Times are in seconds from `start_s`: rising, without overlap, within the segment. A dropped segment has a reason in
# place of words. `source` says whose times they are: corpus | ctc | pocketsphinx.
WORDS_SCHEMA = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("words", WORDS_TYPE),
        pa.field("source", pa.string()),
        pa.field("drop_reason", pa.string()),
        pa.field("drop_detail", pa.string()),
    ]
)

# The pitch of a segment: codes at the tokenizer's fixed rate, as many as fit into it, and the mean F0 of its voiced
# frames, which the codes do not tell; null where there is none. A dropped segment has a reason in place of codes.
PITCH_SCHEMA = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("pitch", pa.list_(pa.uint16())),
        pa.field("f0_mean_hz", pa.float64()),
        pa.field("drop_reason", pa.string()),
        pa.field("drop_detail", pa.string()),
    ]
)

# A row per sample of the shards. `offset` is the byte offset in the shard of the sample's first tar header,
# `units_offset` that of its first unit: num_units little-endian uint16 values follow, readable without parsing the tar.
# `units_crc32` is the CRC-32 of these, `sample_crc32` that of all bytes from `offset` to the end of its units.
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
        pa.field("units_crc32", pa.uint32(), nullable=False),
        pa.field("sample_crc32", pa.uint32(), nullable=False),
    ]
)
SAMPLE_CHECKSUMS = ("units_crc32", "sample_crc32")
# The same of shards whose samples carry words; null for a sample without. From `text_offset` on lie num_text_tokens
# little-endian uint32 tokens, from `words_offset` on 3 * num_words: of each word its tokens, its first unit, and the
# unit after its last. `words_crc32` is the CRC-32 of all bytes from `units_offset` to the end of the words, to which
# `sample_crc32` then reaches too.
WORD_COLUMNS = (
    pa.field("num_words", pa.int32()),
    pa.field("num_text_tokens", pa.int32()),
    pa.field("text_offset", pa.int64()),
    pa.field("words_offset", pa.int64()),
    pa.field("words_crc32", pa.uint32()),
)
SAMPLE_WITH_WORDS_SCHEMA = pa.schema([*SAMPLE_SCHEMA, *WORD_COLUMNS])
# The same of shards whose samples carry pitch and style; null for a sample without. From each offset on lie the
# little-endian values: num_units durations, num_pitch and num_style codes (uint16 all), and, if it has words, num_words
# first frames (uint32). `num_pitch_runs` counts pitch codes without repeats. `streams_crc32` is the CRC-32 of all bytes
# from `durations_offset` to the end of the words or, without any, of the style.
STREAM_COLUMNS = (
    pa.field("durations_offset", pa.int64()),
    pa.field("num_pitch", pa.int32()),
    pa.field("num_pitch_runs", pa.int32()),
    pa.field("pitch_offset", pa.int64()),
    pa.field("num_style", pa.int32()),
    pa.field("style_offset", pa.int64()),
    pa.field("cuts_offset", pa.int64()),
    pa.field("streams_crc32", pa.uint32()),
)
SAMPLE_WITH_STREAMS_SCHEMA = pa.schema([*SAMPLE_SCHEMA, *STREAM_COLUMNS])
SAMPLE_WITH_WORDS_AND_STREAMS_SCHEMA = pa.schema([*SAMPLE_WITH_WORDS_SCHEMA, *STREAM_COLUMNS])


def sample_schema(*, words: bool, streams: bool) -> pa.Schema:
    """The columns of a manifest of shards whose samples may carry words, or pitch and style, or both."""
    if streams:
        return SAMPLE_WITH_WORDS_AND_STREAMS_SCHEMA if words else SAMPLE_WITH_STREAMS_SCHEMA
    return SAMPLE_WITH_WORDS_SCHEMA if words else SAMPLE_SCHEMA


# A row per document of the text shards. From `tokens_offset` on lie num_tokens little-endian tokens, of the type that
# dataset.json names; `tokens_crc32` is the CRC-32 of these, `sample_crc32` that of all bytes from `offset` to their
# end.
DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("tokens_offset", pa.int64(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("tokens_crc32", pa.uint32(), nullable=False),
        pa.field("sample_crc32", pa.uint32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Dropped:
    """An item, or a part of one, that a stage left out; `num_items` is 0 for a part of an item that is kept."""

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
    """Maps an encoder's frames to times.

    Attributes:
        hop_samples: Samples from one frame to the next.
        receptive_field_samples: Samples that one frame is computed from.
        chunk_samples: Longest stretch that is encoded at once; no frame spans two such stretches.
    """

    hop_samples: int
    receptive_field_samples: int
    chunk_samples: int

    def middles(self, num_frames: int) -> NDArray[np.float64]:
        """The middle of each of a clip's first `num_frames` frames, in samples [F]."""
        frames_per_chunk = (self.chunk_samples - self.receptive_field_samples) // self.hop_samples + 1
        chunks, frames = np.divmod(np.arange(num_frames), frames_per_chunk)
        starts = chunks * self.chunk_samples + frames * self.hop_samples
        middles: NDArray[np.float64] = starts + self.receptive_field_samples / 2
        return middles


def to_table(records: Iterable[Any], schema: pa.Schema) -> pa.Table:
    """Makes a table of records of one kind, with exactly the columns of `schema`."""
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for record in records:
        for name, values in columns.items():
            values.append(getattr(record, name))
    return pa.table(columns, schema=schema)


def from_table(kind: type[Any], table: pa.Table) -> list[Any]:
    """Makes records of the dataclass `kind` from a table, which must have a column for each field."""
    names = [field.name for field in dataclasses.fields(kind)]
    columns = [table.column(name).to_pylist() for name in names]
    return [kind(*values) for values in zip(*columns, strict=True)]
