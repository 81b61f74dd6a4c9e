"""Frames of many clips with the language of each, and batches of crops of them, which depend on seed and step alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.training.step_batches import require_even_parts
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.language_id.train_config import LanguageTrainConfig


@dataclass(frozen=True, eq=False)
class LanguageFrames:
    """Frames of clips, one behind the other.

    Attributes:
        frames: [sum of F, D] float16.
        offsets: [N + 1] clip i is at offsets[i] to offsets[i + 1].
        languages: ISO codes of the clips, [N].
        corpora: Their corpora, [N].
        speakers: Their speakers, [N]; the recording, where none is known.
        frame_rate_hz: Frames a second.
        fingerprint: Identifies clips and frames.
    """

    frames: NDArray[np.float16]
    offsets: NDArray[np.int64]
    languages: Sequence[str]
    corpora: Sequence[str]
    speakers: Sequence[str]
    frame_rate_hz: float
    fingerprint: str

    def __len__(self) -> int:
        return len(self.languages)

    def __getitem__(self, index: int) -> NDArray[np.float16]:
        """The frames [F, D] of a clip."""
        start, stop = self.offsets[index : index + 2]
        return self.frames[start:stop]

    @property
    def hours(self) -> float:
        """Length of all clips together."""
        return len(self.frames) / self.frame_rate_hz / 3600


@dataclass(frozen=True)
class LanguageBatch:
    """One rank's part of step `index`: frames [B, F, D], their lengths [B], and the language of each [B]."""

    index: int
    frames: Tensor
    num_frames: Tensor
    languages: Tensor


class LanguageBatches:
    """Maps a step, counted from 0, to its batch for one rank.

    Half of a batch is in the wanted language. Each half is drawn evenly from the corpora that hold such speech, then
    evenly from its languages, then from its speakers: so a corpus that holds both, as synthesized speech does, tells
    nothing by how it sounds.

    Raises:
        TwistError: there is no speech in the wanted language, or none in others; or the batch cannot be divided evenly.
    """

    def __init__(
        self,
        clips: LanguageFrames,
        labels: Sequence[str],
        config: LanguageTrainConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        require_even_parts("train_language.batch_size", config.batch_size, world_size)
        self._clips, self._config = clips, config
        self._rank, self._world_size = rank, world_size
        self._label_of = {label: number for number, label in enumerate(labels)}
        # Clips by whether they are wanted, corpus, language and speaker.
        self._trees: list[dict[str, dict[str, dict[str, list[int]]]]] = [{}, {}]
        rows = zip(clips.languages, clips.corpora, clips.speakers, strict=True)
        for index, (language, corpus, speaker) in enumerate(rows):
            of_corpus = self._trees[language == config.wanted].setdefault(corpus, {})
            of_corpus.setdefault(language, {}).setdefault(speaker, []).append(index)
        for tree, what in zip(self._trees, (f"other than {config.wanted}", config.wanted), strict=True):
            if not tree:
                raise TwistError(f"train_language: no speech in a language {what} is left to train on")

    def __getitem__(self, index: int) -> LanguageBatch:
        config, clips = self._config, self._clips
        rng = np.random.default_rng([config.seed, index])
        most = round(config.crops_s[rng.integers(len(config.crops_s))] * clips.frame_rate_hz)
        drawn = [self._draw(number % 2 == 1, rng) for number in range(config.batch_size)]
        crops = []
        for clip, start_share in zip(drawn, rng.random(config.batch_size), strict=True):
            frames = clips[clip]
            start = int(start_share * (max(0, len(frames) - most) + 1))
            crops.append(torch.from_numpy(frames[start : start + most].astype(np.float32)))
        rows = np.arange(config.batch_size).reshape(self._world_size, -1)[self._rank]
        own = [crops[row] for row in rows]
        return LanguageBatch(
            index,
            torch.nn.utils.rnn.pad_sequence(own, batch_first=True),
            torch.tensor([len(crop) for crop in own]),
            torch.tensor([self._label_of[clips.languages[drawn[row]]] for row in rows]),
        )

    def _draw(self, is_wanted: bool, rng: np.random.Generator) -> int:
        corpora = list(self._trees[is_wanted].values())
        languages = list(corpora[rng.integers(len(corpora))].values())
        speakers = list(languages[rng.integers(len(languages))].values())
        found = speakers[rng.integers(len(speakers))]
        return found[rng.integers(len(found))]


def windows_of(clips: LanguageFrames, window_s: float) -> list[tuple[NDArray[np.float16], str, str]]:
    """Windows of up to `window_s`, with language and corpus: the clips of a speaker in a language joined, then cut."""
    joined: dict[tuple[str, str, str], list[int]] = {}
    rows = zip(clips.languages, clips.corpora, clips.speakers, strict=True)
    for index, key in enumerate(rows):
        joined.setdefault(key, []).append(index)
    most = round(window_s * clips.frame_rate_hz)
    found = []
    for (language, corpus, _), indices in joined.items():
        frames = np.concatenate([clips[index] for index in indices])
        for start in range(0, max(1, len(frames) - most // 2), most):
            found.append((frames[start : start + most], language, corpus))
    return found
