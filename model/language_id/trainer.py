"""Trains a small language classifier on the frames of clips; a resumed run gives the same bits.

    FOLDER/00000100/   classifier.safetensors, optimizer-00000-of-00001.safetensors, trainer_state.json, checksums.json

The loss is that of telling the wanted language from the rest, plus that of telling all languages apart. The best
checkpoint is that with the least loss over held-out speakers; its scores there are calibrated (calibration.py). The
loop is the one that every training shares.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch.nn import functional as F

from model.language_id import checkpoint as language_checkpoint
from model.language_id.calibration import Calibration, calibrate
from model.language_id.frames import LanguageBatch, LanguageBatches, LanguageFrames, windows_of
from model.language_id.pooled import PooledClassifier
from model.language_id.pooled_folder import CLASSIFIER_WEIGHTS, scores_of
from model.training import checkpoint, resumption
from model.training.loop import run_training
from model.training.optim import adamw
from model.training.step_batches import iterate
from model.training.training import OnEvent, Resumed, Training
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from model.language_id.train_config import LanguageTrainConfig
    from model.training.distributed import Ranks


@dataclass(frozen=True)
class LanguageQuality:
    """How well held-out speakers' languages are told.

    Attributes:
        loss: Of telling the wanted language from the rest, either with half of the weight and each corpus with as much
            as another.
        wanted_lost: Share of windows in the wanted language that score lower than the rest's.
        others_found: Share of the rest's windows that are found where a tenth of those in the wanted language is lost.
    """

    loss: float
    wanted_lost: float
    others_found: float


@dataclass(frozen=True)
class LanguageResult:
    """The outcome of a run.

    Attributes:
        num_steps: Updates made, over all resumptions.
        best: The validation with the least loss; None if there was none yet.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        weights: The classifier's best weights, rounded as they are stored; empty unless the run is finished.
        labels: The languages, the wanted one first.
        calibration: Of these weights; None unless the run is finished.
        is_finished: False if a signal stopped the run; start it again to continue.
    """

    num_steps: int
    best: LanguageQuality | None
    checkpoint: str
    weights: dict[str, Tensor]
    labels: tuple[str, ...]
    calibration: Calibration | None
    is_finished: bool


def train_language(
    config: LanguageTrainConfig,
    train: LanguageFrames,
    validation: LanguageFrames,
    checkpoints: str,
    on_event: OnEvent = lambda _: None,
) -> LanguageResult:
    """Trains and calibrates a classifier, resuming from the newest checkpoint if there is one.

    Args:
        config: How to train.
        train: What to train on.
        validation: What to measure and to calibrate on, of other speakers.
        checkpoints: Folder for checkpoints and metrics.jsonl, local or s3://.
        on_event: See model/training/training.py.

    Raises:
        TwistError: clips, settings and checkpoints do not fit together, a loss is no longer finite, or there is no
            held-out speech of one side.
    """
    labels = (config.wanted, *sorted({*train.languages} - {config.wanted}))

    def make(ranks: Ranks, resumed: Resumed | None, _: object) -> LanguageTraining:
        return LanguageTraining(config, labels, train, validation, checkpoints, ranks, resumed)

    outcome, _ = run_training("train_language", config, checkpoints, make, on_event)
    weights: dict[str, Tensor] = {}
    calibration = None
    if outcome.is_finished:
        folder = checkpoint.fetch(outcome.checkpoint)
        stored = safetensors.torch.load_file(folder / CLASSIFIER_WEIGHTS)
        weights = {name: weight.half().float() for name, weight in stored.items()}
        classifier = PooledClassifier(config.model, train.frames.shape[1], len(labels))
        classifier.load_state_dict(weights)
        calibration = _calibrated(config, classifier.eval(), validation)
    return LanguageResult(
        outcome.num_steps, outcome.best, outcome.checkpoint, weights, labels, calibration, outcome.is_finished
    )


class LanguageTraining(Training[LanguageBatch, LanguageQuality]):
    """One process's part of a run."""

    seen_name = "num_frames_seen"

    def __init__(
        self,
        config: LanguageTrainConfig,
        labels: Sequence[str],
        train: LanguageFrames,
        validation: LanguageFrames,
        folder: str,
        ranks: Ranks,
        resumed: Resumed | None,
    ) -> None:
        self._config, self._labels, self._ranks, self._clips = config, labels, ranks, train
        self._fingerprints = [train.fingerprint, validation.fingerprint]
        self._batches = LanguageBatches(train, labels, config, ranks.rank, ranks.world_size)
        self._windows = windows_of(validation, config.calibrate_window_s)
        is_wanted = {language == config.wanted for _, language, _ in self._windows}
        if is_wanted != {False, True}:
            raise TwistError("train_language: held-out speech is all of one side; give more speakers of either")
        torch.manual_seed(config.seed)
        self._classifier = PooledClassifier(config.model, train.frames.shape[1], len(labels), config.dropout)
        if resumed:
            resumption.refuse_other_clips(resumed.state["clips"], self._fingerprints, folder)
            self._classifier.load_state_dict(safetensors.torch.load_file(resumed.folder / CLASSIFIER_WEIGHTS))
        self._classifier.to(ranks.device).train()
        self._data_parallel_model = ranks.data_parallel(self._classifier)
        self.model = self._classifier
        self.optimizer = adamw(self._classifier, config.betas, config.weight_decay)

    def facts(self) -> dict[str, Any]:
        return {
            "num_parameters": sum(p.numel() for p in self._classifier.parameters()),
            "num_clips": len(self._clips),
            "num_validation_windows": len(self._windows),
            "num_languages": len({*self._clips.languages}),
            "hours": self._clips.hours,
        }

    def batches(self, start: int, stop: int) -> Iterable[LanguageBatch]:
        return iterate(self._batches, start, stop, self._config.num_workers)

    def amount(self, batch: LanguageBatch) -> int:
        return int(self._ranks.sum(batch.num_frames.sum().double().to(self._ranks.device)))

    def backward(self, batch: LanguageBatch) -> dict[str, float]:
        config, ranks = self._config, self._ranks
        languages = batch.languages.to(ranks.device)
        with ranks.autocast(config.precision):
            logits = self._data_parallel_model(batch.frames.to(ranks.device), batch.num_frames.to(ranks.device))
        logits = logits.float()
        of_wanted = F.binary_cross_entropy_with_logits(scores_of(logits), (languages == 0).float())
        of_all = F.cross_entropy(logits, languages)
        torch.autograd.backward(of_wanted + config.language_weight * of_all)
        means = ranks.sum(torch.stack([of_wanted.detach(), of_all.detach()])) / ranks.world_size
        return dict(zip(("loss", "language_loss"), means.tolist(), strict=True))

    def pace(self, num_seen: int, num_new: int, seconds: float) -> dict[str, float]:
        return {"audio_s_per_s": round(num_new / self._clips.frame_rate_hz / seconds, 1)}

    def validate(self) -> LanguageQuality:
        # Held-out speech is little: every process measures all of it.
        self._classifier.eval()
        scores = _scores(self._classifier, [frames for frames, _, _ in self._windows], self._ranks.device)
        self._classifier.train()
        is_wanted = np.array([language == self._config.wanted for _, language, _ in self._windows])
        losses: dict[tuple[bool, str], list[float]] = defaultdict(list)
        for score, wanted, (_, _, corpus) in zip(scores, is_wanted, self._windows, strict=True):
            losses[bool(wanted), corpus].append(float(np.logaddexp(0.0, -score if wanted else score)))
        sides = [
            np.mean([np.mean(of_corpus) for (wanted, _), of_corpus in losses.items() if wanted == side])
            for side in (False, True)
        ]
        tenth = np.quantile(scores[is_wanted], 0.1)
        return LanguageQuality(
            loss=float(np.mean(sides)),
            wanted_lost=float((scores[is_wanted] < 0).mean()),
            others_found=float((scores[~is_wanted] < tenth).mean()),
        )

    def is_better(self, score: LanguageQuality, best: LanguageQuality | None, step: int) -> bool:
        return best is None or score.loss < best.loss

    def score_of(self, content: dict[str, Any]) -> LanguageQuality:
        return LanguageQuality(**content)

    def state(self, step: int) -> dict[str, Any]:
        return {"clips": self._fingerprints}

    def copy_model(self) -> Callable[[Path], None]:
        weights = {
            name: weight.to("cpu", copy=True).contiguous() for name, weight in self._classifier.state_dict().items()
        }
        return lambda folder: language_checkpoint.save(weights, self._config.model, self._labels, folder)


