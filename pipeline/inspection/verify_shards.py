"""Checks shards by themselves: the index against dataset.json and, unless that is left out, against the tars.

As in verify.py, each function yields a sentence per violation. The manifest is read a row group at a time: of its rows
two columns of hashes are in memory at once.
"""

from __future__ import annotations

import tarfile
from array import array
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.files.tar_writer import BLOCK_BYTES
from pipeline.inspection.accounts import hashes_of, repeated
from pipeline.inspection.verify_tars import verify_tar
from pipeline.records import SPLITS
from pipeline.shards import DATASET, MANIFEST, WORD_BYTES, dataset_fingerprint, open_dataset

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from pipeline.shards import Dataset, Shards

    # What dataset.json, or the manifest, says of each group of samples: figures by name.
    _Sums = Mapping[tuple[str, ...], Mapping[str, Any]]

# Of a figure in dataset.json, which column of the manifest it sums up, and how.
Summed = Mapping[str, tuple[str, str]]
SUMMED = {"num_samples": ("key", "count"), "num_units": ("num_units", "sum"), "num_frames": ("num_frames", "sum")}
SUMMED_OF_WORDS = {
    "num_samples": ("num_words", "count"),
    "num_words": ("num_words", "sum"),
    "num_text_tokens": ("num_text_tokens", "sum"),
}
SUMMED_OF_STREAMS = {
    "num_samples": ("num_pitch", "count"),
    "num_pitch": ("num_pitch", "sum"),
    "num_style": ("num_style", "sum"),
}


def verify_shards(uri: str, checksums: bool = True) -> Iterator[str]:
    """Shards by themselves.

    Args:
        uri: Their folder.
        checksums: Whether to read the tars, too; else only that each is there and as long as it was.
    """
    return as_violations(uri, _verify_shards(uri, checksums))


def as_violations(where: str, check: Iterator[str]) -> Iterator[str]:
    """What a check yields; where it stumbles over something damaged, a sentence on that."""
    try:
        yield from check
    except TwistError as error:
        yield str(error)
    except FileNotFoundError as error:
        yield f"{error.filename or where} is missing"
    # What reading JSON, Parquet, tar or npy data raises that is not what it should be (Arrow's errors among them).
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, tarfile.TarError) as error:
        yield f"{where} is damaged: {type(error).__name__}: {error}"


def _verify_shards(uri: str, checksums: bool) -> Iterator[str]:
    dataset = open_dataset(uri)
    index_uri, manifest_uri = storage.join(uri, DATASET), storage.join(uri, MANIFEST)
    if dataset.fingerprint != dataset_fingerprint(dataset.info):
        yield f"{index_uri}: its fingerprint is not that of the codebook and shards that it names"
    if twice := repeated(lambda: (table["key"] for table in dataset.rows(["key"]))):
        yield f"{manifest_uri}: {twice[0]} keys occur more than once, e.g. {twice[1]}"
    yield from _verify_splits(manifest_uri, dataset)
    shards: dict[str, dict[str, Any]] = {shard["path"]: shard for shard in dataset.info["shards"]}
    of_shards, of_corpora = sums_of(dataset, SUMMED)
    yield from verify_sums(index_uri, of_shards, {(path,): shard for path, shard in shards.items()}, SUMMED)
    yield from verify_sums(index_uri, of_corpora, totals_of(dataset.info["totals"]), SUMMED)
    if dataset.has_words:
        _, with_words = sums_of(dataset, SUMMED_OF_WORDS)
        yield from verify_sums(index_uri, with_words, totals_of(dataset.info["text"]["totals"]), SUMMED_OF_WORDS)
    if dataset.has_streams:
        _, with_streams = sums_of(dataset, SUMMED_OF_STREAMS)
        yield from verify_sums(index_uri, with_streams, totals_of(dataset.info["streams"]["totals"]), SUMMED_OF_STREAMS)
    yield from stray_tars(uri, shards)
    yield from _verify_tars(dataset, shards) if checksums else _verify_places(dataset, shards)


