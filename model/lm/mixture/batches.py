"""Batches of several kinds of sequences, whose order depends on the seed and the step alone.

1. Each kind has samples of its own and an endless order over them (`epoch_order.py`).
2. The places of one stream are dealt to the kinds (`kinds.py`), in shares that give each its part of the tokens.
3. Batch `i` is the stream from `i * batch_size` to `(i + 1) * batch_size`; rank `r` of `W` takes the r-th of W equal
   slices. What a sequence is, its spans of speech and text included, depends on its place alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.lm.epoch_order import EpochOrder
from model.lm.loader import Batch, MicroBatch
from model.lm.mixture.config import KINDS
from model.lm.mixture.kinds import KindOrder, shares_of_sequences
from model.training import step_batches
from model.training.step_batches import require_even_parts
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from model.lm.mixture.config import MixtureConfig
    from model.lm.mixture.sources import Source
    from model.lm.vocab import Vocabulary

# Batches whose blocks are read ahead.
BATCHES_AHEAD = 8


class MixtureBatches:
    """Gives one rank its share of any step's batch.

    The counts of its batches are of this rank alone: how long an interleaved sequence is, only its reader knows.

    Args:
        sources: The samples of each kind that has a weight.
        mixture: The weights.
        vocabulary: The model's.
        batch_size: Sequences per step, over all ranks.
        num_micro_batches: Forward passes into which each rank divides its slice.
        seed: Determines the order and the spans.
        rank: The slice of each batch that this process gets.
        world_size: Number of slices.

    Raises:
        TwistError: the batch cannot be divided evenly.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        mixture: MixtureConfig,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        num_micro_batches: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        require_even_parts("train.batch_size", batch_size, world_size, num_micro_batches)
        self._sources = [sources[kind] for kind in mixture.kinds]
        self._mixture = mixture
        self._vocabulary = vocabulary
        self._batch_size = batch_size
        self._num_micro_batches = num_micro_batches
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        weights = [getattr(mixture, kind) for kind in mixture.kinds]
        self._kinds = KindOrder(shares_of_sequences(weights, [one.mean_tokens for one in self._sources]), seed)
        self._orders = [
            EpochOrder(source.blocks, seed + (1 + KINDS.index(source.kind)) * 2**32, source.weights)
            for source in self._sources
        ]
        self._read_ahead_to = -1

    @property
    def max_units(self) -> int:
        """Length of the longest possible sequence, in tokens."""
        return max(source.max_tokens for source in self._sources)

    @property
    def pad_id(self) -> int:
        """The id that fills rows up to a common length."""
        return self._vocabulary.pad_id

    def __getitem__(self, index: int) -> Batch:
        self._read_ahead(index)
        kinds, numbers = self._slots(index)
        shape = (self._world_size, self._num_micro_batches, -1)
        micro_batches, tokens, num_skipped = [], dict.fromkeys(self._mixture.kinds, 0), 0
        for of_kind, number in zip(kinds.reshape(shape)[self._rank], numbers.reshape(shape)[self._rank], strict=True):
            parts = []
            for kind in np.unique(of_kind).tolist():
                source = self._sources[kind]
                places = number[of_kind == kind]
                part, skipped = source.sequences(self._samples(kind, places), places, self._seed)
                parts.append(part)
                num_skipped += skipped
                tokens[source.kind] += len(part.token_ids)
            micro_batches.append(_joined(parts))
        num_sequences = sum(len(micro_batch.lengths) for micro_batch in micro_batches)
        num_units = sum(tokens.values())
        return Batch(index, micro_batches, num_units, num_units - num_sequences, num_skipped, tokens)

    def keys(self, index: int) -> list[str]:
        """Keys of the samples of batch `index` over all ranks, each behind its kind."""
        kinds, numbers = self._slots(index)
        return [
            f"{self._sources[kind].kind} {self._sources[kind].key(int(self._samples(kind, np.array([number]))[0]))}"
            for kind, number in zip(kinds.tolist(), numbers.tolist(), strict=True)
        ]

    def iterate(self, start: int, stop: int, num_workers: int) -> Iterator[Batch]:
        """Batches `start` to `stop` (exclusive) in order, read by `num_workers` other processes (0: by this one).

        Raises:
            TwistError: a shard is gone or damaged.
        """
        return step_batches.iterate(self, start, stop, num_workers)

    def state_dict(self, num_batches: int) -> dict[str, Any]:
        """The stream's position after `num_batches` batches, for a checkpoint."""
        state: dict[str, Any] = {
            "seed": self._seed,
            "num_batches": num_batches,
            "batch_size": self._batch_size,
            "sources": {
                source.kind: {"weight": getattr(self._mixture, source.kind), **source.identity()}
                for source in self._sources
            },
        }
        restored: dict[str, Any] = json.loads(json.dumps(state))  # tuples come back as lists
        return restored

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """The index of the batch that a resumed run starts with.

        Raises:
            TwistError: the state is of other data or another order.
        """
        here = self.state_dict(state["num_batches"])
        changes = [
            f"{name} was {json.dumps(then.get(name))}, is {json.dumps(now.get(name))}"
            for then, now in [(_flat(state), _flat(here))]
            for name in sorted(then.keys() | now.keys())
            if then.get(name) != now.get(name)
        ]
        if changes:
            raise TwistError(
                f"the checkpoint was trained on another stream of sequences: {'; '.join(changes)}. Go on with the same "
                f"shards and settings, or train into another folder"
            )
        return int(state["num_batches"])

    def _slots(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._kinds.at(index * self._batch_size, (index + 1) * self._batch_size)

    def _samples(self, kind: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples at some places of a kind's own stream, which ascend."""
        first = int(places[0])
        return self._orders[kind].samples(first, int(places[-1]) + 1)[places - first]

    def _read_ahead(self, index: int) -> None:
        """Prefetches what this rank reads in this batch and the next ones."""
        for ahead in range(max(index, self._read_ahead_to + 1), index + BATCHES_AHEAD):
            kinds, numbers = (slots.reshape(self._world_size, -1)[self._rank] for slots in self._slots(ahead))
            for kind in np.unique(kinds).tolist():
                self._sources[kind].prefetch(self._samples(kind, numbers[kinds == kind]))
        self._read_ahead_to = max(self._read_ahead_to, index + BATCHES_AHEAD - 1)


def _joined(parts: list[MicroBatch]) -> MicroBatch:
    if not parts:
        return MicroBatch(torch.empty(0, dtype=torch.int64), ())
    return MicroBatch(torch.cat([part.token_ids for part in parts]), tuple(n for part in parts for n in part.lengths))


def _flat(state: dict[str, Any]) -> dict[str, Any]:
    """`kind.setting` of each source beside the other entries."""
    sources = state.get("sources", {})
    return {name: value for name, value in state.items() if name != "sources"} | {
        f"{kind}.{name}": value for kind, source in sources.items() for name, value in source.items()
    }
