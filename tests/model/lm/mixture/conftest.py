"""Small shards of units with words, and of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from model.lm.loader_config import LoaderConfig
from model.lm.mixture.config import INTERLEAVED, KINDS, SPEECH, SPEECH_TEXT, TEXT, TEXT_SPEECH, SpanConfig
from model.lm.mixture.sources import AlignedSource, Source, SpeechSource, TextSource
from model.lm.samples import AlignedSamples, TextSamples, UnitSamples
from model.lm.vocab import Vocabulary
from tests.model.conftest import words_of, write_text_dataset, write_words_dataset

if TYPE_CHECKING:
    from pipeline.shards import Dataset
    from pipeline.text_shards import TextDataset

TEXT_SIZE = 100
MAX_TOKENS = 64
SPANS = SpanConfig(text_words=(1, 3), speech_words=(1, 2))


class Shards(NamedTuple):
    """Shards of units, some samples of which have words, and shards of text."""

    units: Dataset
    text: TextDataset

    @property
    def vocabulary(self) -> Vocabulary:
        """The ids of both."""
        return Vocabulary(20, TEXT_SIZE + 2, codebook_fingerprint="codebook-1", text_size=TEXT_SIZE)

    def sources(self, split: str = "train", data: LoaderConfig | None = None) -> dict[str, Source]:
        """The sequences of every kind."""
        speech = UnitSamples(self.units, split, MAX_TOKENS - 1, data)
        text = TextSamples(self.text, split, MAX_TOKENS - 1, data)
        aligned = AlignedSamples(self.units, split, data)
        found: dict[str, Source] = {
            SPEECH: SpeechSource(speech, self.vocabulary),
            TEXT: TextSource(text, self.vocabulary),
        }
        for kind in (INTERLEAVED, SPEECH_TEXT, TEXT_SPEECH):
            found[kind] = AlignedSource(kind, aligned, self.vocabulary, MAX_TOKENS, SPANS)
        return {kind: found[kind] for kind in KINDS}


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """60 samples of units to train on, every third without words, 12 to validate on, and as many documents."""
    folder = tmp_path_factory.mktemp("mixture")
    rng = np.random.default_rng(0)

    def units_with_words(count: int) -> list:  # type: ignore[type-arg]
        samples = []
        for number in range(count):
            steps = rng.integers(1, 20, int(rng.integers(12, 50)))
            units = (np.cumsum(steps) % 20).astype(np.uint16)
            words = words_of(units, int(rng.integers(2, 9)), rng, TEXT_SIZE) if number % 3 else None
            samples.append((units, words))
        return samples

    def documents(count: int) -> list:  # type: ignore[type-arg]
        return [rng.integers(0, TEXT_SIZE, int(rng.integers(5, 120))) for _ in range(count)]

    units = write_words_dataset(
        str(folder / "shards"),
        {"train": units_with_words(60), "validation": units_with_words(12)},
        vocab_size=TEXT_SIZE,
    )
    text = write_text_dataset(
        str(folder / "text"), {"train": documents(60), "validation": documents(12)}, vocab_size=TEXT_SIZE
    )
    return Shards(units, text)
