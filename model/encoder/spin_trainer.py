"""Tunes a HuBERT by speaker-invariant clustering; a resumed run gives the same bits.

Each checkpoint is a Hugging Face folder of the model, ready to encode with, plus what a resumed run needs:

    FOLDER/00000250/   config.json, preprocessor_config.json, model.safetensors, head.safetensors,
                       optimizer-00000-of-00001.safetensors, trainer_state.json, checksums.json

The loop is the one that every training shares (model/training/loop.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from model import weights_file
from model.artefacts import local_path
from model.encoder.hubert_checkpoint import load_hubert, write_huggingface_folder
from model.encoder.spin import Spin, SpinLoss
from model.encoder.spin_batches import SpinBatch, SpinBatches, SpokenClips, validation_views
from model.training import checkpoint, resumption
from model.training.distributed import Ranks
from model.training.loop import run_training
from model.training.optim import adamw
from model.training.step_batches import iterate
from model.training.training import OnEvent, Report, Resumed, Training
from pipeline.errors import TwistError
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from model.encoder.hubert import HubertModel
    from model.encoder.spin_config import SpinConfig

HEAD = "head.safetensors"


@dataclass(frozen=True)
class Invariance:
    """How alike the two views of a clip are, and how well phones are told.

    Attributes:
        loss: What is minimized: the weighted sum of the two losses.
        code_loss: Nats per frame, of the clean view's codes in the perturbed view.
        same_code: Share of frames whose likeliest code is the same in both views.
        phone_loss: Nats per frame with a known phone; 0 if there are none.
        phone_accuracy: Share of these whose likeliest phone in the perturbed view is the right one.
    """

    loss: float
    code_loss: float
    same_code: float
    phone_loss: float
    phone_accuracy: float


@dataclass(frozen=True)
class SpinResult:
    """The outcome of a run.

    Attributes:
        num_steps: Updates made, over all resumptions.
        hours_seen: Hours of audio tuned on, over all resumptions; a crop seen twice counts twice.
        best: The validation with the lowest loss; None if the run was stopped before the first one.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        is_finished: False if SIGTERM stopped the run; start it again to continue.
    """

    num_steps: int
    hours_seen: float
    best: Invariance | None
    checkpoint: str
    is_finished: bool


def tune(
    config: SpinConfig,
    train_clips: SpokenClips,
    validation_clips: SpokenClips,
    checkpoints: str,
    on_event: OnEvent = lambda _: None,
) -> SpinResult:
    """Tunes a HuBERT, resuming from the newest checkpoint if there is one.

    Under torchrun every process calls this; all share the folder `checkpoints`.

    Args:
        config: How to tune.
        train_clips: What to tune on.
        validation_clips: What to measure on.
        checkpoints: Folder for checkpoints and metrics.jsonl, local or s3://.
        on_event: See model/training/training.py.

    Raises:
        TwistError: clips, settings, checkpoints and the initial model do not fit together, or the loss is no longer
            finite.
    """

    def make(ranks: Ranks, resumed: Resumed | None, report: Report) -> SpinTraining:
        return SpinTraining(config, train_clips, validation_clips, checkpoints, ranks, resumed, report)

    outcome, _ = run_training("spin", config, checkpoints, make, on_event)
    return SpinResult(
        num_steps=outcome.num_steps,
        hours_seen=outcome.num_seen / SAMPLE_RATE_HZ / 3600,
        best=outcome.best,
        checkpoint=outcome.checkpoint,
        is_finished=outcome.is_finished,
    )


class SpinTraining(Training[SpinBatch, Invariance]):
    """One process's part of a run."""

    seen_name = "num_samples_seen"

    def __init__(
        self,
        config: SpinConfig,
        train_clips: SpokenClips,
        validation_clips: SpokenClips,
        folder: str,
        ranks: Ranks,
        resumed: Resumed | None,
        report: Report,
    ) -> None:
        self._config = config
        self._ranks = ranks
        self._clips = train_clips
        if resumed:
            resumption.refuse_other_clips([resumed.state["clips"]], [train_clips.fingerprint], folder)
        body = _load(config, resumed)
        self._batches = SpinBatches(train_clips, config, body.config, ranks.rank, ranks.world_size)
        self._validation = validation_views(validation_clips, config, body.config, ranks.rank, ranks.world_size)
        torch.manual_seed(config.seed)
        self._spin = Spin(config, body, torch.from_numpy(train_clips.phone_sets))
        if resumed:
            self._spin.load_state_dict(safetensors.torch.load_file(resumed.folder / HEAD), strict=False)
        else:
            report("init", 0, path=config.init)
        self._spin.to(ranks.device).train()
        self._data_parallel_model = ranks.data_parallel(self._spin, may_skip_parameters=True)
        self.model = self._spin
        self.optimizer = adamw(self._spin, config.betas, config.weight_decay)

    def facts(self) -> dict[str, Any]:
        return {
            "num_parameters": sum(p.numel() for p in self._spin.body.parameters()),
            "num_trained": sum(p.numel() for p in self._spin.body.parameters() if p.requires_grad),
            "num_clips": self._batches.num_clips,
            "hours": self._batches.num_samples / SAMPLE_RATE_HZ / 3600,
            "num_too_short": len(self._clips) - self._batches.num_clips,
            "num_phones": self._clips.phone_sets.shape[1],
        }

    def batches(self, start: int, stop: int) -> Iterable[SpinBatch]:
        return iterate(self._batches, start, stop, self._config.num_workers)

    def amount(self, batch: SpinBatch) -> int:
        return batch.num_samples

    def backward(self, batch: SpinBatch) -> dict[str, float]:
        ranks = self._ranks
        with ranks.autocast(self._config.precision):
            loss: SpinLoss = self._data_parallel_model(*(part.to(ranks.device) for part in batch.views))
        totals = ranks.sum(torch.stack([value.detach().double() for value in loss]))
        outcome = _invariance(self._config, totals.tolist())
        # Data parallelism averages gradients over processes; the counts are sums over processes.
        mean = self._config.code_weight * loss.code_nll / totals[2].clamp_min(1)
        mean = mean + self._config.phone_weight * loss.phone_nll / totals[5].clamp_min(1)
        torch.autograd.backward(mean.float() * ranks.world_size)
        return _as_figures(outcome, has_phones=totals[5].item() > 0)

    def pace(self, num_seen: int, num_new: int, seconds: float) -> dict[str, float]:
        return {"audio_s_per_s": round(num_new / SAMPLE_RATE_HZ / seconds, 1)}

    @torch.no_grad()
    def validate(self) -> Invariance:
        sums = torch.zeros(len(SpinLoss._fields), dtype=torch.float64, device=self._ranks.device)
        for views in self._validation:
            with self._ranks.autocast(self._config.precision):
                loss = self._spin(*(part.to(self._ranks.device) for part in views))
            sums += torch.stack([value.double() for value in loss])
        return _invariance(self._config, self._ranks.sum(sums).tolist())

    def is_better(self, score: Invariance, best: Invariance | None, step: int) -> bool:
        return best is None or score.loss < best.loss

    def score_of(self, content: dict[str, Any]) -> Invariance:
        return Invariance(**content)

    def state(self, step: int) -> dict[str, Any]:
        return {"clips": self._clips.fingerprint}

    def copy_model(self) -> Callable[[Path], None]:
        weights = {name: weight.detach().to("cpu", copy=True) for name, weight in self._spin.state_dict().items()}
        head = {name: weight for name, weight in weights.items() if not name.startswith("body.")}
        body = {name.removeprefix("body."): weight for name, weight in weights.items() if name.startswith("body.")}
        shape = self._spin.body.config

        def write(folder: Path) -> None:
            # Nothing is masked here; a pretraining that begins with these weights draws the vector anew.
            write_huggingface_folder(shape, body, folder, torch.zeros(shape.hidden_size), self._config.level_dbfs)
            weights_file.save(head, folder / HEAD)

        return write


