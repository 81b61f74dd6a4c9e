"""Where every segment goes: its split, the sample it is part of, and that sample's place in the shards.

All of it is decided on compact columns, a number or a short text per segment, and depends on the segments' ids and the
seed alone.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    from numpy.typing import NDArray

RECORDING_COLUMNS = ["recording_id", "corpus", "speaker", "split", "language"]
# As Python's texts; of all at once they take several times the space of the columns.
IDS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Arrangement:
    """The samples' places.

    Attributes:
        shards: Paths of the shards.
        shard: [rows] which shard each segment is in; -1 for those that are dropped.
        index: [rows] which of its samples.
        member: [rows] which segment of that sample.
        sample_ids: [rows] the sample's id, where it has more than one segment.
    """

    shards: list[str]
    shard: NDArray[np.int32]
    index: NDArray[np.int32]
    member: NDArray[np.int32]
    sample_ids: pa.Array


def read_recordings(run: str, wanted: pa.ChunkedArray) -> pa.Table:
    """What samples tell of their recordings: RECORDING_COLUMNS of those wanted, by id; `language` is the one decided.

    Raises:
        TwistError: the language stage's decisions are not those of this manifest.
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
    table = pa.table({"recording_id": manifest["recording_id"], **plain, "language": _normalized(spoken)})
    table = table.filter(pc.is_in(table["recording_id"], pc.unique(wanted)))
    return table.sort_by("recording_id").combine_chunks()


def _normalized(languages: pa.ChunkedArray) -> pa.ChunkedArray:
    names = pc.unique(languages)
    codes = pa.array([name and normalize_code(name) for name in names.to_pylist()], pa.string())
    return codes.take(pc.index_in(languages, names))


def split_recordings(recordings: pa.Table, config: SplitConfig) -> NDArray[np.int8]:
    """The split of each recording, a number of SPLITS; all recordings of a speaker share one."""
    groups = pc.coalesce(recordings["speaker"], recordings["recording_id"])
    names = pc.unique(groups)
    group = pc.index_in(groups, names).to_numpy()
    # A speaker whom a corpus puts into several splits is kept out of training.
    own = pc.fill_null(pc.index_in(recordings["split"], pa.array(SPLITS)), -1).to_numpy().astype(np.int8)
    of_group = np.full(len(names), -1, np.int8)
    np.maximum.at(of_group, group, own)
    splits: NDArray[np.int8] = assign_splits(names.to_pylist(), of_group, config)[group]
    return splits


def arrange(
    segment_ids: pa.ChunkedArray,
    num_units: NDArray[np.int64],
    splits: NDArray[np.int8],
    samples: NDArray[np.int64],
    *,
    seed: int,
    units_per_shard: int,
    min_shards: int,
) -> Arrangement:
    """Shuffles samples and parts them into shards of even size.

    Args:
        segment_ids: [rows].
        num_units: [rows].
        splits: [rows] numbers of SPLITS.
        samples: [rows] the first segment's row of the sample that a segment is in; -1 for those dropped. Segments of
            one sample follow each other, in the order of their ids.
        seed: Of the shuffle.
        units_per_shard: Units that a shard holds at most, on average.
        min_shards: Fewest shards of the training split.
    """
    kept = np.flatnonzero(samples >= 0)
    firsts = kept[samples[kept] == kept]
    size = np.bincount(samples[kept], num_units[kept], len(samples))[firsts].astype(np.int64)
    last = np.zeros(len(samples), np.int64)
    last[samples[kept]] = kept  # the last assignment stays
    is_joined = last[firsts] != firsts
    ids = _sample_ids(segment_ids, firsts, last[firsts])
    order = np.argsort(_places(ids, seed), kind="stable")
    names: list[str] = []
    shard, index = (np.full(len(samples), -1, np.int32) for _ in range(2))
    for number, split in enumerate(SPLITS):
        mine = order[splits[firsts[order]] == number]
        if not len(mine):
            continue
        edges = even_edges(size[mine], units_per_shard, min_shards if split == "train" else 1)
        for part, (start, end) in enumerate(itertools.pairwise(edges)):
            shard[firsts[mine[start:end]]] = len(names)
            index[firsts[mine[start:end]]] = np.arange(end - start)
            names.append(f"{split}/{split}-{part:06d}.tar")
    member = np.zeros(len(samples), np.int32)
    shard[kept], index[kept] = shard[samples[kept]], index[samples[kept]]
    member[kept] = _member(samples[kept])
    of_sample = np.full(len(samples), -1, np.int64)
    of_sample[firsts[is_joined]] = np.flatnonzero(is_joined)
    chosen = np.where(samples >= 0, of_sample[samples], -1)
    sample_ids = ids.take(pa.array(chosen, mask=chosen < 0))
    return Arrangement(names, shard, index, member, sample_ids)


