"""Settings of vocoder training, and which of them a resumed run may change."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.device import Device
from model.training.rules import Precision, Rules, may_change, rate_of_step
from model.training.schedule import Schedule
from model.vocoder.config import VocoderConfig
from model.vocoder.mel_config import MelConfig

OWN_CHANGEABLE = frozenset({"sample_every", "num_samples"})


@dataclass(frozen=True)
class VocoderTrainConfig:
    """How a vocoder is trained. Defaults are those of HiFi-GAN (Kong et al. 2020, section 3.3).

    Args:
        model: Shape of the vocoder. Its num_embeddings and hop must equal the run's; it must have a duration predictor.
            With num_f0_tokens and num_style_tokens it takes the run's codes of pitch and style (RUN/pitch, RUN/style),
            with multispkr the speakers that the manifest names. It takes no f0, no multistyle and no vectors of
            speakers, which a run does not record.
        init: Vocoder of the same shape to start from: a folder or an official .pt, local or s3://, or an embedded one's
            name. It may be one of units alone where `model` takes codes and speakers, too: what these do then begins
            at nothing. Null: random weights. The discriminators always start from random weights.
        batch_size: Clips per step, over all processes.
        crop_frames: Frames of each clip to generate per step; the start is drawn anew each time (14: 0.56 s at 25 Hz).
        num_steps: Updates to make.
        discriminator_start: Updates before the discriminators join; until then only mel distance and durations are
            trained on. With num_steps they never join.
        discriminator_width: Channels of the discriminators' widest layers, a multiple of 128.
        mels: Mel spectrograms whose mean distance is trained on; validation reports that of the first.
        mel_weight: Weight of the mel distance.
        feature_weight: Weight of feature matching.
        duration_weight: Weight of the squared error of log(duration + 1).
        pitch_weight: Weight of the negative log-likelihood of units' codes of pitch, with model.predicts_pitch.
        peak_lr: Learning rate after warm-up.
        final_lr: Learning rate at the last step.
        warmup_steps: Updates over which the learning rate rises from 0.
        schedule: How the learning rate falls from there: linear, cosine or inverse_sqrt.
        weight_decay: AdamW's weight decay, applied to matrices.
        betas: AdamW's decay rates of the gradient's first and second moment.
        clip_norm: Largest norm of the vocoder's gradient; null: no clipping.
        validation_share: Share of recordings to keep for validation, chosen by a stable hash.
        validation_clips: Most clips of these recordings to validate on.
        precision: float32, or bfloat16 for the forward and backward pass (weights stay in float32).
        seed: Seed of new weights, order of clips, crops and dropout.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        keep_last: Newest checkpoints to keep, in addition to the best one.
        save_in_background: Write checkpoints while training goes on, from copies in the CPU's memory.
        log_every: Updates between lines of metrics.
        tensorboard: Folder for TensorBoard's files, with all that metrics.jsonl holds (needs the extra `plots`).
        wandb: Weights & Biases project to log the same to (needs `pip install wandb`).
        sample_every: Updates between samples of audio, with pictures if matplotlib is installed; 0: none.
        num_samples: Number of validation clips to sample.
        num_workers: Processes that read ahead, per training process; 0 reads in the training process.
        device: auto uses cuda if there is a GPU.
    """

    model: VocoderConfig = field(default_factory=VocoderConfig)
    init: str | None = None
    batch_size: int = 16
    crop_frames: int = 14
    num_steps: int = 400_000
    discriminator_start: int = 0
    discriminator_width: int = 1024
    mels: tuple[MelConfig, ...] = (MelConfig(),)
    mel_weight: float = 45.0
    feature_weight: float = 2.0
    duration_weight: float = 1.0
    pitch_weight: float = 1.0
    peak_lr: float = 2e-4
    final_lr: float = 1e-5
    warmup_steps: int = 0
    schedule: Schedule = "cosine"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.8, 0.99)
    clip_norm: float | None = None
    validation_share: float = 0.02
    validation_clips: int = 50
    precision: Precision = "float32"
    seed: int = 0
    validate_every: int = 1000
    checkpoint_every: int = 1000
    keep_last: int = 2
    save_in_background: bool = True
    log_every: int = 10
    tensorboard: str | None = None
    wandb: str | None = None
    sample_every: int = 5000
    num_samples: int = 4
    num_workers: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        rules = Rules("vocoder", self)
        rules.common()
        rules.at_least_one("crop_frames", "validation_clips")
        rules.at_least_zero("discriminator_start", "mel_weight", "feature_weight", "duration_weight", "pitch_weight")
        rules.at_least_zero("sample_every", "num_samples")
        rules.require("validation_share", 0 < self.validation_share < 1, "between 0 and 1")
        width = self.discriminator_width
        rules.require("discriminator_width", width >= 128 and width % 128 == 0, "a multiple of 128")
        rules.require("mels", len(self.mels) > 0, "one at least")
        for mel in self.mels:
            fits = mel.sample_rate_hz == self.model.sampling_rate
            rules.require("mels", fits, f"of sample_rate_hz {self.model.sampling_rate}, the model's")
            window_fits = mel.n_fft - mel.hop_samples < 2 * self.crop_frames * self.model.hop_samples
            rules.require("crop_frames", window_fits, f"longer than half of a window of {mel.n_fft} samples")
        rules.require("model", self.model.duration_predictor is not None, "one with a duration predictor")
        takes_more = self.model.embedder_params or self.model.multistyle or self.model.f0
        rules.require(
            "model", not takes_more, "one without embedder_params, multistyle and f0: a run says nothing of these"
        )

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 1."""
        return rate_of_step(self, step)

    @property
    def changeable(self) -> frozenset[str]:
        """The settings that a resumed run may change."""
        return may_change(self, OWN_CHANGEABLE)
