"""Trains a vocoder against its discriminators on clips of speech and their units; resumable to the bit.

Each checkpoint is a vocoder's folder (model/vocoder/checkpoint.py), and beside it what a resumed run needs:

    FOLDER/00001000/   config.json, model.safetensors, discriminators.safetensors,
                       optimizer-00000-of-00001.safetensors, trainer_state.json, checksums.json
    FOLDER/samples/    recorded and made audio of a few validation clips, and pictures of both

A step updates the discriminators, then the vocoder. Both are in one AdamW, which leaves alone what has no gradient: the
vocoder's audio is detached for the discriminators' update, and they are frozen for the vocoder's. All that happens in a
step is a function of the checkpoint before it, the configuration, the clips and the step's number.

Source: Kong et al. 2020, "HiFi-GAN", section 2; Polyak et al. 2021 for units and durations.
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
import soundfile
import torch
from torch import Tensor, nn

from model.artefacts import resolve
from model.training import checkpoint
from model.training.distributed import Ranks, join_ranks, sigterm_flag
from model.training.metrics import MetricsFile
from model.training.optim import adamw, set_learning_rate
from model.training.step_batches import iterate
from model.vocoder import mel_picture
from model.vocoder.batches import VocoderBatch, VocoderBatches, validation_clips
from model.vocoder.checkpoint import load_vocoder, save_vocoder
from model.vocoder.discriminators import Discriminators
from model.vocoder.losses import adversarial_loss, discriminator_loss, duration_loss, feature_loss
from model.vocoder.mel import LogMel
from model.vocoder.vocoder import Vocoder
from pipeline.errors import TwistError

if TYPE_CHECKING:
    import threading

    from model.encoder.pretrain_batches import LabelledClips
    from model.vocoder.train_config import VocoderTrainConfig

OnEvent = Callable[[dict[str, Any]], None]
DISCRIMINATORS = "discriminators.safetensors"


@dataclass(frozen=True)
class VocoderQuality:
    """How near the vocoder comes to recorded speech, given its units and durations.

    Attributes:
        mel_distance: Mean distance of log-mel spectrograms (natural logarithm, `mels[0]`).
        duration_error: Squared error of log(duration + 1), per unit.
    """

    mel_distance: float
    duration_error: float


@dataclass
class Progress:
    """How far a run has come; kept in every checkpoint."""

    step: int = 0
    num_samples_seen: int = 0
    best: VocoderQuality | None = None
    best_step: int | None = None

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Progress:
        """Back from `dataclasses.asdict`."""
        return cls(**{**content, "best": content["best"] and VocoderQuality(**content["best"])})


@dataclass(frozen=True)
class VocoderResult:
    """What a run has come to.

    Attributes:
        num_steps: Updates made, over all resumptions.
        hours_seen: Hours of audio made in them.
        best: The least mel distance at a validation (once discriminators take part, if they are to); None where there
            was none yet.
        checkpoint: Folder of the best checkpoint (of the newest where `best` is None).
        is_finished: False where SIGTERM stopped the run; start it again to go on.
    """

    num_steps: int
    hours_seen: float
    best: VocoderQuality | None
    checkpoint: str
    is_finished: bool


def train_vocoder(
    config: VocoderTrainConfig,
    train: LabelledClips,
    validation: LabelledClips,
    codebook_fingerprint: str,
    checkpoints: str,
    on_event: OnEvent = lambda _: None,
) -> VocoderResult:
    """Trains a vocoder, going on from the newest checkpoint where there is one.

    Under torchrun every process calls this; they share `checkpoints`, a folder that all of them see.

    Args:
        config: How to train.
        train: What to train on.
        validation: What to measure on, with the same units.
        codebook_fingerprint: Of these units; goes into the vocoder's config.
        checkpoints: Local folder for checkpoints, samples and metrics.jsonl.
        on_event: Called in the main process with a dict: `event` (start, step, validation, checkpoint, stopped), `step`
            and the event's figures.

    Raises:
        TwistError: clips, settings and checkpoints do not fit together, or a loss is no longer finite.
    """
    with join_ranks(config.device) as ranks, sigterm_flag() as sigterm:
        folder = checkpoint.open_local_folder(checkpoints)
        training = _Training(config, train, validation, codebook_fingerprint, folder, ranks, on_event)
        training.run(sigterm)
        return training.result()


class _Generator(nn.Module):
    """The vocoder with both of its outputs in one forward pass, as data parallelism wants it."""

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, frames: Tensor, units: Tensor, num_units: Tensor) -> tuple[Tensor, Tensor]:
        return self.vocoder(frames), self.vocoder.log_durations(units, num_units)


class _Training:
    """One process's part of a run."""

    def __init__(
        self,
        config: VocoderTrainConfig,
        train: LabelledClips,
        validation: LabelledClips,
        codebook_fingerprint: str,
        folder: str,
        ranks: Ranks,
        on_event: OnEvent,
    ) -> None:
        self.config = config
        self.folder = folder
        self.ranks = ranks
        self.on_event = on_event
        self.clips_fingerprint = train.fingerprint
        self.codebook_fingerprint = codebook_fingerprint
        self.batches = VocoderBatches(train, config, ranks.rank, ranks.world_size)
        self.validation = validation_clips(validation, config)
        torch.manual_seed(config.seed)
        self.vocoder = Vocoder(config.model)
        self.vocoder.add_weight_norm()
        self.discriminators = Discriminators(config.discriminator_width)
        self.progress = Progress()
        resumed_step = checkpoint.newest_step(folder, ranks)
        if resumed_step:
            newest = Path(checkpoint.step_folder(folder, resumed_step))
            self._load_weights(newest, resumed_step)
        elif config.init is not None:
            self._take_over(config.init)
        both = nn.ModuleDict({"vocoder": self.vocoder, "discriminators": self.discriminators})
        both.to(ranks.device).train()
        self.mels = [LogMel(mel).to(ranks.device) for mel in config.mels]
        self.parallel_generator = ranks.data_parallel(_Generator(self.vocoder))
        self.parallel_discriminators = ranks.data_parallel(self.discriminators)
        self.optimizer = adamw(both, config.betas, config.weight_decay)
        if resumed_step:
            checkpoint.load_optimizer(newest, self.optimizer)
        if ranks.is_main:
            self.metrics = MetricsFile(folder, resumed_step)
        self._report(
            "start",
            resumed_step,
            num_steps=config.num_steps,
            num_parameters=sum(p.numel() for p in self.vocoder.parameters()),
            num_discriminator_parameters=sum(p.numel() for p in self.discriminators.parameters()),
            num_clips=self.batches.num_clips,
            hours=self.batches.num_samples / config.model.sampling_rate / 3600,
            num_too_short=len(train) - self.batches.num_clips,
            world_size=ranks.world_size,
            device=str(ranks.device),
            draws_pictures=mel_picture.is_available(),
        )

    def run(self, sigterm: threading.Event) -> None:
        """Steps until `num_steps` or, with a checkpoint, until any process has been told to stop."""
        config, progress = self.config, self.progress
        logged_at_s, logged_samples = time.monotonic(), progress.num_samples_seen
        for batch in iterate(self.batches, progress.step, config.num_steps, config.num_workers):
            step = batch.index + 1
            rate = config.learning_rate(step)
            losses, is_stopped = self._update(batch, rate, sigterm.is_set())
            progress.step = step
            progress.num_samples_seen += batch.wav.numel() * self.ranks.world_size

            if step % config.log_every == 0 or step == config.num_steps:
                audio_s = (progress.num_samples_seen - logged_samples) / config.model.sampling_rate
                speed = round(audio_s / (time.monotonic() - logged_at_s), 2)
                self._report("step", step, **losses, lr=rate, audio_s_per_s=speed)
                logged_at_s, logged_samples = time.monotonic(), progress.num_samples_seen

            paused_at_s = time.monotonic()
            is_best = False
            if step % config.validate_every == 0 or step == config.num_steps:
                quality = self._validate(step)
                # Mel distance alone is least before discriminators take part, and sounds worse than it then measures.
                counts = step > config.discriminator_start or config.discriminator_start >= config.num_steps
                is_best = counts and (progress.best is None or quality.mel_distance < progress.best.mel_distance)
                if is_best:
                    progress.best, progress.best_step = quality, step
            if is_best or is_stopped or step % config.checkpoint_every == 0 or step == config.num_steps:
                self._save()
            if config.sample_every and (step % config.sample_every == 0 or step == config.num_steps):
                self._sample(step)
            logged_at_s += time.monotonic() - paused_at_s
            if is_stopped and step < config.num_steps:
                self._report("stopped", step)
                return

    def result(self) -> VocoderResult:
        """What the run has come to."""
        progress = self.progress
        return VocoderResult(
            num_steps=progress.step,
            hours_seen=progress.num_samples_seen / self.config.model.sampling_rate / 3600,
            best=progress.best,
            checkpoint=checkpoint.step_folder(self.folder, progress.best_step or progress.step),
            is_finished=progress.step == self.config.num_steps,
        )

    def _update(self, batch: VocoderBatch, rate: float, is_stopped: bool) -> tuple[dict[str, float], bool]:
        """One update of the discriminators and of the vocoder.

        Returns:
            The losses, each the mean over processes, and whether any process has been told to stop.
        """
        config, ranks, step = self.config, self.ranks, batch.index + 1
        seed = np.random.SeedSequence([config.seed, step, ranks.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
        set_learning_rate(self.optimizer, rate)
        wav, frames, units, durations = (
            part.to(ranks.device) for part in (batch.wav, batch.frames, batch.units, batch.durations)
        )
        with self.ranks.autocast(self.config.precision):
            made, log_durations = self.parallel_generator(frames, units, (durations > 0).sum(dim=1))
        made = made.float()
        losses: dict[str, Tensor] = {}
        plays_against = step > config.discriminator_start
        if plays_against:
            losses["discriminator_loss"] = self._update_discriminators(wav, made.detach())

        losses["mel_distance"] = torch.stack([(mel(made) - mel(wav)).abs().mean() for mel in self.mels]).mean()
        squared_error, num_units = duration_loss(log_durations, durations)
        # Data parallelism takes the mean over processes; units are counted over all of them.
        num_all_units = ranks.sum(num_units.clone())
        losses["duration_error"] = squared_error * ranks.world_size / num_all_units
        loss = config.mel_weight * losses["mel_distance"] + config.duration_weight * losses["duration_error"]
        if plays_against:
            self.discriminators.requires_grad_(False)
            with self.ranks.autocast(self.config.precision):
                with torch.no_grad():
                    maps_of_recorded = self.discriminators(wav)
                maps_of_made = self.discriminators(made)
                losses["adversarial_loss"] = adversarial_loss(maps_of_made)
                losses["feature_loss"] = feature_loss(maps_of_recorded, maps_of_made)
            loss = loss + losses["adversarial_loss"] + config.feature_weight * losses["feature_loss"]
        torch.autograd.backward(loss)
        self.discriminators.requires_grad_(True)
        max_norm = math.inf if config.clip_norm is None else config.clip_norm
        grad_norm = nn.utils.clip_grad_norm_(self.vocoder.parameters(), max_norm)

        flag = torch.tensor(float(is_stopped) * ranks.world_size, device=ranks.device)
        values = [*(value.detach().float() for value in losses.values()), grad_norm.detach().float(), flag]
        *means, stopped = (ranks.sum(torch.stack(values)) / ranks.world_size).tolist()
        told = dict(zip((*losses, "grad_norm"), means, strict=True))
        if not all(map(math.isfinite, means)):
            raise TwistError(
                f"step {step}: a loss is no longer finite ({told}); the weights of the last checkpoint in "
                f"{self.folder} are sound. Lower vocoder.peak_lr and train anew"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return told, stopped > 0

    def _update_discriminators(self, wav: Tensor, made: Tensor) -> Tensor:
        """One update of the discriminators on recorded and made audio [B, S]; gives their loss."""
        with self.ranks.autocast(self.config.precision):
            maps = self.parallel_discriminators(torch.cat([wav, made]))
            recorded = [[each[: len(wav)] for each in of_one] for of_one in maps]
            loss = discriminator_loss(recorded, [[each[len(wav) :] for each in of_one] for of_one in maps])
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    @torch.no_grad()
    def _validate(self, step: int) -> VocoderQuality:
        self.vocoder.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.ranks.device)
        for clip in self.validation[self.ranks.rank :: self.ranks.world_size]:
            wav, frames, units, durations = (part[None].to(self.ranks.device) for part in clip)
            distances = (self.mels[0](self._make(frames)) - self.mels[0](wav)).abs()
            squared_error, num_units = duration_loss(self.vocoder.log_durations(units), durations)
            counts = torch.tensor(distances.numel(), device=self.ranks.device)
            sums += torch.stack([distances.sum().double(), counts, squared_error.double(), num_units])
        self.vocoder.train()
        distance, num_values, squared_error_sum, num_all_units = self.ranks.sum(sums).tolist()
        quality = VocoderQuality(distance / num_values, squared_error_sum / num_all_units)
        self._report("validation", step, validation=asdict(quality))
        return quality

    @torch.no_grad()
    def _sample(self, step: int) -> None:
        """Writes what the vocoder makes of a few validation clips, beside what was recorded."""
        if not self.ranks.is_main:
            return
        self.vocoder.eval()
        folder = Path(self.folder, "samples")
        folder.mkdir(exist_ok=True)
        rate_hz = self.config.model.sampling_rate
        for number, clip in enumerate(self.validation[: self.config.num_samples]):
            made = self._make(clip.frames[None].to(self.ranks.device))[0].cpu().numpy()
            soundfile.write(folder / f"{number}-recorded.wav", clip.wav.numpy(), rate_hz)
            soundfile.write(folder / f"{number}-{step:08d}.wav", made, rate_hz)
            if mel_picture.is_available():
                picture = folder / f"{number}-{step:08d}.png"
                mel_picture.draw(picture, {"recorded": clip.wav.numpy(), f"step {step}": made}, self.config.mels[0])
        self.vocoder.train()

    def _make(self, frames: Tensor) -> Tensor:
        with self.ranks.autocast(self.config.precision):
            wav: Tensor = self.vocoder(frames)
        return wav.float()

    def _save(self) -> None:
        step = self.progress.step
        if self.ranks.is_main:
            state = {
                "config": asdict(self.config),
                "clips": self.clips_fingerprint,
                "codebook": self.codebook_fingerprint,
                "progress": asdict(self.progress),
            }
            path = checkpoint.save(self.folder, step, self._save_models, self.optimizer, state)
            checkpoint.prune(self.folder, self.config.keep_last, self.progress.best_step)
            self._report("checkpoint", step, path=path)
        self.ranks.from_main(step)  # nobody ends the run before the checkpoint is whole

    def _save_models(self, folder: Path) -> None:
        save_vocoder(self.vocoder, folder, self.codebook_fingerprint)
        state = {name: weight.cpu().contiguous() for name, weight in self.discriminators.state_dict().items()}
        safetensors.torch.save_file(state, folder / DISCRIMINATORS)

    def _load_weights(self, folder: Path, step: int) -> None:
        state = checkpoint.load_trainer_state(self.folder, step)
        checkpoint.refuse_other_settings(state["config"], self.config, "vocoder", self.folder, step)
        now = [self.clips_fingerprint, self.codebook_fingerprint]
        checkpoint.refuse_other_clips([state["clips"], state["codebook"]], now, self.folder)
        checkpoint.refuse_damage(folder)
        self.vocoder.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
        self.discriminators.load_state_dict(safetensors.torch.load_file(folder / DISCRIMINATORS))
        self.progress = Progress.from_dict(state["progress"])

    def _take_over(self, init: str) -> None:
        given, fingerprint = load_vocoder(Path(resolve(init)))
        if fingerprint not in (None, self.codebook_fingerprint):
            raise TwistError(f"vocoder.init {init} speaks the units of another codebook ({fingerprint})")
        if given.config != self.config.model:
            raise TwistError(f"vocoder.init {init} has another shape than vocoder.model; make them the same")
        given.add_weight_norm()
        self.vocoder.load_state_dict(given.state_dict())

    def _report(self, event: str, step: int, **figures: Any) -> None:
        if not self.ranks.is_main:
            return
        if event in ("step", "validation"):
            self.metrics.append(step, **figures)
        self.on_event({"event": event, "step": step, **figures})
