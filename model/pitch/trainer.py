"""Trains a pitch tokenizer on contours of speech; a resumed run gives the same bits.

Each checkpoint is a tokenizer's folder (model/pitch/checkpoint.py), plus what a resumed run needs:

    FOLDER/00001000/   config.json, model.safetensors, codebook_averages.safetensors,
                       optimizer-00000-of-00001.safetensors, trainer_state.json, checksums.json

The gradient is that of the squared error of F0 and voicing, plus the commitment of the encoder to its codes; the
codebook has none and follows by moving averages (moving_codebook.py). The loop is the one that every training shares.

Source: Polyak et al. 2021, "Speech resynthesis from discrete disentangled self-supervised representations".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch.nn import functional as F

from model import weights_file
from model.pitch.checkpoint import write_pitch_model
from model.pitch.contour import features_of
from model.pitch.contours import PitchBatch, PitchBatches, validation_contours
from model.pitch.model_config import FRAME_RATE_HZ
from model.pitch.moving_codebook import MovingCodebook
from model.pitch.vqvae import PitchVQVAE
from model.training import resumption
from model.training.loop import run_training
from model.training.optim import adamw
from model.training.step_batches import iterate
from model.training.training import OnEvent, Resumed, Training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import Tensor

    from model.pitch.contours import Contours
    from model.pitch.train_config import PitchTrainConfig
    from model.training.distributed import Ranks

AVERAGES = "codebook_averages.safetensors"


@dataclass(frozen=True)
class PitchQuality:
    """How much of the pitch of held-out speakers comes through the codes.

    Attributes:
        loss: Squared error of what the network sees: F0 by f0_scale_hz, and voicing.
        f0_error_cents: Mean distance of F0 in voiced frames, the mean of the clip being known.
        voicing_error: Share of frames whose voicing is lost.
        codes_used: Codes that occur.
        code_perplexity: How many there would be if all were as frequent.
    """

    loss: float
    f0_error_cents: float
    voicing_error: float
    codes_used: int
    code_perplexity: float


@dataclass(frozen=True)
class PitchResult:
    """The outcome of a run.

    Attributes:
        num_steps: Updates made, over all resumptions.
        hours_seen: Hours of speech seen in them.
        best: The validation with the least loss; None if there was none yet.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        is_finished: False if a signal stopped the run; start it again to continue.
    """

    num_steps: int
    hours_seen: float
    best: PitchQuality | None
    checkpoint: str
    is_finished: bool


def train_pitch(
    config: PitchTrainConfig,
    train: Contours,
    validation: Contours,
    checkpoints: str,
    on_event: OnEvent = lambda _: None,
) -> PitchResult:
    """Trains a pitch tokenizer, resuming from the newest checkpoint if there is one.

    Under torchrun every process calls this; all share the folder `checkpoints`.

    Args:
        config: How to train.
        train: What to train on.
        validation: What to measure on, of other speakers.
        checkpoints: Folder for checkpoints and metrics.jsonl, local or s3://.
        on_event: See model/training/training.py.

    Raises:
        TwistError: contours, settings and checkpoints do not fit together, or a loss is no longer finite.
    """

    def make(ranks: Ranks, resumed: Resumed | None, _: object) -> PitchTraining:
        return PitchTraining(config, train, validation, checkpoints, ranks, resumed)

    outcome, _ = run_training("train_pitch", config, checkpoints, make, on_event)
    return PitchResult(
        num_steps=outcome.num_steps,
        hours_seen=outcome.num_seen / FRAME_RATE_HZ / 3600,
        best=outcome.best,
        checkpoint=outcome.checkpoint,
        is_finished=outcome.is_finished,
    )


class PitchTraining(Training[PitchBatch, PitchQuality]):
    """One process's part of a run."""

    seen_name = "num_frames_seen"

    def __init__(
        self,
        config: PitchTrainConfig,
        train: Contours,
        validation: Contours,
        folder: str,
        ranks: Ranks,
        resumed: Resumed | None,
    ) -> None:
        self._config, self._ranks, self._contours = config, ranks, train
        self._fingerprints = [train.fingerprint, validation.fingerprint]
        self._batches = PitchBatches(train, config, ranks.rank, ranks.world_size)
        self._validation = validation_contours(validation, config)
        torch.manual_seed(config.seed)
        self._vqvae = PitchVQVAE(config.model)
        averages = None
        if resumed:
            resumption.refuse_other_clips(resumed.state["contours"], self._fingerprints, folder)
            self._vqvae.load_state_dict(safetensors.torch.load_file(resumed.folder / "model.safetensors"))
            averages = safetensors.torch.load_file(resumed.folder / AVERAGES)
        self._vqvae.to(ranks.device).train()
        self._codebook = MovingCodebook(self._vqvae.codebook, config.codebook_decay, config.dead_below)
        if averages is not None:
            self._codebook.load_state_dict(averages)
        self._data_parallel_model = ranks.data_parallel(self._vqvae)
        self._seen_by_codebook: tuple[Tensor, Tensor] | None = None
        self.model = self._vqvae
        self.optimizer = adamw(self._vqvae, config.betas, config.weight_decay)

    def facts(self) -> dict[str, Any]:
        return {
            "num_parameters": sum(p.numel() for p in self._vqvae.parameters()),
            "num_clips": self._batches.num_clips,
            "num_validation_clips": len(self._validation),
            "hours": float(self._contours.num_frames.sum()) / FRAME_RATE_HZ / 3600,
            "num_too_short": len(self._contours) - self._batches.num_clips,
        }

    def batches(self, start: int, stop: int) -> Iterable[PitchBatch]:
        return iterate(self._batches, start, stop, 0)

    def amount(self, batch: PitchBatch) -> int:
        num_clips, _, num_frames = batch.features.shape
        return num_clips * num_frames * self._ranks.world_size

    def backward(self, batch: PitchBatch) -> dict[str, float]:
        config, ranks = self._config, self._ranks
        features = batch.features.to(ranks.device)
        with torch.no_grad(), ranks.autocast(config.precision):
            latents = self._vqvae.encode(features).float().flatten(0, 1)
        self._codebook.begin(latents, ranks)
        with ranks.autocast(config.precision):
            coded = self._data_parallel_model(features)
        vectors = F.embedding(coded.codes, self._vqvae.codebook)
        error = ((coded.made.float() - features) / self._vqvae.scale).square().mean()
        commitment = (coded.latents.float() - vectors).square().mean()
        torch.autograd.backward(error + config.commit_weight * commitment)
        self._seen_by_codebook = coded.latents.detach().float().flatten(0, 1), coded.codes.flatten()
        means = ranks.sum(torch.stack([error.detach(), commitment.detach()])) / ranks.world_size
        return dict(zip(("loss", "commitment"), means.tolist(), strict=True))

    def after_update(self) -> None:
        """Lets the codebook follow; not sooner, for a step that is refused must leave it as it was."""
        assert self._seen_by_codebook is not None
        self._codebook.update(*self._seen_by_codebook, self._ranks)

    def pace(self, num_seen: int, num_new: int, seconds: float) -> dict[str, float]:
        return {"audio_s_per_s": round(num_new / FRAME_RATE_HZ / seconds, 1)}

    @torch.no_grad()
    def validate(self) -> PitchQuality:
        ranks, model = self._ranks, self._config.model
        self._vqvae.eval()
        sums = np.zeros(6)
        uses = torch.zeros(model.num_codes, dtype=torch.float64)
        for contour in self._validation[ranks.rank :: ranks.world_size]:
            mean_hz = contour.mean_hz or 0.0
            features = torch.from_numpy(features_of(contour, model.features))[None].to(ranks.device)
            codes = self._vqvae.quantize(self._vqvae.encode(features))
            made = self._vqvae.decode_codes(codes)
            errors = ((made - features) / self._vqvae.scale).square()
            f0, voicing = made[0].cpu().numpy()
            f0 = f0 + mean_hz if model.features.startswith("norm_") else f0
            is_known = contour.f0 > 0
            cents = 1200 * np.abs(np.log2(np.maximum(f0[is_known], 1.0) / contour.f0[is_known]))
            num_wrong = ((voicing >= 0.5) != contour.is_voiced).sum()
            sums += [float(errors.sum()), errors.numel(), cents.sum(), len(cents), num_wrong, len(contour)]
            uses += torch.bincount(codes.flatten().cpu(), minlength=model.num_codes).double()
        self._vqvae.train()
        # Through float32 on a GPU's exchange neither count nor sum loses a digit that is shown.
        totals = ranks.sum(torch.cat([torch.from_numpy(sums), uses]).to(ranks.device)).cpu().numpy()
        (error, num_values, cents_sum, num_known, wrong, num_frames), shares = totals[:6], totals[6:] / totals[6:].sum()
        used = shares[shares > 0]
        return PitchQuality(
            loss=error / num_values,
            f0_error_cents=cents_sum / max(num_known, 1),
            voicing_error=wrong / num_frames,
            codes_used=len(used),
            code_perplexity=math.exp(-(used * np.log(used)).sum()),
        )

    def is_better(self, score: PitchQuality, best: PitchQuality | None, step: int) -> bool:
        return best is None or score.loss < best.loss

    def score_of(self, content: dict[str, Any]) -> PitchQuality:
        return PitchQuality(**content)

    def state(self, step: int) -> dict[str, Any]:
        return {"contours": self._fingerprints}

    def copy_model(self) -> Callable[[Path], None]:
        vqvae, averages = (
            {name: weight.to("cpu", copy=True).contiguous() for name, weight in module.state_dict().items()}
            for module in (self._vqvae, self._codebook)
        )

        def write(folder: Path) -> None:
            write_pitch_model(self._config.model, vqvae, folder)
            weights_file.save(averages, folder / AVERAGES)

        return write
