"""Samples of text, and of units with words: read as they were written, in any order, and damage is told."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from model.lm import shard_reader
from model.lm.loader_config import LoaderConfig
from model.lm.samples import AlignedSample, AlignedSamples, TextSamples, UnitSamples
from pipeline.errors import TwistError
from pipeline.records import SAMPLE_WITH_WORDS_SCHEMA
from pipeline.shards import Words, open_dataset, read_sample, read_shard
from pipeline.text_shards import open_text
from tests.model.conftest import words_of, write_dataset, write_text_dataset, write_words_dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Content = list[tuple[NDArray[np.uint16], Words | None]]


@pytest.fixture
def contents(markov_units: list[NDArray[np.uint16]]) -> Content:
    """Units, every third without words."""
    generator = np.random.default_rng(1)
    return [
        (units, None if number % 3 == 2 else words_of(units, int(generator.integers(1, 6)), generator))
        for number, units in enumerate(markov_units)
    ]


@pytest.fixture
def documents() -> list[NDArray[np.int64]]:
    generator = np.random.default_rng(2)
    return [generator.integers(0, 100, length) for length in [1, 2, 3, 300, *generator.integers(2, 60, 150)]]


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_words_come_back_as_they_were_written(tmp_path: Path, contents: Content) -> None:
    dataset = write_words_dataset(str(tmp_path), {"train": contents})
    assert dataset.schema == SAMPLE_WITH_WORDS_SCHEMA
    by_tar = [*contents[::2], *contents[1::2]]
    read = [one for shard in open_dataset(str(tmp_path)).info["shards"] for one in read_shard(str(tmp_path), shard)]
    one_by_one = [read_sample(str(tmp_path), row) for row in dataset.manifest.to_pylist()]
    for samples in (read, one_by_one):
        for one, (units, words) in zip(samples, by_tar, strict=True):
            assert one.units.tolist() == units.tolist()
            assert (one.words is None) == (words is None)
            if one.words is not None and words is not None:
                assert one.words.timed == words.timed
                assert (one.words.tokens.tolist(), one.words.table.tolist()) == (
                    words.tokens.tolist(),
                    words.table.tolist(),
                )


def test_one_read_and_numpy_get_a_whole_aligned_sample(tmp_path: Path, contents: Content) -> None:
    write_words_dataset(str(tmp_path), {"train": contents})
    by_tar = [*contents[::2], *contents[1::2]]
    for row, (units, words) in zip(open_dataset(str(tmp_path)).manifest.to_pylist(), by_tar, strict=True):
        if words is None:
            assert row["num_words"] is None
            continue
        start, end = row["units_offset"], row["words_offset"] + 12 * row["num_words"]
        stretch = (tmp_path / row["shard"]).read_bytes()[start:end]
        assert zlib.crc32(stretch) == row["words_crc32"]
        assert np.frombuffer(stretch, "<u2", row["num_units"]).tolist() == units.tolist()
        text = np.frombuffer(stretch, "<u4", row["num_text_tokens"], row["text_offset"] - start)
        assert text.tolist() == words.tokens.tolist()
        table = np.frombuffer(stretch, "<u4", 3 * row["num_words"], row["words_offset"] - start)
        assert table.reshape(-1, 3).tolist() == words.table.tolist()


def test_aligned_samples_are_those_with_words(tmp_path: Path, contents: Content) -> None:
    dataset = write_words_dataset(str(tmp_path / "shards"), {"train": contents, "validation": contents[:4]})
    expected = [content for content in [*contents[::2], *contents[1::2]] if content[1] is not None]
    for data in (LoaderConfig(), LoaderConfig(cache=str(tmp_path / "cache")), LoaderConfig(verify_checksums=False)):
        samples = AlignedSamples(open_dataset(dataset.uri), "train", data)
        assert len(samples) == len(expected) == 40
        order = np.random.default_rng(0).permutation(len(samples))
        for place, one in zip(order.tolist(), samples.read(order), strict=True):
            units, words = expected[place]
            assert one is not None
            assert words is not None
            assert (one.units.dtype, one.tokens.dtype, one.words.dtype) == (np.uint16, np.uint32, np.uint32)
            assert one.units.tolist() == units.tolist()
            assert one.tokens.tolist() == words.tokens.tolist()
            assert one.words.tolist() == words.table.tolist()
            counts = (samples.num_units[place], samples.num_text_tokens[place], samples.num_words[place])
            assert counts == (len(units), len(words.tokens), len(words.table))
        assert len({samples.key(index) for index in range(len(samples))}) == len(samples)
    assert len(samples.blocks) == len(samples)
    assert (np.diff(samples.blocks) >= 0).all()
    assert pickle.loads(pickle.dumps(samples))[3].words.tolist() == samples[3].words.tolist()


def test_units_of_samples_with_words_are_read_as_ever(tmp_path: Path, contents: Content) -> None:
    with_words = write_words_dataset(str(tmp_path / "a"), {"train": contents})
    without = write_dataset(str(tmp_path / "b"), {"train": [units for units, _ in contents]})
    samples, plain = UnitSamples(with_words, "train", 16), UnitSamples(without, "train", 16)
    everything = np.arange(len(plain))
    read = [samples.read(everything), plain.read(everything)]
    assert [units.tolist() for units in read[0] if units is not None] == [
        units.tolist() for units in read[1] if units is not None
    ]


def test_documents_come_back_in_pieces(tmp_path: Path, documents: list[NDArray[np.int64]]) -> None:
    for vocab_size, kind in ((100, np.uint16), (70_000, np.uint32)):
        uri = str(tmp_path / str(vocab_size))
        write_text_dataset(uri, {"train": documents}, vocab_size=vocab_size)
        samples = TextSamples(open_text(uri), "train", 50)
        assert samples.num_tokens.max() == 50
        assert samples.num_tokens_left_out == sum(len(tokens) % 50 == 1 for tokens in documents)
        read = samples.read(np.arange(len(samples)))
        pieces: dict[str, list[int]] = {}
        for index, tokens in enumerate(read):
            assert tokens is not None
            assert tokens.dtype == kind
            assert len(tokens) == samples.num_tokens[index]
            pieces.setdefault(samples.key(index), []).extend(tokens.tolist())
        by_tar = [*documents[::2], *documents[1::2]]
        assert list(pieces.values()) == [
            tokens[: len(tokens) - (len(tokens) % 50 == 1)].tolist() for tokens in by_tar if len(tokens) > 1
        ]


def test_blocks_of_long_documents_have_few(tmp_path: Path) -> None:
    short = write_text_dataset(str(tmp_path / "short"), {"train": [np.arange(10)] * 200})
    long = write_text_dataset(str(tmp_path / "long"), {"train": [np.arange(100_000) % 100] * 12})
    assert np.bincount(TextSamples(short, "train", 64).blocks).max() == 100
    blocks = TextSamples(long, "train", 100_000).blocks
    assert np.bincount(blocks).max() <= 3, "a block of long documents would fill memory"


@pytest.mark.parametrize("part", ["units_offset", "text_offset", "words_offset"])
def test_damage_to_any_part_of_a_sample_with_words_is_told(tmp_path: Path, contents: Content, part: str) -> None:
    dataset = write_words_dataset(str(tmp_path), {"train": contents})
    row = dataset.manifest.to_pylist()[0]
    flip(tmp_path / row["shard"], row[part])
    with pytest.raises(TwistError, match=f"the words of sample '{row['key']}' are not those that were packed"):
        AlignedSamples(dataset, "train")[0]
    samples = AlignedSamples(dataset, "train", LoaderConfig(damaged="skip"))
    with pytest.warns(UserWarning, match="left out"):
        found = samples.read(np.arange(len(samples)))
    assert [place for place, one in enumerate(found) if one is None] == [0]
    with pytest.raises(TwistError, match="not those that were packed"):
        read_sample(str(tmp_path), row)


def test_damage_to_a_document_is_told(tmp_path: Path, documents: list[NDArray[np.int64]]) -> None:
    dataset = write_text_dataset(str(tmp_path), {"train": documents})
    row = dataset.row(3)
    flip(tmp_path / row["shard"], row["tokens_offset"])
    samples = TextSamples(dataset, "train", 400)
    index = next(index for index in range(len(samples)) if samples.key(index) == row["key"])
    with pytest.raises(TwistError, match=f"the tokens of sample '{row['key']}' are not those that were packed"):
        samples[index]


def test_what_a_vocabulary_lacks_is_told(tmp_path: Path, contents: Content) -> None:
    words = AlignedSamples(write_words_dataset(str(tmp_path / "a"), {"train": contents}), "train")
    text = TextSamples(write_text_dataset(str(tmp_path / "b"), {"train": [np.arange(50)]}), "train", 64)
    assert all(isinstance(one, AlignedSample) for one in words.read([0, 1], units_below=20, tokens_below=100))
    with pytest.raises(TwistError, match=r"holds unit \d+, which the codebook does not have"):
        words.read(np.arange(len(words)), units_below=5)
    with pytest.raises(TwistError, match=r"holds token \d+, which the tokenizer does not have"):
        words.read(np.arange(len(words)), tokens_below=5)
    with pytest.raises(TwistError, match="holds token 49, which the tokenizer does not have"):
        text.read([0], below=49)


def test_shards_without_words_or_text_say_what_to_do(tmp_path: Path, contents: Content) -> None:
    units = [units for units, _ in contents]
    plain = write_dataset(str(tmp_path / "plain"), {"train": units})
    with pytest.raises(TwistError, match=r"has no words: give the recipe `words:` and text\.tokenizer"):
        AlignedSamples(plain, "train")
    none: Any = {"train": contents, "validation": [(units[0], None)]}
    with pytest.raises(TwistError, match="no sample with words in its validation split"):
        AlignedSamples(write_words_dataset(str(tmp_path / "none"), none), "validation")
    with pytest.raises(TwistError, match=r"no document of two or more tokens in its validation split; give text\.val"):
        TextSamples(write_text_dataset(str(tmp_path / "text"), {"train": [np.arange(9)]}), "validation", 64)
    with pytest.raises(TwistError, match="make them with `twist pack-text`"):
        open_text(str(tmp_path / "nothing"))
    with pytest.raises(TwistError, match="other columns than a manifest of shards"):
        open_text(plain.uri)


def test_a_share_of_text_and_of_words_is_part_of_a_larger_one(
    tmp_path: Path, contents: Content, documents: list[NDArray[np.int64]]
) -> None:
    words = write_words_dataset(str(tmp_path / "words"), {"train": contents})
    text = write_text_dataset(str(tmp_path / "text"), {"train": documents})
    for make in (
        lambda data: AlignedSamples(words, "train", data),
        lambda data: TextSamples(text, "train", 400, data),
    ):
        keys = []
        for share in (0.3, 0.7, 1.0):
            samples = make(LoaderConfig(share=share))
            keys.append({samples.key(index) for index in range(len(samples))})
        assert keys[0] < keys[1] < keys[2]


def test_blocks_that_are_kept_are_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_reader, "BYTES_KEPT", 500_000)
    dataset = write_text_dataset(str(tmp_path), {"train": [np.arange(100_000) % 100] * 12})
    samples = TextSamples(dataset, "train", 100_000)
    for index in [*range(12), 3, 0]:
        assert samples[index].tolist() == (np.arange(100_000) % 100).tolist()
        kept = [block.values.nbytes for block in samples._reader._blocks.values()]
        assert sum(kept) == samples._reader._bytes_kept
        assert sum(kept) <= 500_000 or len(kept) == 1