def _calibrated(config: LanguageTrainConfig, classifier: PooledClassifier, validation: LanguageFrames) -> Calibration:
    wanted = config.calibrate_on or tuple(dict.fromkeys(validation.corpora))
    if unknown := set(wanted) - {*validation.corpora}:
        raise TwistError(
            f"train_language.calibrate_on names {sorted(unknown)[0]!r}, of which no speech is held out; there is of "
            f"{', '.join(dict.fromkeys(validation.corpora))}"
        )
    windows = [window for window in windows_of(validation, config.calibrate_window_s) if window[2] in wanted]
    scores = _scores(classifier, [frames for frames, _, _ in windows], torch.device("cpu"))
    is_wanted = np.array([language == config.wanted for _, language, _ in windows])
    return calibrate(scores, is_wanted, config.largest_error)


@torch.inference_mode()
def _scores(
    classifier: PooledClassifier, windows: Sequence[NDArray[np.float16]], device: torch.device
) -> NDArray[np.float64]:
    """Log odds [N] of the wanted language."""
    found = []
    for frames in windows:
        frames_of_one = torch.from_numpy(frames.astype(np.float32))[None].to(device)
        found.append(float(scores_of(classifier(frames_of_one, torch.tensor([len(frames)], device=device)))))
    return np.array(found, np.float64)
