"""Trains a vocoder against its discriminators on clips of speech and their units; a resumed run gives the same bits.

Each checkpoint is a vocoder's folder (model/vocoder/checkpoint.py), plus what a resumed run needs:

    FOLDER/00001000/   config.json, model.safetensors, discriminators.safetensors,
                       optimizer-00000-of-00001.safetensors, trainer_state.json, checksums.json
    FOLDER/samples/    recorded and generated audio of a few validation clips, and pictures of both

A step updates the discriminators, then the vocoder. One AdamW holds both and skips parameters without a gradient: the
vocoder's audio is detached for the discriminators' update, and they are frozen for the vocoder's. The loop is the one
that every training shares (model/training/loop.py).

Source: Kong et al. 2020, "HiFi-GAN", section 2; Polyak et al. 2021 for units and durations.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import soundfile
import torch
from torch import Tensor, nn

from model import weights_file
from model.training import checkpoint, resumption
from model.training.distributed import Ranks
from model.training.loop import run_training
from model.training.optim import adamw
from model.training.step_batches import iterate
from model.training.training import OnEvent, Resumed, Training
from model.vocoder import mel_picture
from model.vocoder.batches import ValidationClip, VocoderBatch, VocoderBatches, require_fit, validation_clips
from model.vocoder.checkpoint import code_fingerprints, load_vocoder, local_vocoder, write_vocoder
from model.vocoder.discriminators import Discriminators
from model.vocoder.losses import adversarial_loss, discriminator_loss, duration_loss, feature_loss, pitch_loss
from model.vocoder.mel import LogMel
from model.vocoder.vocoder import Vocoder
from model.vocoder.widening import can_be_widened, widened
from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from model.vocoder.batches import VoiceClips
    from model.vocoder.train_config import VocoderTrainConfig

DISCRIMINATORS = "discriminators.safetensors"


@dataclass(frozen=True)
class VocoderQuality:
    """How close the vocoder comes to recorded speech, given its units and durations.

    Attributes:
        mel_distance: Mean absolute difference of log-mel spectrograms (natural logarithm, `mels[0]`).
        duration_error: Squared error of log(duration + 1), per unit.
        pitch_loss: Nats per unit of its code of pitch; 0 where none is predicted.
    """

    mel_distance: float
    duration_error: float
    pitch_loss: float = 0.0


@dataclass(frozen=True)
class VocoderResult:
    """The outcome of a run.

    Attributes:
        num_steps: Updates made, over all resumptions.
        hours_seen: Hours of audio generated in them.
        best: The validation with the least mel distance (only since the discriminators joined, if they do); None if
            there was none yet.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        is_finished: False if SIGTERM stopped the run; start it again to continue.
    """

    num_steps: int
    hours_seen: float
    best: VocoderQuality | None
    checkpoint: str
    is_finished: bool


def train_vocoder(
    config: VocoderTrainConfig,
    train: VoiceClips,
    validation: VoiceClips,
    codebook_fingerprint: str,
    checkpoints: str,
    on_event: OnEvent = lambda _: None,
) -> VocoderResult:
    """Trains a vocoder, resuming from the newest checkpoint if there is one.

    Under torchrun every process calls this; all share the folder `checkpoints`.

    Args:
        config: How to train.
        train: What to train on.
        validation: What to measure on, with the same units.
        codebook_fingerprint: Of these units' codebook; written into the vocoder's config.
        checkpoints: Folder for checkpoints, samples and metrics.jsonl, local or s3://.
        on_event: See model/training/training.py.

    Raises:
        TwistError: clips, settings and checkpoints do not fit together, or a loss is no longer finite.
    """

    def make(ranks: Ranks, resumed: Resumed | None, _: object) -> VocoderTraining:
        return VocoderTraining(config, train, validation, codebook_fingerprint, checkpoints, ranks, resumed)

    outcome, _ = run_training("vocoder", config, checkpoints, make, on_event)
    return VocoderResult(
        num_steps=outcome.num_steps,
        hours_seen=outcome.num_seen / config.model.sampling_rate / 3600,
        best=outcome.best,
        checkpoint=outcome.checkpoint,
        is_finished=outcome.is_finished,
    )


class _Generator(nn.Module):
    """The vocoder with all of its outputs in one forward pass, as data parallelism requires."""

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(
        self, frames: Tensor, units: Tensor, num_units: Tensor, conditions: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Wav [B, F * hop], log(duration + 1) [B, N] and scores of codes of pitch [B, N, K]."""
        wav, log_durations = self.vocoder(frames, **conditions), self.vocoder.log_durations(units, num_units)
        scores = None if self.vocoder.f0_predictor is None else self.vocoder.pitch_scores(units, num_units)
        return wav, log_durations, scores


