"""Small shards and models for the tests of the speech LM."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import boto3
import numpy as np
import pyarrow as pa
import pytest

from model.lm.streams import Streams
from pipeline.files import s3
from pipeline.packing.words import tile
from pipeline.records import DOCUMENT_SCHEMA
from pipeline.shards import Dataset, Sample, Words, make_key, write_index, write_shard
from pipeline.text_shards import Document, TextDataset, token_type_of, write_text_index, write_text_shard
from tests.s3_servers import FaultyProxy, moto, point_clients_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class MakeDataset(Protocol):
    def __call__(
        self,
        splits: Mapping[str, Sequence[NDArray[np.uint16]]],
        *,
        codebook_size: int = ...,
        corpora: Sequence[str] = ...,
        codebook: str = ...,
        name: str = ...,
    ) -> Dataset: ...


def write_dataset(
    uri: str,
    splits: Mapping[str, Sequence[NDArray[np.uint16]]],
    *,
    codebook_size: int = 20,
    corpora: Sequence[str] = ("librispeech",),
    codebook: str = "codebook-1",
) -> Dataset:
    """Writes real shards, two per split if there are enough samples; a split's samples alternate between corpora."""
    descriptions, rows = [], []
    for split, units in splits.items():
        samples = [_sample(split, i, values, corpora[i % len(corpora)]) for i, values in enumerate(units)]
        for number, half in enumerate((samples[::2], samples[1::2])):
            if half:
                description, shard_rows = write_shard(uri, f"{split}/{split}-{number:06d}.tar", half)
                descriptions.append(description)
                rows += shard_rows
    info = {
        "num_units": codebook_size,
        "frame_rate_hz": 25,
        "codebook": {"fingerprint": codebook},
        "shards": descriptions,
    }
    return write_index(uri, info, rows)


def write_words_dataset(
    uri: str,
    splits: Mapping[str, Sequence[tuple[NDArray[np.uint16], Words | None]]],
    *,
    codebook_size: int = 20,
    vocab_size: int = 100,
    tokenizer: str = "tokenizer-1",
) -> Dataset:
    """Writes real shards, two per split if there are enough samples, of units and the words that they carry."""
    descriptions, rows = [], []
    for split, contents in splits.items():
        samples = [
            replace(_sample(split, i, units, "librispeech"), key=make_key(f"{split}-{i}"), words=words)
            for i, (units, words) in enumerate(contents)
        ]
        for number, half in enumerate((samples[::2], samples[1::2])):
            if half:
                description, shard_rows = write_shard(uri, f"{split}/{split}-{number:06d}.tar", half)
                descriptions.append(description)
                rows += shard_rows
    info = {
        "num_units": codebook_size,
        "frame_rate_hz": 25,
        "codebook": {"fingerprint": "codebook-1"},
        "text": {"tokenizer": tokenizer, "vocab_size": vocab_size},
        "shards": descriptions,
    }
    return write_index(uri, info, rows)


def words_of(units: NDArray[np.uint16], num_words: int, generator: np.random.Generator, vocab_size: int = 100) -> Words:
    """Words that tile units which last a frame of 0.04 s each; some cuts divide a unit."""
    cuts = np.sort(generator.choice(np.arange(1, len(units)), num_words - 1, replace=False))
    first = np.concatenate([[0], cuts - generator.integers(0, 2, num_words - 1)])
    first = np.maximum(first, 0)
    end = np.concatenate([cuts, [len(units)]])
    num_tokens = generator.integers(1, 4, num_words)
    table = np.stack([num_tokens, first, end], axis=1).astype(np.uint32)
    tokens = generator.integers(0, vocab_size, num_tokens.sum()).astype(np.uint32)
    timed = [(f"w{place}", row[1] / 25, row[2] / 25) for place, row in enumerate(table.tolist())]
    return Words(tuple(timed), tokens, table)


PITCH, STYLE = (
    {"fingerprint": "pitch-1", "rate_hz": 12.5, "num_codes": 6},
    {"fingerprint": "style-1", "rate_hz": 1.0, "num_codes": 4},
)


