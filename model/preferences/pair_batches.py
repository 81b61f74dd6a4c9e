"""Batches of preference pairs that depend on the step alone.

1. All pairs of a split are in memory: SpokenSwag's are about 60 MB.
2. Epochs follow each other in one endless stream, each in an order drawn from (seed, epoch). Batch `i` is the stream
   from `i * batch_size` to `(i + 1) * batch_size`; rank `r` of `W` takes the r-th of W equal slices.
3. In a forward pass, the chosen and rejected sequences of its pairs are concatenated, without padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.training.step_batches import endless_order, require_even_parts
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from model.lm.vocab import Vocabulary
    from model.preferences.pair_shards import PairDataset
    from model.preferences.tune_config import TuneConfig


class TokenizedPairs:
    """The pairs of one split as token ids, those apart that are longer than `max_units`.

    Before the prompt stands what the model's units begin with (BOS, or [SPEECH]), if anything; behind the ending its
    EOS, which has the id of BOS, if it has one.

    Raises:
        TwistError: no pair is left, or a unit is not in the model's codebook.
    """

    def __init__(self, dataset: PairDataset, split: str, vocabulary: Vocabulary, max_units: int) -> None:
        start, end = (np.array(ids, np.int64) for ids in (vocabulary.start_ids, vocabulary.end_ids))
        self.ids: list[str] = []
        self.num_too_long = 0
        self.num_units = 0
        self._prompts: list[NDArray[np.int64]] = []
        self._endings: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for pair in dataset.pairs(split):
            prompt, *endings = map(vocabulary.encode, pair.parts)
            if len(prompt) + max(map(len, endings)) > max_units:
                self.num_too_long += 1
                continue
            chosen, rejected = (np.concatenate([ending, end]) for ending in endings)
            self.ids.append(pair.pair_id)
            self.num_units += sum(map(len, pair.parts))
            self._prompts.append(np.concatenate([start, prompt]))
            self._endings.append((chosen, rejected))
        if not self.ids:
            too_long = f": all {self.num_too_long:,} are longer than tune.max_units" if self.num_too_long else ""
            raise TwistError(f"{dataset.uri} has no pair in its {split} split{too_long}")

    def __len__(self) -> int:
        return len(self.ids)

    def length(self, index: int) -> int:
        """Tokens in both sequences of a pair."""
        return 2 * len(self._prompts[index]) + sum(map(len, self._endings[index]))

    def micro_batch(self, indices: Sequence[int]) -> PairMicroBatch:
        """Some pairs, for one forward pass."""
        sequences, starts = [], []
        for index in indices:
            for ending in self._endings[index]:
                sequences.append(np.concatenate([self._prompts[index], ending]))
                starts.append(len(self._prompts[index]))
        return PairMicroBatch(
            torch.from_numpy(np.concatenate(sequences)), tuple(map(len, sequences)), tuple(starts), tuple(indices)
        )


@dataclass(frozen=True)
class PairMicroBatch:
    """The pairs of one forward pass: chosen, rejected, chosen, ...

    Attributes:
        token_ids: [N] int64, the sequences concatenated.
        lengths: Tokens of each sequence, N in all.
        starts: Where in each sequence its ending begins.
        indices: The pair of every two sequences.
    """

    token_ids: Tensor
    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    indices: tuple[int, ...]


@dataclass(frozen=True)
class PairBatch:
    """One rank's share of one step; `index` is the step, from 0."""

    index: int
    micro_batches: list[PairMicroBatch]


class PairBatches(torch.utils.data.Dataset[PairBatch]):
    """Maps a step, counted from 0, to its batch for one rank.

    Raises:
        TwistError: the batch cannot be divided evenly.
    """

    def __init__(self, pairs: TokenizedPairs, config: TuneConfig, rank: int = 0, world_size: int = 1) -> None:
        require_even_parts("tune.batch_size", config.batch_size, world_size, config.gradient_accumulation)
        self._pairs = pairs
        self._config = config
        self._rank = rank
        self._world_size = world_size

    def __getitem__(self, index: int) -> PairBatch:
        config = self._config
        start = index * config.batch_size
        drawn = endless_order(config.seed, start, start + config.batch_size, len(self._pairs))
        mine = drawn.reshape(self._world_size, config.gradient_accumulation, -1)[self._rank]
        return PairBatch(index, [self._pairs.micro_batch(some) for some in mine.tolist()])

    def ids(self, index: int) -> list[str]:
        """The pairs of batch `index` over all ranks."""
        start = index * self._config.batch_size
        drawn = endless_order(self._config.seed, start, start + self._config.batch_size, len(self._pairs))
        return [self._pairs.ids[pair] for pair in drawn.tolist()]
