"""Packs corpora of text into shards of tokens, shuffled over all documents.

    files -> RUN/text/ (see pipeline/text_shards.py)

1. Each task reads a piece of a file and tokenizes it (`Tokenize`). A document's place in the shards is a hash of the
   seed and its id, its split a hash of its content, so that a text is never in both splits. Documents are written by
   partition: a range of places in one split.
2. Each task gathers a partition, sorts it, and writes its shards (`Fill`).

A task holds some hundred MB, however large the corpora are, up to a TB. It writes files in RUN/text/work and is skipped
if they exist; the folder is deleted at the end.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.lm.text_tokenizer import fingerprint_of_tokenizer, tokenizer_of_process
from pipeline.errors import TwistError
from pipeline.files import parquet, partitioned, storage
from pipeline.packing.place import even_edges
from pipeline.records import DOCUMENT_SCHEMA, DROPPED_SCHEMA, Dropped, to_table
from pipeline.runs import TEXT
from pipeline.shards import make_key
from pipeline.stage import Stage, StageCounts, Tally, digest
from pipeline.text.documents import NoText, read_documents, require_column
from pipeline.text.files import find_files, pieces
from pipeline.text_shards import Document, token_type_of, write_text_index, write_text_shard
from pipeline.work import cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.progress import ReportProgress
    from pipeline.text.config import TextConfig
    from pipeline.text.files import Piece, TextFile

WORK = "work"
TRAIN, VALIDATION = "train", "validation"
# Sizes of tasks: text in bytes as it lies in files, tokens as they wait to be written.
PIECE_BYTES = 2**27
TOKENS_AT_ONCE = 2**23
TEXTS_AT_ONCE, CHARACTERS_AT_ONCE = 1000, 2**22
PARTITION_BYTES = 2**26
MOST_PARTITIONS = 4096
# What compressed text grows to.
GROWTH = 4
FEW_TASKS = 2

Result = TypeVar("Result")

TOKENS_SCHEMA = pa.schema(
    [
        ("place", pa.uint64()),
        ("key", pa.string()),
        ("corpus", pa.string()),
        ("source", pa.string()),
        ("row", pa.int64()),
        ("tokens", pa.list_(pa.uint32())),
    ]
)
TALLY_SCHEMA = pa.schema(
    [("partition", pa.int32()), ("corpus", pa.string()), ("num_documents", pa.int64()), ("num_tokens", pa.int64())]
)


def pack_text(run: str, config: TextConfig, report: ReportProgress) -> None:
    """Writes the text shards of a run.

    Raises:
        TwistError: there is no tokenizer, a corpus has no files or no such column, or a split gets no document.
    """
    if not config.corpora:
        raise TwistError("text.corpora names no text; list what to train on beside speech, a `path` each")
    files = [file for corpus in config.corpora for file in find_files(corpus)]
    inputs = {
        "tokenizer": fingerprint_of_tokenizer(config.tokenizer),
        "files": digest(*(f"{file.corpus}/{file.source} {file.num_bytes}" for file in files)),
    }
    settings = {name: value for name, value in asdict(config).items() if name != "tokenizer"}
    stage = Stage(run, TEXT, settings, inputs)
    with stage.begin() as has_work:
        if has_work:
            _pack(stage, config, files, report)


def _pack(stage: Stage, config: TextConfig, files: Sequence[TextFile], report: ReportProgress) -> None:
    for file in files:
        require_column(file)
    todo = list(
        pieces(files, PIECE_BYTES, lambda count, stretches: _mapped(count, stretches, "pieces counted", report))
    )
    num_bytes = sum(file.num_bytes * (1 if file.uri.endswith((".txt", ".jsonl")) else GROWTH) for file in files)
    num_train = min(MOST_PARTITIONS, 1 + num_bytes // PARTITION_BYTES)
    num_validation = 1 + int(num_train * config.validation)
    tokenize = Tokenize(
        storage.absolute(storage.join(stage.uri, WORK)),
        storage.absolute(config.tokenizer),
        config.validation,
        config.seed,
        num_train,
        num_validation,
    )
    deque(_mapped(tokenize, todo, "pieces of text", report), maxlen=0)
    tallies = parquet.as_one(parquet.read_many(tokenize.tallies_uri(piece.number) for piece in todo))
    dropped = parquet.as_one(
        [DROPPED_SCHEMA.empty_table(), *parquet.read_many(tokenize.dropped_uri(piece.number) for piece in todo)]
    )
    _refuse_empty_splits(tallies, dropped, config, num_train)
    fill = Fill(
        tokenize.folder,
        stage.uri,
        token_type_of(tokenizer_of_process(tokenize.tokenizer).vocab_size),
        tuple(_names(tallies, config, num_train, num_validation)),
        config.tokens_per_shard,
    )
    partitions = [number for number, names in enumerate(fill.names) if names]
    deque(_mapped(fill, partitions, "groups of shards", report), maxlen=0)
    told = [one for number in partitions for one in json.loads(storage.read_bytes(fill.told_uri(number)))]
    tokenizer = tokenizer_of_process(tokenize.tokenizer)
    info = {
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "token_type": fill.token_type,
        "totals": _totals(tallies, num_train),
        "shards": told,
    }
    dataset = write_text_index(stage.uri, info, parquet.read_many(map(fill.rows_uri, partitions)))
    for name in storage.list_files(fill.folder):
        storage.delete(storage.join(fill.folder, name))
    kept = pc.sum(tallies["num_documents"]).as_py()
    counts = StageCounts.of_table(Tally(kept + len(dropped)), Tally(kept), dropped)
    num_tokens = pc.sum(tallies["num_tokens"]).as_py()
    stage.finish(counts, dropped, dataset.fingerprint, num_tokens=num_tokens, num_files=len(files))


def _mapped(
    function: Callable[[Any], Result], items: Sequence[Any], noun: str, report: ReportProgress
) -> Iterator[Result]:
    """The results of a function, in order: a few are made here, before a cluster has started."""
    done = map(function, items) if len(items) <= FEW_TASKS else cluster.map_tasks(function, items)
    for number, result in enumerate(done, start=1):
        report(number, len(items), noun)
        yield result


def _refuse_empty_splits(tallies: pa.Table, dropped: pa.Table, config: TextConfig, num_train: int) -> None:
    kept = pc.sum(tallies["num_documents"]).as_py() or 0
    if not kept:
        example = f", the first because {dropped['detail'][0]}" if len(dropped) else ""
        raise TwistError(f"text.corpora has no document with text: {len(dropped)} were left out{example}")
    is_train = pc.less(tallies["partition"], num_train)
    for split, rows in (("train", is_train), ("validation", pc.invert(is_train))):
        if not len(tallies.filter(rows)) and (split == "train" or config.validation):
            raise TwistError(
                f"none of the {kept} documents falls to {split} at text.validation {config.validation}; give it "
                f"another share, or more text"
            )


def _names(tallies: pa.Table, config: TextConfig, num_train: int, num_validation: int) -> Iterator[tuple[str, ...]]:
    """Of each partition the paths of its shards."""
    sums = tallies.group_by("partition").aggregate([("num_documents", "sum"), ("num_tokens", "sum")]).to_pylist()
    of_partition = {row["partition"]: (row["num_documents_sum"], row["num_tokens_sum"]) for row in sums}
    numbers: Counter[str] = Counter()
    for partition in range(num_train + num_validation):
        split = TRAIN if partition < num_train else VALIDATION
        num_documents, num_tokens = of_partition.get(partition, (0, 0))
        count = min(num_documents, -(-num_tokens // config.tokens_per_shard))
        first = numbers[split]
        numbers[split] += count
        yield tuple(f"{split}/{split}-{number:06d}.tar" for number in range(first, first + count))


def _totals(tallies: pa.Table, num_train: int) -> list[dict[str, Any]]:
    """What dataset.json says of each corpus and split."""
    split = pc.if_else(pc.less(tallies["partition"], num_train), TRAIN, VALIDATION)
    sums = [("num_documents", "sum"), ("num_tokens", "sum")]
    rows = tallies.append_column("split", split).group_by(["corpus", "split"]).aggregate(sums).to_pylist()
    return [
        {
            "corpus": row["corpus"],
            "split": row["split"],
            "num_documents": row["num_documents_sum"],
            "num_tokens": row["num_tokens_sum"],
        }
        for row in sorted(rows, key=lambda row: (row["corpus"], row["split"]))
    ]


@dataclass(frozen=True)
class Tokenize:
    """Tokenizes the documents of a piece and writes them by partition.

    Attributes:
        folder: Folder for intermediate files.
        tokenizer: Folder of the tokenizer.
        validation: Share of documents that go to validation.
        seed: Seed of the shuffle.
        num_train, num_validation: Partitions of each split; those of training come first.
    """

    folder: str
    tokenizer: str
    validation: float
    seed: int
    num_train: int
    num_validation: int

    def tokens_uri(self, piece: int, number: int) -> str:
        """Some documents of a piece (TOKENS_SCHEMA), partitioned."""
        return storage.join(self.folder, f"tokens-{piece:06d}-{number:06d}.scatter")

    def dropped_uri(self, piece: int) -> str:
        """The documents of a piece that are left out (DROPPED_SCHEMA)."""
        return storage.join(self.folder, f"dropped-{piece:06d}.parquet")

    def tallies_uri(self, piece: int) -> str:
        """Counts of a piece by partition and corpus (TALLY_SCHEMA); written last."""
        return storage.join(self.folder, f"tallies-{piece:06d}.parquet")

    def __call__(self, piece: Piece) -> None:
        """Tokenizes one piece, unless that is done."""
        if storage.exists(self.tallies_uri(piece.number)):
            return
        dropped: list[Dropped] = []
        tallies: Counter[int] = Counter()
        tokens: Counter[int] = Counter()
        waiting = Waiting()
        num_files = 0
        for row, text, ids in self._tokenized(piece):
            id = f"{piece.file.corpus}/{piece.file.source}#{row}"
            if isinstance(text, NoText):
                dropped.append(Dropped(id, piece.file.corpus, text.reason, text.detail, 0.0))
                continue
            place = _hash(f"{self.seed}:{id}")
            partition = self._partition(place, text)
            waiting.add(partition, place, make_key(id), row, ids)
            tallies[partition] += 1
            tokens[partition] += len(ids)
            if waiting.num_tokens >= TOKENS_AT_ONCE:
                self._write(piece, num_files, waiting)
                waiting, num_files = Waiting(), num_files + 1
        self._write(piece, num_files, waiting)
        parquet.write(self.dropped_uri(piece.number), to_table(dropped, DROPPED_SCHEMA))
        columns = {
            "partition": sorted(tallies),
            "corpus": [piece.file.corpus] * len(tallies),
            "num_documents": [tallies[partition] for partition in sorted(tallies)],
            "num_tokens": [tokens[partition] for partition in sorted(tallies)],
        }
        parquet.write(self.tallies_uri(piece.number), pa.table(columns, schema=TALLY_SCHEMA))

    def _partition(self, place: int, text: str) -> int:
        if _hash(f"split:{text}") < self.validation * 2**64:
            return self.num_train + (place * self.num_validation >> 64)
        return place * self.num_train >> 64

    def _tokenized(self, piece: Piece) -> Iterator[tuple[int, str | NoText, NDArray[np.uint32]]]:
        """The documents of a piece with their tokens, tokenized some at a time."""
        waiting: list[tuple[int, str | NoText]] = []
        num_characters = 0
        for row, text in read_documents(piece):
            waiting.append((row, text))
            num_characters += len(text) if isinstance(text, str) else 0
            if len(waiting) >= TEXTS_AT_ONCE or num_characters >= CHARACTERS_AT_ONCE:
                yield from self._of_some(piece, waiting)
                waiting, num_characters = [], 0
        yield from self._of_some(piece, waiting)

    def _of_some(
        self, piece: Piece, documents: Sequence[tuple[int, str | NoText]]
    ) -> Iterator[tuple[int, str | NoText, NDArray[np.uint32]]]:
        tokens = iter(
            tokenizer_of_process(self.tokenizer).encode([text for _, text in documents if isinstance(text, str)])
        )
        for row, text in documents:
            ids = next(tokens) if isinstance(text, str) else np.empty(0, np.uint32)
            if isinstance(text, str) and not len(ids):
                text = NoText("empty", f"row {row} of {piece.file.uri} has no tokens")
            yield row, text, ids

    def _write(self, piece: Piece, number: int, waiting: Waiting) -> None:
        table = waiting.table(piece.file.corpus, piece.file.source)
        partitions = np.array(waiting.partitions, np.int64)
        uri = self.tokens_uri(piece.number, number)
        partitioned.write(uri, table, partitions, self.num_train + self.num_validation)


class Waiting:
    """Documents of a piece that wait to be written, by column: millions of them, which must not be a dict each."""

    def __init__(self) -> None:
        self.partitions: list[int] = []
        self.num_tokens = 0
        self._places: list[int] = []
        self._keys: list[str] = []
        self._rows: list[int] = []
        self._tokens: list[NDArray[np.uint32]] = []

    def add(self, partition: int, place: int, key: str, row: int, tokens: NDArray[np.uint32]) -> None:
        self.partitions.append(partition)
        self.num_tokens += len(tokens)
        self._places.append(place)
        self._keys.append(key)
        self._rows.append(row)
        self._tokens.append(tokens)

    def table(self, corpus: str, source: str) -> pa.Table:
        """The documents, all of one file (TOKENS_SCHEMA)."""
        num_documents = len(self._keys)
        ends = np.cumsum([0, *map(len, self._tokens)], dtype=np.int32)
        tokens = np.concatenate([np.empty(0, np.uint32), *self._tokens])
        columns = [
            pa.array(self._places, pa.uint64()),
            pa.array(self._keys, pa.string()),
            pa.repeat(pa.scalar(corpus), num_documents),
            pa.repeat(pa.scalar(source), num_documents),
            pa.array(self._rows, pa.int64()),
            pa.ListArray.from_arrays(pa.array(ends), pa.array(tokens)),
        ]
        return pa.Table.from_arrays(columns, schema=TOKENS_SCHEMA)


@dataclass(frozen=True)
class Fill:
    """Writes the shards of a partition.

    Attributes:
        folder: Folder with the tokens of all pieces, for intermediate files.
        uri: The folder of the shards.
        token_type: The type of tokens in them.
        names: Of each partition the paths of its shards.
        tokens_per_shard: Most tokens per shard, on average.
    """

    folder: str
    uri: str
    token_type: str
    names: tuple[tuple[str, ...], ...]
    tokens_per_shard: int

    def rows_uri(self, partition: int) -> str:
        """The manifest rows of the partition's shards."""
        return storage.join(self.folder, f"rows-{partition:06d}.parquet")

    def told_uri(self, partition: int) -> str:
        """What dataset.json says about the partition's shards; written last."""
        return storage.join(self.folder, f"shards-{partition:06d}.json")

    def __call__(self, partition: int) -> None:
        """Writes one partition's shards, unless they are complete."""
        if storage.exists(self.told_uri(partition)):
            return
        files = [storage.join(self.folder, name) for name in storage.list_files(self.folder, ".scatter")]
        table = partitioned.gather_as_one(files, partition, TOKENS_SCHEMA)
        table = table.sort_by([("place", "ascending"), ("key", "ascending")])
        sizes = pc.list_value_length(table["tokens"]).to_numpy().astype(np.int64)
        edges = even_edges(sizes, self.tokens_per_shard, 1)
        names = self.names[partition]
        assert len(edges) == len(names) + 1, f"partition {partition} has {len(edges) - 1} shards, not {len(names)}"
        told: list[dict[str, Any]] = []
        rows = [DOCUMENT_SCHEMA.empty_table()]
        for name, (start, end) in zip(names, itertools.pairwise(edges), strict=True):
            documents = self._documents(table.slice(start, end - start), name.partition("/")[0])
            description, shard_rows = write_text_shard(self.uri, name, documents)
            told.append(description)
            rows.append(pa.Table.from_pylist(shard_rows, schema=DOCUMENT_SCHEMA))
        parquet.write(self.rows_uri(partition), pa.concat_tables(rows))
        storage.write_bytes(self.told_uri(partition), json.dumps(told).encode())

    def _documents(self, table: pa.Table, split: str) -> list[Document]:
        columns = [table[column].to_pylist() for column in ("key", "corpus", "source", "row")]
        lengths = pc.list_value_length(table["tokens"]).to_numpy()
        tokens = pc.list_flatten(table["tokens"]).to_numpy().astype(self.token_type)
        return [
            Document(key, corpus, source, row, split, ids)
            for key, corpus, source, row, ids in zip(*columns, np.split(tokens, np.cumsum(lengths)[:-1]), strict=True)
        ]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
