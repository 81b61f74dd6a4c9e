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

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from model.lm.bfloat16 import BFloat16
from model.lm.document_attention import attend_within_documents
from model.lm.loader import Batch, TrainingBatches, UnitSamples
from model.lm.perplexity import PerplexityReport, perplexity, unigram_perplexity, unit_counts
from model.lm.speech_lm import (
    bare_model,
    cold_start,
    layers,
    load_speech_lm,
    next_unit_nll,
    require_positions,
    warm_start,
    weights_on_cpu,
)
from model.lm.train_config import TrainConfig
from model.lm.vocab import Vocabulary
from model.training import checkpoint, optimizer_state
from model.training.checkpoint_writer import CheckpointWriter
from model.training.curve_loggers import CurveLogger, TensorBoard, WeightsAndBiases, flatten
from model.training.distributed import Ranks, gradient_sync, join_ranks, sigterm_flag
from model.training.metrics import MetricsFile
from model.training.optim import adamw, set_learning_rate
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.shards import Dataset, open_dataset

OnEvent = Callable[[dict[str, Any]], None]


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
        best: The lowest validation perplexity after an update; None where the run was stopped before it validated.
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

    Under torchrun or Ray Train every process calls this; they share `checkpoints`, a folder that all of them see.

    Args:
        config: How to train.
        shards: Folder of finished shards, local or s3://.
        checkpoints: Folder for checkpoints and metrics.jsonl, local or s3://.
        on_event: Called in the main process with a dict: `event` (start, step, validation, checkpoint, stopped), `step`
            and the event's figures.

    Raises:
        TwistError: shards, settings, checkpoints and model do not fit together, or the loss is no longer finite.
    """
    folder = checkpoint.open_folder(checkpoints)
    with (
        join_ranks(config.device) as ranks,
        sigterm_flag() as sigterm,
        CheckpointWriter(
            folder, ranks.rank, ranks.world_size, in_background=config.save_in_background
        ) as checkpoint_writer,
    ):
        training = _Training(config, open_dataset(shards), folder, ranks, checkpoint_writer, on_event)
        training.run(sigterm)
        training.close()
        return training.result()


class _Training:
    """One process's part of a run."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        folder: str,
        ranks: Ranks,
        checkpoint_writer: CheckpointWriter,
        on_event: OnEvent,
    ) -> None:
        self.config = config
        self.folder = folder
        self.ranks = ranks
        self.checkpoint_writer = checkpoint_writer
        self.on_event = on_event
        self.vocabulary = Vocabulary.of_dataset(dataset)
        self.train_samples = UnitSamples(dataset, "train", config.max_units, config.data)
        self.validation_samples = UnitSamples(dataset, "validation", config.max_units)
        self.batches = TrainingBatches(
            self.train_samples,
            self.vocabulary,
            batch_size=config.batch_size,
            num_micro_batches=config.gradient_accumulation,
            seed=config.seed,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        resumed_step = checkpoint.newest_step(folder, ranks)
        if resumed_step:
            state = checkpoint.load_trainer_state(folder, resumed_step)
            checkpoint.refuse_other_settings(state["config"], config, "train", folder, resumed_step)
            self.batches.load_state_dict(state["loader"])
            newest = checkpoint.fetch(checkpoint.step_folder(folder, resumed_step))
            self.model, _ = load_speech_lm(str(newest))
        elif config.init is not None:
            self.model = warm_start(config.init, self.vocabulary, config.seed)
        else:
            assert config.architecture is not None
            self.model = cold_start(config.architecture, self.vocabulary, config.seed)
        require_positions(self.model.config, config.max_units)
        self.working_model, self.data_parallel_model = self._prepare_model()
        self.optimizer = adamw(self.model, config.betas, config.weight_decay)
        self.curve_loggers: list[CurveLogger] = []
        if ranks.is_main:
            self.metrics = MetricsFile(folder, resumed_step)
            if config.tensorboard is not None:
                self.curve_loggers.append(TensorBoard(config.tensorboard, resumed_step))
            if config.wandb is not None:
                run_id = hashlib.sha256(folder.encode()).hexdigest()[:16]
                self.curve_loggers.append(WeightsAndBiases(config.wandb, run_id, asdict(config)))
        self._report(
            "start",
            resumed_step,
            num_steps=config.num_steps,
            num_parameters=sum(p.numel() for p in self.model.parameters()),
            num_train_samples=len(self.train_samples),
            num_train_units=int(self.train_samples.num_units.sum()),
            world_size=ranks.world_size,
            device=str(ranks.device),
        )
        if resumed_step:
            checkpoint.load_optimizer(newest, self.optimizer)
            self.progress = Progress.from_dict(state["progress"])
        else:
            self.progress = self._measure_start()

    def _prepare_model(self) -> tuple[nn.Module, nn.Module]:
        """What computes as configured: in one process, and in all of them together."""
        config, ranks = self.config, self.ranks
        self.model.to(ranks.device).train()
        attend_within_documents(self.model)
        if config.activation_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if config.sharded and ranks.world_size > 1:
            ranks.shard(self.model, layers(self.model), bfloat16=config.precision == "bfloat16")
            working_model = data_parallel_model = self.model
        else:
            working_model = BFloat16(self.model) if config.precision == "bfloat16" else self.model
            data_parallel_model = ranks.data_parallel(working_model)
        if config.compile:
            for layer in layers(bare_model(working_model)):
                layer.compile(dynamic=True)
        return working_model, data_parallel_model

    def run(self, sigterm: threading.Event) -> None:
        """Steps until `num_steps` or, with a checkpoint, until any process has been told to stop."""
        config, progress = self.config, self.progress
        logged_at_s, logged_units = time.monotonic(), progress.num_units_seen
        num_skipped = 0
        for batch in self.batches.iterate(progress.step, config.num_steps, config.num_workers):
            step = batch.index + 1
            rate = config.learning_rate(step)
            loss, grad_norm, is_stopped = self._update(batch, rate, sigterm.is_set())
            progress.step = step
            progress.num_units_seen += batch.num_units
            num_skipped += batch.num_skipped

            if step % config.log_every == 0 or step == config.num_steps:
                tokens_per_s = (progress.num_units_seen - logged_units) / (time.monotonic() - logged_at_s)
                figures = {"loss": loss, "lr": rate, "grad_norm": grad_norm, "tokens": progress.num_units_seen}
                if num_skipped:  # by this process since it started, for damaged shards
                    figures["skipped_samples"] = num_skipped
                self._report("step", step, **figures, tokens_per_s=round(tokens_per_s, 1))
                logged_at_s, logged_units = time.monotonic(), progress.num_units_seen

            is_best = False
            paused_at_s = time.monotonic()
            if step % config.validate_every == 0 or step == config.num_steps:
                validation = self._validate(step)
                is_best = progress.best is None or validation.mean.perplexity < progress.best.mean.perplexity
                if is_best:
                    progress.best, progress.best_step = validation, step
            if is_best or is_stopped or step % config.checkpoint_every == 0 or step == config.num_steps:
                self._save()
            self._report_checkpoints()
            logged_at_s += time.monotonic() - paused_at_s
            if is_stopped and step < config.num_steps:
                self._finish_checkpoints()
                self._report("stopped", step)
                return
        self._finish_checkpoints()

    def close(self) -> None:
        """Ends what the curve was logged to."""
        for logger in self.curve_loggers:
            logger.close()

    def result(self) -> TrainResult:
        """What the run has come to."""
        progress = self.progress
        return TrainResult(
            num_steps=progress.step,
            num_units_seen=progress.num_units_seen,
            unigram=progress.unigram,
            initial=progress.initial,
            best=progress.best,
            checkpoint=checkpoint.step_folder(self.folder, progress.best_step or progress.step),
            is_finished=progress.step == self.config.num_steps,
        )

    def _update(self, batch: Batch, rate: float, is_stopped: bool) -> tuple[float, float, bool]:
        """One update of the weights.

        Returns:
            The loss in nats per target, the norm of the gradient, and whether any process has been told to stop.
        """
        step = batch.index + 1
        seed = np.random.SeedSequence([self.config.seed, step, self.ranks.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
        nll = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for number, micro_batch in enumerate(batch.micro_batches, start=1):
            with gradient_sync(self.data_parallel_model, is_last=number == len(batch.micro_batches)):
                micro_nll = next_unit_nll(
                    self.data_parallel_model, micro_batch.token_ids, micro_batch.labels, micro_batch.document_ids
                ).sum()
                # Data parallelism takes the mean over processes; what is wanted is the sum over them, per target.
                torch.autograd.backward(micro_nll * (self.ranks.world_size / batch.num_targets))
            nll += micro_nll.detach()

        max_norm = math.inf if self.config.clip_norm is None else self.config.clip_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        grad_norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
        flag = torch.tensor(float(is_stopped), dtype=torch.float64, device=self.ranks.device)
        total_nll, num_stopped = self.ranks.sum(torch.stack([nll, flag])).tolist()
        loss = total_nll / batch.num_targets
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            self._refuse_non_finite(batch.index, loss, grad_norm)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if isinstance(self.working_model, BFloat16):
            self.working_model.round_weights()
        return loss, grad_norm, num_stopped > 0

    def _measure_start(self) -> Progress:
        """What training has to improve on."""
        counts = unit_counts(self.train_samples, self.vocabulary, self.ranks)
        unigram = unigram_perplexity(counts, self.validation_samples)
        return Progress(step=0, num_units_seen=0, unigram=unigram, initial=self._validate(step=0))

    def _validate(self, step: int) -> PerplexityReport:
        batch_size = max(1, self.config.batch_size // (self.ranks.world_size * self.config.gradient_accumulation))
        report = perplexity(
            self.working_model, self.vocabulary, self.validation_samples, batch_size=batch_size, ranks=self.ranks
        )
        self._report("validation", step, validation=asdict(report))
        return report

    def _save(self) -> None:
        step, is_main = self.progress.step, self.ranks.is_main
        state = {
            "config": asdict(self.config),
            "loader": self.batches.state_dict(step),
            "progress": asdict(self.progress),
        }
        self.checkpoint_writer.wait()  # before there are copies of two
        if is_main:
            self.metrics.flush()  # a run that goes on from here must find all lines before
        weights = weights_on_cpu(self.model, keep=is_main)
        self.checkpoint_writer.save(
            step,
            optimizer_state.piece_of(self.optimizer, self.ranks.rank, self.ranks.world_size),
            partial(self.model.save_pretrained, state_dict=weights, max_shard_size="4GB") if is_main else None,
            state if is_main else None,
            keep_last=self.config.keep_last,
            best_step=self.progress.best_step,
        )

    def _finish_checkpoints(self) -> None:
        self.checkpoint_writer.wait()
        self.ranks.from_main(self.progress.step)  # nobody ends the run before the checkpoint is whole
        self._report_checkpoints()

    def _report_checkpoints(self) -> None:
        for step in self.checkpoint_writer.made():
            self._report("checkpoint", step, path=checkpoint.step_folder(self.folder, step))

    def _refuse_non_finite(self, index: int, loss: float, grad_norm: float) -> None:
        path = storage.join(self.folder, f"non-finite-{index + 1:08d}.json")
        if self.ranks.is_main:
            content = {"step": index + 1, "loss": loss, "grad_norm": grad_norm, "keys": self.batches.keys(index)}
            storage.write_bytes(path, (json.dumps(content) + "\n").encode())
        raise TwistError(
            f"step {index + 1}: the loss is {loss} and the gradient's norm {grad_norm}; the weights were left as they "
            f"were. The step's samples are named in {path}; look at them, or lower train.peak_lr and train anew"
        )

    def _report(self, event: str, step: int, **figures: Any) -> None:
        if not self.ranks.is_main:
            return
        if event in ("step", "validation"):
            self.metrics.append(step, **figures)
            for logger in self.curve_loggers:
                logger.log(step, dict(flatten(figures)))
        self.on_event({"event": event, "step": step, **figures})
