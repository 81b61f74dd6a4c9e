"""Training of a speech LM on shards of units: the paper's recipe, resumable to the bit.

1. The model: the newest checkpoint in the folder where there is one, else a text LM's body (warm) or random weights
   (cold). Before the first step: validation perplexity, and that of a unigram model to compare with.
2. Each step: gradients of the mean loss over all targets of the global batch, whatever the number of processes and of
   forward passes among which they are parted; clipping; AdamW.
3. On schedule: a line of metrics, validation, a checkpoint (also whenever validation is the best so far, at the end and
   on SIGTERM).

Everything that happens in a step is a function of the checkpoint before it, the configuration, the shards and the
step's number: dropout is seeded anew at each step. A resumed run therefore equals one never interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from model import checkpoint
from model.distributed import Device, Ranks, join_ranks
from model.loader import Batch, TrainingBatches, UnitSamples
from model.metrics import MetricsFile
from model.optim import Schedule, adamw, learning_rate, set_learning_rate
from model.perplexity import PerplexityReport, perplexity, unigram_perplexity, unit_counts
from model.speech_lm import cold_start, load_speech_lm, next_unit_nll, require_positions, warm_start
from model.vocab import Vocabulary
from pipeline.errors import TwistError
from pipeline.shards import open_dataset

OnEvent = Callable[[dict[str, Any]], None]

# A resumed run may differ from its beginning in these; num_steps too, where the schedule does not depend on it.
CHANGEABLE = frozenset(
    {"gradient_accumulation", "validate_every", "checkpoint_every", "keep_last", "log_every", "num_workers", "device"}
)


@dataclass(frozen=True)
class TrainConfig:
    """How a speech LM is trained. The defaults are the paper's for a warm start (appendix A.1) where it gives them.

    Args:
        init: Warm start: local transformers folder of a text LM whose body is taken. Exclusive with architecture.
        architecture: Cold start: `model_type` (opt, llama, ...) and settings of its transformers config class.
        batch_size: Samples per step, over all processes.
        gradient_accumulation: Forward passes per step and process; more need less memory and change no result.
        max_units: Units that a sample has at most; longer ones are cut into pieces.
        num_steps: Updates to make.
        peak_lr: Learning rate after warm-up (the paper's cold start: 8e-5).
        final_lr: Learning rate below which it does not fall (the paper's cold start: 2.5e-5).
        warmup_steps: Updates over which the learning rate rises from 0.
        schedule: How the learning rate falls: inverse_sqrt, or cosine, which reaches final_lr at num_steps.
        weight_decay: AdamW's, on matrices other than embedding tables.
        betas: AdamW's decay rates of the gradient's first and second moment.
        clip_norm: Longest gradient (its norm over all parameters); null does not clip.
        precision: float32, or bfloat16 for the forward and backward pass (weights stay in float32).
        seed: Of new weights, sample order and dropout.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        keep_last: Newest checkpoints to keep; the best one is kept besides.
        log_every: Updates between lines of metrics.
        num_workers: Processes that read ahead, per training process; 0 reads in the training process.
        device: auto takes cuda where there is one.
    """

    init: str | None = None
    architecture: dict[str, Any] | None = None
    batch_size: int = 64
    gradient_accumulation: int = 1
    max_units: int = 704
    num_steps: int = 400_000
    peak_lr: float = 4e-4
    final_lr: float = 8e-5
    warmup_steps: int = 100
    schedule: Schedule = "inverse_sqrt"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    validate_every: int = 1000
    checkpoint_every: int = 1000
    keep_last: int = 2
    log_every: int = 10
    num_workers: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        if (self.init is None) == (self.architecture is None):
            raise TwistError("give either train.init (a text LM's folder) or train.architecture, and not both")
        for name in ("batch_size", "gradient_accumulation", "num_steps"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("validate_every", "checkpoint_every", "keep_last", "log_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "num_workers", "seed", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("max_units", self.max_units >= 2, "at least 2")
        self._require("peak_lr", 0 < self.peak_lr < math.inf, "above 0")
        self._require("final_lr", 0 <= self.final_lr <= self.peak_lr, "between 0 and peak_lr")
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1")
        self._require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or null")
        self._require("schedule", self.schedule in ("inverse_sqrt", "cosine"), "inverse_sqrt or cosine")
        self._require("precision", self.precision in ("float32", "bfloat16"), "float32 or bfloat16")
        self._require("device", self.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda")
        if self.schedule == "cosine":
            self._require("warmup_steps", self.warmup_steps < self.num_steps, "below num_steps")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise TwistError(f"train.{name} is {getattr(self, name)!r}; it must be {rule}")

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step`, from 1."""
        return learning_rate(
            step,
            self.schedule,
            peak=self.peak_lr,
            final=self.final_lr,
            warmup_steps=self.warmup_steps,
            num_steps=self.num_steps,
        )

    def refuse_changes(self, before: dict[str, Any], folder: Path) -> None:
        """Refuses to go on with a run that was begun with settings that train another model.

        Raises:
            TwistError: names each setting that differs, with both values.
        """
        now = json.loads(json.dumps(asdict(self)))
        changeable = CHANGEABLE | ({"num_steps"} if self.schedule == "inverse_sqrt" else set())
        changes = [
            f"{field.name} was {json.dumps(before.get(field.name))}, is {json.dumps(now[field.name])}"
            for field in fields(self)
            if field.name not in changeable and before.get(field.name) != now[field.name]
        ]
        if changes:
            raise TwistError(
                f"{folder} holds checkpoints of other settings: {'; '.join(changes)}. Set them back, or train into "
                f"another folder"
            )


@dataclass
class Progress:
    """How far a run has come; kept in every checkpoint."""

    step: int
    num_units_seen: int
    unigram: PerplexityReport
    initial: PerplexityReport
    best: PerplexityReport | None = None
    best_step: int | None = None

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Progress:
        """Back from `dataclasses.asdict`."""
        reports = {
            name: content[name] and PerplexityReport.from_dict(content[name]) for name in ("unigram", "initial", "best")
        }
        return cls(**{**content, **reports})


@dataclass(frozen=True)
class TrainResult:
    """What a run has come to.

    Attributes:
        num_steps: Updates made, over all resumptions.
        num_units_seen: Units trained on, likewise.
        unigram: Validation perplexity of unit frequencies alone.
        initial: Validation perplexity before the first update.
        best: The lowest validation perplexity after an update; None where a run was stopped before its first validation.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        is_finished: False where SIGTERM stopped the run; start it again to go on.
    """

    num_steps: int
    num_units_seen: int
    unigram: PerplexityReport
    initial: PerplexityReport
    best: PerplexityReport | None
    checkpoint: str
    is_finished: bool


def train(config: TrainConfig, shards: str, checkpoints: str, on_event: OnEvent = lambda _: None) -> TrainResult:
    """Trains a speech LM, going on from the newest checkpoint where there is one.

    Under torchrun every process calls this; they share `checkpoints`, a folder that all of them see.

    Args:
        config: How to train.
        shards: Folder of finished shards, local or s3://.
        checkpoints: Local folder for checkpoints and metrics.jsonl.
        on_event: Called in the main process with `event` (start, step, validation, checkpoint, stopped) and its figures.

    Raises:
        TwistError: shards, settings, checkpoints and model do not fit together, or the loss is no longer finite.
    """
    with join_ranks(config.device) as ranks, _sigterm() as sigterm:
        report = on_event if ranks.is_main else lambda _: None
        folder = checkpoint.open_folder(checkpoints)
        dataset = open_dataset(shards)
        vocabulary = Vocabulary.of_dataset(dataset)
        validation_samples = UnitSamples(dataset, "validation", config.max_units)
        batches = TrainingBatches(
            UnitSamples(dataset, "train", config.max_units),
            vocabulary,
            batch_size=config.batch_size,
            num_micro_batches=config.gradient_accumulation,
            seed=config.seed,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )

        resumed_step = _newest_step(folder, ranks)
        if resumed_step:
            state = checkpoint.load_trainer_state(folder, resumed_step)
            config.refuse_changes(state["config"], folder)
            batches.load_state_dict(state["loader"])
            bare_model, vocabulary = load_speech_lm(str(checkpoint.step_folder(folder, resumed_step)))
        ...


def _newest_step(folder: Path, ranks: Ranks) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    if not ranks.is_main:
        return ranks.from_main(0)
    checkpoint.remove_unfinished(folder)
    return ranks.from_main(max(checkpoint.steps(folder), default=0))