def _sample_ids(segment_ids: pa.ChunkedArray, firsts: NDArray[np.int64], lasts: NDArray[np.int64]) -> pa.Array:
    """[samples] the id of each: its segment's, or from where its first begins to where its last ends."""
    ids = segment_ids.take(pa.array(firsts)).combine_chunks()
    is_joined = lasts != firsts
    if not is_joined.any():
        return ids
    begins = pc.replace_substring_regex(ids.filter(pa.array(is_joined)), "-[^-]*$", "-")
    ends = pc.replace_substring_regex(segment_ids.take(pa.array(lasts[is_joined])).combine_chunks(), "(?s)^.*-", "")
    nothing = pa.scalar("", begins.type)
    return pc.replace_with_mask(ids, pa.array(is_joined), pc.binary_join_element_wise(begins, ends, nothing))


def _member(samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each kept segment in its sample."""
    starts = np.flatnonzero(np.concatenate([[True], samples[1:] != samples[:-1]]))
    return np.arange(len(samples)) - np.repeat(starts, np.diff(np.append(starts, len(samples))))


def join_neighbours(
    recordings: NDArray[np.int64],
    start_s: NDArray[np.float64],
    end_s: NDArray[np.float64],
    kept: NDArray[np.bool_],
    longest_s: float,
    longest_gap_s: float,
) -> NDArray[np.int64]:
    """Which segments make up one sample: neighbours of a recording, up to a length.

    Args:
        recordings: [rows] ascending, with ascending times in each.
        start_s, end_s: [rows].
        kept: [rows] which are not dropped; a dropped one parts its neighbours.
        longest_s: Of a sample, pauses included; 0 makes each segment a sample of its own.
        longest_gap_s: Between neighbours.

    Returns:
        [rows] the row of the sample's first segment; -1 for those dropped.
    """
    if not longest_s:
        return np.where(kept, np.arange(len(kept)), -1)
    follows = np.zeros(len(kept), bool)
    follows[1:] = kept[1:] & kept[:-1] & (recordings[1:] == recordings[:-1])
    follows[1:] &= start_s[1:] - end_s[:-1] <= longest_gap_s
    samples = np.full(len(kept), -1, np.int64)
    first = -1
    for row in np.flatnonzero(kept).tolist():
        if not follows[row] or end_s[row] - start_s[first] > longest_s:
            first = row
        samples[row] = first
    return samples


def even_edges(sizes: NDArray[np.int64], units_per_shard: int, minimum: int) -> list[int]:
    """Where to part neighbours into groups of nearly equal size, none of them empty."""
    count = min(len(sizes), max(minimum, math.ceil(sizes.sum() / units_per_shard)))
    numbers = np.arange(count)
    middles = np.cumsum(sizes) - sizes / 2
    starts = np.searchsorted(middles, numbers * sizes.sum() / count)
    # Where a sample is larger than a group, its neighbours still get one of their own.
    starts = np.maximum.accumulate(starts - numbers) + numbers
    starts = np.minimum(starts, len(sizes) - count + numbers)
    return [*starts.tolist(), len(sizes)]


def _places(sample_ids: pa.Array, seed: int) -> NDArray[np.uint64]:
    """Where the shuffle puts each sample: as evenly as a hash spreads them."""
    places = np.empty(len(sample_ids), np.uint64)
    for start in range(0, len(sample_ids), IDS_AT_ONCE):
        ids = sample_ids.slice(start, IDS_AT_ONCE).to_pylist()
        digests = b"".join(hashlib.blake2b(f"{seed}:{id}".encode(), digest_size=8).digest() for id in ids)
        places[start : start + len(ids)] = np.frombuffer(digests, ">u8")
    return places
