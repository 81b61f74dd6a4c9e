"""Values out of shards by their byte offsets, a block of neighbouring samples at a time; no tar is parsed.

A block is one range of bytes (several, where train.data.share leaves out most of the samples between), of which the
samples' stretches alone are kept (units, tokens of text, or whole samples with words), and held to their checksums in
the shards' manifest. Shards are not mapped into
memory: one that is cut meanwhile would end the process without a word.
Of shards on S3 (or where there is a cache) the next blocks are fetched meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import warnings
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import brief
from pipeline.files import storage
from pipeline.files.checksums import sha256_of
from pipeline.shards import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from model.lm.loader_config import LoaderConfig
    from model.lm.sample_index import SampleIndex
    from pipeline.shards import Shards

FETCH_THREADS = 16
# Of what lies between two samples' stretches, the most that is read along with them: that takes less time than to ask
# again, and with `share` an epoch still reads about that share of the bytes (12% of them at 0.1).
MAX_GAP_BYTES = 2**14
# Blocks whose values are kept in memory, and their bytes: of 128 samples of up to 704 units, 180 MB at most.
BLOCKS_KEPT, BYTES_KEPT = 1024, 2**28
CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Block:
    """The stretches of neighbouring samples.

    Attributes:
        values: All of them, of the index' type.
        starts: Where each sample's values begin in `values`.
        damaged: Samples whose bytes are not those that were packed, by their number in the block.
    """

    values: NDArray[Any]
    starts: list[int]
    damaged: frozenset[int] = frozenset()


class ShardReader:
    """The blocks of one split.

    Args:
        dataset: The shards.
        index: The split's samples.
        block_starts: [B + 1] the first sample of each block, all of which lie in one shard; at last their number.
        config: Whether to check samples, what to do with damaged ones, and where to keep them.

    Attributes:
        held_to: What samples are held to as they are read, in words.
    """

    def __init__(
        self, dataset: Shards, index: SampleIndex, block_starts: NDArray[np.int64], config: LoaderConfig
    ) -> None:
        self._dataset = dataset
        self._index = index
        self._block_starts = block_starts
        self._config = config
        self._is_direct = config.cache is None and not storage.is_s3(dataset.uri)
        self._checks_samples = config.verify_checksums and index.crc32 is not None
        # Shards that were packed before samples had checksums.
        self._checks_shards = config.verify_checksums and index.crc32 is None
        if self._checks_samples:
            self.held_to = "the checksum of each sample"
        elif self._checks_shards:
            self.held_to = "the checksum of each shard (pack again for those of samples, which take less reading)"
        else:
            self.held_to = "the sizes of shards alone (data.verify_checksums is false)"
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._of_process}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        self._facts = {shard["path"]: shard for shard in self._dataset.info.get("shards", ())}
        self._checked: set[int] = set()
        self._damaged: set[int] = set()
        self._blocks: dict[int, Block] = {}
        self._bytes_kept = 0
        self._under_way: dict[int, Future[list[bytes]]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._advised: set[int] = set()
        self._process = os.getpid()

    _of_process = frozenset(
        {"_facts", "_checked", "_damaged", "_blocks", "_bytes_kept", "_under_way", "_threads", "_advised"}
    )

    def read(self, number: int) -> Block | None:
        """One block; None where its shard is damaged as a whole and the configuration says to skip such.

        Raises:
            DatasetError: its shard, or one of its samples, is damaged.
        """
        if (kept := self._blocks.get(number)) is not None:
            return kept
        if self._process != os.getpid():  # forked: threads and their futures are the parent's
            self._open()
        shard = self._shard_of(number)
        if shard in self._damaged:
            return None
        try:
            if shard not in self._checked:
                self._check(shard)
                self._checked.add(shard)
            samples = self._fetched(number)
        except DatasetError as damage:
            self._refuse(shard, damage)
            return None
        self._advised.discard(number)  # in the next epoch the page cache may have lost it
        block = self._block(number, samples)
        self._bytes_kept += block.values.nbytes
        while self._blocks and (len(self._blocks) >= BLOCKS_KEPT or self._bytes_kept > BYTES_KEPT):
            self._bytes_kept -= self._blocks.pop(next(iter(self._blocks))).values.nbytes
        self._blocks[number] = block
        return block

    def refuse_value(self, number: int, value: str) -> None:
        """Takes the shard of a block for damaged, because what it holds cannot be: "unit 7, which ... not have".

        Raises:
            DatasetError: the configuration does not say to skip damaged shards.
        """
        shard = self._shard_of(number)
        self._refuse(shard, DatasetError(f"{self._uri(shard)} holds {value}"))

    def _refuse(self, shard: int, damage: DatasetError) -> None:
        self._tell(damage)
        self._damaged.add(shard)
        self._blocks.clear()
        self._bytes_kept = 0

    def _tell(self, damage: DatasetError) -> None:
        if self._config.damaged == "fail":
            raise damage
        warnings.warn(f"{damage}; what is damaged is left out", stacklevel=4)

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Lets blocks be read ahead."""
        for number in numbers:
            if number in self._blocks or number in self._under_way:
                continue
            if self._is_direct:
                self._advise(number)
            else:
                self._threads = self._threads or ThreadPoolExecutor(FETCH_THREADS)
                self._under_way[number] = self._threads.submit(self._fetch, number)

    def _advise(self, number: int) -> None:
        """Lets the kernel read a block into its page cache."""
        if number in self._advised or not hasattr(os, "posix_fadvise"):
            return
        # A file that is gone is told when it is read.
        with contextlib.suppress(FileNotFoundError), _opened(self._uri(self._shard_of(number))) as file:
            for first, end in self._ranges(number):
                start, stop = self._byte_range(first, end)
                os.posix_fadvise(file, start, stop - start, os.POSIX_FADV_WILLNEED)
        self._advised.add(number)

    def _block(self, number: int, samples: list[bytes]) -> Block:
        """The block of these samples' bytes.

        Raises:
            DatasetError: some are not those that were packed, and the configuration does not say to skip such.
        """
        num_values = self._index.num_values[slice(*self._block_starts[number : number + 2])]
        starts = (np.cumsum(num_values, dtype=np.int64) - num_values).tolist()
        damaged = self._damaged_samples(number, samples)
        if damaged:
            self._tell(self._damage(number, damaged))
        return Block(np.frombuffer(b"".join(samples), self._index.value_type), starts, frozenset(damaged))

    def _damaged_samples(self, number: int, samples: list[bytes]) -> list[int]:
        """Which samples of a block have another checksum than the manifest says, by their number in it."""
        if not self._checks_samples:
            return []
        assert self._index.crc32 is not None
        stated = self._index.crc32[slice(*self._block_starts[number : number + 2])].tolist()
        found = list(map(zlib.crc32, samples))
        return [] if found == stated else [row for row, crc32 in enumerate(found) if crc32 != stated[row]]

    def _damage(self, number: int, damaged: list[int]) -> DatasetError:
        key = self._dataset.value("key", int(self._index.rows[self._block_starts[number] + damaged[0]]))
        others = f" and of {len(damaged) - 1} near it" if len(damaged) > 1 else ""
        return DatasetError(
            f"{self._uri(self._shard_of(number))} is damaged: the {self._index.holds} of sample {brief(key)}{others} "
            f"are not those that were packed; restore it or pack again"
        )

    def _fetched(self, number: int) -> list[bytes]:
        under_way = self._under_way.pop(number, None)
        return under_way.result() if under_way else self._fetch(number)

    def _fetch(self, number: int) -> list[bytes]:
        """The bytes of each sample of a block."""
        path = self._cache_path(number)
        if path is None:
            return self._fetch_anew(number)
        kept = _read_kept(path, self._num_bytes(*self._block_starts[number : number + 2]))
        # What was kept unchecked may be damaged.
        if kept is not None and not self._damaged_samples(number, kept):
            return kept
        samples = self._fetch_anew(number)
        if not self._damaged_samples(number, samples):
            _keep(path, b"".join(samples))
        return samples

    def _fetch_anew(self, number: int) -> list[bytes]:
        return [sample for first, end in self._ranges(number) for sample in self._fetch_range(number, first, end)]

    def _fetch_range(self, number: int, first: int, end: int) -> list[bytes]:
        """The bytes of samples `first` to `end` (exclusive), by one read."""
        shard = self._shard_of(number)
        start, stop = self._byte_range(first, end)
        try:
            data = self._read_range(shard, start, stop - start)
        except FileNotFoundError:
            raise self._missing(shard) from None
        if len(data) != stop - start:
            raise self._cut(shard)
        starts = self._index.offset[first:end] - start
        stops = starts + self._num_bytes(first, end)
        return [data[begin:last] for begin, last in zip(starts.tolist(), stops.tolist(), strict=True)]

    def _read_range(self, shard: int, start: int, length: int) -> bytes:
        if not self._is_direct:
            return storage.read_range(self._uri(shard), start, length)
        # Twice as fast, for a block in the page cache.
        with _opened(self._uri(shard)) as file:
            return os.pread(file, length, start)

    def _ranges(self, number: int) -> list[tuple[int, int]]:
        """The samples of a block that one read gets: the first, and the one after the last, of each such range."""
        first, end = self._block_starts[number : number + 2].tolist()
        starts = self._index.offset[first:end]
        gaps = starts[1:] - (starts[:-1] + self._num_bytes(first, end - 1))
        cuts = (first + 1 + np.flatnonzero(gaps > MAX_GAP_BYTES)).tolist()
        return list(itertools.pairwise([first, *cuts, end]))

    def _byte_range(self, first: int, end: int) -> tuple[int, int]:
        """Where samples `first` to `end` (exclusive) begin and end."""
        start, last = self._index.offset[first], self._index.offset[end - 1]
        return int(start), int(last + self._num_bytes(end - 1, end)[0])

    def _num_bytes(self, first: int, end: int) -> NDArray[np.int64]:
        """The bytes that each of samples `first` to `end` (exclusive) takes, [n]."""
        return self._index.num_values[first:end].astype(np.int64) * self._index.value_type.itemsize

    def _cache_path(self, number: int) -> Path | None:
        if self._config.cache is None:
            return None
        first, end = self._block_starts[number : number + 2]
        shard = self._index.shards[self._shard_of(number)].replace("/", "-").removesuffix(".tar")
        # Named after what is in it, so that shards made anew are never mistaken for those before.
        share = "" if self._config.share == 1 else f"-of-{self._config.share}"
        name = f"{int(self._index.offset[first])}-{int(end - first)}{share}.{self._index.holds}"
        return Path(self._config.cache, self._dataset.fingerprint[:16], shard, name)

    def _check(self, shard: int) -> None:
        """Whether a shard is as long as it was and, where that is asked for, has its checksum."""
        uri, facts = self._uri(shard), self._facts.get(self._index.shards[shard])
        try:
            size = storage.size(uri)
            if facts is None:
                return
            if size != facts["num_bytes"]:
                raise DatasetError(f"{uri} has {size} bytes, not {facts['num_bytes']}; restore it or pack again")
            if self._checks_shards and sha256_of(uri) != facts["sha256"]:
                raise DatasetError(f"{uri} does not have the checksum in dataset.json; restore it or pack again")
        except FileNotFoundError:
            raise self._missing(shard) from None

    def _shard_of(self, number: int) -> int:
        return int(self._index.shard[self._block_starts[number]])

    def _uri(self, shard: int) -> str:
        return storage.join(self._dataset.uri, self._index.shards[shard])

    def _missing(self, shard: int) -> DatasetError:
        return DatasetError(
            f"{self._uri(shard)} is missing, though the shards' manifest lists it; restore it or pack again"
        )

    def _cut(self, shard: int) -> DatasetError:
        return DatasetError(f"{self._uri(shard)} ends before its last {self._index.holds}; restore it or pack again")


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def _read_kept(path: Path, num_bytes: NDArray[np.int64]) -> list[bytes] | None:
    """What was kept of samples of so many bytes [n], unless it is not there, or a crash left it half-written."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    content, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    ends = np.cumsum(num_bytes).tolist()
    if len(content) != ends[-1] or zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little") != checksum:
        return None
    return [content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _keep(path: Path, content: bytes) -> None:
    """Keeps a block under a name that several processes may write at once. Not synced: the checksum tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{storage.TEMPORARY_SUFFIX}")
    temporary.write_bytes(content + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little"))
    temporary.replace(path)
