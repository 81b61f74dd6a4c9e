"""Assigns every segment to a split, a sample, and the sample's position in the shards.

The result depends only on the seed and the ids of the segments. Arrays [rows] are in the order of segment ids.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.language.filter import DECISIONS
from pipeline.languages import normalize_code
from pipeline.packing.config import SplitConfig
from pipeline.packing.split import assign_splits
from pipeline.records import SPLITS
from pipeline.runs import LANGUAGE, MANIFEST
from pipeline.stage import DROPPED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

RECORDING_COLUMNS = ["recording_id", "corpus", "speaker", "split", "language", "sample_rate_hz"]
# How many ids are turned into str, or rows into int, at a time; all at once take several times the column's memory.
ROWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Arrangement:
    """The shard and sample that every segment belongs to.

    Attributes:
        shards: Paths of the shards.
        shard: [rows] index in `shards` of each segment's shard; -1 if the segment is dropped.
        index: [rows] index of the segment's sample in the shard.
        member: [rows] index of the segment in its sample.
        joined_ids: Ids of the samples that have more than one segment.
        joined: [rows] index of the sample's id in `joined_ids`; -1 if the sample has one segment.
    """

    shards: list[str]
    shard: NDArray[np.int32]
    index: NDArray[np.int32]
    member: NDArray[np.int32]
    joined_ids: pa.Array
    joined: NDArray[np.int32]

    def sample_ids(self, rows: NDArray[np.integer] | slice) -> pa.Array:
        """The sample ids of these rows; null for a sample of one segment, whose id is the segment's."""
        joined = self.joined[rows]
        return self.joined_ids.take(pa.array(joined, mask=joined < 0))


def read_recordings(run: str, wanted: pa.ChunkedArray) -> pa.Table:
    """RECORDING_COLUMNS of the wanted recordings, sorted by id; `language` is the language stage's decision.

    Raises:
        TwistError: the language stage's decisions are about other recordings than this manifest's.
    """
    uri = storage.join(run, MANIFEST)
    files = [name for name in storage.list_files(uri, ".parquet") if name != DROPPED]
    repeated = ("corpus", "speaker", "split", "language")
    manifest = pa.concat_tables(
        parquet.read(storage.join(uri, name), RECORDING_COLUMNS, repeated).unify_dictionaries() for name in files
    )
    decisions = parquet.read(storage.join(run, LANGUAGE, DECISIONS), ["recording_id", "language"], ("language",))
    if not manifest["recording_id"].equals(decisions["recording_id"]):
        raise TwistError(f"{storage.join(run, LANGUAGE)} does not decide on the recordings of this manifest")
    plain = {name: manifest[name].cast(pa.string()) for name in repeated}
    spoken = pc.coalesce(decisions["language"].cast(pa.string()), plain["language"])
    known = {name: manifest[name] for name in ("recording_id", "sample_rate_hz")}
    table = pa.table({**known, **plain, "language": _normalized(spoken)}).select(RECORDING_COLUMNS)
    table = table.filter(pc.is_in(table["recording_id"], pc.unique(wanted)))
    return table.sort_by("recording_id").combine_chunks()


def _normalized(languages: pa.ChunkedArray) -> pa.ChunkedArray:
    names = pc.unique(languages)
    codes = pa.array([(name and normalize_code(name)) or None for name in names.to_pylist()], pa.string())
    return codes.take(pc.index_in(languages, names))


def split_by(recordings: pa.Table) -> Literal["speaker", "recording"]:
    """What stays together in one split: a speaker's recordings, unless there is one speaker alone."""
    speakers = pc.unique(recordings["speaker"])
    return "recording" if len(speakers) == 1 and speakers[0].is_valid else "speaker"


def split_recordings(recordings: pa.Table, seconds: NDArray[np.float64], config: SplitConfig) -> NDArray[np.int8]:
    """The split of each recording, as an index of SPLITS.

    All recordings of a speaker are in the same split, unless all are of one speaker.

    Args:
        recordings: RECORDING_COLUMNS.
        seconds: [recordings] the duration of each one's segments.
        config: How to split.
    """
    names, group, own = _groups(recordings)
    hours = np.bincount(group, seconds, len(names)) / 3600
    splits: NDArray[np.int8] = assign_splits(pa.chunked_array([names]), hours, own, config)[group]
    return splits


