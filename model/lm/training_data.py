"""What a speech LM is trained and validated on: here units alone; mixture/data.py has speech and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from model.lm.loader import Batch, TrainingBatches
from model.lm.loader_config import LoaderConfig
from model.lm.ngram import fit_ngrams, most_order, ngram_nll, reports_by_order
from model.lm.perplexity import PerplexityReport, perplexity, unigram_perplexity, unit_counts
from model.lm.samples import UnitSamples
from model.lm.vocab import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from model.lm.train_config import TrainConfig
    from model.training.distributed import Ranks
    from pipeline.shards import Dataset


class TrainingData(Protocol):
    """The data of one training, in one process.

    Attributes:
        vocabulary: The ids of all that the model reads.
        held_to: What units were held to as they were read, in words.
        tokenizer: What turns text into the model's ids; None for a model of units alone.
    """

    vocabulary: Vocabulary
    held_to: str
    tokenizer: PreTrainedTokenizerBase | None

    def facts(self) -> dict[str, Any]:
        """Figures to report at the start."""

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        """The batches of steps `start` + 1 to `stop`, with counts over all processes."""

    def keys(self, step: int) -> list[str]:
        """Keys of the samples of a step, from 0."""

    def baseline(self, untrained: nn.Module) -> PerplexityReport:
        """What counting units, or the text LM that a new model was made of, gives on the validation data."""

    def ngrams(self) -> dict[int, PerplexityReport]:
        """What n-gram models of the training units give on the validation data, by order; none without speech."""

    def validate(self, model: nn.Module) -> PerplexityReport:
        """Perplexity of the validation data."""

    def state_dict(self, step: int) -> dict[str, Any]:
        """The position after `step` steps, and what it is a position in."""

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """The step that a saved position is at.

        Raises:
            TwistError: it is one in other data or another order.
        """


class UnitData:
    """Shards of units, as TWIST is trained on."""

    tokenizer = None

    def __init__(self, config: TrainConfig, dataset: Dataset, ranks: Ranks) -> None:
        self._config = config
        self._ranks = ranks
        self.vocabulary = Vocabulary.of_dataset(dataset, bos_eos=config.bos_eos)
        self._train_samples = UnitSamples(dataset, "train", config.max_units, config.data)
        self._validation_samples = UnitSamples(
            dataset, "validation", config.max_units, LoaderConfig(verify_checksums=config.data.verify_checksums)
        )
        self.held_to = self._train_samples.held_to
        self._batches = TrainingBatches(
            self._train_samples,
            self.vocabulary,
            batch_size=config.batch_size,
            num_micro_batches=config.gradient_accumulation,
            seed=config.seed,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )

    def facts(self) -> dict[str, Any]:
        return {
            "num_train_samples": len(self._train_samples),
            "num_train_units": int(self._train_samples.num_units.sum()),
        }

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        return self._batches.iterate(start, stop, self._config.num_workers)

    def keys(self, step: int) -> list[str]:
        return self._batches.keys(step)

    def baseline(self, untrained: nn.Module) -> PerplexityReport:
        counts = unit_counts(self._train_samples, self.vocabulary, self._ranks)
        return unigram_perplexity(counts, self._validation_samples)

    def ngrams(self) -> dict[int, PerplexityReport]:
        return ngram_reports(
            self._train_samples, self._validation_samples, self.vocabulary.codebook_size, self._config.seed, self._ranks
        )

    def validate(self, model: nn.Module) -> PerplexityReport:
        return perplexity(
            model,
            self.vocabulary,
            self._validation_samples,
            batch_size=samples_at_once(self._config, self._ranks),
            ranks=self._ranks,
        )

    def state_dict(self, step: int) -> dict[str, Any]:
        return self._batches.state_dict(step)

    def load_state_dict(self, state: dict[str, Any]) -> int:
        return self._batches.load_state_dict(state)


def ngram_reports(
    train: UnitSamples, validation: UnitSamples, num_units: int, seed: int, ranks: Ranks
) -> dict[int, PerplexityReport]:
    """n-gram models of the training units on the validation samples, by order.

    Every process fits the same models, and scores its share of the samples.

    Raises:
        TwistError: a sample is damaged; in all processes.
    """
    bounds = [len(validation) * rank // ranks.world_size for rank in (ranks.rank, ranks.rank + 1)]
    nats = np.zeros((most_order(num_units), len(validation)))
    nats[:, slice(*bounds)] = ranks.all_or_none(
        lambda: ngram_nll(fit_ngrams(train, num_units, seed=seed), validation, *bounds)
    )
    summed = ranks.sum(torch.from_numpy(nats).to(ranks.device)).cpu().numpy()
    return reports_by_order(summed, validation)


def samples_at_once(config: TrainConfig, ranks: Ranks) -> int:
    """Samples of a forward pass: as many in validation as in training."""
    return max(1, config.batch_size // (ranks.world_size * config.gradient_accumulation))
