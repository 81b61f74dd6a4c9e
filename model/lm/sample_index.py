"""Which samples a split has and where what is read of them lies, from the shards' manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.shards import ID_HASH_DIGITS, WORD_BYTES, DatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.shards import Dataset, Shards
    from pipeline.text_shards import TextDataset

# The columns of any manifest that are read here, a row group at a time.
MANIFEST_COLUMNS = ("shard", "corpus", "split")
# Neighbours that are read together: of all samples 300 KB of a tar, in one request.
ROWS_PER_BLOCK = 128


@dataclass(frozen=True)
class SampleIndex:
    """Where the samples of one split lie: a stretch of a shard each, of values of one type; arrays [R].

    22 million rows take 0.6 GB.

    Attributes:
        holds: What the stretches hold; words are whole samples of units, text and words, as bytes; streams also have
            durations, pitch and style.
        rows: Numbers of the rows in the manifest, ascending.
        shards: Paths of shards.
        shard: The number in `shards` of the shard that each lies in.
        offset: Bytes before the first value.
        num_values: Values in the stretch.
        value_type: Type of a value, as the shards hold it.
        crc32: CRC-32 of the stretch; None where the shards were packed before there was such a column.
        corpora: Names of corpora, all of the manifest's.
        corpus: The number in `corpora` of each sample's corpus.
    """

    holds: Literal["units", "tokens", "words", "streams"]
    rows: NDArray[np.int32]
    shards: list[str]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    num_values: NDArray[np.int32]
    value_type: np.dtype[Any]
    crc32: NDArray[np.uint32] | None
    corpora: list[str]
    corpus: NDArray[np.int16]


def index_of_units(dataset: Dataset, split: str, share: float) -> SampleIndex:
    """Reads the manifest's rows of one split, or a share of them.

    Raises:
        TwistError: the manifest is damaged.
    """
    plain = {"units_offset": np.int64, "num_units": np.int32}
    if dataset.has_checksums:
        plain["units_crc32"] = np.uint32
    columns = _read(dataset, split, share, plain)
    offset, num_units = columns.pop("units_offset"), columns.pop("num_units")
    if (offset % 2).any():
        raise DatasetError(f"{dataset.uri}: the manifest names units at odd bytes, where none are packed")
    crc32 = columns.pop("units_crc32", None)
    return SampleIndex("units", offset=offset, num_values=num_units, value_type=np.dtype("<u2"), crc32=crc32, **columns)


def index_of_text(dataset: TextDataset, split: str, share: float) -> SampleIndex:
    """The same of text shards.

    Raises:
        TwistError: the manifest is damaged.
    """
    plain = {"tokens_offset": np.int64, "num_tokens": np.int32, "tokens_crc32": np.uint32}
    columns = _read(dataset, split, share, plain)
    offset, num_tokens, crc32 = (columns.pop(name) for name in plain)
    return SampleIndex(
        "tokens", offset=offset, num_values=num_tokens, value_type=dataset.token_type, crc32=crc32, **columns
    )


@dataclass(frozen=True)
class WordsIndex:
    """The samples with words of one split, and what each stretch is made of; arrays [R].

    Attributes:
        samples: A stretch reaches from the first unit to the last byte of the words.
        num_units, num_text_tokens, num_words: How many of each the sample has.
        text_start, words_start: Bytes of the stretch before its text, and before its words.
    """

    samples: SampleIndex
    num_units: NDArray[np.int32]
    num_text_tokens: NDArray[np.int32]
    num_words: NDArray[np.int32]
    text_start: NDArray[np.int32]
    words_start: NDArray[np.int32]


def index_of_words(dataset: Dataset, split: str, share: float) -> WordsIndex:
    """The same of the samples that have words; none where the shards were packed without.

    Raises:
        TwistError: the manifest is damaged.
    """
    plain = {
        "units_offset": np.int64,
        "text_offset": np.int64,
        "words_offset": np.int64,
        "num_units": np.int32,
        "num_text_tokens": np.int32,
        "num_words": np.int32,
        "words_crc32": np.uint32,
    }
    if not dataset.has_words:
        raise DatasetError(
            f"{dataset.uri} has no words: give the recipe `words:` and text.tokenizer, run `twist align`, "
            f"and pack again"
        )
    columns = _read(dataset, split, share, plain, where=["num_words"])
    offset, text, words, num_units, num_tokens, num_words, crc32 = (columns.pop(name) for name in plain)
    num_bytes = (words - offset + 12 * num_words).astype(np.int32)
    samples = SampleIndex(
        "words", offset=offset, num_values=num_bytes, value_type=np.dtype("u1"), crc32=crc32, **columns
    )
    starts = ((column - offset).astype(np.int32) for column in (text, words))
    return WordsIndex(samples, num_units, num_tokens, num_words, *starts)


@dataclass(frozen=True)
class StreamsIndex:
    """The samples with pitch and style of one split, and what each stretch is made of; arrays [R].

    Attributes:
        samples: A stretch reaches from the first duration to the last byte of the words or, without any, of the style.
        num_units, num_pitch, num_pitch_runs, num_style: How many of each the sample has.
        num_text_tokens, num_words: The same; 0 for a sample without words.
        starts: Bytes of the stretch before each of its arrays, by name; 0 for one that is not there.
    """

    samples: SampleIndex
    num_units: NDArray[np.int32]
    num_pitch: NDArray[np.int32]
    num_pitch_runs: NDArray[np.int32]
    num_style: NDArray[np.int32]
    num_text_tokens: NDArray[np.int32]
    num_words: NDArray[np.int32]
    starts: dict[str, NDArray[np.int32]]


def index_of_streams(dataset: Dataset, split: str, share: float, *, with_words: bool) -> StreamsIndex:
    """The same of the samples that have pitch and style, or of those that have words beside.

    Raises:
        TwistError: the shards carry none, or the manifest is damaged.
    """
    if not dataset.has_streams:
        raise DatasetError(
            f"{dataset.uri} carries no pitch and style: run `twist pitch` and `twist style`, then `twist pack --again`"
        )
    if with_words and not dataset.has_words:
        raise DatasetError(
            f"{dataset.uri} has no words: give the recipe `words:` and text.tokenizer, run `twist align`, "
            f"and pack again"
        )
    arrays = ["units", "pitch", "style", *(("cuts", "text", "words") if dataset.has_words else ())]
    counts = ["num_units", "num_pitch", "num_pitch_runs", "num_style"]
    of_words = ["num_text_tokens", "num_words"] if dataset.has_words else []
    plain: dict[str, type] = {
        "durations_offset": np.int64,
        **{f"{name}_offset": np.int64 for name in arrays},
        **dict.fromkeys([*counts, *of_words], np.int32),
        "streams_crc32": np.uint32,
    }
    columns = _read(dataset, split, share, plain, where=["num_pitch", *(["num_words"] if with_words else [])])
    found = {name: columns.pop(name) for name in plain}
    offset = found["durations_offset"]
    num_words = found.get("num_words", np.zeros(len(offset), np.int32))
    end = found["style_offset"] + 2 * found["num_style"]
    if dataset.has_words:
        end = np.where(num_words > 0, found["words_offset"] + WORD_BYTES * num_words, end)
    samples = SampleIndex(
        "streams",
        offset=offset,
        num_values=(end - offset).astype(np.int32),
        value_type=np.dtype("u1"),
        crc32=found["streams_crc32"],
        **columns,
    )
    starts = {name: np.maximum(found[f"{name}_offset"] - offset, 0).astype(np.int32) for name in arrays}
    num_text_tokens = found.get("num_text_tokens", np.zeros(len(offset), np.int32))
    num_units, num_pitch, num_pitch_runs, num_style = (found[name] for name in counts)
    return StreamsIndex(samples, num_units, num_pitch, num_pitch_runs, num_style, num_text_tokens, num_words, starts)


def _read(
    dataset: Shards, split: str, share: float, plain: Mapping[str, type], where: Sequence[str] = ()
) -> dict[str, Any]:
    """These columns of numbers, and what every SampleIndex has, of the rows of one split in which `where` are given."""
    columns = MANIFEST_COLUMNS if share == 1 else (*MANIFEST_COLUMNS, "key")
    numbers: dict[str, dict[str, int]] = {"shard": {}, "corpus": {}}
    kinds = {"rows": np.int32, "shard": np.int32, "corpus": np.int16, **plain}
    parts: dict[str, list[NDArray[Any]]] = {name: [np.empty(0, kind)] for name, kind in kinds.items()}
    first_row = 0
    for table in dataset.rows([*columns, *plain]):
        is_wanted = pc.equal(table["split"], split)
        for name in where:
            is_wanted = pc.and_(is_wanted, pc.is_valid(table[name]))
        rows = np.flatnonzero(is_wanted.to_numpy())
        if share < 1:
            rows = rows[_in_share(table["key"].take(pa.array(rows)), share)]
        for name in plain:
            column = pc.fill_null(table[name], 0) if where else table[name]
            parts[name].append(column.to_numpy()[rows])
        for name, known in numbers.items():
            parts[name].append(_numbers(table[name], known)[rows].astype(kinds[name]))
        parts["rows"].append((first_row + rows).astype(np.int32))
        first_row += len(table)
    # One column after the other, so that no more than one is in memory twice.
    joined: dict[str, Any] = {name: np.concatenate(parts.pop(name)) for name in kinds}
    return {"shards": list(numbers["shard"]), "corpora": list(numbers["corpus"]), **joined}


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


def block_starts(shards: NDArray[np.int32], rows_per_block: int = ROWS_PER_BLOCK) -> NDArray[np.int64]:
    """The first row of each block of up to so many neighbours in a shard, then the number of rows."""
    shard_starts = np.concatenate([[0], np.flatnonzero(np.diff(shards)) + 1])
    sizes = np.diff(np.append(shard_starts, len(shards)))
    counts = -(-sizes // rows_per_block)
    of_block = np.repeat(np.arange(len(sizes)), counts)
    number_in_shard = np.arange(len(of_block)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = shard_starts[of_block] + number_in_shard * sizes[of_block] // counts[of_block]
    return np.append(starts, len(shards))
