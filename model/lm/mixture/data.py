"""What a speech and text LM is trained and validated on: each kind of sequence out of shards of units and of text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from model.lm.loader import Batch
from model.lm.loader_config import LoaderConfig
from model.lm.mixture.batches import MixtureBatches
from model.lm.mixture.config import ALIGNED_KINDS, SPEECH, TEXT, MixtureConfig, SpanConfig
from model.lm.mixture.perplexity import frequency_perplexity, perplexity_by_kind, text_lm_perplexity
from model.lm.mixture.sources import PREFIX, AlignedSource, Source, SpeechSource, StreamSource, TextSource
from model.lm.perplexity import Perplexity, PerplexityReport, unigram_perplexity, unit_counts
from model.lm.samples import AlignedSamples, StreamSamples, TextSamples, UnitSamples
from model.lm.text_lm import text_tokenizer, text_vocabulary
from model.lm.text_tokenizer import fingerprint_of_tokenizer
from model.lm.training_data import ngram_reports, samples_at_once
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from model.lm.train_config import TrainConfig
    from model.lm.vocab import Vocabulary
    from model.training.distributed import Ranks
    from pipeline.shards import Dataset
    from pipeline.text_shards import TextDataset

SPEECH_BASELINE = "speech: unit frequencies"
STREAM_BASELINE = "speech: frequencies of units, pitch and style"
TEXT_BASELINE = "text: the text LM"


class MixtureData:
    """Sequences of several kinds.

    Args:
        config: The training's settings, which have a mixture.
        dataset: The shards of units.
        text: The shards of text; None if there are none.
        ranks: This process among those that train.

    Raises:
        TwistError: a kind of the mixture has no data, or shards have other tokens than the model.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, text: TextDataset | None, ranks: Ranks) -> None:
        assert config.mixture is not None
        self._config = config
        self._ranks = ranks
        folder = config.init or config.tokenizer
        assert folder is not None
        _refuse_other_tokenizer(config.mixture, dataset, text, folder)
        self.vocabulary = vocabulary = text_vocabulary(folder, dataset, is_expressive=config.expressive)
        self.tokenizer = text_tokenizer(folder, vocabulary)
        self._train = _Split(config, dataset, text, vocabulary, "train", config.data)
        self._validation = _Split(
            config, dataset, text, vocabulary, "validation", LoaderConfig(verify_checksums=config.data.verify_checksums)
        )
        self.held_to = self._train.held_to
        self._batches = MixtureBatches(
            self._train.sources,
            config.mixture,
            vocabulary,
            batch_size=config.batch_size,
            num_micro_batches=config.gradient_accumulation,
            seed=config.seed,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )

    def facts(self) -> dict[str, Any]:
        sources = self._train.sources.values()
        return {
            "num_train_samples": sum(len(source.blocks) for source in sources),
            "num_train_units": round(sum(len(source.blocks) * source.mean_tokens for source in sources)),
        }

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps `start` + 1 to `stop`, with counts over all processes."""
        for batch in self._batches.iterate(start, stop, self._config.num_workers):
            own = [batch.num_units, batch.num_targets, *batch.units_by_kind.values()]
            num_units, num_targets, *by_kind = self._ranks.sum(torch.tensor(own, device=self._ranks.device)).tolist()
            units_by_kind = dict(zip(batch.units_by_kind, by_kind, strict=True))
            yield replace(batch, num_units=num_units, num_targets=num_targets, units_by_kind=units_by_kind)

    def keys(self, step: int) -> list[str]:
        return self._batches.keys(step)

    def baseline(self, untrained: nn.Module) -> PerplexityReport:
        found: dict[str, Perplexity] = {}
        if self._train.streams is not None and self._validation.streams is not None:
            found[STREAM_BASELINE] = frequency_perplexity(
                self._train.streams, self._validation.streams, self.vocabulary, self._ranks
            )
        if self._train.speech is not None and self._validation.speech is not None:
            counts = unit_counts(self._train.speech, self.vocabulary, self._ranks)
            found[SPEECH_BASELINE] = unigram_perplexity(counts, self._validation.speech).mean
        if TEXT in self._train.sources and self._config.init is not None:
            found[TEXT_BASELINE] = text_lm_perplexity(
                untrained,
                self.vocabulary,
                self._validation.sources[TEXT],
                batch_size=samples_at_once(self._config, self._ranks),
                ranks=self._ranks,
            )
        return PerplexityReport.of(found)

    def ngrams(self) -> dict[int, PerplexityReport]:
        if self._train.speech is None or self._validation.speech is None:
            return {}
        return ngram_reports(
            self._train.speech, self._validation.speech, self.vocabulary.codebook_size, self._config.seed, self._ranks
        )

    def validate(self, model: nn.Module) -> PerplexityReport:
        return perplexity_by_kind(
            model,
            self.vocabulary,
            list(self._validation.sources.values()),
            batch_size=samples_at_once(self._config, self._ranks),
            ranks=self._ranks,
        )

    def state_dict(self, step: int) -> dict[str, Any]:
        return self._batches.state_dict(step)

    def load_state_dict(self, state: dict[str, Any]) -> int:
        return self._batches.load_state_dict(state)


def _refuse_other_tokenizer(mixture: MixtureConfig, dataset: Dataset, text: TextDataset | None, folder: str) -> None:
    made_with = {}
    if any(getattr(mixture, kind) for kind in ALIGNED_KINDS):
        made_with[dataset.uri] = dataset.info.get("text", {}).get("tokenizer")
    if mixture.text and text is not None:
        made_with[text.uri] = text.tokenizer
    mine = fingerprint_of_tokenizer(folder)
    for uri, tokenizer in made_with.items():
        if tokenizer is None:
            raise TwistError(
                f"the samples in {uri} carry no words: run `twist align`, give the recipe text.tokenizer, "
                f"and pack again"
            )
        if tokenizer != mine:
            raise TwistError(
                f"{uri} was made with another tokenizer ({tokenizer}) than the one in {folder} ({mine}): the "
                f"same numbers mean other text; make it again with text.tokenizer {folder}"
            )


class _Split:
    """The sequences of each kind in one split.

    Attributes:
        sources: By kind, in the order of KINDS.
        speech: All samples of units; None if the mixture is text alone, or speech has pitch and style.
        streams: All samples of units, pitch and style; None if the mixture is text alone, or speech has units alone.
        held_to: What is read is held to.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        text: TextDataset | None,
        vocabulary: Vocabulary,
        split: str,
        data: LoaderConfig,
    ) -> None:
        mixture = config.mixture
        assert mixture is not None
        self.sources: dict[str, Source] = {}
        self.speech: UnitSamples | None = None
        self.streams: StreamSource | None = None
        if mixture.kinds != (TEXT,) and config.expressive:
            samples = StreamSamples(dataset, split, data, longest=config.max_units - PREFIX)
            self.held_to = samples.held_to
            self.streams = StreamSource(samples, vocabulary, config.max_units)
            if mixture.speech:
                self.sources[SPEECH] = self.streams
        elif mixture.kinds != (TEXT,):
            self.speech = UnitSamples(dataset, split, config.max_units - PREFIX, data)
            self.held_to = self.speech.held_to
            if mixture.speech:
                self.sources[SPEECH] = SpeechSource(self.speech, vocabulary)
        if mixture.text:
            if text is None:
                raise TwistError(
                    "train.mixture.text needs text, and there is none: give the recipe text.corpora and run `twist "
                    "pack-text`, or take train.mixture.text out"
                )
            documents = TextSamples(text, split, config.max_units - PREFIX, data)
            self.held_to = documents.held_to
            self.sources[TEXT] = TextSource(documents, vocabulary)
        if any(getattr(mixture, kind) for kind in ALIGNED_KINDS):
            aligned = (
                StreamSamples(dataset, split, data, with_words=True)
                if config.expressive
                else AlignedSamples(dataset, split, data)
            )
            for kind in ALIGNED_KINDS:
                if getattr(mixture, kind):
                    spans = config.spans or SpanConfig()
                    self.sources[kind] = AlignedSource(kind, aligned, vocabulary, config.max_units, spans)
        self.sources = {kind: self.sources[kind] for kind in mixture.kinds}


def sources_of_split(
    config: TrainConfig, dataset: Dataset, text: TextDataset | None, vocabulary: Vocabulary, split: str
) -> dict[str, Source]:
    """The sequences of each kind of a training's mixture in one split, to be measured on: all samples, each once.

    Raises:
        TwistError: a kind has no data.
    """
    return _Split(config, dataset, text, vocabulary, split, LoaderConfig()).sources