def _load(config: SpinConfig, resumed: Resumed | None) -> HubertModel:
    if resumed:
        return load_hubert(resumed.folder)[0]
    body, normalizes, _ = load_hubert(checkpoint.checked(local_path(config.init)))
    if normalizes:
        raise TwistError(f"spin.init {config.init} normalizes waveforms, which tuning here does not")
    if config.layer > body.config.num_hidden_layers:
        raise TwistError(
            f"spin.layer is {config.layer}, but the model at {config.init} has {body.config.num_hidden_layers} layers"
        )
    return body


def _invariance(config: SpinConfig, totals: list[float]) -> Invariance:
    code_nll, same_code, num_frames, phone_nll, phone_correct, num_phones = totals
    code_loss, phone_loss = code_nll / max(num_frames, 1), phone_nll / max(num_phones, 1)
    return Invariance(
        loss=config.code_weight * code_loss + config.phone_weight * phone_loss,
        code_loss=code_loss,
        same_code=same_code / max(num_frames, 1),
        phone_loss=phone_loss,
        phone_accuracy=phone_correct / max(num_phones, 1),
    )


def _as_figures(outcome: Invariance, has_phones: bool) -> dict[str, float]:
    figures = {"loss": outcome.loss, "code_loss": outcome.code_loss, "same_code": outcome.same_code}
    if has_phones:
        figures |= {"phone_loss": outcome.phone_loss, "phone_accuracy": outcome.phone_accuracy}
    return figures
