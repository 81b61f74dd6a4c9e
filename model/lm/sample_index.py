"""The index of one split: which samples it has and where their units lie, from the shards' manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.shards import ID_HASH_DIGITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.shards import Dataset

# The columns of the shards' manifest that are read here, a row group at a time; where it has it, `units_crc32` too.
MANIFEST_COLUMNS = ("shard", "corpus", "split")
# Neighbours that are read together: of all samples 300 KB of a tar, in one request.
ROWS_PER_BLOCK = 128


@dataclass(frozen=True)
class SampleIndex:
    """Where the samples of one split lie: columns of the manifest's rows of it, [R] each.

    22 million rows take 0.6 GB.

    Attributes:
        rows: Numbers of the rows in the manifest, ascending.
        shards: Paths of shards.
        shard: The number in `shards` of the shard that each lies in.
        units_offset: Bytes before its first unit.
        num_units: Its units.
        units_crc32: CRC-32 of their bytes; None where the shards were packed before there was such a column.
        corpora: Names of corpora, all of the manifest's.
        corpus: The number in `corpora` of each sample's corpus.
    """

    rows: NDArray[np.int32]
    shards: list[str]
    shard: NDArray[np.int32]
    units_offset: NDArray[np.int64]
    num_units: NDArray[np.int32]
    units_crc32: NDArray[np.uint32] | None
    corpora: list[str]
    corpus: NDArray[np.int16]


def read_index(dataset: Dataset, split: str, share: float) -> SampleIndex:
    """Reads the manifest's rows of one split, or a share of them.

    Raises:
        TwistError: the manifest is damaged.
    """
    columns = MANIFEST_COLUMNS if share == 1 else (*MANIFEST_COLUMNS, "key")
    plain = {"units_offset": np.int64, "num_units": np.int32}
    if dataset.has_checksums:
        plain["units_crc32"] = np.uint32
    numbers: dict[str, dict[str, int]] = {"shard": {}, "corpus": {}}
    kinds = {"rows": np.int32, "shard": np.int32, "corpus": np.int16, **plain}
    parts: dict[str, list[NDArray[Any]]] = {name: [np.empty(0, kind)] for name, kind in kinds.items()}
    first_row = 0
    for table in dataset.rows([*columns, *plain]):
        rows = np.flatnonzero(pc.equal(table["split"], split).to_numpy())
        if share < 1:
            rows = rows[_in_share(table["key"].take(pa.array(rows)), share)]
        for name in plain:
            parts[name].append(table[name].to_numpy()[rows])
        for name, known in numbers.items():
            parts[name].append(_numbers(table[name], known)[rows].astype(kinds[name]))
        parts["rows"].append((first_row + rows).astype(np.int32))
        first_row += len(table)
    # One column after the other, so that no more than one is in memory twice.
    joined: dict[str, Any] = {name: np.concatenate(parts.pop(name)) for name in kinds}
    joined.setdefault("units_crc32", None)
    return SampleIndex(shards=list(numbers["shard"]), corpora=list(numbers["corpus"]), **joined)


def _numbers(column: pa.ChunkedArray, known: dict[str, int]) -> NDArray[np.int64]:
    """The number of each row's value; those not known yet get the next ones."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    of_value = np.array([known.setdefault(value, len(known)) for value in array.dictionary.to_pylist()], np.int64)
    numbers: NDArray[np.int64] = of_value[array.indices.to_numpy()]
    return numbers


def _in_share(keys: pa.ChunkedArray, share: float) -> NDArray[np.bool_]:
    """Which samples a share of all has: those whose ids' hashes (the ends of their keys) are small enough."""
    ends = pc.utf8_slice_codeunits(keys, -ID_HASH_DIGITS)
    places = np.fromiter((int(end, 16) / 16**ID_HASH_DIGITS for end in ends.to_pylist()), np.float64, len(ends))
    is_in: NDArray[np.bool_] = places < share
    return is_in


def block_starts(shards: NDArray[np.int32]) -> NDArray[np.int64]:
    """The first row of each block of up to ROWS_PER_BLOCK neighbours in a shard, then the number of rows."""
    shard_starts = np.concatenate([[0], np.flatnonzero(np.diff(shards)) + 1])
    sizes = np.diff(np.append(shard_starts, len(shards)))
    counts = -(-sizes // ROWS_PER_BLOCK)
    of_block = np.repeat(np.arange(len(sizes)), counts)
    number_in_shard = np.arange(len(of_block)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = shard_starts[of_block] + number_in_shard * sizes[of_block] // counts[of_block]
    return np.append(starts, len(shards))
