"""A speech LM to score and continue units with: that of a run, a checkpoint's folder or a published name."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.artefacts import resolve
from model.device import pick_device
from model.lm.generate import continue_units, ready_for_drawing, ready_for_inference
from model.lm.sampling_config import SamplingConfig
from model.lm.scoring import log_likelihoods, sequence_scores
from model.lm.speech_lm import load_speech_lm
from model.training import checkpoint, checkpoint_steps
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.speaking.names import OFFICIAL_CODEBOOK_SIZE, OFFICIAL_MODELS, refuse_unknown
from pipeline.speaking.units import Units, require_codebook
from pipeline.speaking.voice import DTYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from model.device import Device
    from model.lm.scoring_config import ScoringConfig
    from model.lm.vocab import Vocabulary
    from pipeline.speaking.voice import DType
    from pipeline.units.codebook import Codebook

AS_PUBLISHED = SamplingConfig()


@dataclass(frozen=True, eq=False)
class Score:
    """How likely a speech LM finds the units of a clip, each given all before it. The first one is not scored.

    Attributes:
        log_likelihoods: Of each unit but the first, in nats, [n - 1].
    """

    log_likelihoods: NDArray[np.float64]

    @property
    def sum(self) -> float:
        """Log-likelihood of the whole clip, in nats."""
        return float(self.log_likelihoods.sum())

    @property
    def mean(self) -> float:
        """Log-likelihood per unit, in nats."""
        return float(self.log_likelihoods.mean())

    @property
    def perplexity(self) -> float:
        """exp(-mean)."""
        return math.exp(-self.mean)


class SpeechLM:
    """A speech LM, ready on its device.

    Attributes:
        model: The transformers model.
        path: The folder that it was loaded from.
        vocabulary: Its units and their token ids.
    """

    def __init__(self, model: PreTrainedModel, vocabulary: Vocabulary, path: str) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.path = path

    @property
    def drawing_model(self) -> PreTrainedModel:
        """The same model, from now on quicker at drawing a few units at a time, and slower at scoring many."""
        return ready_for_drawing(self.model)

    def score(self, units: Units, sampling: SamplingConfig | None = None) -> Score:
        """How likely the units of one clip are.

        Args:
            units: Two or more.
            sampling: Score by the probabilities with which `continue_` draws by these settings, not by the model's own.

        Raises:
            TwistError: there are fewer than two units, or they come from another codebook than the model's.
        """
        return self.score_batch([units], sampling)[0]

    def score_batch(self, clips: Sequence[Units], sampling: SamplingConfig | None = None) -> list[Score]:
        """How likely the units of each clip are; the clips beside it change nothing but rounding.

        Args:
            clips: Of two or more units each.
            sampling: As for `score`.

        Raises:
            TwistError: as `score`.
        """
        self._require_own(clips)
        sequences = [units.values for units in clips]
        return [Score(nats) for nats in log_likelihoods(self.model, self.vocabulary, sequences, sampling)]

    def scores_of(self, sequences: Sequence[NDArray[np.int64]], scoring: ScoringConfig) -> list[NDArray[np.float64]]:
        """The log-likelihood of each token of each sequence that `scoring` counts; for benchmarks.

        Args:
            sequences: Ids of units, or of units, pitch and style merged by time, for an expressive model.
            scoring: What counts.

        Raises:
            TwistError: the model was trained without what `scoring` asks for.
        """
        return sequence_scores(self.model, self.vocabulary, sequences, scoring)

    def continue_(
        self, prompt: Units, sampling: SamplingConfig = AS_PUBLISHED, num_continuations: int = 1
    ) -> list[Units]:
        """Continues one prompt: the units that the model says after it, without the prompt's.

        Args:
            prompt: One or more units.
            sampling: How units are drawn, and how many; as published by default.
            num_continuations: Continuations to draw.

        Returns:
            As many continuations, without durations. `prompt + continuation` is both.

        Raises:
            TwistError: the prompt is empty, leaves no room for more units, or comes from another codebook; or
                `sampling` counts seconds, and the prompt has no durations.
        """
        return self.continue_batch([prompt], sampling, num_continuations)[0]

    def continue_batch(
        self,
        prompts: Sequence[Units],
        sampling: SamplingConfig = AS_PUBLISHED,
        num_continuations: int = 1,
        batch_size: int = 32,
    ) -> list[list[Units]]:
        """Continues many prompts; what one becomes does not depend on the others.

        Args:
            prompts: Of one or more units each.
            sampling: How units are drawn, and how many.
            num_continuations: Continuations of each prompt.
            batch_size: Continuations that are written at once.

        Returns:
            The continuations of each prompt.

        Raises:
            TwistError: as `continue_`.
        """
        self._require_own(prompts)
        continued = continue_units(
            self.drawing_model,
            self.vocabulary,
            [prompt.values for prompt in prompts],
            sampling,
            num_continuations,
            batch_size=batch_size,
            seconds_per_unit=_paces_s(prompts) if sampling.needs_pace else None,
        )
        return [
            [replace(prompt, values=values, durations=None) for values in continuations]
            for prompt, continuations in zip(prompts, continued, strict=True)
        ]

    def require_codebook(self, book: Codebook, name: str) -> None:
        """Refuses a codebook whose units the model was not trained on; rows of its table beyond them become specials.

        Args:
            book: The codebook.
            name: What the user calls it, for the error.

        Raises:
            TwistError: the model has another number of units, or says that it was trained on another codebook.
        """
        vocabulary = self.vocabulary.of_units(book.codebook_size)
        if vocabulary is None or vocabulary.codebook_fingerprint not in (None, book.fingerprint):
            raise TwistError(
                f"{self.path} speaks units of another codebook than {name}: the same numbers mean other sounds; name "
                f"its run with --run, or its codebook with --codebook"
            )
        self.vocabulary = vocabulary

    def _require_own(self, clips: Sequence[Units]) -> None:
        for units in clips:
            require_codebook(units, self.vocabulary.codebook_fingerprint, "but this model speaks those of")


def load_lm(source: str | Path, device: Device = "auto", dtype: DType = "float32") -> SpeechLM:
    """The speech LM of a run, a checkpoint's folder or a published name.

    Args:
        source: A run's folder (the best of its checkpoints), a checkpoint's folder, ours, Meta's or slamkit's (both
            local or s3://), or TWIST-350M, TWIST-1.3B or TWIST-7B, which are downloaded once.
        device: Where the model runs; auto is cuda where there is a GPU.
        dtype: What it computes in.

    Raises:
        TwistError: there is no checkpoint, or it cannot be loaded.
    """
    name = str(source).lower()
    refuse_unknown(name if name in OFFICIAL_MODELS else str(source), "speech LM", OFFICIAL_MODELS)
    path = resolve(name) if name in OFFICIAL_MODELS else _find_checkpoint(str(source))
    model, vocabulary = load_speech_lm(str(checkpoint.fetch(path)))
    if name in OFFICIAL_MODELS:  # whose tables may have rows to spare
        vocabulary = replace(vocabulary, codebook_size=min(vocabulary.codebook_size, OFFICIAL_CODEBOOK_SIZE))
    return SpeechLM(ready_for_inference(model, DTYPES[dtype], pick_device(device)), vocabulary, path)


def _paces_s(prompts: Sequence[Units]) -> list[float]:
    """Seconds that a unit of each prompt lasts on average.

    Raises:
        TwistError: a prompt has no durations.
    """
    return [prompt.duration_s / max(len(prompt), 1) for prompt in prompts]


def _find_checkpoint(folder: str) -> str:
    """A checkpoint's folder as it is, and of a run its best checkpoint.

    Raises:
        TwistError: there is none.
    """
    if storage.exists(storage.join(folder, "config.json")):
        return folder
    return checkpoint_steps.best_folder(storage.join(folder, "checkpoints"))
