"""Checks the tars of shards: checksums, the index against what is in them, and the invariants of every sample.

As in verify.py, each function yields a sentence per violation.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.files import foreign_json, storage
from pipeline.inspection.verify_streams import verify_streams
from pipeline.inspection.verify_words import verify_sample_words
from pipeline.shards import DATASET, MANIFEST, num_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.shards import Dataset

MEMBERS = {"durations.npy", "json", "units.npy"}
MEMBERS_OF_WORDS = {"text.npy", "words.npy"}
MEMBERS_OF_STREAMS = {"pitch.npy", "style.npy"}


@dataclass(frozen=True)
class Member:
    """A file in a tar, and the bytes at which its header and its data begin."""

    offset: int
    data_offset: int
    data: bytes


def verify_tar(
    dataset: Dataset, shard: dict[str, Any], rows: list[dict[str, Any]], counts: dict[str, NDArray[np.int64]]
) -> Iterator[str]:
    """One shard, of which the whole is in memory.

    Args:
        dataset: The shards.
        shard: What dataset.json says of it.
        rows: The manifest's rows of it.
        counts: By split, how often each unit occurs [codebook_size]; those of this shard are added.
    """
    uri = storage.join(dataset.uri, shard["path"])
    content = storage.read_bytes(uri)
    if hashlib.sha256(content).hexdigest() != shard["sha256"] or len(content) != shard["num_bytes"]:
        yield f"{uri} does not have the checksum that {DATASET} gives"
        return
    rows = sorted(rows, key=lambda row: int(row["index"]))
    samples = read_members(content)
    if list(samples) != [row["key"] for row in rows]:
        yield f"{uri} does not hold the samples that {MANIFEST} lists for it, in their order"
        return
    for index, (row, members) in enumerate(zip(rows, samples.values(), strict=True)):
        where = f"{uri}: {row['key']}"
        description = foreign_json.parse(members["json"].data) if "json" in members else {}
        expected = MEMBERS | MEMBERS_OF_WORDS if "words" in description else MEMBERS
        has_streams = bool(members.keys() & MEMBERS_OF_STREAMS) and dataset.has_streams
        if has_streams:
            expected = expected | MEMBERS_OF_STREAMS | ({"cuts.npy"} if "words" in description else set())
        if members.keys() != expected:
            yield f"{where} has members {sorted(members)}, not {sorted(expected)}"
            continue
        units, durations = (np.load(io.BytesIO(members[name].data)) for name in ("units.npy", "durations.npy"))
        if not units.dtype == durations.dtype == np.uint16:
            yield f"{where}: units are {units.dtype} and durations {durations.dtype}, not uint16"
            continue
        yield from verify_sample(where, units, durations, row["num_frames"], dataset.codebook_size)
        if row["split"] in counts and len(units) and units.max() < dataset.codebook_size:
            counts[row["split"]] += np.bincount(units, minlength=dataset.codebook_size)
        found = _manifest_row(shard["path"], index, row["key"], members, len(units), content)
        if "words" in description:
            tokens, table = (np.load(io.BytesIO(members[name].data)) for name in ("text.npy", "words.npy"))
            rate_hz, vocab_size = float(dataset.info["frame_rate_hz"]), int(dataset.info["text"]["vocab_size"])
            yield from verify_sample_words(where, description, tokens, table, len(units), rate_hz, vocab_size)
            found |= _words_in_manifest(members, tokens, table, found, content)
        if has_streams:
            arrays = {name: np.load(io.BytesIO(members[name].data)) for name in sorted(expected) if name != "json"}
            yield from verify_streams(where, arrays, description["num_frames"], dataset.info)
            found |= _streams_in_manifest(members, arrays, found, content)
        if wrong := [name for name in dataset.schema.names if found.get(name) != row[name]]:
            yield f"{storage.join(dataset.uri, MANIFEST)}: {', '.join(wrong)} of {row['key']} are not those of {uri}"


def verify_sample(
    where: str, units: NDArray[Any], durations: NDArray[Any], num_frames: int, codebook_size: int
) -> Iterator[str]:
    """One sample: units [n] and their durations in frames [n]."""
    if len(units) != len(durations) or len(units) == 0:
        yield f"{where} has {len(units)} units and {len(durations)} durations"
        return
    total = durations.sum(dtype=np.int64)
    if total != num_frames or durations.min() < 1:
        yield f"{where}: durations from {durations.min()} add up to {total}; it has {num_frames} frames"
    if (units[1:] == units[:-1]).any():
        yield f"{where}: two neighbouring units are equal"
    if units.max() >= codebook_size:
        yield f"{where}: unit {units.max()} is outside the codebook of {codebook_size}"


def read_members(content: bytes) -> dict[str, dict[str, Member]]:
    """The members of each sample by extension, in the tar's order."""
    samples: dict[str, dict[str, Member]] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for info in tar:
            key, _, extension = info.name.partition(".")
            file = tar.extractfile(info)
            data = file.read() if file else b""
            samples.setdefault(key, {})[extension] = Member(info.offset, info.offset_data, data)
    return samples


