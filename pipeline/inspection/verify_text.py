"""Checks shards of text by themselves: the index against dataset.json and, unless that is left out, against the tars.

As in verify.py, each function yields a sentence per violation.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.files import foreign_json, parquet, storage
from pipeline.inspection.accounts import repeated
from pipeline.inspection.verify_shards import (
    RowsByShard,
    as_violations,
    stray_tars,
    sums_of,
    totals_of,
    verify_sizes,
    verify_sums,
)
from pipeline.inspection.verify_tars import read_members
from pipeline.shards import DATASET, MANIFEST
from pipeline.text_shards import open_text, text_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.text_shards import TextDataset

SUMMED = {"num_documents": ("key", "count"), "num_tokens": ("num_tokens", "sum")}
MEMBERS = {"json", "tokens.npy"}


def verify_text(uri: str, checksums: bool = True) -> Iterator[str]:
    """Shards of text by themselves.

    Args:
        uri: Their folder.
        checksums: Whether to read the tars, too; else only that each is there and as long as it was.
    """
    return as_violations(uri, _verify_text(uri, checksums))


def _verify_text(uri: str, checksums: bool) -> Iterator[str]:
    dataset = open_text(uri)
    index_uri, manifest_uri = storage.join(uri, DATASET), storage.join(uri, MANIFEST)
    if dataset.fingerprint != text_fingerprint(dataset.info):
        yield f"{index_uri}: its fingerprint is not that of the tokenizer and shards that it names"
    if twice := repeated(lambda: (table["key"] for table in dataset.rows(["key"]))):
        yield f"{manifest_uri}: {twice[0]} keys occur more than once, e.g. {twice[1]}"
    shards: dict[str, dict[str, Any]] = {shard["path"]: shard for shard in dataset.info["shards"]}
    of_shards, of_corpora = sums_of(dataset, SUMMED)
    yield from verify_sums(index_uri, of_shards, {(path,): shard for path, shard in shards.items()}, SUMMED)
    yield from verify_sums(index_uri, of_corpora, totals_of(dataset.info["totals"]), SUMMED)
    yield from stray_tars(uri, shards)
    if not checksums:
        yield from verify_sizes(uri, shards)
        return
    with parquet.RowGroups(manifest_uri, dataset.schema.names) as groups:
        rows = RowsByShard(dataset, groups)
        for path, shard in shards.items():
            yield from as_violations(storage.join(uri, path), _verify_tar(dataset, shard, rows.of(path)))


def _verify_tar(dataset: TextDataset, shard: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    """One shard, of which the whole is in memory."""
    uri = storage.join(dataset.uri, shard["path"])
    content = storage.read_bytes(uri)
    if hashlib.sha256(content).hexdigest() != shard["sha256"] or len(content) != shard["num_bytes"]:
        yield f"{uri} does not have the checksum that {DATASET} gives"
        return
    rows = sorted(rows, key=lambda row: int(row["index"]))
    documents = read_members(content)
    if list(documents) != [row["key"] for row in rows]:
        yield f"{uri} does not hold the documents that {MANIFEST} lists for it, in their order"
        return
    for index, (row, members) in enumerate(zip(rows, documents.values(), strict=True)):
        where = f"{uri}: {row['key']}"
        if members.keys() != MEMBERS:
            yield f"{where} has members {sorted(members)}, not {sorted(MEMBERS)}"
            continue
        tokens = np.load(io.BytesIO(members["tokens.npy"].data))
        if tokens.dtype != dataset.token_type or tokens.ndim != 1 or len(tokens) == 0:
            yield f"{where}: tokens are {tokens.dtype} {tokens.shape}, not {dataset.token_type}"
            continue
        if tokens.max() >= dataset.vocab_size:
            yield f"{where}: token {tokens.max()} is outside the vocabulary of {dataset.vocab_size}"
        offset = min(member.offset for member in members.values())
        end = members["tokens.npy"].data_offset + len(members["tokens.npy"].data)
        tokens_offset = end - tokens.nbytes
        found = {
            "key": row["key"],
            "shard": shard["path"],
            "index": index,
            "offset": offset,
            "tokens_offset": tokens_offset,
            "num_tokens": len(tokens),
            "corpus": foreign_json.parse(members["json"].data)["corpus"],
            "split": shard["path"].partition("/")[0],
            "tokens_crc32": zlib.crc32(memoryview(content)[tokens_offset:end]),
            "sample_crc32": zlib.crc32(memoryview(content)[offset:end]),
        }
        if wrong := [name for name in dataset.schema.names if found[name] != row[name]]:
            yield f"{storage.join(dataset.uri, MANIFEST)}: {', '.join(wrong)} of {row['key']} are not those of {uri}"