def totals_of(told: list[dict[str, Any]]) -> _Sums:
    """What dataset.json says of each corpus and split."""
    return {(total["corpus"], total["split"]): total for total in told}


def stray_tars(uri: str, shards: Collection[str]) -> Iterator[str]:
    """Tars that dataset.json does not name."""
    for path in storage.list_files(uri, ".tar"):
        if path not in shards:
            yield f"{storage.join(uri, path)} is none of the shards in {DATASET}"


def _verify_tars(dataset: Dataset, shards: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What is in the tars, and how often units occur in all of them."""
    stated: dict[str, list[int]] = dataset.info.get("unit_counts", {})
    counts = {split: np.zeros(dataset.codebook_size, np.int64) for split in stated}
    num_violations = 0
    with parquet.RowGroups(storage.join(dataset.uri, MANIFEST), dataset.schema.names) as groups:
        rows = RowsByShard(dataset, groups)
        for path, shard in shards.items():
            check = verify_tar(dataset, shard, rows.of(path), counts)
            for violation in as_violations(storage.join(dataset.uri, path), check):
                num_violations += 1
                yield violation
    if not num_violations:
        for split, counts_of_split in stated.items():
            if counts[split].tolist() != counts_of_split:
                uri = storage.join(dataset.uri, DATASET)
                yield f"{uri} says otherwise how often units occur in {split} than its shards do"


def _verify_places(dataset: Dataset, shards: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Whether each tar is as long as it was, and the places that the manifest names lie within it."""
    yield from verify_sizes(dataset.uri, shards)
    paths = pa.array(shards, pa.string())
    ends = np.array([shard["num_bytes"] for shard in shards.values()], np.int64)
    manifest_uri = storage.join(dataset.uri, MANIFEST)
    of_words = ["words_offset", "num_words"] if dataset.has_words else []
    of_streams = ["style_offset", "num_style"] if dataset.has_streams else []
    for table in dataset.rows(["key", "shard", "offset", "units_offset", "num_units", *of_words, *of_streams]):
        table = table.filter(pc.is_in(table["shard"], paths))
        offset, units_offset, num_units = (
            table[name].to_numpy().astype(np.int64) for name in ("offset", "units_offset", "num_units")
        )
        end = ends[pc.index_in(table["shard"], paths).to_numpy()]
        is_fit = (offset >= 0) & (offset % BLOCK_BYTES == 0) & (offset < units_offset) & (num_units > 0)
        is_fit &= units_offset + 2 * num_units <= end
        if of_words:
            words_offset, num_words = (pc.fill_null(table[name], 0).to_numpy().astype(np.int64) for name in of_words)
            is_fit &= (words_offset + WORD_BYTES * num_words <= end) & (
                (num_words == 0) | (words_offset > units_offset)
            )
        if of_streams:
            style_offset, num_style = (pc.fill_null(table[name], 0).to_numpy().astype(np.int64) for name in of_streams)
            is_fit &= (style_offset + 2 * num_style <= end) & ((num_style == 0) | (style_offset > units_offset))
        for row in np.flatnonzero(~is_fit):
            yield f"{manifest_uri}: {table['key'][row]} lies where there is no sample in {table['shard'][row]}"


def verify_sizes(folder: str, shards: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Whether each tar is there, and as long as it was."""
    for path, shard in shards.items():
        uri = storage.join(folder, path)
        try:
            num_bytes = storage.size(uri)
        except FileNotFoundError:
            yield f"{uri} is missing"
            continue
        if num_bytes != shard["num_bytes"]:
            yield f"{uri} has {num_bytes} bytes, not the {shard['num_bytes']} that {DATASET} gives"


class RowsByShard:
    """The manifest's rows by shard: of one shard as Python objects, of one row group as columns at a time."""

    def __init__(self, dataset: Shards, groups: parquet.RowGroups) -> None:
        self._groups = groups
        self._numbers: dict[str, list[int]] = defaultdict(list)
        for number, table in enumerate(dataset.rows(["shard"])):
            for path in pc.unique(table["shard"]).to_pylist():
                self._numbers[path].append(number)
        self._open: tuple[int, pa.Table] | None = None

    def of(self, path: str) -> list[dict[str, Any]]:
        """Those of one shard, in the manifest's order."""
        rows: list[dict[str, Any]] = []
        for number in self._numbers.get(path, ()):
            if self._open is None or self._open[0] != number:
                self._open = (number, self._groups.read(number))
            table = self._open[1]
            rows += table.filter(pc.equal(table["shard"], path)).to_pylist()
        return rows


def _verify_splits(manifest_uri: str, dataset: Dataset) -> Iterator[str]:
    """Whether all samples of a speaker are in one split; of a recording, where that is not known or all are of one."""
    is_by_recording = dataset.info.get("split_by") == "recording"
    owned = array("q")
    for table in dataset.rows(["speaker", "split", "segment_id"]):
        owned.frombytes(_owned(table, is_by_recording).tobytes())
    pairs = np.frombuffer(owned, np.int64)
    pairs.sort()
    is_torn = (pairs[1:] >> 2 == pairs[:-1] >> 2) & (pairs[1:] != pairs[:-1])
    torn = np.unique(pairs[1:][is_torn] >> 2)
    if not len(torn):
        return
    first_split: dict[str, str] = {}
    for table in dataset.rows(["speaker", "split", "segment_id"]):
        rows = table.filter(np.isin(_owned(table, is_by_recording) >> 2, torn))
        columns = (_owners(rows, is_by_recording), rows["split"], rows["segment_id"])
        for owner, split, segment_id in zip(*(column.to_pylist() for column in columns), strict=True):
            if first_split.setdefault(owner, split) != split:
                yield f"{manifest_uri}: {owner} is in {first_split[owner]} and, with {segment_id}, in {split}"


def _owners(table: pa.Table, is_by_recording: bool) -> pa.ChunkedArray:
    recordings = pc.replace_substring_regex(table["segment_id"], "#[^#]*$", "")
    return recordings if is_by_recording else pc.coalesce(table["speaker"], recordings)


def _owned(table: pa.Table, is_by_recording: bool) -> NDArray[np.int64]:
    """For each sample 62 bits of its owner's hash, and then its split's number."""
    split = pc.fill_null(pc.index_in(table["split"], pa.array(SPLITS)), len(SPLITS)).to_numpy()
    owned: NDArray[np.int64] = hashes_of([_owners(table, is_by_recording)]) << 2 | split
    return owned


def sums_of(dataset: Shards, summed: Summed) -> tuple[_Sums, _Sums]:
    """What the manifest's rows add up to: by shard, and by corpus and split."""
    groupings = (["shard"], ["corpus", "split"])
    sums: tuple[dict[tuple[str, ...], dict[str, int]], ...] = ({}, {})
    for table in dataset.rows([*(column for column, _ in summed.values()), "shard", "corpus", "split"]):
        for columns, found in zip(groupings, sums, strict=True):
            for group in table.group_by(columns).aggregate(list(summed.values())).to_pylist():
                figures = found.setdefault(tuple(group[column] for column in columns), dict.fromkeys(summed, 0))
                for name, how in summed.items():
                    figures[name] += group["_".join(how)] or 0
    return sums[0], sums[1]


def verify_sums(index_uri: str, found: _Sums, stated: _Sums, summed: Summed) -> Iterator[str]:
    """Whether dataset.json says of each group of samples what the manifest's rows add up to."""
    expected = {key: {name: figures[name] for name in summed} for key, figures in stated.items()}
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            yield f"{index_uri} says {expected.get(key)} of {' '.join(key)}, but {MANIFEST} lists {found.get(key)}"
