"""The samples of one split, read in any order: units, text, or units with their words.

A sample is a stretch of a shard (`sample_index.py`), read with its neighbours (`shard_reader.py`). Where a sample may
not be longer than a sequence, a longer one counts as several consecutive pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from model.lm.loader_config import LoaderConfig
from model.lm.sample_index import (
    ROWS_PER_BLOCK,
    block_starts,
    index_of_streams,
    index_of_text,
    index_of_units,
    index_of_words,
)
from model.lm.shard_reader import Block, ShardReader
from model.lm.streams import StreamRates, Streams
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.lm.sample_index import SampleIndex
    from pipeline.shards import Dataset, Shards
    from pipeline.text_shards import TextDataset

# Documents that are read together, where they are long.
BLOCK_BYTES = 2**19


class SplitSamples:
    """What the samples of one split have in common: their blocks, keys and corpora.

    Args:
        dataset: The shards.
        split: Which of their splits.
        index: Where its samples lie.
        owner: [N] the sample of the index that each sample here is, or is a piece of, ascending.
        data: Whether to check the samples, and what to do with damaged ones.
        rows_per_block: Most samples of the index in a block.

    Attributes:
        blocks: [N] the block of each sample, ascending: what `EpochOrder` takes.
        held_to: What samples are held to as they are read, in words.
    """

    def __init__(
        self,
        dataset: Shards,
        split: str,
        index: SampleIndex,
        owner: NDArray[np.int32],
        data: LoaderConfig,
        rows_per_block: int = ROWS_PER_BLOCK,
    ) -> None:
        self.split = split
        self.data = data
        self._uri = dataset.uri
        self._shards = dataset
        self._rows = index.rows
        self._corpora = index.corpora
        self._corpus = index.corpus
        self._owner = owner
        starts = block_starts(index.shard, rows_per_block)
        self.blocks = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))[owner]
        self._first_rows = starts[:-1]
        self._reader = ShardReader(dataset, index, starts, data)
        self.held_to = self._reader.held_to

    def __len__(self) -> int:
        return len(self._owner)

    def prefetch(self, blocks: NDArray[np.int32]) -> None:
        """Lets blocks of samples be read ahead."""
        self._reader.prefetch(blocks.tolist())

    def key(self, index: int) -> str:
        """The sample's key in the shards; the pieces of a long one share it."""
        return self._shards.value("key", int(self._rows[self._owner[index]]))

    def manifest_rows(self) -> NDArray[np.int32]:
        """The row of the manifest that each sample is, or is a piece of, ascending [N]."""
        return self._rows[self._owner]

    def corpora(self) -> NDArray[np.str_]:
        """The corpus of each sample, [N]."""
        names, codes = self.corpus_codes()
        corpora: NDArray[np.str_] = np.array(names)[codes]
        return corpora

    def corpus_codes(self) -> tuple[list[str], NDArray[np.int16]]:
        """The corpora's names, and the number of each sample's among them [N]."""
        return self._corpora, self._corpus[self._owner]

    def _is_damaged(self, index: int) -> TwistError:
        return TwistError(f"sample {self.key(index)} of {self._uri} is damaged, or its shard is")


