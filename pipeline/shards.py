"""Shards: WebDataset tars of units, an index of every sample's place in them, and a description of the whole.

    SHARDS/<split>/<split>-000000.tar     per sample <key>.durations.npy, <key>.json, <key>.units.npy and, where it
                                          carries words, <key>.text.npy, <key>.words.npy; where it carries pitch and
                                          style, <key>.pitch.npy, <key>.style.npy and, with words, <key>.cuts.npy
    SHARDS/manifest.parquet               as records.sample_schema says
    SHARDS/dataset.json                   vocabulary, frame rate, fingerprints, checksums and counts; written last

Any WebDataset reader can read the tars without this index; the loader here reads units by their byte offset.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
import tarfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TwistError
from pipeline.files import foreign_json, parquet, storage
from pipeline.files.tar_writer import BLOCK_BYTES, TarWriter
from pipeline.records import SAMPLE_CHECKSUMS, SAMPLE_SCHEMA, sample_schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

MANIFEST = "manifest.parquet"
DATASET = "dataset.json"
# Which segments make up which sample; only where samples have more than one.
GROUPS = "groups.parquet"
GROUP_SCHEMA = pa.schema([("sample", pa.large_string()), ("segment", pa.large_string())])
FORMAT_VERSION = 1
# Manifests written before samples had checksums.
UNCHECKED_SCHEMA = pa.schema([field for field in SAMPLE_SCHEMA if field.name not in SAMPLE_CHECKSUMS])
# json.dumps makes an encoder each time that keys are to be sorted.
SORTED_JSON = json.JSONEncoder(sort_keys=True)
# A row of a sample's table of words.
WORD_BYTES = 12
# Columns of the manifest in which few values come again and again.
REPEATED_COLUMNS = ("shard", "corpus", "speaker", "split")
# Hexadecimal digits at the end of a key that are a hash of the segment's id, the same in all shards.
ID_HASH_DIGITS = 16


class DatasetError(TwistError):
    """Shards that are missing, unfinished or damaged."""


@dataclass(frozen=True)
class Words:
    """The words of a sample: they tile its units.

    Attributes:
        timed: Each word with its start and end in seconds, in the time of the sample's units.
        tokens: [T] the text, which is the words with blanks between them, in tokens of the text LM.
        table: [W, 3] of each word its number of tokens, its first unit, and the unit after its last. A unit that lasts
            over a cut between two words belongs to both.
        cuts: [W] the frame at which each word begins, the first at 0; None where shards do not say.
    """

    timed: tuple[tuple[str, float, float], ...]
    tokens: NDArray[np.uint32]
    table: NDArray[np.uint32]
    cuts: NDArray[np.uint32] | None = None

    @property
    def text(self) -> str:
        """The words with blanks between them."""
        return " ".join(word for word, _, _ in self.timed)


@dataclass(frozen=True)
class Sample:
    """One sample of a shard.

    `segments` and `speech_s` are given of one that neighbouring segments make up: which these are, and their length
    together, without what lies between them. `uri`, `channel` and `sample_rate_hz` are those of its recording
    (records.Recording), the first relative to the root of its corpus; None too where shards from before do not say.
    `pitch` and `style` are codes at the rates in dataset.json, with repeats; a sample has both or neither.
    """

    key: str
    segment_id: str
    corpus: str
    speaker: str | None
    language: str | None
    split: str
    start_s: float
    end_s: float
    units: NDArray[np.uint16]
    durations: NDArray[np.uint16]
    segments: tuple[str, ...] = ()
    speech_s: float | None = None
    uri: str | None = None
    channel: int | None = None
    sample_rate_hz: int | None = None
    words: Words | None = None
    pitch: NDArray[np.uint16] | None = None
    style: NDArray[np.uint16] | None = None

    def __post_init__(self) -> None:
        assert "." not in self.key, f"key {self.key!r} holds a dot, at which WebDataset would split it"
        assert len(self.units) == len(self.durations) > 0, f"{self.key}: {len(self.units)} units"
        assert (self.pitch is None) == (self.style is None), f"{self.key} has pitch or style alone"

    @property
    def duration_s(self) -> float:
        """Length of its speech."""
        return self.end_s - self.start_s if self.speech_s is None else self.speech_s

    @property
    def num_frames(self) -> int:
        """Frames of the encoder that the units stand for."""
        return int(self.durations.sum(dtype=np.int64))


class Shards:
    """Finished shards of any kind: what dataset.json says, and a row per sample.

    Args:
        uri: The folder of the shards.
        info: What dataset.json says.
        manifest: The manifest, where it is at hand; else it is read when it is asked for.
        schema: Its columns.
    """

    def __init__(self, uri: str, info: dict[str, Any], manifest: pa.Table | None, schema: pa.Schema) -> None:
        self.uri = uri
        self.info = info
        self.schema = schema if manifest is None else manifest.schema
        self._manifest = manifest

    @property
    def fingerprint(self) -> str:
        """Equal for equal shards."""
        return str(self.info["fingerprint"])

    @property
    def manifest(self) -> pa.Table:
        """All of manifest.parquet, which stays in memory: 5 GB for 22 million samples.

        Raises:
            TwistError: the manifest is damaged.
        """
        if self._manifest is None:
            self._manifest = parquet.read(self._manifest_uri)
        return self._manifest

    def columns(self, names: list[str]) -> pa.Table:
        """Some columns of the manifest, text as dictionaries; nothing else is read.

        Raises:
            TwistError: the manifest is damaged.
        """
        if self._manifest is not None:
            return self._manifest.select(names)
        return parquet.read(self._manifest_uri, names, dictionaries=REPEATED_COLUMNS)

    def head(self, num_rows: int) -> pa.Table:
        """The manifest's first rows."""
        if self._manifest is not None:
            return self._manifest.slice(0, num_rows)
        with parquet.RowGroups(self._manifest_uri) as groups:
            return groups.read(0).slice(0, num_rows) if len(groups) else self.schema.empty_table()

    def value(self, column: str, row: int) -> str:
        """The text in one row of one column."""
        if self._manifest is not None:
            return str(self._manifest[column][row].as_py())
        with parquet.RowGroups(self._manifest_uri, [column]) as groups:
            for table in groups:
                if row < len(table):
                    return str(table[column][row].as_py())
                row -= len(table)
        raise AssertionError(f"{self._manifest_uri} ends {row + 1} rows before the one that is asked for")

    def rows(self, columns: list[str]) -> Iterator[pa.Table]:
        """Some columns of the manifest, a row group at a time, so that memory does not grow with the shards.

        Raises:
            TwistError: the manifest is damaged.
        """
        if self._manifest is not None:
            yield self._manifest.select(columns)
            return
        yield from parquet.iterate(self._manifest_uri, columns)

    def row(self, number: int) -> dict[str, Any]:
        """One row of the manifest, counted from 0.

        Raises:
            TwistError: the manifest is damaged, or has fewer rows.
        """
        left = number
        for table in self.rows(self.schema.names):
            if left < len(table):
                found: dict[str, Any] = table.slice(left, 1).to_pylist()[0]
                return found
            left -= len(table)
        raise DatasetError(f"{self._manifest_uri} has no row {number}")

    @property
    def _manifest_uri(self) -> str:
        return storage.join(self.uri, MANIFEST)


