"""Settings of HuBERT's pretraining, and which of them a resumed run may change."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.device import Device
from model.encoder.hubert_config import HubertConfig
from model.training.rules import Precision, Rules, may_change, rate_of_step
from model.training.schedule import Schedule

OWN_CHANGEABLE = frozenset({"gradient_accumulation"})


@dataclass(frozen=True)
class PretrainConfig:
    """How a HuBERT is pretrained. Defaults are those of HuBERT Base (Hsu et al. 2021, section 4; fairseq's recipe).

    Args:
        model: Shape of the network. TWIST's 25 Hz model has an eighth convolution (512 channels, kernel 2, stride 2)
            and conv_pos_batch_norm.
        init: Checkpoint to start from: a Hugging Face folder or a fairseq file (local or s3://), or an official name.
            Weights of the same name and shape are copied. Null: random weights, as in the paper.
        batch_size: Clips per step, over all processes.
        gradient_accumulation: Forward passes per step and process; more need less memory.
        crop_s: Longest crop of a clip, in seconds; its start is drawn anew each time.
        num_steps: Updates to make.
        peak_lr: Learning rate after warm-up.
        final_lr: Learning rate at the last step.
        warmup_steps: Updates over which the learning rate rises from 0.
        schedule: How the learning rate falls from there: linear, cosine or inverse_sqrt.
        weight_decay: AdamW's weight decay, applied to matrices.
        betas: AdamW's decay rates of the gradient's first and second moment.
        eps: AdamW's epsilon, added to the denominator.
        clip_norm: Largest norm of the gradient over all parameters; null: no clipping.
        mask_share: Share of frames that would be masked if spans did not overlap.
        mask_span_frames: Length of each masked span (a fifth of a second: 10 at 50 Hz, 5 at 25 Hz).
        masked_weight: Weight of the mean loss over masked frames.
        unmasked_weight: Weight of the mean loss over the other frames; 0 in the paper. (With a weight above 0, fairseq
            divides the sums over both kinds by the number of all frames.)
        feature_penalty: Weight of the mean square of the convolutions' output.
        feature_gradient_scale: Factor on the gradient that enters the convolutions, the penalty's included.
        embedding_dim: Width of the space in which outputs and labels are compared.
        logit_temperature: Their cosine is divided by this.
        dropout: Share of values to zero (in the Transformer's input, attention and layers).
        layer_drop: Probability that a forward pass skips a Transformer layer.
        validation_share: Share of recordings to keep for validation, chosen by a stable hash.
        validation_clips: Most clips of these recordings to validate on.
        precision: float32, or bfloat16 for the forward and backward pass (weights stay in float32).
        seed: Seed of new weights, sample order, crops, masks and dropout.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        keep_last: Newest checkpoints to keep, in addition to the best one.
        save_in_background: Write checkpoints while training goes on, from copies in the CPU's memory.
        log_every: Updates between lines of metrics.
        tensorboard: Folder for TensorBoard's files, with all that metrics.jsonl holds (needs the extra `plots`).
        wandb: Weights & Biases project to log the same to (needs `pip install wandb`).
        num_workers: Processes that read ahead, per training process; 0 reads in the training process.
        device: auto uses cuda if there is a GPU.
    """

    model: HubertConfig = field(default_factory=HubertConfig)
    init: str | None = None
    batch_size: int = 180
    gradient_accumulation: int = 1
    crop_s: float = 15.6
    num_steps: int = 400_000
    peak_lr: float = 5e-4
    final_lr: float = 0.0
    warmup_steps: int = 32_000
    schedule: Schedule = "linear"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    clip_norm: float | None = 10.0
    mask_share: float = 0.8
    mask_span_frames: int = 10
    masked_weight: float = 1.0
    unmasked_weight: float = 0.0
    feature_penalty: float = 10.0
    feature_gradient_scale: float = 0.1
    embedding_dim: int = 256
    logit_temperature: float = 0.1
    dropout: float = 0.1
    layer_drop: float = 0.05
    validation_share: float = 0.02
    validation_clips: int = 500
    precision: Precision = "float32"
    seed: int = 0
    validate_every: int = 1000
    checkpoint_every: int = 1000
    keep_last: int = 2
    save_in_background: bool = True
    log_every: int = 10
    tensorboard: str | None = None
    wandb: str | None = None
    num_workers: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        rules = Rules("pretrain", self)
        rules.common()
        rules.at_least_one("gradient_accumulation", "mask_span_frames", "embedding_dim", "validation_clips")
        rules.at_least_zero("masked_weight", "unmasked_weight", "feature_penalty", "feature_gradient_scale")
        rules.above_zero("crop_s", "eps", "logit_temperature")
        for name in ("dropout", "layer_drop"):
            rules.require(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        for name in ("mask_share", "validation_share"):
            rules.require(name, 0 < getattr(self, name) < 1, "between 0 and 1")
        rules.require("masked_weight", self.masked_weight + self.unmasked_weight > 0, "above 0, or unmasked_weight be")

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 1."""
        return rate_of_step(self, step)

    @property
    def changeable(self) -> frozenset[str]:
        """The settings that a resumed run may change."""
        return may_change(self, OWN_CHANGEABLE)