class VocoderTraining(Training[VocoderBatch, VocoderQuality]):
    """One process's part of a run."""

    seen_name = "num_samples_seen"

    def __init__(
        self,
        config: VocoderTrainConfig,
        train: VoiceClips,
        validation: VoiceClips,
        codebook_fingerprint: str,
        folder: str,
        ranks: Ranks,
        resumed: Resumed | None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._ranks = ranks
        self._clips = train
        self._codebook_fingerprint = codebook_fingerprint
        self._batches = VocoderBatches(train, config, ranks.rank, ranks.world_size)
        require_fit(validation, config)
        self._validation = validation_clips(validation, config)
        torch.manual_seed(config.seed)
        self._vocoder = Vocoder(config.model)
        self._vocoder.add_weight_norm()
        self._discriminators = Discriminators(config.discriminator_width)
        if resumed:
            then = [resumed.state["clips"], resumed.state["codebook"]]
            resumption.refuse_other_clips(then, [train.fingerprint, codebook_fingerprint], folder)
            self._vocoder.load_state_dict(safetensors.torch.load_file(resumed.folder / "model.safetensors"))
            self._discriminators.load_state_dict(safetensors.torch.load_file(resumed.folder / DISCRIMINATORS))
        elif config.init is not None:
            self._take_over(config.init)
        both = nn.ModuleDict({"vocoder": self._vocoder, "discriminators": self._discriminators})
        both.to(ranks.device).train()
        self._mels = [LogMel(mel).to(ranks.device) for mel in config.mels]
        self._parallel_generator = ranks.data_parallel(_Generator(self._vocoder))
        self._parallel_discriminators = ranks.data_parallel(self._discriminators)
        self.model = self._vocoder
        self.optimizer = adamw(both, config.betas, config.weight_decay)

    def _take_over(self, init: str) -> None:
        given, fingerprint = load_vocoder(checkpoint.checked(local_vocoder(init)))
        if fingerprint not in (None, self._codebook_fingerprint):
            raise TwistError(f"vocoder.init {init} speaks the units of another codebook ({fingerprint})")
        shape = self._config.model
        if can_be_widened(given.config, shape):
            given = widened(given, shape)
        elif given.config != shape:
            raise TwistError(
                f"vocoder.init {init} has another shape than vocoder.model; make them the same but for codes and "
                f"speakers, which vocoder.model may take and {init} not"
            )
        ours = {name: self._clips.codes[name].fingerprint for name in shape.num_codes}
        for name, fingerprint in code_fingerprints(checkpoint.checked(local_vocoder(init))).items():
            if name in ours and fingerprint != ours[name]:
                raise TwistError(f"vocoder.init {init} takes the codes of another model of {name} ({fingerprint})")
        given.add_weight_norm()
        self._vocoder.load_state_dict(given.state_dict())

    def facts(self) -> dict[str, Any]:
        return {
            "num_parameters": sum(p.numel() for p in self._vocoder.parameters()),
            "num_discriminator_parameters": sum(p.numel() for p in self._discriminators.parameters()),
            "num_clips": self._batches.num_clips,
            "hours": self._batches.num_samples / self._config.model.sampling_rate / 3600,
            "num_too_short": len(self._clips) - self._batches.num_clips,
            "draws_pictures": mel_picture.is_available(),
        }

    def batches(self, start: int, stop: int) -> Iterable[VocoderBatch]:
        return iterate(self._batches, start, stop, self._config.num_workers)

    def amount(self, batch: VocoderBatch) -> int:
        return batch.wav.numel() * self._ranks.world_size

    def backward(self, batch: VocoderBatch) -> dict[str, float]:
        """Updates the discriminators and computes the vocoder's gradient; returns losses averaged over processes."""
        config, ranks = self._config, self._ranks
        wav, frames, units, durations, unit_pitch = (
            part.to(ranks.device) for part in (batch.wav, batch.frames, batch.units, batch.durations, batch.unit_pitch)
        )
        with ranks.autocast(config.precision):
            made, log_durations, pitch_scores = self._parallel_generator(
                frames, units, (durations > 0).sum(dim=1), self._on_device(batch.conditions)
            )
        made = made.float()
        losses: dict[str, Tensor] = {}
        plays_against = batch.index + 1 > config.discriminator_start
        if plays_against:
            losses["discriminator_loss"] = self._update_discriminators(wav, made.detach())

        losses["mel_distance"] = torch.stack([(mel(made) - mel(wav)).abs().mean() for mel in self._mels]).mean()
        squared_error, num_units = duration_loss(log_durations, durations)
        # Data parallelism averages gradients over processes; the count is a sum over processes.
        num_all_units = ranks.sum(num_units.clone())
        losses["duration_error"] = squared_error * ranks.world_size / num_all_units
        loss = config.mel_weight * losses["mel_distance"] + config.duration_weight * losses["duration_error"]
        if pitch_scores is not None:
            of_units, _ = pitch_loss(pitch_scores, unit_pitch, durations)
            losses["pitch_loss"] = of_units * ranks.world_size / ranks.sum((durations > 0).sum())
            loss = loss + config.pitch_weight * losses["pitch_loss"]
        if plays_against:
            self._discriminators.requires_grad_(False)
            with ranks.autocast(config.precision):
                with torch.no_grad():
                    maps_of_recorded = self._discriminators(wav)
                maps_of_made = self._discriminators(made)
                losses["adversarial_loss"] = adversarial_loss(maps_of_made)
                losses["feature_loss"] = feature_loss(maps_of_recorded, maps_of_made)
            loss = loss + losses["adversarial_loss"] + config.feature_weight * losses["feature_loss"]
        torch.autograd.backward(loss)
        self._discriminators.requires_grad_(True)
        means = ranks.sum(torch.stack([value.detach().float() for value in losses.values()])) / ranks.world_size
        return dict(zip(losses, means.tolist(), strict=True))

    def _update_discriminators(self, wav: Tensor, made: Tensor) -> Tensor:
        """Updates the discriminators once on recorded and made audio [B, S]; returns their loss."""
        with self._ranks.autocast(self._config.precision):
            maps = self._parallel_discriminators(torch.cat([wav, made]))
            recorded = [[each[: len(wav)] for each in of_one] for of_one in maps]
            loss = discriminator_loss(recorded, [[each[len(wav) :] for each in of_one] for of_one in maps])
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def pace(self, num_seen: int, num_new: int, seconds: float) -> dict[str, float]:
        return {"audio_s_per_s": round(num_new / self._config.model.sampling_rate / seconds, 2)}

    @torch.no_grad()
    def validate(self) -> VocoderQuality:
        ranks = self._ranks
        self._vocoder.eval()
        sums = torch.zeros(6, dtype=torch.float64, device=ranks.device)
        for clip in self._validation[ranks.rank :: ranks.world_size]:
            wav, units, durations = (part[None].to(ranks.device) for part in (clip.wav, clip.units, clip.durations))
            distances = (self._mels[0](self._make(clip)) - self._mels[0](wav)).abs()
            squared_error, num_units = duration_loss(self._vocoder.log_durations(units), durations)
            counts = torch.tensor(distances.numel(), device=ranks.device)
            of_units, num_said = torch.zeros((), device=ranks.device), num_units
            if self._vocoder.f0_predictor is not None:
                unit_pitch = clip.unit_pitch[None].to(ranks.device)
                of_units, num_said = pitch_loss(self._vocoder.pitch_scores(units), unit_pitch, durations)
            parts = (distances.sum(), counts, squared_error, num_units, of_units, num_said)
            sums += torch.stack([part.double() for part in parts])
        self._vocoder.train()
        distance, num_values, squared_error_sum, num_inner_units, nats, num_all_units = ranks.sum(sums).tolist()
        return VocoderQuality(distance / num_values, squared_error_sum / num_inner_units, nats / num_all_units)

    def is_better(self, score: VocoderQuality, best: VocoderQuality | None, step: int) -> bool:
        # Mel distance is least before the discriminators join, but the audio then sounds worse than it measures.
        start = self._config.discriminator_start
        counts = step > start or start >= self._config.num_steps
        return counts and (best is None or score.mel_distance < best.mel_distance)

    def score_of(self, content: dict[str, Any]) -> VocoderQuality:
        return VocoderQuality(**content)

    def state(self, step: int) -> dict[str, Any]:
        return {"clips": self._clips.fingerprint, "codebook": self._codebook_fingerprint}

    def copy_model(self) -> Callable[[Path], None]:
        vocoder, discriminators = (
            {name: weight.to("cpu", copy=True).contiguous() for name, weight in model.state_dict().items()}
            for model in (self._vocoder, self._discriminators)
        )

        config = self._config.model
        codes = {name: self._clips.codes[name].fingerprint for name in config.num_codes}
        speakers = self._clips.speakers if config.multispkr else ()
        melody = self._clips.melody if config.source_harmonics else None

        def write(folder: Path) -> None:
            write_vocoder(config, vocoder, folder, self._codebook_fingerprint, codes, speakers, melody)
            weights_file.save(discriminators, folder / DISCRIMINATORS)

        return write

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """If samples are due, writes the vocoder's audio of a few validation clips beside the recordings."""
        config = self._config
        is_due = config.sample_every and (step % config.sample_every == 0 or step == config.num_steps)
        if not is_due or not self._ranks.is_main:
            return
        self._vocoder.eval()
        for number, clip in enumerate(self._validation[: config.num_samples]):
            made = self._make(clip)[0].cpu().numpy()
            recorded = clip.wav.numpy()
            self._write_sample(f"{number}-recorded.wav", recorded)
            self._write_sample(f"{number}-{step:08d}.wav", made)
            if mel_picture.is_available():
                with tempfile.TemporaryDirectory() as folder:
                    picture = Path(folder, f"{number}-{step:08d}.png")
                    mel_picture.draw(picture, {"recorded": recorded, f"step {step}": made}, config.mels[0])
                    storage.write_bytes(storage.join(self._folder, "samples", picture.name), picture.read_bytes())
        self._vocoder.train()

    def _write_sample(self, name: str, wav: NDArray[Any]) -> None:
        file = io.BytesIO()
        soundfile.write(file, wav, self._config.model.sampling_rate, format="WAV")
        storage.write_bytes(storage.join(self._folder, "samples", name), file.getvalue())

    def _make(self, clip: ValidationClip) -> Tensor:
        """The vocoder's audio of a clip, [1, S]."""
        conditions = self._on_device({name: value[None] for name, value in clip.conditions.items()})
        with self._ranks.autocast(self._config.precision):
            wav: Tensor = self._vocoder(clip.frames[None].to(self._ranks.device), **conditions)
        return wav.float()

    def _on_device(self, conditions: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self._ranks.device) for name, value in conditions.items()}