class PieceSamples(SplitSamples):
    """Samples of 2 to `longest` values: longer ones are cut into consecutive pieces, and a piece of one is left out.

    Args:
        dataset, split, index, data, rows_per_block: As SplitSamples.
        longest: The longest sample.
        impossible: What to say of a value that cannot be.

    Attributes:
        lengths: [N] values of each sample.
        num_left_out: Values in pieces that are left out.
    """

    def __init__(
        self,
        dataset: Shards,
        split: str,
        index: SampleIndex,
        longest: int,
        data: LoaderConfig,
        impossible: str,
        rows_per_block: int = ROWS_PER_BLOCK,
    ) -> None:
        pieces = _cut(index.num_values, longest)
        super().__init__(dataset, split, index, pieces.owner, data, rows_per_block)
        self.lengths = pieces.lengths
        self.num_left_out = pieces.num_left_out
        self._piece = pieces.piece
        self._lost_end = pieces.lost_end
        self._longest = longest
        self._impossible = impossible

    def __getitem__(self, index: int) -> NDArray[Any]:
        """The values of one sample.

        Raises:
            TwistError: it is damaged, or its shard is gone.
        """
        found = self.read([index])[0]
        if found is None:
            raise self._is_damaged(index)
        return found

    def are_ends(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which pieces begin where their sample begins, and which end where it ends, [n] each."""
        owner = self._owner[indices]
        last = len(self) - 1
        is_last = (indices == last) | (self._owner[np.minimum(indices + 1, last)] != owner)
        has_lost_end = np.searchsorted(self._lost_end, owner, "right") > np.searchsorted(self._lost_end, owner)
        return self._piece[indices] == 0, is_last & ~has_lost_end

    def read(self, indices: Sequence[int] | NDArray[np.int64], below: int | None = None) -> list[NDArray[Any] | None]:
        """The values of some samples; None for those that are damaged and to be skipped.

        Args:
            indices: Which samples.
            below: A shard in which a value is this or more counts as damaged; not looked at unless given.

        Raises:
            TwistError: a sample is damaged, or a shard is gone.
        """
        numbers = self.blocks[indices]
        rows = self._owner[indices] - self._first_rows[numbers]
        found: list[NDArray[Any] | None] = []
        for number, row, start, length in zip(
            numbers.tolist(),
            rows.tolist(),
            (self._piece[indices].astype(np.int64) * self._longest).tolist(),
            self.lengths[indices].tolist(),
            strict=True,
        ):
            block = self._reader.read(number)
            if block is None or row in block.damaged:
                found.append(None)
                continue
            first = block.starts[row] + start
            values = block.values[first : first + length]
            if below is not None and values.max() >= below:
                self._reader.refuse_value(number, self._impossible.format(values.max()))
                found.append(None)
            else:
                found.append(values)
        return found


class UnitSamples(PieceSamples):
    """The units of one split, uint16, in samples of 2 to `max_units`.

    Args:
        dataset: The shards.
        split: Which of their splits.
        max_units: The longest sample.
        data: Which share of the samples, whether to check them, and what to do with damaged ones.

    Attributes:
        num_units: [N] units of each sample.
        num_units_left_out: Units in pieces of one, which have nothing to predict.

    Raises:
        TwistError: the split has no sample of two units.
    """

    def __init__(self, dataset: Dataset, split: str, max_units: int, data: LoaderConfig | None = None) -> None:
        data = data or LoaderConfig()
        index = index_of_units(dataset, split, data.share)
        if not (index.num_values >= 2).any() or max_units < 2:
            mend = (
                "pack again with a larger pack.split.validation, or with more speakers"
                if split == "validation"
                else "pack again with more audio, or with another pack.split"
            )
            raise TwistError(f"{dataset.uri} has no sample of two or more units in its {split} split; {mend}")
        super().__init__(dataset, split, index, max_units, data, "unit {}, which the codebook does not have")
        self.dataset = dataset
        self.max_units = max_units
        self.num_units = self.lengths
        self.num_units_left_out = self.num_left_out

    def told_unit_counts(self) -> NDArray[np.int64] | None:
        """How often each unit occurs [codebook_size], where dataset.json says so of exactly these samples."""
        told = self.dataset.info.get("unit_counts", {}).get(self.split)
        is_all = self.data.share == 1 and not self.num_units_left_out
        return np.array(told, np.int64) if told is not None and is_all else None


class TextSamples(PieceSamples):
    """The documents of one split as tokens, uint16 or uint32, in samples of 2 to `max_tokens`.

    Args:
        dataset: The text shards.
        split: Which of their splits.
        max_tokens: The longest sample.
        data: Which share of the documents, whether to check them, and what to do with damaged ones.

    Attributes:
        num_tokens: [N] tokens of each sample.
        num_tokens_left_out: Tokens in pieces of one.

    Raises:
        TwistError: the split has no document of two tokens.
    """

    def __init__(self, dataset: TextDataset, split: str, max_tokens: int, data: LoaderConfig | None = None) -> None:
        data = data or LoaderConfig()
        index = index_of_text(dataset, split, data.share)
        if not (index.num_values >= 2).any() or max_tokens < 2:
            mend = "give text.validation a larger share" if split == "validation" else "give text.corpora more text"
            raise TwistError(
                f"{dataset.uri} has no document of two or more tokens in its {split} split; {mend}, delete it and run "
                f"`twist pack-text` again"
            )
        mean_bytes = int(index.num_values.mean() * index.value_type.itemsize) + 1
        rows_per_block = min(ROWS_PER_BLOCK, 1 + BLOCK_BYTES // mean_bytes)
        impossible = "token {}, which the tokenizer does not have"
        super().__init__(dataset, split, index, max_tokens, data, impossible, rows_per_block)
        self.dataset = dataset
        self.max_tokens = max_tokens
        self.num_tokens = self.lengths
        self.num_tokens_left_out = self.num_left_out


class AlignedSample(NamedTuple):
    """Units with their words.

    The words tile the units: units[words[i, 1] : words[j, 2]] is the speech of words i to j (inclusive), and
    words[:, 0] says how many of the tokens each has. A unit that lasts over a cut between two words belongs to both.

    Attributes:
        units: [U] uint16, without repeats.
        tokens: [T] uint32, the text in the text LM's tokens.
        words: [W, 3] uint32: number of tokens, first unit, the unit after the last.
        streams: The units again, with durations, pitch and style; None where only units are read.
        cuts: [W] uint32, the frame at which each word begins; None there too.
    """

    units: NDArray[np.uint16]
    tokens: NDArray[np.uint32]
    words: NDArray[np.uint32]
    streams: Streams | None = None
    cuts: NDArray[np.uint32] | None = None


class AlignedSamples(SplitSamples):
    """The samples of one split that have words; never cut.

    Args:
        dataset: The shards.
        split: Which of their splits.
        data: Which share of the samples, whether to check them, and what to do with damaged ones.

    Attributes:
        num_units, num_text_tokens, num_words: [N] how many of each a sample has.
        num_speech: [N] tokens of its speech: its units.

    Raises:
        TwistError: the shards, or this split of them, have no words.
    """

    def __init__(self, dataset: Dataset, split: str, data: LoaderConfig | None = None) -> None:
        data = data or LoaderConfig()
        index = index_of_words(dataset, split, data.share)
        if not len(index.num_words):
            raise TwistError(
                f"{dataset.uri} has no sample with words in its {split} split; `twist inspect` on the run tells why "
                f"segments have none"
            )
        owner = np.arange(len(index.num_words), dtype=np.int32)
        super().__init__(dataset, split, index.samples, owner, data)
        self.dataset = dataset
        self.num_units = self.num_speech = index.num_units
        self.num_text_tokens = index.num_text_tokens
        self.num_words = index.num_words
        self._text_start = index.text_start
        self._words_start = index.words_start

    def __getitem__(self, index: int) -> AlignedSample:
        """One sample.

        Raises:
            TwistError: it is damaged, or its shard is gone.
        """
        found = self.read([index])[0]
        if found is None:
            raise self._is_damaged(index)
        return found

    def read(
        self,
        indices: Sequence[int] | NDArray[np.int64],
        units_below: int | None = None,
        tokens_below: int | None = None,
    ) -> list[AlignedSample | None]:
        """Some samples; None for those that are damaged and to be skipped.

        Args:
            indices: Which samples.
            units_below, tokens_below: A shard in which a unit, or a token, is this or more counts as damaged; not
                looked at unless given.

        Raises:
            TwistError: a sample is damaged, or a shard is gone.
        """
        numbers = self.blocks[indices]
        rows = np.asarray(indices) - self._first_rows[numbers]
        columns = (self.num_units, self.num_text_tokens, self.num_words, self._text_start, self._words_start)
        found: list[AlignedSample | None] = []
        for number, row, num_units, num_tokens, num_words, text_start, words_start in zip(
            numbers.tolist(), rows.tolist(), *(column[indices].tolist() for column in columns), strict=True
        ):
            block = self._reader.read(number)
            if block is None or row in block.damaged:
                found.append(None)
                continue
            start = block.starts[row]
            units = np.frombuffer(block.values, "<u2", num_units, start)
            tokens = np.frombuffer(block.values, "<u4", num_tokens, start + text_start)
            words = np.frombuffer(block.values, "<u4", 3 * num_words, start + words_start).reshape(-1, 3)
            if units_below is not None and units.max() >= units_below:
                self._reader.refuse_value(number, f"unit {units.max()}, which the codebook does not have")
                found.append(None)
            elif tokens_below is not None and tokens.max(initial=0) >= tokens_below:
                self._reader.refuse_value(number, f"token {tokens.max()}, which the tokenizer does not have")
                found.append(None)
            else:
                found.append(AlignedSample(units, tokens, words))
        return found


class StreamSamples(SplitSamples):
    """The samples of one split that have pitch and style, whole or as pieces of their merged streams.

    Args:
        dataset: The shards.
        split: Which of their splits.
        data: Which share of the samples, whether to check them, and what to do with damaged ones.
        longest: Most tokens of a piece; a longer sample counts as several, and a piece of one token is left out. None:
            samples are whole.
        with_words: Whether only those that have words.

    Attributes:
        num_speech: [N] tokens of each sample's, or piece's, merged stream (streams.py).
        num_text_tokens, num_words: [N] of the whole sample; 0 without words.
        rates: Codes a second.

    Raises:
        TwistError: the shards, or this split of them, have no such samples.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        data: LoaderConfig | None = None,
        *,
        longest: int | None = None,
        with_words: bool = False,
    ) -> None:
        data = data or LoaderConfig()
        index = index_of_streams(dataset, split, data.share, with_words=with_words)
        num_tokens = index.num_units + index.num_pitch_runs + index.num_style
        pieces = _cut(num_tokens, num_tokens.max(initial=1) if longest is None else longest)
        if not len(pieces.owner):
            words = "words, pitch and style" if with_words else "pitch and style"
            raise TwistError(
                f"{dataset.uri} has no sample with {words} in its {split} split; `twist inspect` on the run tells why "
                f"segments have none"
            )
        super().__init__(dataset, split, index.samples, pieces.owner, data)
        self.dataset = dataset
        self.rates = rates_of(dataset)
        self.num_speech = pieces.lengths
        self.num_text_tokens = index.num_text_tokens[pieces.owner]
        self.num_words = index.num_words[pieces.owner]
        self._index = index
        self._first_tokens = pieces.piece.astype(np.int64) * (longest or 0)

    def of_pieces(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where some pieces begin and end in the merged streams of their samples, [n] each."""
        firsts = self._first_tokens[indices]
        return firsts, firsts + self.num_speech[indices]

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> list[AlignedSample | None]:
        """The samples, whole, that some are or are pieces of; None for those that are damaged and to be skipped.

        Raises:
            TwistError: a sample is damaged, or a shard is gone.
        """
        owners = self._owner[indices]
        numbers = self.blocks[indices]
        rows = owners - self._first_rows[numbers]
        found: list[AlignedSample | None] = []
        for number, row, owner in zip(numbers.tolist(), rows.tolist(), owners.tolist(), strict=True):
            block = self._reader.read(number)
            is_there = block is not None and row not in block.damaged
            found.append(self._sample(block, block.starts[row], owner) if block is not None and is_there else None)
        return found

    def _sample(self, block: Block, start: int, owner: int) -> AlignedSample:
        index = self._index

        def values(name: str, count: int, kind: str = "<u2") -> NDArray[Any]:
            before = int(index.starts[name][owner]) if name in index.starts else 0
            return np.frombuffer(block.values, kind, count, start + before)

        num_units, num_words = int(index.num_units[owner]), int(index.num_words[owner])
        streams = Streams(
            values("units", num_units),
            values("durations", num_units),
            values("pitch", int(index.num_pitch[owner])),
            values("style", int(index.num_style[owner])),
        )
        if not num_words:
            return AlignedSample(streams.units, np.zeros(0, np.uint32), np.zeros((0, 3), np.uint32), streams)
        tokens = values("text", int(index.num_text_tokens[owner]), "<u4")
        words = values("words", 3 * num_words, "<u4").reshape(-1, 3)
        return AlignedSample(streams.units, tokens, words, streams, values("cuts", num_words, "<u4"))


def rates_of(dataset: Dataset) -> StreamRates:
    """Codes a second of the units, pitch and style in shards that carry them."""
    info = dataset.info
    return StreamRates(float(info["frame_rate_hz"]), float(info["pitch"]["rate_hz"]), float(info["style"]["rate_hz"]))


@dataclass(frozen=True)
class _Pieces:
    """Consecutive pieces of samples, [N] each.

    Attributes:
        owner: The sample that each belongs to, ascending.
        piece: Its number in that sample.
        lengths: Its values.
        num_left_out: Values in pieces that are left out.
        lost_end: The samples whose last piece is left out, ascending.
    """

    owner: NDArray[np.int32]
    piece: NDArray[np.integer]
    lengths: NDArray[np.int32]
    num_left_out: int
    lost_end: NDArray[np.int32]


def _cut(lengths: NDArray[np.int32], longest: int) -> _Pieces:
    """Cuts samples into pieces of `longest` and a rest, and leaves out pieces of less than two values."""
    num_pieces = -(-lengths // np.int32(longest))
    owner = np.repeat(np.arange(len(lengths), dtype=np.int32), num_pieces)
    first = np.cumsum(num_pieces, dtype=np.int32)
    first -= num_pieces
    piece: NDArray[np.integer] = np.arange(len(owner), dtype=np.int32)
    piece -= first[owner]
    # A byte each, where no sample has more than 256 pieces.
    piece = piece.astype(np.min_scalar_type(piece.max(initial=0)))
    if len(owner) == len(lengths) and not piece.any():
        of_piece = lengths
    else:
        of_piece = np.minimum(lengths[owner] - piece * np.int32(longest), np.int32(longest))
    is_kept = of_piece >= 2
    if is_kept.all():
        return _Pieces(owner, piece, of_piece, 0, owner[:0])
    left_out = int(of_piece[~is_kept].sum())
    return _Pieces(owner[is_kept], piece[is_kept], of_piece[is_kept], left_out, owner[~is_kept])
