"""Pretrains a HuBERT on clips of speech and the units of their frames; resumable to the bit.

Each checkpoint is a Hugging Face folder of the model, ready to encode with, and beside it what a resumed run needs:

    FOLDER/00001000/   config.json, preprocessor_config.json, model.safetensors, head.safetensors,
                       optimizer-00000-of-00001.safetensors, trainer_state.json, checksums.json

Everything that happens in a step is a function of the checkpoint before it, the configuration, the clips and the step's
number: dropout is seeded anew at each step. A resumed run therefore equals one never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from model.artefacts import resolve
from model.encoder.hubert_checkpoint import load_hubert, save_huggingface_folder
from model.encoder.hubert_pretrain import HubertPretraining, PretrainLoss
from model.encoder.pretrain_batches import (
    SAMPLE_RATE_HZ,
    LabelledClips,
    PretrainBatch,
    PretrainBatches,
    validation_batches,
)
from model.training import checkpoint
from model.training.distributed import Ranks, gradient_sync, join_ranks, sigterm_flag
from model.training.metrics import MetricsFile
from model.training.optim import adamw, set_learning_rate
from model.training.step_batches import iterate
from pipeline.errors import TwistError

if TYPE_CHECKING:
    import threading

    from model.encoder.pretrain_config import PretrainConfig

OnEvent = Callable[[dict[str, Any]], None]
HEAD = "head.safetensors"


@dataclass(frozen=True)
class UnitPrediction:
    """How well units are told: over masked frames, and over the others.

    Attributes:
        masked_loss: Nats per masked frame.
        masked_accuracy: Share of masked frames whose likeliest unit is theirs.
        unmasked_loss: Nats per other frame.
        unmasked_accuracy: Likewise.
    """

    masked_loss: float
    masked_accuracy: float
    unmasked_loss: float
    unmasked_accuracy: float


@dataclass
class Progress:
    """How far a run has come; kept in every checkpoint."""

    step: int = 0
    num_samples_seen: int = 0
    best: UnitPrediction | None = None
    best_step: int | None = None

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Progress:
        """Back from `dataclasses.asdict`."""
        return cls(**{**content, "best": content["best"] and UnitPrediction(**content["best"])})


@dataclass(frozen=True)
class PretrainResult:
    """What a run has come to.

    Attributes:
        num_steps: Updates made, over all resumptions.
        hours_seen: Hours of audio trained on, likewise; crops that came twice count twice.
        best: The lowest validation loss; None where the run was stopped before it validated.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        is_finished: False where SIGTERM stopped the run; start it again to go on.
    """

    num_steps: int
    hours_seen: float
    best: UnitPrediction | None
    checkpoint: str
    is_finished: bool


def pretrain(
    config: PretrainConfig,
    train_clips: LabelledClips,
    validation_clips: LabelledClips,
    checkpoints: str,
    on_event: OnEvent = lambda _: None,
) -> PretrainResult:
    """Pretrains a HuBERT, going on from the newest checkpoint where there is one.

    Under torchrun every process calls this; they share `checkpoints`, a folder that all of them see.

    Args:
        config: How to train.
        train_clips: What to train on.
        validation_clips: What to measure on, with the same units.
        checkpoints: Local folder for checkpoints and metrics.jsonl.
        on_event: Called in the main process with a dict: `event` (start, step, validation, checkpoint, stopped), `step`
            and the event's figures.

    Raises:
        TwistError: clips, settings, checkpoints and the initial model do not fit together, or the loss is no longer
            finite.
    """
    with join_ranks(config.device) as ranks, sigterm_flag() as sigterm:
        folder = checkpoint.open_local_folder(checkpoints)
        training = _Pretraining(config, train_clips, validation_clips, folder, ranks, on_event)
        training.run(sigterm)
        return training.result()


class _Pretraining:
    """One process's part of a run."""

    def __init__(
        self,
        config: PretrainConfig,
        train_clips: LabelledClips,
        validation_clips: LabelledClips,
        folder: str,
        ranks: Ranks,
        on_event: OnEvent,
    ) -> None:
        self.config = config
        self.folder = folder
        self.ranks = ranks
        self.on_event = on_event
        self.clips = train_clips
        self.batches = PretrainBatches(train_clips, config, ranks.rank, ranks.world_size)
        self.validation = validation_batches(validation_clips, config, ranks.rank, ranks.world_size)
        torch.manual_seed(config.seed)
        self.model = HubertPretraining(config, train_clips.codebook_size)
        self.progress = Progress()
        resumed_step = checkpoint.newest_step(folder, ranks)
        if resumed_step:
            newest = Path(checkpoint.step_folder(folder, resumed_step))
            self._load_weights(newest, resumed_step)
        elif config.init is not None:
            self._take_over(config.init)
        self.model.to(ranks.device).train()
        self.data_parallel_model = ranks.data_parallel(self.model, may_skip_parameters=config.layer_drop > 0)
        self.optimizer = adamw(self.model, config.betas, config.weight_decay, config.eps)
        if resumed_step:
            checkpoint.load_optimizer(newest, self.optimizer)
        if ranks.is_main:
            self.metrics = MetricsFile(folder, resumed_step)
        self._report(
            "start",
            resumed_step,
            num_steps=config.num_steps,
            num_parameters=sum(p.numel() for p in self.model.body.parameters()),
            num_clips=self.batches.num_clips,
            hours=self.batches.num_samples / SAMPLE_RATE_HZ / 3600,
            num_too_short=len(train_clips) - self.batches.num_clips,
            codebook_size=train_clips.codebook_size,
            world_size=ranks.world_size,
            device=str(ranks.device),
        )

    def run(self, sigterm: threading.Event) -> None:
        """Steps until `num_steps` or, with a checkpoint, until any process has been told to stop."""
        config, progress = self.config, self.progress
        logged_at_s, logged_samples = time.monotonic(), progress.num_samples_seen
        for batch in iterate(self.batches, progress.step, config.num_steps, config.num_workers):
            step = batch.index + 1
            rate = config.learning_rate(step)
            prediction, feature_penalty, grad_norm, is_stopped = self._update(batch, rate, sigterm.is_set())
            progress.step = step
            progress.num_samples_seen += batch.num_samples

            if step % config.log_every == 0 or step == config.num_steps:
                audio_s = (progress.num_samples_seen - logged_samples) / SAMPLE_RATE_HZ
                self._report(
                    "step",
                    step,
                    **asdict(prediction),
                    feature_penalty=feature_penalty,
                    lr=rate,
                    grad_norm=grad_norm,
                    audio_s_per_s=round(audio_s / (time.monotonic() - logged_at_s), 1),
                )
                logged_at_s, logged_samples = time.monotonic(), progress.num_samples_seen

            is_best = False
            paused_at_s = time.monotonic()
            if step % config.validate_every == 0 or step == config.num_steps:
                validation = self._validate(step)
                is_best = progress.best is None or validation.masked_loss < progress.best.masked_loss
                if is_best:
                    progress.best, progress.best_step = validation, step
            if is_best or is_stopped or step % config.checkpoint_every == 0 or step == config.num_steps:
                self._save()
            logged_at_s += time.monotonic() - paused_at_s
            if is_stopped and step < config.num_steps:
                self._report("stopped", step)
                return

    def result(self) -> PretrainResult:
        """What the run has come to."""
        progress = self.progress
        return PretrainResult(
            num_steps=progress.step,
            hours_seen=progress.num_samples_seen / SAMPLE_RATE_HZ / 3600,
            best=progress.best,
            checkpoint=checkpoint.step_folder(self.folder, progress.best_step or progress.step),
            is_finished=progress.step == self.config.num_steps,
        )

    def _update(self, batch: PretrainBatch, rate: float, is_stopped: bool) -> tuple[UnitPrediction, float, float, bool]:
        """One update of the weights.

        Returns:
            How well units were told, the mean square of the convolutions' output, the norm of the gradient, and whether
            any process has been told to stop.
        """
        config, ranks, step = self.config, self.ranks, batch.index + 1
        seed = np.random.SeedSequence([config.seed, step, ranks.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
        sums = torch.zeros(len(PretrainLoss._fields), dtype=torch.float64, device=ranks.device)
        for number, micro_batch in enumerate(batch.micro_batches, start=1):
            with gradient_sync(self.data_parallel_model, is_last=number == len(batch.micro_batches)):
                with self.ranks.autocast(self.config.precision):
                    loss: PretrainLoss = self.data_parallel_model(*(part.to(ranks.device) for part in micro_batch))
                    # Data parallelism takes the mean over processes; units are counted over all of them.
                    told = config.masked_weight * loss.masked_nll / batch.num_masked
                    if config.unmasked_weight and batch.num_unmasked:
                        told = told + config.unmasked_weight * loss.unmasked_nll / batch.num_unmasked
                    penalty = config.feature_penalty * loss.feature_penalty / len(batch.micro_batches)
                torch.autograd.backward(told * ranks.world_size + penalty)
            sums += torch.stack([value.detach().double() for value in loss])

        max_norm = math.inf if config.clip_norm is None else config.clip_norm
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_norm).item()
        flag = torch.tensor([float(is_stopped)], dtype=torch.float64, device=ranks.device)
        *totals, feature_penalty, num_stopped = ranks.sum(torch.cat([sums, flag])).tolist()
        prediction = _prediction(totals, batch.num_masked, batch.num_unmasked)
        if not math.isfinite(prediction.masked_loss) or not math.isfinite(grad_norm):
            raise TwistError(
                f"step {step}: the loss is {prediction.masked_loss} and the gradient's norm {grad_norm}; the weights "
                f"of the last checkpoint in {self.folder} are sound. Lower pretrain.peak_lr and train anew"
            )
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        feature_penalty /= ranks.world_size * len(batch.micro_batches)
        return prediction, feature_penalty, grad_norm, num_stopped > 0

    @torch.no_grad()
    def _validate(self, step: int) -> UnitPrediction:
        self.model.eval()
        # Batch norm's statistics differ between processes; the checkpoint will hold the main process's.
        self.ranks.copy_from_main(self.model.buffers())
        sums = torch.zeros(len(PretrainLoss._fields) + 2, dtype=torch.float64, device=self.ranks.device)
        for wav, units, is_masked in self.validation:
            with self.ranks.autocast(self.config.precision):
                loss = self.model(*(part.to(self.ranks.device) for part in (wav, units, is_masked)))
            counts = torch.tensor([is_masked.sum(), (~is_masked).sum()], device=self.ranks.device)
            sums += torch.cat([torch.stack([value.double() for value in loss]), counts.double()])
        self.model.train()
        *totals, _, num_masked, num_unmasked = self.ranks.sum(sums).tolist()
        prediction = _prediction(totals, num_masked, num_unmasked)
        self._report("validation", step, validation=asdict(prediction))
        return prediction

    def _save(self) -> None:
        step = self.progress.step
        if self.ranks.is_main:
            state = {"config": asdict(self.config), "clips": self.clips.fingerprint, "progress": asdict(self.progress)}
            path = checkpoint.save(self.folder, step, self._save_model, self.optimizer, state)
            checkpoint.prune(self.folder, self.config.keep_last, self.progress.best_step)
            self._report("checkpoint", step, path=path)
        self.ranks.from_main(step)  # nobody ends the run before the checkpoint is whole

    def _save_model(self, folder: Path) -> None:
        save_huggingface_folder(self.model.body, folder, self.model.mask_embedding)
        safetensors.torch.save_file(self._head(), folder / HEAD)

    def _head(self) -> dict[str, Tensor]:
        """What only pretraining needs, by name."""
        weights = self.model.state_dict()
        return {name: weight.cpu().contiguous() for name, weight in weights.items() if not name.startswith("body.")}

    def _load_weights(self, folder: Path, step: int) -> None:
        state = checkpoint.load_trainer_state(self.folder, step)
        checkpoint.refuse_other_settings(state["config"], self.config, "pretrain", self.folder, step)
        checkpoint.refuse_other_clips([state["clips"]], [self.clips.fingerprint], self.folder)
        checkpoint.refuse_damage(folder)
        body, _, _ = load_hubert(folder)
        self.model.body.load_state_dict(body.state_dict())
        self.model.load_state_dict(safetensors.torch.load_file(folder / HEAD), strict=False)
        self.progress = Progress.from_dict(state["progress"])

    def _take_over(self, init: str) -> None:
        body, normalizes, _ = load_hubert(Path(resolve(init)))
        if normalizes:
            raise TwistError(f"pretrain.init {init} normalizes waveforms, which pretraining here does not")
        num_taken, num_all = self.model.take_over(body)
        if not num_taken:
            raise TwistError(f"pretrain.init {init} has no weight that fits pretrain.model; give one of like shape")
        self._report("init", 0, num_taken=num_taken, num_all=num_all)

    def _report(self, event: str, step: int, **figures: Any) -> None:
        if not self.ranks.is_main:
            return
        if event in ("step", "validation"):
            self.metrics.append(step, **figures)
        self.on_event({"event": event, "step": step, **figures})


def _prediction(totals: list[float], num_masked: float, num_unmasked: float) -> UnitPrediction:
    masked_nll, masked_correct, unmasked_nll, unmasked_correct = totals
    others = max(num_unmasked, 1)
    return UnitPrediction(
        masked_nll / num_masked, masked_correct / num_masked, unmasked_nll / others, unmasked_correct / others
    )
