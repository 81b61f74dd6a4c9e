"""The processes that train together, as torchrun starts them, and what they tell each other."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterator

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Ranks:
    """This process among `world_size` that do the same work on different samples. Alone, by default."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def from_main(self, value: int) -> int:
        """The main process's value, in every process; none goes on before the main process has got here."""
        return int(self.sum(torch.tensor(value if self.is_main else 0, device=self.device)).item())

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """The model, wrapped where there are other processes to average gradients with."""
        if self.world_size == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )


@contextlib.contextmanager
def join_ranks(device: Device) -> Iterator[Ranks]:
    """Joins the processes that torchrun started (gloo on CPU, nccl on GPUs), or stands alone without torchrun.

    Raises:
        TwistError: cuda is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise TwistError("device is cuda, but torch sees no GPU; set device to auto or cpu")
    kind = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    place = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(place)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(device=place)
        return
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()