def streams_of(generator: np.random.Generator, num_frames: int, codebook_size: int = 20) -> Streams:
    """Units of one frame or more, and pitch and style of as many seconds."""
    frames = np.repeat(generator.integers(0, codebook_size, num_frames), generator.integers(1, 4, num_frames))
    starts = np.flatnonzero(np.concatenate([[True], np.diff(frames[:num_frames]) != 0]))
    durations = np.diff(np.append(starts, num_frames)).astype(np.uint16)
    pitch = np.repeat(generator.integers(0, 6, num_frames), 2)[: -(-num_frames // 2)]
    style = generator.integers(0, 4, -(-num_frames // 25))
    return Streams(frames[starts].astype(np.uint16), durations, pitch.astype(np.uint16), style.astype(np.uint16))


def words_over(streams: Streams, num_words: int, generator: np.random.Generator, vocab_size: int = 100) -> Words:
    """Words that tile units at frames drawn at random, which often divide a unit."""
    num_frames = int(streams.durations.sum())
    cuts = np.sort(generator.choice(np.arange(1, num_frames), num_words - 1, replace=False))
    edges = [0, *cuts.tolist(), num_frames]
    timed = [(f"w{place}", edges[place] / 25, edges[place + 1] / 25) for place in range(num_words)]
    counts = generator.integers(1, 4, num_words)
    tokens = generator.integers(0, vocab_size, counts.sum()).astype(np.uint32)
    words = tile(timed, tokens, counts, streams.durations, 25.0)
    assert words is not None
    return words


def write_streams_dataset(
    uri: str,
    splits: Mapping[str, Sequence[tuple[Streams, Words | None]]],
    *,
    vocab_size: int = 100,
    tokenizer: str = "tokenizer-1",
    without: Sequence[int] = (),
) -> Dataset:
    """Writes real shards, two per split, of units with pitch and style; the samples `without` have units alone."""
    descriptions, rows = [], []
    for split, contents in splits.items():
        samples = [
            replace(
                _sample(split, i, streams.units, "librispeech"),
                key=make_key(f"{split}-{i}"),
                durations=streams.durations,
                end_s=int(streams.durations.sum()) / 25,
                words=words,
                **({} if i in without else {"pitch": streams.pitch, "style": streams.style}),  # type: ignore[arg-type]
            )
            for i, (streams, words) in enumerate(contents)
        ]
        for number, half in enumerate((samples[::2], samples[1::2])):
            description, shard_rows = write_shard(uri, f"{split}/{split}-{number:06d}.tar", half)
            descriptions.append(description)
            rows += shard_rows
    info = {
        "num_units": 20,
        "frame_rate_hz": 25,
        "codebook": {"fingerprint": "codebook-1"},
        "text": {"tokenizer": tokenizer, "vocab_size": vocab_size},
        "pitch": PITCH,
        "style": STYLE,
        "shards": descriptions,
    }
    return write_index(uri, info, rows)


def write_text_dataset(
    uri: str, splits: Mapping[str, Sequence[NDArray[Any]]], *, vocab_size: int = 100, tokenizer: str = "tokenizer-1"
) -> TextDataset:
    """Writes real text shards, two per split if there are enough documents."""
    token_type = token_type_of(vocab_size)
    descriptions, rows = [], []
    for split, contents in splits.items():
        documents = [
            Document(make_key(f"wiki/{split}#{i}"), "wiki", split, i, split, tokens.astype(token_type))
            for i, tokens in enumerate(contents)
        ]
        for number, half in enumerate((documents[::2], documents[1::2])):
            if half:
                description, shard_rows = write_text_shard(uri, f"{split}/{split}-{number:06d}.tar", half)
                descriptions.append(description)
                rows += shard_rows
    info = {"tokenizer": tokenizer, "vocab_size": vocab_size, "token_type": token_type, "shards": descriptions}
    return write_text_index(uri, info, [pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)])


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """`write_dataset` to a folder of this test, by default `shards`."""

    def make(splits: Mapping[str, Sequence[NDArray[np.uint16]]], *, name: str = "shards", **settings: Any) -> Dataset:
        return write_dataset(str(tmp_path / name), splits, **settings)

    return make


def _sample(split: str, number: int, units: NDArray[np.uint16], corpus: str) -> Sample:
    name = f"{split}-{number}"
    durations = np.ones(len(units), dtype=np.uint16)
    return Sample(name, name, corpus, None, "en", split, 0.0, len(units) / 25, units.astype(np.uint16), durations)


@pytest.fixture(scope="session")
def markov_units() -> list[NDArray[np.uint16]]:
    """60 samples of a Markov chain over 20 units, each of which has three likely successors."""
    rng = np.random.default_rng(0)
    successors = np.array([rng.permutation(20)[:3] for _ in range(20)])
    samples = []
    for _ in range(60):
        units = [int(rng.integers(20))]
        for _ in range(int(rng.integers(8, 40))):
            units.append(int(successors[units[-1], rng.choice(3, p=[0.8, 0.15, 0.05])]))
        samples.append(np.array(units, dtype=np.uint16))
    return samples


@pytest.fixture(scope="session")
def tiny_opt() -> dict[str, Any]:
    """An OPT of two layers with dropout, in the shape of OPT-350M (projections around a narrower table)."""
    return {
        "model_type": "opt",
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 16,
        "max_position_embeddings": 64,
        "do_layer_norm_before": False,
        "dropout": 0.1,
    }


@pytest.fixture
def faulty_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of a local S3 server on which half of the requests fail."""
    with moto() as endpoint, FaultyProxy(endpoint, seed=2).running() as proxy:
        point_clients_at(endpoint, monkeypatch)
        boto3.client("s3").create_bucket(Bucket="models")
        point_clients_at(proxy.url, monkeypatch)
        yield "s3://models"
        s3.client_of_process.cache_clear()
