"""What shards of text hold. The manifest is read a row group at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.files import storage
from pipeline.inspection import figures
from pipeline.inspection.describe_shards import NUM_EXAMPLE_UNITS, NUM_EXAMPLES
from pipeline.shards import DatasetError
from pipeline.text_shards import TextDataset, open_text


def describe_text(uri: str) -> dict[str, Any]:
    """Shards of text by themselves: totals, lengths, and some documents.

    Raises:
        DatasetError: there are no finished shards, or a tar is missing or damaged.
    """
    dataset = open_text(uri)
    lengths = np.concatenate([np.empty(0, np.int32), *(table["num_tokens"] for table in dataset.rows(["num_tokens"]))])
    rows = dataset.head(NUM_EXAMPLES).to_pylist()
    return {
        "fingerprint": dataset.fingerprint,
        "tokenizer": dataset.tokenizer,
        "vocab_size": dataset.vocab_size,
        "token_type": dataset.info["token_type"],
        "num_shards": len(dataset.info["shards"]),
        "num_documents": len(lengths),
        "num_tokens": int(lengths.sum(dtype=np.int64)),
        "documents_tokens": figures.quantiles(lengths),
        "totals": dataset.info["totals"],
        "examples": [
            {
                **{name: row[name] for name in ("key", "split", "corpus", "num_tokens")},
                "first_tokens": _first_tokens(dataset, row),
            }
            for row in rows
        ],
    }


def _first_tokens(dataset: TextDataset, row: dict[str, Any]) -> list[int]:
    """The beginning of a document, of whose shard nothing else is read."""
    uri = storage.join(dataset.uri, row["shard"])
    count = min(row["num_tokens"], NUM_EXAMPLE_UNITS)
    length = count * dataset.token_type.itemsize
    try:
        data = storage.read_range(uri, row["tokens_offset"], length)
    except FileNotFoundError:
        raise DatasetError(f"{uri} is missing; `twist inspect --verify` says what else is wrong") from None
    if len(data) < length:
        raise DatasetError(f"{uri} ends too soon; `twist inspect --verify` says what else is wrong")
    tokens: list[int] = np.frombuffer(data, dataset.token_type).tolist()
    return tokens
