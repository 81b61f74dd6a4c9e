"""Pretrains a HuBERT on clips of speech and the units of their frames; a resumed run gives the same bits.

Each checkpoint is a Hugging Face folder of the model, ready to encode with, plus what a resumed run needs:

    FOLDER/00001000/   config.json, preprocessor_config.json, model.safetensors, head.safetensors,
                       optimizer-00000-of-00001.safetensors, trainer_state.json, checksums.json

The loop is the one that every training shares (model/training/loop.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from model import weights_file
from model.artefacts import local_path
from model.encoder.hubert_checkpoint import load_hubert, write_huggingface_folder
from model.encoder.hubert_pretrain import HubertPretraining, PretrainLoss
from model.encoder.pretrain_batches import (
    LabelledClips,
    PretrainBatch,
    PretrainBatches,
    validation_batches,
)
from model.training import checkpoint, resumption
from model.training.distributed import Ranks, gradient_sync
from model.training.loop import run_training
from model.training.optim import adamw
from model.training.step_batches import iterate
from model.training.training import OnEvent, Report, Resumed, Training
from pipeline.errors import TwistError
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from model.encoder.pretrain_config import PretrainConfig

HEAD = "head.safetensors"


@dataclass(frozen=True)
class UnitPrediction:
    """How well units are predicted, for masked frames and for the others.

    Attributes:
        masked_loss: Nats per masked frame.
        masked_accuracy: Share of masked frames whose likeliest unit is the right one.
        unmasked_loss: Nats per other frame.
        unmasked_accuracy: Share of other frames whose likeliest unit is the right one.
    """

    masked_loss: float
    masked_accuracy: float
    unmasked_loss: float
    unmasked_accuracy: float


@dataclass(frozen=True)
class PretrainResult:
    """The outcome of a run.

    Attributes:
        num_steps: Updates made, over all resumptions.
        hours_seen: Hours of audio trained on, over all resumptions; a crop seen twice counts twice.
        best: The validation with the lowest masked loss; None if the run was stopped before the first one.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        is_finished: False if SIGTERM stopped the run; start it again to continue.
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
    """Pretrains a HuBERT, resuming from the newest checkpoint if there is one.

    Under torchrun every process calls this; all share the folder `checkpoints`.

    Args:
        config: How to train.
        train_clips: What to train on.
        validation_clips: What to measure on, with the same units.
        checkpoints: Folder for checkpoints and metrics.jsonl, local or s3://.
        on_event: See model/training/training.py.

    Raises:
        TwistError: clips, settings, checkpoints and the initial model do not fit together, or the loss is no longer
            finite.
    """

    def make(ranks: Ranks, resumed: Resumed | None, report: Report) -> HubertTraining:
        return HubertTraining(config, train_clips, validation_clips, checkpoints, ranks, resumed, report)

    outcome, _ = run_training("pretrain", config, checkpoints, make, on_event)
    return PretrainResult(
        num_steps=outcome.num_steps,
        hours_seen=outcome.num_seen / SAMPLE_RATE_HZ / 3600,
        best=outcome.best,
        checkpoint=outcome.checkpoint,
        is_finished=outcome.is_finished,
    )


