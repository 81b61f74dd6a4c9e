"""Units out of shards by their byte offsets, a block of neighbouring samples at a time; no tar is parsed.

Shards on a local disk are mapped into memory. Of shards on S3 (or where there is a cache) a block is one request for a
range of bytes, of which the units alone are kept; the next blocks are fetched meanwhile.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import warnings
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.lm.loader_config import LoaderConfig
from pipeline.files import storage
from pipeline.shards import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from pipeline.shards import Dataset

FETCH_THREADS = 16
# Blocks whose places are kept in memory; where their units are too, 128 samples of up to 704, 180 MB at most.
BLOCKS_KEPT = 1024
HASH_CHUNK_BYTES = 2**22
CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Block:
    """Units of neighbouring samples.

    Attributes:
        units: All that lies there.
        starts: Where each sample's units begin in `units`.
    """

    units: NDArray[np.uint16]
    starts: list[int]


class ShardReader:
    """The blocks of one split.

    Args:
        dataset: The shards.
        shard_names: Paths of the shards.
        shard_of_block: [B] the shard that each block lies in, as a number of `shard_names`.
        units_offset: [R] bytes before its first unit.
        num_units: [R] of its units.
        block_starts: [B + 1] the first row of each block, all of whose samples lie in one shard; at last R.
        config: What to do with damaged shards, and where to keep units.
    """

    def __init__(
        self,
        dataset: Dataset,
        shard_names: Sequence[str],
        shard_of_block: NDArray[np.int32],
        units_offset: NDArray[np.int64],
        num_units: NDArray[np.int32],
        block_starts: NDArray[np.int64],
        config: LoaderConfig,
    ) -> None:
        if (units_offset % 2).any():
            raise DatasetError(f"{dataset.uri}: the manifest names units at odd bytes, where none are packed")
        self._dataset = dataset
        self._shard_names = list(shard_names)
        self._shard_of_block = shard_of_block
        self._units_offset = units_offset
        self._num_units = num_units
        self._block_starts = block_starts
        self._config = config
        self._is_mapped = config.cache is None and not storage.is_s3(dataset.uri)
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._of_process}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        self._facts = {shard["path"]: shard for shard in self._dataset.info.get("shards", ())}
        self._maps: dict[int, tuple[mmap.mmap, NDArray[np.uint16]]] = {}
        self._checked: set[int] = set()
        self._damaged: set[int] = set()
        self._blocks: dict[int, Block] = {}
        self._under_way: dict[int, Future[Block]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    _of_process = frozenset({"_facts", "_maps", "_checked", "_damaged", "_blocks", "_under_way", "_threads"})

    def read(self, number: int) -> Block | None:
        """One block; None where its shard is damaged and the configuration says to skip such.

        Raises:
            DatasetError: its shard is damaged.
        """
        if self._process != os.getpid():  # forked: threads and their futures are the parent's
            self._open()
        if (kept := self._blocks.get(number)) is not None:
            return kept
        shard = int(self._shard_of_block[number])
        if shard in self._damaged:
            return None
        try:
            if shard not in self._checked:
                self._check(shard)
                self._checked.add(shard)
            block = self._map(shard, number) if self._is_mapped else self._fetched(number)
        except DatasetError as damage:
            self._refuse(shard, damage)
            return None
        while len(self._blocks) >= BLOCKS_KEPT:
            del self._blocks[next(iter(self._blocks))]
        self._blocks[number] = block
        return block

    def refuse_unit(self, number: int, unit: int) -> None:
        """Takes the shard of a block for damaged, because there is no such unit.

        Raises:
            DatasetError: the configuration does not say to skip damaged shards.
        """
        shard = int(self._shard_of_block[number])
        self._refuse(shard, DatasetError(f"{self._uri(shard)} holds unit {unit}, which the codebook does not have"))

    def _refuse(self, shard: int, damage: DatasetError) -> None:
        if self._config.damaged == "fail":
            raise damage
        self._damaged.add(shard)
        self._blocks.clear()
        warnings.warn(f"{damage}; its samples are left out", stacklevel=3)

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Lets blocks be read ahead."""
        for number in numbers:
            if not self._is_mapped:
                if number not in self._blocks and number not in self._under_way:
                    self._threads = self._threads or ThreadPoolExecutor(FETCH_THREADS)
                    self._under_way[number] = self._threads.submit(self._fetch, number)
                continue
            shard = int(self._shard_of_block[number])
            if shard in self._maps and hasattr(mmap, "MADV_WILLNEED"):
                start, end = self._byte_range(number)
                start -= start % mmap.PAGESIZE
                self._maps[shard][0].madvise(mmap.MADV_WILLNEED, start, end - start)

    def _map(self, shard: int, number: int) -> Block:
        if shard not in self._maps:
            with storage.open_read(self._uri(shard)) as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[shard] = mapped, np.frombuffer(mapped, "<u2", len(mapped) // 2)
        rows = slice(*self._block_starts[number : number + 2])
        units = self._maps[shard][1]
        if self._byte_range(number)[1] > 2 * len(units):
            raise self._cut(shard)
        return Block(units, (self._units_offset[rows] // 2).tolist())

    def _fetched(self, number: int) -> Block:
        under_way = self._under_way.pop(number, None)
        return under_way.result() if under_way else self._fetch(number)

    def _fetch(self, number: int) -> Block:
        num_units = self._num_units[slice(*self._block_starts[number : number + 2])]
        ends = np.cumsum(num_units, dtype=np.int64)
        path = self._cache_path(number)
        content = _read_kept(path, 2 * int(ends[-1])) if path else None
        if content is None:
            content = self._fetch_units(number)
            if path:
                _keep(path, content)
        return Block(np.frombuffer(content, "<u2"), (ends - num_units).tolist())

    def _fetch_units(self, number: int) -> bytes:
        rows = slice(*self._block_starts[number : number + 2])
        shard = int(self._shard_of_block[number])
        start, end = self._byte_range(number)
        try:
            data = storage.read_range(self._uri(shard), start, end - start)
        except FileNotFoundError:
            raise self._missing(shard) from None
        if len(data) != end - start:
            raise self._cut(shard)
        places = zip((self._units_offset[rows] - start).tolist(), self._num_units[rows].tolist(), strict=True)
        return b"".join(data[place : place + 2 * length] for place, length in places)

    def _byte_range(self, number: int) -> tuple[int, int]:
        first, last = self._block_starts[number : number + 2] - (0, 1)
        return int(self._units_offset[first]), int(self._units_offset[last] + 2 * self._num_units[last])

    def _cache_path(self, number: int) -> Path | None:
        if self._config.cache is None:
            return None
        first, end = self._block_starts[number : number + 2]
        shard = self._shard_names[int(self._shard_of_block[number])].replace("/", "-").removesuffix(".tar")
        # Named after what is in it, so that shards made anew are never mistaken for those before.
        name = f"{int(self._units_offset[first])}-{int(end - first)}.units"
        return Path(self._config.cache, self._dataset.fingerprint[:16], shard, name)

    def _check(self, shard: int) -> None:
        """Whether a shard is as long as it was and, where that is asked for, has its checksum."""
        uri, facts = self._uri(shard), self._facts.get(self._shard_names[shard])
        try:
            size = storage.size(uri)
            if facts is None:
                return
            if size != facts["num_bytes"]:
                raise DatasetError(f"{uri} has {size} bytes, not {facts['num_bytes']}; restore it or pack again")
            if self._config.verify_checksums and _sha256(uri) != facts["sha256"]:
                raise DatasetError(f"{uri} does not have the checksum in dataset.json; restore it or pack again")
        except FileNotFoundError:
            raise self._missing(shard) from None

    def _uri(self, shard: int) -> str:
        return storage.join(self._dataset.uri, self._shard_names[shard])

    def _missing(self, shard: int) -> DatasetError:
        return DatasetError(
            f"{self._uri(shard)} is missing, though the shards' manifest lists it; restore it or pack again"
        )

    def _cut(self, shard: int) -> DatasetError:
        return DatasetError(f"{self._uri(shard)} ends before its last units; restore it or pack again")


def _sha256(uri: str) -> str:
    digest = hashlib.sha256()
    with storage.open_read(uri) as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read_kept(path: Path, num_bytes: int) -> bytes | None:
    """What was kept, unless it is not there, or a crash left it half-written."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    content, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    is_whole = len(content) == num_bytes and zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little") == checksum
    return content if is_whole else None


def _keep(path: Path, content: bytes) -> None:
    """Keeps units under a name that several processes may write at once. Not synced: the checksum tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{storage.TEMPORARY_SUFFIX}")
    temporary.write_bytes(content + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little"))
    temporary.replace(path)
