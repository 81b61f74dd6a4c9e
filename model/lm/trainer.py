"""Trains a speech LM on shards of units by the paper's recipe; a resumed run equals an uninterrupted one to the bit.

1. The model comes from the newest checkpoint in the folder; if there is none, from a text LM's body (warm) or random
   weights (cold). Before the first step it measures validation perplexity, and a baseline's for comparison.
2. Each step: gradients of the mean loss over all targets of the global batch, however it is divided among processes and
   forward passes; clipping; AdamW.
3. On schedule: metrics, validation and checkpoints, as for every training (model/training/loop.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from model.lm.loader import Batch
from model.lm.mixture.data import MixtureData
from model.lm.perplexity import PerplexityReport
from model.lm.speech_lm import (
    cold_start,
    load_speech_lm,
    next_unit_nll,
    require_positions,
    warm_start,
    weights_on_cpu,
)
from model.lm.text_lm import extend_text_lm
from model.lm.training_data import TrainingData, UnitData
from model.lm.working_model import WorkingModel
from model.training.distributed import Ranks, gradient_sync
from model.training.loop import run_training
from model.training.optim import adamw
from model.training.training import OnEvent, Resumed, Training
from pipeline.files import storage
from pipeline.shards import open_dataset
from pipeline.text_shards import open_text

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from model.lm.train_config import TrainConfig


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        num_steps: Updates made, over all resumptions.
        num_units_seen: Units trained on, over all resumptions.
        baseline: Validation perplexity of unit frequencies alone; of a mixture, see `MixtureData.baseline`.
        ngrams: That of n-gram models of the training's units, by order; none where the training began before these
            were told, or has no speech.
        initial: Validation perplexity before the first update.
        best: The lowest validation perplexity after an update; None if the run was stopped before it validated.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        is_finished: False if SIGTERM stopped the run; start it again to continue.
        held_to: What units were held to as they were read, in words.
        num_skipped: Damaged samples that this process left out.
    """

    num_steps: int
    num_units_seen: int
    baseline: PerplexityReport
    ngrams: dict[int, PerplexityReport]
    initial: PerplexityReport
    best: PerplexityReport | None
    checkpoint: str
    is_finished: bool
    held_to: str
    num_skipped: int


def train(
    config: TrainConfig,
    shards: str,
    checkpoints: str,
    on_event: OnEvent = lambda _: None,
    text: str | None = None,
) -> TrainResult:
    """Trains a speech LM, continuing from the newest checkpoint if there is one.

    Under torchrun or Ray Train every process calls this, with the same `checkpoints` folder, which all can access.

    Args:
        config: How to train.
        shards: Folder of finished shards, local or s3://.
        checkpoints: Folder for checkpoints and metrics.jsonl, local or s3://.
        on_event: See model/training/training.py.
        text: Folder of finished shards of text, for a mixture that has some.

    Raises:
        TwistError: shards, settings, checkpoints and model do not fit together, or the loss is no longer finite.
    """
    dataset = open_dataset(shards)

    def make(ranks: Ranks, resumed: Resumed | None, _: object) -> SpeechLMTraining:
        data: TrainingData = (
            UnitData(config, dataset, ranks)
            if config.mixture is None
            else MixtureData(config, dataset, open_text(text) if text else None, ranks)
        )
        return SpeechLMTraining(config, data, checkpoints, ranks, resumed)

    outcome, training = run_training("train", config, checkpoints, make, on_event)
    assert isinstance(training, SpeechLMTraining)
    return TrainResult(
        num_steps=outcome.num_steps,
        num_units_seen=outcome.num_seen,
        baseline=training.baseline,
        ngrams=training.ngrams,
        initial=training.initial,
        best=outcome.best,
        checkpoint=outcome.checkpoint,
        is_finished=outcome.is_finished,
        held_to=training.held_to,
        num_skipped=training.num_skipped,
    )


