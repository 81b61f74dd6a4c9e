"""Settings of the training of a small language classifier, and which of them a resumed run may change."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.device import Device
from model.language_id.pooled_config import PooledConfig
from model.training.rules import Precision, Rules, may_change, rate_of_step
from model.training.schedule import Schedule
from pipeline.errors import TwistError

# Of the calibration, which follows the last step.
OWN_CHANGEABLE = frozenset({"calibrate_on", "largest_error"})


@dataclass(frozen=True)
class LanguageTrainConfig:
    """How a small language classifier is trained on the segments of a run.

    Args:
        model: Shape of the classifier.
        encoder: Whose frames it reads: a HuBERT, which is stored with it up to `layer`.
        layer: The layer of these frames, counted from 1.
        wanted: The language that is to be told from all others.
        views: Copies of each segment: the first as it is, the others changed at random in voice, room and channel.
        views_of: Views of single corpora, by name, where they differ.
        max_minutes_per_speaker: Most minutes of each speaker in each language; more say little that is new.
        max_hours_per_language: Most hours of each language. Each process holds all frames: of hubert-tiny-25hz 46 MB an
            hour and view, three times that of an encoder of 768.
        min_segment_s: Shorter segments are left out.
        calibrate_on: Corpora whose held-out speakers calibrate the probabilities; all unless given.
        calibrate_window_s: Length of what is calibrated on: that of the windows that the filter listens to.
        largest_error: Share of held-out windows that each threshold may get wrong.
        batch_size: Crops per step, over all processes; half of them of the wanted language.
        crops_s: Lengths of crops; each step has one of them.
        dropout: Share of values zeroed in training.
        language_weight: Weight of telling all languages apart, beside telling the wanted one from the rest.
        num_steps: Updates to make.
        peak_lr: Learning rate after warm-up.
        final_lr: Learning rate at the last step.
        warmup_steps: Updates over which the learning rate rises from 0.
        schedule: How the learning rate falls from there: linear, cosine or inverse_sqrt.
        weight_decay: AdamW's weight decay, applied to matrices.
        betas: AdamW's decay rates of the gradient's first and second moment.
        clip_norm: Largest norm of the gradient; null: no clipping.
        validation_share: Share of speakers to keep for validation, beside those in a corpus' own split validation or
            test.
        precision: float32, or bfloat16 for the forward and backward pass (weights stay in float32).
        seed: Seed of new weights, of what is changed in copies, and of the draws of crops.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        keep_last: Newest checkpoints to keep, in addition to the best one.
        save_in_background: Write checkpoints while training goes on, from copies in the CPU's memory.
        log_every: Updates between lines of metrics.
        tensorboard: Folder for TensorBoard's files, with all that metrics.jsonl holds (needs the extra `plots`).
        wandb: Weights & Biases project to log the same to (needs `pip install wandb`).
        num_workers: Processes that read batches ahead; 0: the training process.
        device: auto uses cuda if there is a GPU.
    """

    model: PooledConfig = field(default_factory=PooledConfig)
    encoder: str = "hubert-tiny-25hz"
    layer: int = 2
    wanted: str = "en"
    views: int = 3
    views_of: dict[str, int] = field(default_factory=dict)
    max_minutes_per_speaker: float = 5.0
    max_hours_per_language: float = 20.0
    min_segment_s: float = 2.0
    calibrate_on: tuple[str, ...] = ()
    calibrate_window_s: float = 10.0
    largest_error: float = 0.05
    batch_size: int = 32
    crops_s: tuple[float, ...] = (3.0, 6.0, 10.0)
    dropout: float = 0.2
    language_weight: float = 0.3
    num_steps: int = 1000
    peak_lr: float = 2e-3
    final_lr: float = 2e-5
    warmup_steps: int = 50
    schedule: Schedule = "cosine"
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float | None = 1.0
    validation_share: float = 0.1
    precision: Precision = "float32"
    seed: int = 0
    validate_every: int = 100
    checkpoint_every: int = 100
    keep_last: int = 1
    save_in_background: bool = True
    log_every: int = 10
    tensorboard: str | None = None
    wandb: str | None = None
    num_workers: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        rules = Rules("train_language", self)
        rules.common()
        rules.at_least_one("layer", "views")
        rules.at_least_zero("language_weight")
        rules.above_zero("max_minutes_per_speaker", "max_hours_per_language", "min_segment_s", "calibrate_window_s")
        rules.require("validation_share", 0 < self.validation_share < 1, "between 0 and 1")
        rules.require("largest_error", 0 < self.largest_error < 0.5, "above 0 and below a half")
        rules.require("dropout", 0 <= self.dropout < 1, "from 0 to below 1")
        is_code = len(self.wanted) in (2, 3) and self.wanted.isalpha() and self.wanted.islower()
        rules.require("wanted", is_code, "a language's code, such as en")
        if any(views < 1 for views in self.views_of.values()):
            raise TwistError(f"train_language.views_of is {self.views_of}; each corpus has at least 1")
        if not self.crops_s or min(self.crops_s) <= 0:
            raise TwistError("train_language.crops_s must be lengths above 0, e.g. [3, 10]")

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 1."""
        return rate_of_step(self, step)

    @property
    def changeable(self) -> frozenset[str]:
        """The settings that a resumed run may change."""
        return may_change(self, OWN_CHANGEABLE)
