"""Shards of text: WebDataset tars of tokens, one sample a document, with the index that shards of units have.

TEXT/<split>/<split>-000000.tar     per document <key>.json, <key>.tokens.npy
TEXT/manifest.parquet               DOCUMENT_SCHEMA
TEXT/dataset.json                   tokenizer, type of tokens, fingerprint, checksums and counts; written last
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.files import foreign_json, storage
from pipeline.files.tar_writer import TarWriter
from pipeline.records import DOCUMENT_SCHEMA
from pipeline.shards import (
    DATASET,
    SORTED_JSON,
    DatasetError,
    Shards,
    array_of,
    content_of,
    cut_out,
    read_info,
    write_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

FORMAT_VERSION = 1
TOKEN_TYPES = ("uint16", "uint32")


@dataclass(frozen=True)
class Document:
    """One document: its place in its corpus, and its tokens [T], as the tokenizer gives them without special ones.

    `source` is its file, relative to the corpus' folder, `row` its number in that, from 0.
    """

    key: str
    corpus: str
    source: str
    row: int
    split: str
    tokens: NDArray[Any]


class TextDataset(Shards):
    """Finished shards of text.

    Args:
        uri: Their folder.
        info: What dataset.json says.
    """

    def __init__(self, uri: str, info: dict[str, Any]) -> None:
        super().__init__(uri, info, None, DOCUMENT_SCHEMA)

    @property
    def vocab_size(self) -> int:
        """Rows of the text LM's table of embeddings, above every token."""
        return int(self.info["vocab_size"])

    @property
    def tokenizer(self) -> str:
        """The fingerprint of the tokenizer."""
        return str(self.info["tokenizer"])

    @property
    def token_type(self) -> np.dtype[Any]:
        """The type of tokens in the tars."""
        kind: np.dtype[Any] = np.dtype(self.info["token_type"]).newbyteorder("<")
        return kind


def token_type_of(vocab_size: int) -> str:
    """The smallest type that every token fits into."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def write_text_shard(
    shards: str, name: str, documents: Sequence[Document]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Writes one tar, whole or not at all; the same documents give the same bytes.

    Returns:
        What dataset.json says of the shard, and the manifest rows of its documents.
    """
    tar = TarWriter()
    rows: list[dict[str, Any]] = []
    for index, document in enumerate(documents):
        offset = tar.offset
        description = {"corpus": document.corpus, "source": document.source, "row": document.row}
        tar.add(f"{document.key}.json", SORTED_JSON.encode(description).encode())
        tokens_offset = tar.add_array(f"{document.key}.tokens.npy", document.tokens)
        rows.append(
            {
                "key": document.key,
                "shard": name,
                "index": index,
                "offset": offset,
                "tokens_offset": tokens_offset,
                "num_tokens": len(document.tokens),
                "corpus": document.corpus,
                "split": document.split,
                "tokens_crc32": zlib.crc32(document.tokens.tobytes()),
            }
        )
    content = tar.finished()
    for row, document in zip(rows, documents, strict=True):
        end = row["tokens_offset"] + document.tokens.nbytes
        row["sample_crc32"] = zlib.crc32(content[row["offset"] : end])
    storage.write_bytes(storage.join(shards, name), content)
    return {
        "path": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "num_bytes": len(content),
        "num_documents": len(documents),
        "num_tokens": sum(len(document.tokens) for document in documents),
    }, rows


def read_document(dataset: TextDataset, row: dict[str, Any]) -> Document:
    """The document of one row of the manifest (DOCUMENT_SCHEMA), of whose shard nothing else is read.

    Raises:
        DatasetError: its shard is missing or damaged.
    """
    uri = storage.join(dataset.uri, row["shard"])
    end = row["tokens_offset"] + row["num_tokens"] * dataset.token_type.itemsize
    with cut_out(uri, row["offset"], end, row["sample_crc32"], "document") as tar:
        members = {member.name.rpartition(".")[2]: content_of(tar, member) for member in tar}
        facts = foreign_json.parse(members["json"])
        tokens = array_of(members["npy"])
        return Document(row["key"], row["corpus"], str(facts["source"]), int(facts["row"]), row["split"], tokens)


def write_text_index(shards: str, info: dict[str, Any], rows: Iterable[pa.Table]) -> TextDataset:
    """Writes manifest.parquet and then dataset.json, to which it adds the fingerprint.

    Args:
        shards: The folder of the shards.
        info: What dataset.json says: `tokenizer`, `vocab_size`, `token_type`, `shards`, totals.
        rows: The manifest rows of all shards (DOCUMENT_SCHEMA), of which one table is in memory at a time.
    """
    info = {"format_version": FORMAT_VERSION, "fingerprint": text_fingerprint(info), **info}
    write_manifest(shards, info, rows, DOCUMENT_SCHEMA)
    return TextDataset(shards, info)


def text_fingerprint(info: dict[str, Any]) -> str:
    """The identity of shards of text: that of their tokenizer, and the checksum of every tar."""
    identity = [info["tokenizer"], *(shard["sha256"] for shard in info["shards"])]
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()


def is_text(uri: str) -> bool:
    """Whether a dataset.json describes shards of text, and not of units."""
    try:
        info = foreign_json.parse(storage.read_bytes(storage.join(uri, DATASET)))
    except ValueError:
        return False
    return isinstance(info, dict) and "token_type" in info


def open_text(uri: str) -> TextDataset:
    """Opens finished shards of text.

    Raises:
        DatasetError: there are none, or they are not of this format.
        TwistError: the manifest is damaged.
    """
    info, _ = read_info(uri, "twist pack-text", FORMAT_VERSION, [DOCUMENT_SCHEMA])
    if info.get("token_type") not in TOKEN_TYPES:
        raise DatasetError(f"dataset.json of {uri} has no token_type of {' or '.join(TOKEN_TYPES)}")
    return TextDataset(uri, info)