class SpeechLMTraining(Training[Batch, PerplexityReport]):
    """Training a speech LM, in one process."""

    seen_name = "num_units_seen"
    baseline: PerplexityReport
    ngrams: dict[int, PerplexityReport]
    initial: PerplexityReport

    def __init__(
        self, config: TrainConfig, data: TrainingData, folder: str, ranks: Ranks, resumed: Resumed | None
    ) -> None:
        self._config = config
        self._folder = folder
        self._ranks = ranks
        self._data = data
        self.held_to = data.held_to
        self.num_skipped = 0  # by this process since it started
        self._shares: dict[str, float] = {}  # of the newest step's tokens, by kind
        if resumed:
            data.load_state_dict(resumed.state["loader"])
            progress = resumed.state["progress"]
            self.baseline, self.initial = self.score_of(progress["unigram"]), self.score_of(progress["initial"])
            told = progress.get("ngrams", {})  # absent from checkpoints of earlier versions
            self.ngrams = {int(order): self.score_of(content) for order, content in told.items()}
        self._lm = self._make_model(resumed)
        require_positions(self._lm.config, config.max_units, data.vocabulary.num_marks)
        self._working = WorkingModel.of(self._lm, config, ranks)
        self.model = self._lm
        self.optimizer = adamw(self._lm, config.betas, config.weight_decay)

    def _make_model(self, resumed: Resumed | None) -> PreTrainedModel:
        config = self._config
        if resumed:
            return load_speech_lm(str(resumed.folder))[0]
        vocabulary = self._data.vocabulary
        if config.init is None:
            assert config.architecture is not None
            return cold_start(config.architecture, vocabulary, config.seed)
        if config.mixture is None:
            return warm_start(config.init, vocabulary, config.seed)
        return extend_text_lm(config.init, vocabulary, config.seed, rope_theta=config.rope_theta)

    def facts(self) -> dict[str, Any]:
        return {
            "num_parameters": sum(p.numel() for p in self._lm.parameters()),
            **self._data.facts(),
        }

    def begin(self, report: Callable[[int, PerplexityReport], None]) -> None:
        self.baseline = self._data.baseline(self._working.own)
        self.ngrams = self._data.ngrams()
        self.initial = self.validate()
        report(0, self.initial)

    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        return self._data.batches(start, stop)

    def amount(self, batch: Batch) -> int:
        return batch.num_units

    def backward(self, batch: Batch) -> dict[str, float]:
        nll = torch.zeros((), dtype=torch.float64, device=self._ranks.device)
        for number, micro_batch in enumerate(batch.micro_batches, start=1):
            with gradient_sync(self._working.data_parallel, is_last=number == len(batch.micro_batches)):
                micro_nll = next_unit_nll(self._working.data_parallel, micro_batch.token_ids, micro_batch.lengths).sum()
                # Data parallelism averages over processes; we want the sum over them, per target.
                torch.autograd.backward(micro_nll * (self._ranks.world_size / batch.num_targets))
            nll += micro_nll.detach()
        self.num_skipped += batch.num_skipped
        self._shares = {f"share_{kind}": round(n / batch.num_units, 4) for kind, n in batch.units_by_kind.items()}
        return {"loss": self._ranks.sum(nll).item() / batch.num_targets}

    def after_update(self) -> None:
        self._working.round_weights()

    def pace(self, num_seen: int, num_new: int, seconds: float) -> dict[str, float]:
        figures: dict[str, float] = {"tokens": num_seen, **self._shares}
        if self.num_skipped:
            figures["skipped_samples"] = self.num_skipped
        return {**figures, "tokens_per_s": round(num_new / seconds, 1)}

    def validate(self) -> PerplexityReport:
        return self._data.validate(self._working.own)

    def is_better(self, score: PerplexityReport, best: PerplexityReport | None, step: int) -> bool:
        return best is None or score.mean.perplexity < best.mean.perplexity

    def score_of(self, content: dict[str, Any]) -> PerplexityReport:
        return PerplexityReport.from_dict(content)

    def state(self, step: int) -> dict[str, Any]:
        return {"loader": self._data.state_dict(step)}

    def progress(self, num_seen: int) -> dict[str, Any]:
        return {
            self.seen_name: num_seen,
            "unigram": asdict(self.baseline),
            "ngrams": {str(order): asdict(report) for order, report in self.ngrams.items()},
            "initial": asdict(self.initial),
        }

    def copy_model(self) -> Callable[[Path], None]:
        weights = weights_on_cpu(self._lm, keep=self._ranks.is_main)

        def write(folder: Path) -> None:
            self._lm.save_pretrained(folder, state_dict=weights, max_shard_size="4GB")
            if self._data.tokenizer is not None:
                self._data.tokenizer.save_pretrained(folder)

        return write

    def blame(self, batch: Batch) -> str:
        path = storage.join(self._folder, f"non-finite-{batch.index + 1:08d}.json")
        if self._ranks.is_main:
            content = {"step": batch.index + 1, "keys": self._data.keys(batch.index)}
            storage.write_bytes(path, (json.dumps(content) + "\n").encode())
        return f"The step's samples are named in {path}; look at them. "