class HubertTraining(Training[PretrainBatch, UnitPrediction]):
    """One process's part of a run."""

    seen_name = "num_samples_seen"

    def __init__(
        self,
        config: PretrainConfig,
        train_clips: LabelledClips,
        validation_clips: LabelledClips,
        folder: str,
        ranks: Ranks,
        resumed: Resumed | None,
        report: Report,
    ) -> None:
        self._config = config
        self._ranks = ranks
        self._clips = train_clips
        self._batches = PretrainBatches(train_clips, config, ranks.rank, ranks.world_size)
        self._validation = validation_batches(validation_clips, config, ranks.rank, ranks.world_size)
        torch.manual_seed(config.seed)
        self._hubert = HubertPretraining(config, train_clips.codebook_size)
        if resumed:
            resumption.refuse_other_clips([resumed.state["clips"]], [train_clips.fingerprint], folder)
            body, _, _ = load_hubert(resumed.folder)
            self._hubert.body.load_state_dict(body.state_dict())
            self._hubert.load_state_dict(safetensors.torch.load_file(resumed.folder / HEAD), strict=False)
        elif config.init is not None:
            self._take_over(config.init, report)
        self._hubert.to(ranks.device).train()
        self._data_parallel_model = ranks.data_parallel(self._hubert, may_skip_parameters=config.layer_drop > 0)
        self.model = self._hubert
        self.optimizer = adamw(self._hubert, config.betas, config.weight_decay, config.eps)

    def _take_over(self, init: str, report: Report) -> None:
        body, normalizes, _ = load_hubert(checkpoint.checked(local_path(init)))
        if normalizes:
            raise TwistError(f"pretrain.init {init} normalizes waveforms, which pretraining here does not")
        num_taken, num_all = self._hubert.take_over(body)
        if not num_taken:
            raise TwistError(f"pretrain.init {init} has no weight that fits pretrain.model; give one of like shape")
        report("init", 0, num_taken=num_taken, num_all=num_all)

    def facts(self) -> dict[str, Any]:
        return {
            "num_parameters": sum(p.numel() for p in self._hubert.body.parameters()),
            "num_clips": self._batches.num_clips,
            "hours": self._batches.num_samples / SAMPLE_RATE_HZ / 3600,
            "num_too_short": len(self._clips) - self._batches.num_clips,
            "codebook_size": self._clips.codebook_size,
        }

    def batches(self, start: int, stop: int) -> Iterable[PretrainBatch]:
        return iterate(self._batches, start, stop, self._config.num_workers)

    def amount(self, batch: PretrainBatch) -> int:
        return batch.num_samples

    def backward(self, batch: PretrainBatch) -> dict[str, float]:
        config, ranks = self._config, self._ranks
        sums = torch.zeros(len(PretrainLoss._fields), dtype=torch.float64, device=ranks.device)
        for number, micro_batch in enumerate(batch.micro_batches, start=1):
            with gradient_sync(self._data_parallel_model, is_last=number == len(batch.micro_batches)):
                with ranks.autocast(config.precision):
                    loss: PretrainLoss = self._data_parallel_model(*(part.to(ranks.device) for part in micro_batch))
                    # Data parallelism averages gradients over processes; the counts are sums over processes.
                    unit_loss = config.masked_weight * loss.masked_nll / batch.num_masked
                    if config.unmasked_weight and batch.num_unmasked:
                        unit_loss = unit_loss + config.unmasked_weight * loss.unmasked_nll / batch.num_unmasked
                    penalty = config.feature_penalty * loss.feature_penalty / len(batch.micro_batches)
                torch.autograd.backward(unit_loss * ranks.world_size + penalty)
            sums += torch.stack([value.detach().double() for value in loss])
        *totals, feature_penalty = ranks.sum(sums).tolist()
        prediction = _prediction(totals, batch.num_masked, batch.num_unmasked)
        feature_penalty /= ranks.world_size * len(batch.micro_batches)
        return {**asdict(prediction), "feature_penalty": feature_penalty}

    def pace(self, num_seen: int, num_new: int, seconds: float) -> dict[str, float]:
        return {"audio_s_per_s": round(num_new / SAMPLE_RATE_HZ / seconds, 1)}

    @torch.no_grad()
    def validate(self) -> UnitPrediction:
        ranks = self._ranks
        self._hubert.eval()
        # Batch norm's statistics differ between processes; the checkpoint will hold the main process's.
        ranks.copy_from_main(self._hubert.buffers())
        sums = torch.zeros(len(PretrainLoss._fields) + 2, dtype=torch.float64, device=ranks.device)
        for wav, units, is_masked in self._validation:
            with ranks.autocast(self._config.precision):
                loss = self._hubert(*(part.to(ranks.device) for part in (wav, units, is_masked)))
            counts = torch.tensor([is_masked.sum(), (~is_masked).sum()], device=ranks.device)
            sums += torch.cat([torch.stack([value.double() for value in loss]), counts.double()])
        self._hubert.train()
        *totals, _, num_masked, num_unmasked = ranks.sum(sums).tolist()
        return _prediction(totals, num_masked, num_unmasked)

    def is_better(self, score: UnitPrediction, best: UnitPrediction | None, step: int) -> bool:
        return best is None or score.masked_loss < best.masked_loss

    def score_of(self, content: dict[str, Any]) -> UnitPrediction:
        return UnitPrediction(**content)

    def state(self, step: int) -> dict[str, Any]:
        return {"clips": self._clips.fingerprint}

    def copy_model(self) -> Callable[[Path], None]:
        weights = {name: weight.detach().to("cpu", copy=True) for name, weight in self._hubert.state_dict().items()}
        # What only pretraining needs goes into a file of its own.
        head = {name: weight for name, weight in weights.items() if not name.startswith("body.")}
        body = {name.removeprefix("body."): weight for name, weight in weights.items() if name.startswith("body.")}

        def write(folder: Path) -> None:
            write_huggingface_folder(self._hubert.body.config, body, folder, weights["mask_embedding"])
            weights_file.save(head, folder / HEAD)

        return write


def _prediction(totals: list[float], num_masked: float, num_unmasked: float) -> UnitPrediction:
    masked_nll, masked_correct, unmasked_nll, unmasked_correct = totals
    others = max(num_unmasked, 1)
    return UnitPrediction(
        masked_nll / num_masked, masked_correct / num_masked, unmasked_nll / others, unmasked_correct / others
    )