def _manifest_row(
    path: str, index: int, key: str, members: dict[str, Member], num_units: int, content: bytes
) -> dict[str, Any]:
    """What the manifest must say of a sample, by its tar (`content`) alone."""
    description = foreign_json.parse(members["json"].data)
    units = members["units.npy"]
    offset = min(member.offset for member in members.values())
    end = units.data_offset + len(units.data)
    units_offset = end - 2 * num_units
    return {
        "key": key,
        "shard": path,
        "index": index,
        "offset": offset,
        "units_offset": units_offset,
        "num_units": num_units,
        "num_frames": description["num_frames"],
        "duration_s": description.get("speech_s", description["end_s"] - description["start_s"]),
        "corpus": description["corpus"],
        "speaker": description["speaker"],
        "split": path.partition("/")[0],
        "segment_id": description["segment_id"],
        "units_crc32": zlib.crc32(memoryview(content)[units_offset:end]),
        "sample_crc32": zlib.crc32(memoryview(content)[offset:end]),
    }


def _words_in_manifest(
    members: dict[str, Member], tokens: NDArray[Any], table: NDArray[Any], found: dict[str, Any], content: bytes
) -> dict[str, Any]:
    """What the manifest must say of a sample's words, in place of what it would say of one without."""
    text, words = members["text.npy"], members["words.npy"]
    end = words.data_offset + len(words.data)
    return {
        "num_words": len(table),
        "num_text_tokens": len(tokens),
        "text_offset": text.data_offset + len(text.data) - tokens.nbytes,
        "words_offset": end - table.nbytes,
        "words_crc32": zlib.crc32(memoryview(content)[found["units_offset"] : end]),
        "sample_crc32": zlib.crc32(memoryview(content)[found["offset"] : end]),
    }


def _streams_in_manifest(
    members: dict[str, Member], arrays: dict[str, NDArray[Any]], found: dict[str, Any], content: bytes
) -> dict[str, Any]:
    """What the manifest must say of a sample's pitch and style, in place of what it would say of one without."""
    offsets = {
        f"{name}_offset": member.data_offset + len(member.data) - arrays[f"{name}.npy"].nbytes
        for name in ("durations", "pitch", "style", "cuts")
        if (member := members.get(f"{name}.npy")) is not None
    }
    last = members["words.npy" if "words.npy" in members else "style.npy"]
    end = last.data_offset + len(last.data)
    return {
        **offsets,
        "num_pitch": len(arrays["pitch.npy"]),
        "num_pitch_runs": num_runs(arrays["pitch.npy"]),
        "num_style": len(arrays["style.npy"]),
        "streams_crc32": zlib.crc32(memoryview(content)[offsets["durations_offset"] : end]),
        "sample_crc32": zlib.crc32(memoryview(content)[found["offset"] : end]),
    }