def have_own_split(recordings: pa.Table, config: SplitConfig) -> NDArray[np.bool_]:
    """Whether each recording's split comes from its corpus, and is not dealt out."""
    _, group, own = _groups(recordings)
    are_own: NDArray[np.bool_] = (own >= 0)[group] & (config.corpus_splits == "keep")
    return are_own


def _groups(recordings: pa.Table) -> tuple[pa.Array, NDArray[np.integer], NDArray[np.int8]]:
    """What stays together in one split: names [groups], each recording's group, and the groups' own splits (-1: none).

    A speaker whom a corpus has in several splits is kept out of training: SPLITS begins with train.
    """
    groups = recordings["recording_id"]
    if split_by(recordings) == "speaker":
        groups = pc.coalesce(recordings["speaker"], groups)
    names = pc.unique(groups)
    group = pc.index_in(groups, names).to_numpy()
    of_recording = pc.fill_null(pc.index_in(recordings["split"], pa.array(SPLITS)), -1).to_numpy().astype(np.int8)
    own = np.full(len(names), -1, np.int8)
    np.maximum.at(own, group, of_recording)
    return names, group, own


def arrange(
    ids: Iterable[pa.Array],
    num_units: NDArray[np.int32],
    splits: NDArray[np.int8],
    samples: NDArray[np.int32],
    *,
    seed: int,
    units_per_shard: int,
    min_shards: int,
) -> Arrangement:
    """Shuffles samples and divides them into shards of even size.

    Args:
        ids: The segments' ids [rows], in blocks.
        num_units: [rows].
        splits: [rows] indices of SPLITS.
        samples: [rows] the row of the first segment of each segment's sample; -1 if the segment is dropped. Segments
            of a sample are consecutive.
        seed: Seed of the shuffle.
        units_per_shard: Most units per shard, on average.
        min_shards: Fewest shards of the training split.
    """
    kept = np.flatnonzero(samples >= 0).astype(np.int32)
    starts = np.flatnonzero(samples[kept] == kept).astype(np.int32)
    firsts = kept[starts]
    sizes = np.diff(starts, append=len(kept)).astype(np.int32)
    lasts = kept[starts + sizes - 1]
    places, joined_ids = _shuffle(ids, firsts, lasts, seed)
    order = np.argsort(places, kind="stable").astype(np.int32)
    del places
    sample_units = np.add.reduceat(num_units[kept], starts, dtype=np.int64) if len(starts) else np.zeros(0, np.int64)
    names: list[str] = []
    shard, index = (np.empty(len(firsts), np.int32) for _ in range(2))
    for number, split in enumerate(SPLITS):
        mine = order[splits[firsts[order]] == number]
        if not len(mine):
            continue
        edges = even_edges(sample_units[mine], units_per_shard, min_shards if split == "train" else 1)
        for part, (start, end) in enumerate(itertools.pairwise(edges)):
            shard[mine[start:end]] = len(names)
            index[mine[start:end]] = np.arange(end - start)
            names.append(f"{split}/{split}-{part:06d}.tar")
    is_joined = sizes > 1
    joined = np.where(is_joined, np.cumsum(is_joined, dtype=np.int32) - 1, np.int32(-1))
    del order, sample_units

    def by_row(values: NDArray[np.int32]) -> NDArray[np.int32]:
        rows = np.full(len(samples), -1, np.int32)
        rows[kept] = np.repeat(values, sizes)
        return rows

    member = np.zeros(len(samples), np.int32)
    member[kept] = np.arange(len(kept), dtype=np.int32) - np.repeat(starts, sizes)
    return Arrangement(names, by_row(shard), by_row(index), member, joined_ids, by_row(joined))


