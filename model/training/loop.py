"""The loop of all trainings: a `Training` defines how to update, validate and save its model, the loop decides when.

1. The folder is locked (on S3, leased). If it has checkpoints, the newest is checked and the run continues from it.
2. Each step: gradients from the training, clipping, a check that all figures are finite, the optimizer.
3. On schedule: a line of metrics, validation, a checkpoint (also at the best validation so far, at the end and on
   SIGTERM or Ctrl-C), written in the background to disk or S3.

Random generators are reseeded at each step, so its result depends only on the checkpoint before it, the settings, the
data and the step's number: a resumed run equals an uninterrupted one to the bit.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from model.device import warn_of_slow_bfloat16
from model.training import checkpoint_steps, optimizer_state, resumption
from model.training.checkpoint_writer import CheckpointWriter
from model.training.curve_loggers import CurveLogger, TensorBoard, WeightsAndBiases, flatten
from model.training.distributed import Ranks, StopFlag, join_ranks, stop_flag
from model.training.metrics import MetricsFile
from model.training.optim import set_learning_rate
from model.training.sole_trainer import Lease, sole_trainer
from model.training.training import Batch, LoopSettings, OnEvent, Report, Resumed, Score, Training
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Outcome(Generic[Score]):
    """The result of a run.

    Attributes:
        num_steps: Updates made, over all resumptions.
        num_seen: Data seen, over all resumptions, in the unit of `Training.amount`.
        best: The best validation; None if the run was stopped before it validated.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        is_finished: False if a signal stopped the run; start it again to continue.
    """

    num_steps: int
    num_seen: int
    best: Score | None
    checkpoint: str
    is_finished: bool


def run_training(
    section: str,
    settings: LoopSettings,
    folder: str,
    make: Callable[[Ranks, Resumed | None, Report], Training[Any, Score]],
    on_event: OnEvent,
) -> tuple[Outcome[Score], Training[Any, Score]]:
    """Trains, continuing from the newest checkpoint if there is one. All processes of torchrun or Ray call this.

    Args:
        section: Name of the settings' section in recipes.
        settings: All settings of the training, including the loop's; a frozen dataclass.
        folder: Folder for checkpoints and metrics.jsonl, local or s3://, which all processes can access.
        make: Makes this process's `Training`.
        on_event: See OnEvent.

    Raises:
        TwistError: settings, data and checkpoints do not fit together, or the loss is no longer finite.
    """
    folder = checkpoint_steps.open_folder(folder)
    with (
        join_ranks(settings.device) as ranks,
        stop_flag() as stop,
        sole_trainer(folder, ranks) as lease,
        CheckpointWriter(
            folder, ranks.rank, ranks.world_size, in_background=settings.save_in_background, lease=lease
        ) as writer,
    ):
        if settings.precision == "bfloat16" and ranks.is_main:
            warn_of_slow_bfloat16(ranks.device)
        loop = _Loop(section, settings, folder, ranks, lease, writer, make, on_event)
        loop.run(stop)
        loop.close()
        return loop.outcome(), loop.training


class _Loop(Generic[Batch, Score]):
    """One process's loop."""

    training: Training[Batch, Score]

    def __init__(
        self,
        section: str,
        settings: LoopSettings,
        folder: str,
        ranks: Ranks,
        lease: Lease | None,
        writer: CheckpointWriter,
        make: Callable[[Ranks, Resumed | None, Report], Training[Batch, Score]],
        on_event: OnEvent,
    ) -> None:
        self.section = section
        self.settings = settings
        self.folder = folder
        self.ranks = ranks
        self.lease = lease
        self.writer = writer
        self.on_event = on_event
        self.step = self.num_seen = 0
        self.best: Score | None = None
        self.best_step: int | None = None
        self.metrics: MetricsFile | None = None
        self.curve_loggers: list[CurveLogger] = []

        resumed = self._find_checkpoint()
        self.training = make(ranks, resumed, self._report)
        self._open_logs(resumed.step if resumed else 0)
        self._report(
            "start",
            resumed.step if resumed else 0,
            num_steps=settings.num_steps,
            world_size=ranks.world_size,
            device=str(ranks.device),
            **self.training.facts(),
        )
        if resumed:
            resumption.load_optimizer(resumed.folder, self.training.optimizer)
            self._take_up(resumed.state["progress"])
            self._refuse_bad_weights()
        else:
            self._refuse_bad_weights()
            self.training.begin(self._report_validation)

    def run(self, stop: StopFlag) -> None:
        """Trains until `num_steps`, or until any process gets SIGTERM or Ctrl-C; then saves a checkpoint and stops."""
        settings, training = self.settings, self.training
        logged_at_s, logged_seen = time.monotonic(), self.num_seen
        for batch in training.batches(self.step, settings.num_steps):
            is_stopped = self.ranks.any(stop.is_set())
            step = batch.index + 1
            figures = self._update(batch)
            self.step = step
            self.num_seen += training.amount(batch)

            if self._is_due(settings.log_every):
                num_new, seconds = self.num_seen - logged_seen, time.monotonic() - logged_at_s
                self._report("step", step, **figures, **training.pace(self.num_seen, num_new, seconds))
                logged_at_s, logged_seen = time.monotonic(), self.num_seen

            paused_at_s = time.monotonic()
            is_best = self._is_due(settings.validate_every) and self._validate()
            if is_best or is_stopped or self._is_due(settings.checkpoint_every):
                self._save()
            training.after_step(step)
            self._report_checkpoints()
            logged_at_s += time.monotonic() - paused_at_s
            if is_stopped and step < settings.num_steps:
                self._finish_checkpoints()
                self._report("stopped", step, signal=stop.signum)
                return
        self._finish_checkpoints()

    def close(self) -> None:
        """Closes the curve's loggers."""
        for logger in self.curve_loggers:
            logger.close()

    def outcome(self) -> Outcome[Score]:
        """The result of the run."""
        return Outcome(
            num_steps=self.step,
            num_seen=self.num_seen,
            best=self.best,
            checkpoint=checkpoint_steps.step_folder(self.folder, self.best_step or self.step),
            is_finished=self.step == self.settings.num_steps,
        )

    def _update(self, batch: Batch) -> dict[str, float]:
        """Makes one update of the weights; returns the figures for its line of metrics."""
        settings, training, step = self.settings, self.training, batch.index + 1
        seed = np.random.SeedSequence([settings.seed, step, self.ranks.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
        rate = settings.learning_rate(step)
        set_learning_rate(training.optimizer, rate)
        losses = training.backward(batch)
        max_norm = math.inf if settings.clip_norm is None else settings.clip_norm
        norm = nn.utils.clip_grad_norm_(training.model.parameters(), max_norm)
        grad_norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
        if not all(map(math.isfinite, (*losses.values(), grad_norm))):
            self._refuse_non_finite(batch, {**losses, "grad_norm": grad_norm})
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        training.after_update()
        return {**losses, "lr": rate, "grad_norm": grad_norm}

    def _refuse_non_finite(self, batch: Batch, figures: dict[str, float]) -> None:
        told = ", ".join(f"{name} {value:g}" for name, value in figures.items())
        raise TwistError(
            f"step {batch.index + 1}: not all is finite ({told}); nothing of this step is saved. "
            f"{self.training.blame(batch)}Lower {self.section}.peak_lr and train anew"
        )

    def _refuse_bad_weights(self) -> None:
        """Refuses to begin with weights that are not finite, for which the first batch would be blamed."""
        bad = [
            name
            for name, weight in self.training.model.named_parameters()
            if not (weight.to_local() if isinstance(weight, DTensor) else weight).isfinite().all()
        ]
        if self.ranks.any(bool(bad)):
            origin = checkpoint_steps.step_folder(self.folder, self.step) if self.step else "the model to start from"
            cure = "delete it to go on from the one before it" if self.step else "take another"
            raise TwistError(f"{origin} holds values that are not finite ({', '.join(bad[:3])}); {cure}")

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.settings.num_steps

    def _validate(self) -> bool:
        """Validates; returns whether this was the best validation so far."""
        score = self.training.validate()
        self._report_validation(self.step, score)
        is_best = self.training.is_better(score, self.best, self.step)
        if is_best:
            self.best, self.best_step = score, self.step
        return is_best

    def _find_checkpoint(self) -> Resumed | None:
        step = checkpoint_steps.newest_step(self.folder, self.ranks)
        if not step:
            return None
        state = self.ranks.all_or_none(lambda: checkpoint_steps.load_trainer_state(self.folder, step))
        resumption.refuse_other_settings(state["config"], self.settings, self.section, self.folder, step)
        return Resumed(step, state, resumption.fetch_to_resume(self.folder, step, self.ranks))

    def _take_up(self, progress: dict[str, Any]) -> None:
        self.step, self.num_seen = progress["step"], progress[self.training.seen_name]
        self.best = progress["best"] and self.training.score_of(progress["best"])
        self.best_step = progress["best_step"]

    def _save(self) -> None:
        """Starts a checkpoint once the previous one is written."""
        step, training, is_main = self.step, self.training, self.ranks.is_main
        self.ranks.all_or_none(self._confirm_lease)
        self.writer.wait()  # so that copies of only one checkpoint are in memory
        if self.metrics is not None:
            self.metrics.flush()  # a run resumed from here needs all lines up to here
        progress = {
            "step": step,
            **training.progress(self.num_seen),
            "best": self.best and asdict(self.best),
            "best_step": self.best_step,
        }
        save_model = training.copy_model()
        state = {"config": asdict(self.settings), **training.state(step), "progress": progress}  # type: ignore[call-overload]
        self.writer.save(
            step,
            optimizer_state.piece_of(training.optimizer, self.ranks.rank, self.ranks.world_size),
            save_model if is_main else None,
            state if is_main else None,
            keep_last=self.settings.keep_last,
            best_step=self.best_step,
        )

    def _confirm_lease(self) -> None:
        if self.lease is not None:
            self.lease.confirm()

    def _finish_checkpoints(self) -> None:
        self.writer.wait()
        self.ranks.wait_for_main()  # no process may end before the checkpoint is complete
        self._report_checkpoints()

    def _report_checkpoints(self) -> None:
        for step in self.writer.made():
            self._report("checkpoint", step, path=checkpoint_steps.step_folder(self.folder, step))

    def _report_validation(self, step: int, score: Score) -> None:
        self._report("validation", step, validation=asdict(score))

    def _report(self, event: str, step: int, **figures: Any) -> None:
        if not self.ranks.is_main:
            return
        if self.metrics is not None and event in ("step", "validation"):
            self.metrics.append(step, **figures)
            for logger in self.curve_loggers:
                logger.log(step, dict(flatten(figures)))
        self.on_event({"event": event, "step": step, **figures})

    def _open_logs(self, resumed_step: int) -> None:
        if not self.ranks.is_main:
            return
        self.metrics = MetricsFile(self.folder, resumed_step)
        if self.settings.tensorboard is not None:
            self.curve_loggers.append(TensorBoard(self.settings.tensorboard, resumed_step))
        if self.settings.wandb is not None:
            run_id = hashlib.sha256(self.folder.encode()).hexdigest()[:16]
            self.curve_loggers.append(WeightsAndBiases(self.settings.wandb, run_id, asdict(self.settings)))  # type: ignore[call-overload]
