"""The processes that train together (as started by torchrun or Ray), and their communication."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from model.device import Device, pick_device
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType

T = TypeVar("T")

LETTING_GO_TAKES_S = 0.5


@dataclass(frozen=True)
class Ranks:
    """This process among `world_size` that do the same work on different samples; a single process by default."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes logs and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sums a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def from_main(self, value: int) -> int:
        """The main process's value, in every process; blocks until the main process has called this."""
        return int(self.sum(torch.tensor(value if self.is_main else 0, device=self.device)).item())

    def wait_for_main(self) -> None:
        """Blocks until the main process has called this too."""
        self.from_main(0)

    def any(self, value: bool) -> bool:
        """Whether the value is true in any process."""
        return bool(self.sum(torch.tensor(float(value), device=self.device)).item())

    def all_or_none(self, do: Callable[[], T]) -> T:
        """Calls `do` in every process; where one fails, all raise, for the others would wait for it for ever.

        Args:
            do: Has no exchange with other processes in it.

        Raises:
            TwistError: `do` failed in another process; with the message of its error.
        """
        failure: Exception | None = None
        try:
            result = do()
        except Exception as error:
            failure = error
        if self.any(failure is not None):
            messages: list[str | None] = [None] * self.world_size
            if self.world_size > 1:
                dist.all_gather_object(messages, None if failure is None else str(failure))
            raise failure or TwistError(next(message for message in messages if message is not None))
        return result

    def rounds(self, batches: Sequence[T]) -> Iterator[tuple[T, bool]]:
        """This process's batches, one a round, each with whether its result counts.

        Where weights are sharded no process can compute alone, so all take part in every round: in the last one, those
        that have no batch left are given the last again, and their result counts for nothing.
        """
        for round_start in range(0, len(batches), self.world_size):
            number = round_start + self.rank
            yield batches[min(number, len(batches) - 1)], number < len(batches)

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors in every process with the main process's."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def autocast(self, precision: str) -> torch.autocast:
        """A context that computes in bfloat16 if that is the precision, and otherwise changes nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")

    def data_parallel(self, model: nn.Module, *, may_skip_parameters: bool = False) -> nn.Module:
        """The model, wrapped to average gradients over processes if there are several.

        Args:
            model: On this process's device.
            may_skip_parameters: Whether a forward pass may leave some parameters unused.
        """
        if self.world_size == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            find_unused_parameters=may_skip_parameters,
        )

    def shard(self, model: nn.Module, blocks: Iterable[nn.Module], *, bfloat16: bool) -> None:
        """Divides a model's weights, and so its gradients and optimizer state, among all processes (FSDP2).

        Args:
            model: On this process's device; its parameters become DTensors.
            blocks: Its layers, which are gathered one at a time.
            bfloat16: Whether to compute in bfloat16; gradients are summed in float32 either way.
        """
        assert self.world_size > 1
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bfloat16 else MixedPrecisionPolicy()
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)


@contextlib.contextmanager
def join_ranks(device: Device) -> Iterator[Ranks]:
    """Joins the processes that torchrun or Ray started (gloo on CPU, nccl on GPUs), or stands alone without them.

    Raises:
        TwistError: the device is cuda, but there is no GPU.
    """
    place = pick_device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if dist.is_initialized():  # by Ray Train, which also destroys the group
        yield Ranks(dist.get_rank(), dist.get_world_size(), place)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(device=place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), place)
        dist.barrier()
    finally:
        # gloo's threads release the tensors of past exchanges some time later, and need Python's lock (GIL) to do so.
        # Freeing the group with the lock held, as the end of DistributedDataParallel does, waits for these threads: a
        # deadlock. They get the lock while this thread sleeps.
        time.sleep(LETTING_GO_TAKES_S)
        dist.destroy_process_group()


def gradient_sync(model: nn.Module, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """A context in which processes exchange gradients only in the last backward pass of a step."""
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return contextlib.nullcontext()


class StopFlag(threading.Event):
    """Set when training should save and stop; `signum` is the signal that asked for it."""

    signum: int = signal.SIGTERM


@contextlib.contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """A flag that SIGTERM and Ctrl-C set, instead of ending the process; a second Ctrl-C ends it at once."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield flag
        return

    def stop(signum: int, _: FrameType | None) -> None:
        # torchrun passes on to each process the Ctrl-C that the terminal has sent to all.
        if flag.is_set() and signum == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            os._exit(128 + signum)
        if not flag.is_set():
            flag.signum = signum
        flag.set()

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