def _shuffle(
    ids: Iterable[pa.Array], firsts: NDArray[np.int32], lasts: NDArray[np.int32], seed: int
) -> tuple[NDArray[np.uint64], pa.Array]:
    """Hashes the samples' ids, to sort the samples by; also returns the ids of samples with several segments.

    Args:
        ids: The segments' ids [rows], in blocks.
        firsts: [samples] the row of each sample's first segment, ascending.
        lasts: [samples] the row of each sample's last segment.
        seed: Seed of the hash.
    """
    places = np.empty(len(firsts), np.uint64)
    joined = [pa.array([], pa.large_string())]
    start = done = 0
    # The id of the first segment of a sample that began in an earlier block and has not ended.
    open_id = pa.array([None], pa.large_string())
    for block in ids:
        end = start + len(block)
        begun, ended = np.searchsorted(firsts, end), np.searchsorted(lasts, end)
        known = pa.concat_arrays([open_id, block])
        # `known` has `open_id` first, whose row is before this block, then the block.
        begins = known.take(pa.array(np.maximum(firsts[done:begun] - start, -1) + 1))
        is_joined = firsts[done:ended] != lasts[done:ended]
        of_samples = begins[: ended - done]
        ends = known.take(pa.array(lasts[done:ended] - start + 1))
        of_samples = _sample_ids(of_samples, ends, is_joined)
        _hash_ids(of_samples, seed, places[done:ended])
        joined.append(of_samples.filter(pa.array(is_joined)))
        open_id = begins[ended - done :] if begun > ended else open_id
        start, done = end, int(ended)
    return places, pa.concat_arrays(joined)


def _sample_ids(begins: pa.Array, ends: pa.Array, is_joined: NDArray[np.bool_]) -> pa.Array:
    """The samples' ids: the segment's own id, or the start in the first segment's id with the end in the last one's."""
    if not is_joined.any():
        return begins
    mask = pa.array(is_joined)
    first_halves = pc.replace_substring_regex(begins.filter(mask), "-[^-]*$", "-")
    second_halves = pc.replace_substring_regex(ends.filter(mask), "(?s)^.*-", "")
    nothing = pa.scalar("", begins.type)
    return pc.replace_with_mask(begins, mask, pc.binary_join_element_wise(first_halves, second_halves, nothing))


def _hash_ids(ids: pa.Array, seed: int, hashes: NDArray[np.uint64]) -> None:
    """Fills `hashes` [ids] with hashes of the ids."""
    for start in range(0, len(ids), ROWS_AT_ONCE):
        some = ids.slice(start, ROWS_AT_ONCE).to_pylist()
        digests = b"".join(hashlib.blake2b(f"{seed}:{id}".encode(), digest_size=8).digest() for id in some)
        hashes[start : start + len(some)] = np.frombuffer(digests, ">u8")


def join_neighbours(
    recordings: NDArray[np.int32],
    start_s: NDArray[np.float64],
    end_s: NDArray[np.float64],
    kept: NDArray[np.bool_],
    longest_s: float,
    longest_gap_s: float,
) -> NDArray[np.int32]:
    """Joins neighbouring segments of a recording into samples of limited length.

    Args:
        recordings: [rows] equal for the segments of one recording, which are consecutive and ascend in time.
        start_s, end_s: [rows].
        kept: [rows] whether each segment is kept; neighbours are not joined across a dropped one.
        longest_s: Longest sample in seconds, including pauses.
        longest_gap_s: Longest pause in seconds between segments that are joined.

    Returns:
        [rows] the row of the first segment of each segment's sample; -1 if the segment is dropped.
    """
    follows = np.zeros(len(kept), bool)
    follows[1:] = kept[1:] & kept[:-1] & (recordings[1:] == recordings[:-1])
    follows[1:] &= start_s[1:] - end_s[:-1] <= longest_gap_s
    samples = np.full(len(kept), -1, np.int32)
    first = -1
    for start in range(0, len(kept), ROWS_AT_ONCE):
        for row in (start + np.flatnonzero(kept[start : start + ROWS_AT_ONCE])).tolist():
            if not follows[row] or end_s[row] - start_s[first] > longest_s:
                first = row
            samples[row] = first
    return samples


def even_edges(sizes: NDArray[np.int64], units_per_shard: int, minimum: int) -> list[int]:
    """Divides consecutive samples into groups of nearly equal size, none of them empty; returns the groups' edges."""
    count = min(len(sizes), max(minimum, math.ceil(sizes.sum() / units_per_shard)))
    numbers = np.arange(count)
    middles = np.cumsum(sizes) - sizes / 2
    starts = np.searchsorted(middles, numbers * sizes.sum() / count)
    # Where a sample is larger than a group, its neighbours still get one of their own.
    starts = np.maximum.accumulate(starts - numbers) + numbers
    starts = np.minimum(starts, len(sizes) - count + numbers)
    return [*starts.tolist(), len(sizes)]
