"""How a speech LM is trained, and which settings a resumed run may change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from model.device import Device
from model.lm.loader_config import CHANGEABLE as CHANGEABLE_DATA
from model.lm.loader_config import LoaderConfig
from model.lm.mixture.config import MixtureConfig, SpanConfig
from model.training.rules import Precision, Rules, may_change, rate_of_step
from model.training.schedule import Schedule
from pipeline.errors import TwistError

# A resumed run may change these, beside what any may.
OWN_CHANGEABLE = CHANGEABLE_DATA | frozenset(
    {"gradient_accumulation", "sharded", "activation_checkpointing", "compile"}
)


@dataclass(frozen=True)
class TrainConfig:
    """How a speech LM is trained. Defaults are the paper's for a warm start (appendix A.1), where it gives them.

    Args:
        init: Warm start: transformers folder, local or s3://, of the text LM whose body is used. Exclusive with
            architecture.
        architecture: Cold start: `model_type` (opt, llama, ...) and settings of its transformers config class.
        batch_size: Samples per step, over all processes.
        gradient_accumulation: Forward passes per step and process; more need less memory and give the same result.
        mixture: Train on speech, text and the two interleaved, in these shares of tokens; null: on units alone. The
            text LM's table of tokens then stays, and rows for units are added.
        expressive: With a mixture, speech is units, pitch and style as one stream, as in SpiRit-LM EXPRESSIVE; false:
            units alone, whatever the shards carry.
        spans: How speech and text alternate in interleaved samples; null: as in SpiRit-LM.
        tokenizer: Folder of the text's tokenizer, where a mixture has no `init` to bring one.
        rope_theta: With a mixture and `init`, another base of the text LM's rotary positions, for a longer context.
        max_units: Most units in a sample, tokens in a sequence of a mixture; longer ones are cut into pieces.
        bos_eos: Put BOS before each sample of units and EOS behind it, beyond max_units, as slamkit does; of a sample
            in pieces, before the first and behind the last. They share an id. False: none, as in the TWIST paper.
        num_steps: Updates to make.
        peak_lr: Learning rate after warm-up (the paper's cold start: 8e-5).
        final_lr: Lowest learning rate (the paper's cold start: 2.5e-5).
        warmup_steps: Updates over which the learning rate rises from 0.
        schedule: How the learning rate falls: inverse_sqrt, or cosine or linear, which reach final_lr at num_steps.
        weight_decay: AdamW's weight decay, on matrices other than embedding tables.
        betas: AdamW's decay rates of the gradient's first and second moment.
        clip_norm: Clip gradients to this norm over all parameters; null: no clipping.
        precision: float32, or bfloat16 for the forward and backward pass (weights, accumulated gradients and optimizer
            state stay in float32).
        sharded: Divide weights, gradients and optimizer state among the processes (FSDP2), for models that do not fit
            on one device; otherwise each process has all of them (DDP).
        activation_checkpointing: Recompute layers in the backward pass instead of keeping their activations: less
            memory, a third more time.
        compile: Compile each layer with torch.compile; the first steps take minutes.
        seed: Seed of new weights, sample order and dropout.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        keep_last: Number of newest checkpoints to keep; the best one is kept as well.
        save_in_background: Write checkpoints while training continues, from copies in CPU memory.
        log_every: Updates between lines of metrics.
        tensorboard: Folder for TensorBoard files with the figures of metrics.jsonl (needs the extra `plots`).
        wandb: Weights & Biases project to log the same figures to (needs `pip install wandb`).
        num_workers: Processes that read ahead, per training process; 0 reads in the training process.
        device: cpu or cuda; auto takes cuda if there is one.
        data: Which of the shards' samples to train on, and what to do with damaged shards.
    """

    init: str | None = None
    architecture: dict[str, Any] | None = None
    mixture: MixtureConfig | None = None
    expressive: bool = False
    spans: SpanConfig | None = None
    tokenizer: str | None = None
    rope_theta: float | None = None
    batch_size: int = 64
    gradient_accumulation: int = 1
    max_units: int = 704
    bos_eos: bool = False
    num_steps: int = 400_000
    peak_lr: float = 4e-4
    final_lr: float = 8e-5
    warmup_steps: int = 100
    schedule: Schedule = "inverse_sqrt"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    precision: Precision = "float32"
    sharded: bool = False
    activation_checkpointing: bool = False
    compile: bool = False
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
    data: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        if self.init is None and self.architecture is None:
            raise TwistError(
                "nothing says which model to train: give --config with one of recipes/, train.init (a text LM's "
                "folder) or train.architecture"
            )
        if self.init is not None and self.architecture is not None:
            raise TwistError("train.init and train.architecture are two ways to begin: give one of them")
        self._check_mixture()
        rules = Rules("train", self)
        rules.common()
        rules.at_least_one("gradient_accumulation")
        rules.require("max_units", self.max_units >= 2, "at least 2")

    def _check_mixture(self) -> None:
        has_text_lm = self.mixture is not None and self.init is not None
        if self.mixture is not None and self.init is None and self.tokenizer is None:
            raise TwistError("train.mixture with train.architecture needs the text's tokenizer: give train.tokenizer")
        if self.expressive and (self.mixture is None or self.mixture.kinds == ("text",)):
            raise TwistError("train.expressive is for a mixture with speech: give train.mixture.speech a weight")
        if self.bos_eos and self.mixture is not None:
            raise TwistError(
                "train.bos_eos is for units alone: sequences of a mixture begin with [SPEECH] or [TEXT]; leave it out"
            )
        if self.tokenizer is not None and (self.mixture is None or has_text_lm):
            raise TwistError("train.tokenizer is for a mixture with train.architecture; a text LM brings its own")
        if self.spans is not None and (self.mixture is None or not self.mixture.interleaved):
            raise TwistError("train.spans is for interleaved samples: give train.mixture.interleaved a weight")
        if self.rope_theta is not None and not (has_text_lm and self.rope_theta > 0):
            raise TwistError("train.rope_theta is for a mixture that begins with a text LM (train.init), and above 0")

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step`, from 1."""
        return rate_of_step(self, step)

    @property
    def changeable(self) -> frozenset[str]:
        """The settings that a resumed run may change."""
        return may_change(self, OWN_CHANGEABLE)
