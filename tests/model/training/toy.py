"""A minimal training for tests of the loop, in a test's process or under torchrun: a layer with dropout copies noise.

python -m tests.model.training.toy FOLDER SETTINGS [STEP]    trains; at STEP only the first process gets SIGTERM
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from model.training.loop import Outcome, run_training
from model.training.optim import adamw
from model.training.training import OnEvent, Resumed, Training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from model.training.distributed import Ranks
    from model.training.rules import Precision

NUM_VALUES = 8


@dataclass(frozen=True)
class ToySettings:
    num_steps: int = 12
    peak_lr: float = 1e-2
    batch_size: int = 4
    dropout: float = 0.1
    breaks_at: int = 0  # a step with an infinite loss
    clip_norm: float | None = 1.0
    seed: int = 0
    validate_every: int = 1000
    checkpoint_every: int = 1000
    keep_last: int = 2
    save_in_background: bool = True
    log_every: int = 1
    precision: Precision = "float32"
    tensorboard: str | None = None
    wandb: str | None = None
    device: Any = "cpu"

    @property
    def changeable(self) -> frozenset[str]:
        return frozenset(
            {"num_steps", "checkpoint_every", "validate_every", "log_every", "breaks_at", "tensorboard", "device"}
        )

    def learning_rate(self, step: int) -> float:
        return self.peak_lr * step


@dataclass(frozen=True)
class Batch:
    index: int
    values: Tensor


@dataclass(frozen=True)
class Error:
    squared: float


class Toy(Training[Batch, Error]):
    seen_name = "num_values_seen"

    def __init__(self, settings: ToySettings, ranks: Ranks, resumed: Resumed | None) -> None:
        self.settings, self.ranks = settings, ranks
        torch.manual_seed(settings.seed)
        self.model = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(NUM_VALUES, NUM_VALUES))
        if resumed:
            self.model.load_state_dict(safetensors.torch.load_file(resumed.folder / "model.safetensors"))
        self.parallel = ranks.data_parallel(self.model)
        self.optimizer = adamw(self.model, (0.9, 0.99), 0.01)

    def facts(self) -> dict[str, Any]:
        return {"num_values": NUM_VALUES}

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for index in range(start, stop):
            values = self.values(index)
            yield Batch(index, values[self.ranks.rank :: self.ranks.world_size])

    def values(self, index: int) -> Tensor:
        return torch.randn(self.settings.batch_size, NUM_VALUES, generator=torch.Generator().manual_seed(index))

    def amount(self, batch: Batch) -> int:
        return batch.values.numel() * self.ranks.world_size

    def backward(self, batch: Batch) -> dict[str, float]:
        loss = (self.parallel(batch.values) - batch.values).square().mean()
        if batch.index + 1 == self.settings.breaks_at:
            loss = loss * torch.inf
        torch.autograd.backward(loss)
        return {"loss": self.ranks.sum(loss.detach().clone()).item() / self.ranks.world_size}

    @torch.no_grad()
    def validate(self) -> Error:
        self.model.eval()
        values = self.values(10**6)
        error = (self.model(values) - values).square().mean().item()
        self.model.train()
        return Error(error)

    def is_better(self, score: Error, best: Error | None, step: int) -> bool:
        return best is None or score.squared < best.squared

    def score_of(self, content: dict[str, Any]) -> Error:
        return Error(**content)

    def pace(self, num_seen: int, num_new: int, seconds: float) -> dict[str, float]:
        return {"values": num_seen, "values_per_s": num_new / seconds}

    def state(self, step: int) -> dict[str, Any]:
        return {"next_batch": step}

    def copy_model(self) -> Callable[[Path], None]:
        weights = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        return lambda folder: safetensors.torch.save_file(weights, folder / "model.safetensors")

    def blame(self, batch: Batch) -> str:
        return f"It was batch {batch.index}. "


def train_toy(settings: ToySettings, folder: str, on_event: OnEvent = lambda _: None) -> Outcome[Error]:
    outcome, _ = run_training(
        "toy", settings, folder, lambda ranks, resumed, _: Toy(settings, ranks, resumed), on_event
    )
    return outcome


def main() -> None:
    folder, settings = sys.argv[1], ToySettings(**json.loads(sys.argv[2]))
    stop_at = int(sys.argv[3]) if len(sys.argv) > 3 else 0

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    outcome = train_toy(settings, folder, on_event)
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(json.dumps(dataclasses.asdict(outcome)) + "\n")


if __name__ == "__main__":
    main()