class Dataset(Shards):
    """Finished shards of units.

    Args:
        uri, info, manifest: As Shards.
        schema: As records.sample_schema says, or UNCHECKED_SCHEMA of shards that were packed before samples had
            checksums.
    """

    def __init__(
        self,
        uri: str,
        info: dict[str, Any],
        manifest: pa.Table | None = None,
        schema: pa.Schema = SAMPLE_SCHEMA,
    ) -> None:
        super().__init__(uri, info, manifest, schema)

    @property
    def codebook_size(self) -> int:
        """Size of the codebook."""
        return int(self.info["num_units"])

    @property
    def has_checksums(self) -> bool:
        """Whether the manifest has a checksum of each sample."""
        return set(SAMPLE_CHECKSUMS) <= set(self.schema.names)

    @property
    def has_words(self) -> bool:
        """Whether samples may carry words."""
        return "num_words" in self.schema.names

    @property
    def has_streams(self) -> bool:
        """Whether samples may carry pitch and style."""
        return "num_pitch" in self.schema.names


def write_shard(shards: str, name: str, samples: Sequence[Sample]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Writes one tar, whole or not at all; the same samples give the same bytes.

    Args:
        shards: The folder of the shards.
        name: The tar's path in it.
        samples: Its samples in order.

    Returns:
        What dataset.json says of the shard, and the manifest rows of its samples.
    """
    tar = TarWriter()
    rows = [_add_sample(tar, sample, name, index) for index, sample in enumerate(samples)]
    content = tar.finished()
    for row in rows:
        end = end_of(row)
        row["units_crc32"] = zlib.crc32(content[row["units_offset"] : row["units_offset"] + 2 * row["num_units"]])
        row["sample_crc32"] = zlib.crc32(content[row["offset"] : end])
        if "words_offset" in row:
            row["words_crc32"] = zlib.crc32(content[row["units_offset"] : end])
        if "durations_offset" in row:
            row["streams_crc32"] = zlib.crc32(content[row["durations_offset"] : end])
    storage.write_bytes(storage.join(shards, name), content)
    return {
        "path": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "num_bytes": len(content),
        "num_samples": len(samples),
        "num_units": sum(len(sample.units) for sample in samples),
        "num_frames": sum(sample.num_frames for sample in samples),
    }, rows


def _add_sample(tar: TarWriter, sample: Sample, name: str, index: int) -> dict[str, Any]:
    """Adds a sample's members; returns its row of the manifest, without checksums.

    A sample with pitch and style has its JSON first: then all that is read to train on it is one stretch of bytes.
    """
    offset = tar.offset
    has_streams = sample.pitch is not None
    description = SORTED_JSON.encode(_description(sample)).encode()
    if has_streams:
        tar.add(f"{sample.key}.json", description)
    durations_offset = tar.add_array(f"{sample.key}.durations.npy", sample.durations)
    if not has_streams:
        tar.add(f"{sample.key}.json", description)
    units_offset = tar.add_array(f"{sample.key}.units.npy", sample.units)
    row = _manifest_row(sample, name, index, offset, units_offset)
    words = sample.words
    if sample.pitch is not None and sample.style is not None:
        row["durations_offset"] = durations_offset
        row["num_pitch"], row["num_style"] = len(sample.pitch), len(sample.style)
        row["num_pitch_runs"] = num_runs(sample.pitch)
        row["pitch_offset"] = tar.add_array(f"{sample.key}.pitch.npy", sample.pitch)
        row["style_offset"] = tar.add_array(f"{sample.key}.style.npy", sample.style)
        if words is not None:
            assert words.cuts is not None, f"{sample.key} does not say at which frames its words begin"
            row["cuts_offset"] = tar.add_array(f"{sample.key}.cuts.npy", words.cuts)
    if words is not None:
        row["num_words"], row["num_text_tokens"] = len(words.table), len(words.tokens)
        row["text_offset"] = tar.add_array(f"{sample.key}.text.npy", words.tokens)
        row["words_offset"] = tar.add_array(f"{sample.key}.words.npy", words.table)
    return row


def num_runs(codes: NDArray[np.uint16]) -> int:
    """Runs of equal codes among [n]: how many are left without repeats."""
    return int(len(codes) > 0) + int(np.count_nonzero(codes[1:] != codes[:-1]))


def end_of(row: Mapping[str, Any]) -> int:
    """The byte after the last that a row of the manifest is about: the end of its words, of its style, or its units."""
    if row.get("words_offset") is not None:
        return int(row["words_offset"] + WORD_BYTES * row["num_words"])
    if row.get("style_offset") is not None:
        return int(row["style_offset"] + 2 * row["num_style"])
    return int(row["units_offset"] + 2 * row["num_units"])


def read_tar(shards: str, description: dict[str, Any]) -> bytes:
    """The content of one tar, held to its checksum.

    Args:
        shards: The folder of the shards.
        description: What dataset.json says of it.

    Raises:
        DatasetError: it is missing or damaged.
    """
    uri = storage.join(shards, description["path"])
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError:
        raise DatasetError(f"{uri} is missing; restore it or pack again") from None
    if hashlib.sha256(content).hexdigest() != description["sha256"]:
        raise DatasetError(f"{uri} does not have the checksum in {DATASET}; restore it or pack again")
    return content


def read_shard(shards: str, description: dict[str, Any]) -> Iterator[Sample]:
    """The samples of one tar, in order; takes and raises what `read_tar` does."""
    content = read_tar(shards, description)
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            yield from _samples_of(tar, description["path"])
    except (tarfile.TarError, ValueError, KeyError, TypeError, AssertionError, EOFError) as error:
        uri = storage.join(shards, description["path"])
        raise DatasetError(f"{uri} is damaged: {error or type(error).__name__}; restore it or pack again") from error


def read_sample(shards: str, row: dict[str, Any]) -> Sample:
    """The sample of one row of the manifest, of whose shard nothing else is read.

    Args:
        shards: The folder of the shards.
        row: As the manifest's schema describes it; its bytes are held to `sample_crc32` where it has one.

    Raises:
        DatasetError: its shard is missing or damaged.
    """
    uri = storage.join(shards, row["shard"])
    with cut_out(uri, row["offset"], end_of(row), row.get("sample_crc32"), "sample") as tar:
        return next(_samples_of(tar, row["shard"]))


@contextlib.contextmanager
def cut_out(uri: str, start: int, end: int, crc32: int | None, what: str) -> Iterator[tarfile.TarFile]:
    """The bytes of a tar from `start` to `end`, which are whole members, as a tar of their own; no others are read.

    Args:
        uri: The tar.
        start, end: The first byte of the first member's header, and the one behind the last one's content.
        crc32: Of these bytes, where it is known.
        what: What they are, for messages.

    Raises:
        DatasetError: they are missing or damaged, or what the caller makes of them finds them so.
    """
    try:
        data = storage.read_range(uri, start, end - start)
        if crc32 is not None and crc32 != zlib.crc32(data):
            raise ValueError("its bytes are not those that were packed")
        # Up to the end of a block, and the two empty ones that end a tar.
        data += bytes(-len(data) % BLOCK_BYTES + 2 * BLOCK_BYTES)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            yield tar
    except FileNotFoundError:
        raise DatasetError(f"{uri} is missing; restore it or pack again") from None
    except (tarfile.TarError, ValueError, KeyError, TypeError, AssertionError, StopIteration, EOFError) as error:
        raise DatasetError(
            f"{uri} has no whole {what} at byte {start} ({error or type(error).__name__}); restore it or pack again"
        ) from error


def _samples_of(tar: tarfile.TarFile, name: str) -> Iterator[Sample]:
    for key, members in itertools.groupby(tar, lambda member: member.name.partition(".")[0]):
        parts = {member.name.partition(".")[2]: content_of(tar, member) for member in members}
        facts = foreign_json.parse(parts["json"])
        words = None
        if "words" in facts:
            timed = tuple((str(word), float(start_s), float(end_s)) for word, start_s, end_s in facts["words"])
            cuts = array_of(parts["cuts.npy"]) if "cuts.npy" in parts else None
            words = Words(timed, array_of(parts["text.npy"]), array_of(parts["words.npy"]), cuts)
        yield Sample(
            key=key,
            split=name.partition("/")[0],
            units=array_of(parts["units.npy"]),
            durations=array_of(parts["durations.npy"]),
            segments=tuple(facts.get("segments", ())),
            speech_s=facts.get("speech_s"),
            words=words,
            pitch=array_of(parts["pitch.npy"]) if "pitch.npy" in parts else None,
            style=array_of(parts["style.npy"]) if "style.npy" in parts else None,
            **{field: facts[field] for field in ("segment_id", "corpus", "speaker", "language")},
            **{field: facts[field] for field in ("start_s", "end_s")},
            # Which shards from before have not.
            **{field: facts.get(field) for field in ("uri", "channel", "sample_rate_hz")},
        )


def content_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """A member's bytes; ValueError if it is no file."""
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file.read()


def array_of(content: bytes) -> NDArray[Any]:
    """The array of a .npy file; ValueError if it is none, or holds objects."""
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def write_index(shards: str, info: dict[str, Any], rows: Sequence[dict[str, Any]] | Iterable[pa.Table]) -> Dataset:
    """Writes manifest.parquet and then dataset.json, to which it adds the fingerprint.

    Args:
        shards: The folder of the shards.
        info: What dataset.json says: `num_units`, `frame_rate_hz`, `encoder`, `codebook`, `shards`, totals; `text`, if
            samples may carry words; and `pitch` and `style`, if they may carry those.
        rows: The manifest rows of all shards, or tables of them, of which one is in memory at a time.
    """
    schema = sample_schema(words="text" in info, streams="pitch" in info)
    tables = (row if isinstance(row, pa.Table) else pa.Table.from_pylist([row], schema=schema) for row in rows)
    info = {"format_version": FORMAT_VERSION, "fingerprint": dataset_fingerprint(info), **info}
    write_manifest(shards, info, tables, schema)
    return Dataset(shards, info, schema=schema)


def write_manifest(shards: str, info: dict[str, Any], tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Writes manifest.parquet and then dataset.json; of the manifest's tables one is in memory at a time."""
    storage.write_bytes(storage.join(shards, MANIFEST), parquet.groups_to_bytes(even_groups(tables), schema))
    storage.write_bytes(storage.join(shards, DATASET), (json.dumps(info, indent=2) + "\n").encode())


def even_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of any size as tables of parquet.ROW_GROUP_ROWS rows."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= parquet.ROW_GROUP_ROWS:
            joined = pa.concat_tables(waiting)
            whole = len(joined) // parquet.ROW_GROUP_ROWS * parquet.ROW_GROUP_ROWS
            for start in range(0, whole, parquet.ROW_GROUP_ROWS):
                yield joined.slice(start, parquet.ROW_GROUP_ROWS)
            waiting = [joined.slice(whole)]
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting)


def first_sample(dataset: Dataset, split: str, min_s: float) -> dict[str, Any]:
    """The manifest's row of the first sample of a split that lasts `min_s` or, where none does, of the longest.

    Raises:
        DatasetError: the split is empty.
        TwistError: the manifest is damaged.
    """
    first_row, longest, longest_s = 0, -1, -1.0
    for table in dataset.rows(["split", "duration_s"]):
        rows = np.flatnonzero(pc.equal(table["split"], split).to_numpy())
        durations_s = table["duration_s"].to_numpy()[rows]
        if (durations_s >= min_s).any():
            return dataset.row(first_row + int(rows[np.argmax(durations_s >= min_s)]))
        if len(rows) and durations_s.max() > longest_s:
            longest, longest_s = first_row + int(rows[durations_s.argmax()]), float(durations_s.max())
        first_row += len(table)
    if longest < 0:
        raise DatasetError(f"the shards in {dataset.uri} have nothing in {split}; name another split")
    return dataset.row(longest)


def segment_ids(dataset: Dataset) -> Iterator[pa.ChunkedArray]:
    """The segments that the samples of some shards are made of, also where several make up one sample."""
    groups = storage.join(dataset.uri, GROUPS)
    members = parquet.read(groups) if storage.exists(groups) else GROUP_SCHEMA.empty_table()
    for table in dataset.rows(["segment_id"]):
        ids = table["segment_id"].cast(pa.large_string())
        if not len(members):
            yield ids
            continue
        yield ids.filter(pc.invert(pc.is_in(ids, members["sample"])))
        yield members.filter(pc.is_in(members["sample"], ids))["segment"]


def dataset_fingerprint(info: dict[str, Any]) -> str:
    """The identity of shards: that of their codebook (tokenizer, pitch and style), and the checksum of every tar."""
    tokenizer = [info["text"]["tokenizer"]] if "text" in info else []
    streams = [info[name]["fingerprint"] for name in ("pitch", "style") if name in info]
    identity = [info["codebook"]["fingerprint"], *tokenizer, *streams, *(shard["sha256"] for shard in info["shards"])]
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()


def open_dataset(uri: str) -> Dataset:
    """Opens finished shards of units.

    Raises:
        DatasetError: there are none, or they are not of this format.
        TwistError: the manifest is damaged.
    """
    known = [sample_schema(words=words, streams=streams) for words in (False, True) for streams in (False, True)]
    schemas = (*known, UNCHECKED_SCHEMA)
    info, schema = read_info(uri, "twist pack", FORMAT_VERSION, schemas)
    return Dataset(uri, info, schema=schema)


def read_info(
    uri: str, command: str, format_version: int, schemas: Sequence[pa.Schema]
) -> tuple[dict[str, Any], pa.Schema]:
    """What dataset.json says of shards that `command` makes, and the columns of their manifest, one of `schemas`.

    Raises:
        DatasetError: there are none, or they are not of this format.
        TwistError: the manifest is damaged.
    """
    try:
        info = foreign_json.parse(storage.read_bytes(storage.join(uri, DATASET)))
    except FileNotFoundError:
        raise DatasetError(
            f"{uri} holds no finished shards ({DATASET} is missing); make them with `{command}`"
        ) from None
    except ValueError as error:
        raise DatasetError(f"{storage.join(uri, DATASET)} is damaged: {error}") from error
    if not isinstance(info, dict) or info.get("format_version") != format_version:
        raise DatasetError(f"{storage.join(uri, DATASET)} does not describe shards of format {format_version}")
    try:
        schema = parquet.read_schema(storage.join(uri, MANIFEST))
    except FileNotFoundError:
        raise DatasetError(
            f"{storage.join(uri, MANIFEST)} is missing; make the shards again with `{command}`"
        ) from None
    if not any(schema.equals(known) for known in schemas):
        raise DatasetError(f"{storage.join(uri, MANIFEST)} has other columns than a manifest of shards")
    return info, schema


def make_key(segment_id: str) -> str:
    """A key for a segment: readable, without dots or other characters that archives or shells trip over, and unique."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "-", segment_id[-60:])
    return f"{readable}-{hashlib.blake2b(segment_id.encode(), digest_size=ID_HASH_DIGITS // 2).hexdigest()}".lstrip("-")


def _description(sample: Sample) -> dict[str, Any]:
    joined = {"segments": list(sample.segments), "speech_s": sample.speech_s} if sample.segments else {}
    words = sample.words
    said = {} if words is None else {"text": words.text, "words": [list(word) for word in words.timed]}
    return {
        **joined,
        **said,
        "segment_id": sample.segment_id,
        "corpus": sample.corpus,
        "speaker": sample.speaker,
        "language": sample.language,
        "uri": sample.uri,
        "channel": sample.channel,
        "sample_rate_hz": sample.sample_rate_hz,
        "start_s": sample.start_s,
        "end_s": sample.end_s,
        "num_frames": sample.num_frames,
    }


def _manifest_row(sample: Sample, shard: str, index: int, offset: int, units_offset: int) -> dict[str, Any]:
    return {
        "key": sample.key,
        "shard": shard,
        "index": index,
        "offset": offset,
        "units_offset": units_offset,
        "num_units": len(sample.units),
        "num_frames": sample.num_frames,
        "duration_s": sample.duration_s,
        "corpus": sample.corpus,
        "speaker": sample.speaker,
        "split": sample.split,
        "segment_id": sample.segment_id,
    }
