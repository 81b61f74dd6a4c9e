"""Settings of speaker-invariant clustering, and which of them a resumed run may change."""

from __future__ import annotations

from dataclasses import dataclass

from model.device import Device
from model.training.rules import Precision, Rules, may_change, rate_of_step
from model.training.schedule import Schedule


@dataclass(frozen=True)
class SpinConfig:
    """How a HuBERT is tuned so that its features depend less on speaker and recording (Spin, Chang et al. 2023).

    Args:
        init: The HuBERT to tune: a Hugging Face folder or a fairseq file (local or s3://), or an official name.
        layer: The layer whose features become units; layers above it stay as they are.
        phones: Folder of alignments (TextGrid, .lab, CTM or `twist make-speech`'s phonemes.parquet) by the path of each
            recording below it; or such a folder for each corpus, by the corpus' name, where an alignment's path is the
            end of its recording's. The phones of these recordings are predicted as well, each among those of its
            corpus. Null: Spin alone.
        num_codes: Clusters of the online clustering.
        code_dim: Width of the space in which features and codes are compared.
        temperature: Their cosine is divided by this when codes are predicted.
        sinkhorn_epsilon: The same when codes are assigned; higher is softer.
        sinkhorn_steps: Iterations that make codes equally frequent.
        silence_share: Share of the quiet frames that count, so that pauses do not take up many codes.
        code_weight: Weight of the loss of codes.
        phone_weight: Weight of the loss of phones.
        level_dbfs: Level that clips are scaled to, here and by whoever encodes with the result.
        train_convolutions: Also tune the convolutions, at twice the cost.
        batch_size: Clips per step; every corpus has an equal share of each batch.
        crop_s: Length of the crops; their start is drawn anew each time, and shorter clips are left out.
        num_steps: Updates to make.
        peak_lr: Learning rate after warm-up.
        final_lr: Learning rate at the last step.
        warmup_steps: Updates over which the learning rate rises from 0.
        schedule: How the learning rate falls from there: linear, cosine or inverse_sqrt.
        weight_decay: AdamW's weight decay, applied to matrices.
        betas: AdamW's decay rates of the gradient's first and second moment.
        clip_norm: Largest norm of the gradient over all parameters; null: no clipping.
        validation_share: Share of recordings to keep for validation, chosen by a stable hash.
        validation_clips: Most clips of these recordings to validate on, over all corpora.
        precision: float32, or bfloat16 for the forward and backward pass (weights stay in float32).
        seed: Seed of new weights, sample order, crops and perturbations.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        keep_last: Newest checkpoints to keep, in addition to the best one.
        save_in_background: Write checkpoints while training goes on, from copies in the CPU's memory.
        log_every: Updates between lines of metrics.
        tensorboard: Folder for TensorBoard's files, with all that metrics.jsonl holds (needs the extra `plots`).
        wandb: Weights & Biases project to log the same to (needs `pip install wandb`).
        num_workers: Processes that read and perturb ahead, per training process; 0 does it in the training process.
        device: auto uses cuda if there is a GPU.
    """

    init: str = "hubert-tiny-25hz"
    layer: int = 3
    phones: str | dict[str, str] | None = None
    num_codes: int = 128
    code_dim: int = 256
    temperature: float = 0.1
    sinkhorn_epsilon: float = 0.05
    sinkhorn_steps: int = 3
    silence_share: float = 0.25
    code_weight: float = 1.0
    phone_weight: float = 1.0
    level_dbfs: float = -24.0
    train_convolutions: bool = False
    batch_size: int = 16
    crop_s: float = 4.0
    num_steps: int = 1000
    peak_lr: float = 7e-4
    final_lr: float = 2e-5
    warmup_steps: int = 50
    schedule: Schedule = "linear"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float | None = 1.0
    validation_share: float = 0.05
    validation_clips: int = 64
    precision: Precision = "float32"
    seed: int = 0
    validate_every: int = 250
    checkpoint_every: int = 250
    keep_last: int = 2
    save_in_background: bool = True
    log_every: int = 10
    tensorboard: str | None = None
    wandb: str | None = None
    num_workers: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        rules = Rules("spin", self)
        rules.common()
        rules.at_least_one("layer", "code_dim", "sinkhorn_steps", "validation_clips")
        rules.at_least_zero("code_weight", "phone_weight")
        rules.above_zero("crop_s", "temperature", "sinkhorn_epsilon")
        rules.require("num_codes", self.num_codes >= 2, "at least 2")
        rules.require("silence_share", 0 <= self.silence_share <= 1, "from 0 to 1")
        rules.require("level_dbfs", -80 <= self.level_dbfs <= 0, "from -80 to 0")
        rules.require("validation_share", 0 < self.validation_share < 1, "between 0 and 1")
        learns = self.code_weight > 0 or (self.phones is not None and self.phone_weight > 0)
        rules.require("code_weight", learns, "above 0, unless phones are predicted")

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 1."""
        return rate_of_step(self, step)

    @property
    def changeable(self) -> frozenset[str]:
        """The settings that a resumed run may change."""
        return may_change(self)
