"""How a speech LM is trained, and which of it a resumed run may change."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from model.distributed import Device
from model.loader_config import CHANGEABLE as CHANGEABLE_DATA
from model.loader_config import LoaderConfig
from model.optim import Schedule, learning_rate
from pipeline.errors import TwistError

# A resumed run may differ from its beginning in these; num_steps too, where the schedule does not depend on it.
CHANGEABLE = CHANGEABLE_DATA | frozenset(
    {
        "gradient_accumulation",
        "sharded",
        "activation_checkpointing",
        "compile",
        "validate_every",
        "checkpoint_every",
        "keep_last",
        "save_in_background",
        "log_every",
        "tensorboard",
        "wandb",
        "num_workers",
        "device",
    }
)


@dataclass(frozen=True)
class TrainConfig:
    """How a speech LM is trained. The defaults are the paper's for a warm start (appendix A.1) where it gives them.

    Args:
        init: Warm start: local transformers folder of a text LM whose body is taken. Exclusive with architecture.
        architecture: Cold start: `model_type` (opt, llama, ...) and settings of its transformers config class.
        batch_size: Samples per step, over all processes.
        gradient_accumulation: Forward passes per step and process; more need less memory and change no result.
        max_units: Units that a sample has at most; longer ones are cut into pieces.
        num_steps: Updates to make.
        peak_lr: Learning rate after warm-up (the paper's cold start: 8e-5).
        final_lr: Learning rate below which it does not fall (the paper's cold start: 2.5e-5).
        warmup_steps: Updates over which the learning rate rises from 0.
        schedule: How the learning rate falls: inverse_sqrt, or cosine or linear, which reach final_lr at num_steps.
        weight_decay: AdamW's, on matrices other than embedding tables.
        betas: AdamW's decay rates of the gradient's first and second moment.
        clip_norm: Longest gradient (its norm over all parameters); null does not clip.
        precision: float32, or bfloat16 for the forward and backward pass (weights, their gradients' sums and the
            optimizer stay in float32).
        sharded: Part weights, gradients and optimizer state among the processes (FSDP2), for models that do not fit on
            one device; else each process has all of them (DDP).
        activation_checkpointing: Compute layers anew in the backward pass instead of keeping what they gave: less
            memory, a third more time.
        compile: Compile each layer by torch.compile; the first steps take minutes.
        seed: Of new weights, sample order and dropout.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        keep_last: Newest checkpoints to keep; the best one is kept besides.
        save_in_background: Write checkpoints while training goes on, from copies in the CPU's memory.
        log_every: Updates between lines of metrics.
        tensorboard: Folder for TensorBoard's files, which get all that metrics.jsonl gets (needs the extra `plots`).
        wandb: Project of Weights & Biases to log to likewise (needs `pip install wandb`).
        num_workers: Processes that read ahead, per training process; 0 reads in the training process.
        device: auto takes cuda where there is one.
        data: Which of the shards' samples to train on, in what rows, and what to do with damaged shards.
    """

    init: str | None = None
    architecture: dict[str, Any] | None = None
    batch_size: int = 64
    gradient_accumulation: int = 1
    max_units: int = 704
    num_steps: int = 400_000
    peak_lr: float = 4e-4
    final_lr: float = 8e-5
    warmup_steps: int = 100
    schedule: Schedule = "inverse_sqrt"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
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
        if (self.init is None) == (self.architecture is None):
            raise TwistError("give either train.init (a text LM's folder) or train.architecture, and not both")
        for name in ("batch_size", "gradient_accumulation", "num_steps"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("validate_every", "checkpoint_every", "keep_last", "log_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "num_workers", "seed", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("max_units", self.max_units >= 2, "at least 2")
        self._require("peak_lr", 0 < self.peak_lr < math.inf, "above 0")
        self._require("final_lr", 0 <= self.final_lr <= self.peak_lr, "between 0 and peak_lr")
        self._require("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1")
        self._require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or null")
        self._require("schedule", self.schedule in get_args(Schedule), " or ".join(get_args(Schedule)))
        self._require("precision", self.precision in ("float32", "bfloat16"), "float32 or bfloat16")
        self._require("device", self.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda")
        if self.schedule != "inverse_sqrt":
            self._require("warmup_steps", self.warmup_steps < self.num_steps, "below num_steps")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise TwistError(f"train.{name} is {getattr(self, name)!r}; it must be {rule}")

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step`, from 1."""
        return learning_rate(
            step,
            self.schedule,
            peak=self.peak_lr,
            final=self.final_lr,
            warmup_steps=self.warmup_steps,
            num_steps=self.num_steps,
        )

    @property
    def changeable(self) -> frozenset[str]:
        """The settings in which a resumed run may differ from its beginning."""
        return CHANGEABLE | ({"num_steps"} if self.schedule == "inverse_sqrt" else set())
