"""Writes checkpoints while training continues: each process writes its part, and the main process commits the whole."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError

from model.training.checkpoint_parts import commit, give_up, put_placeholder, read_part_checksums, write_part
from model.training.checkpoint_steps import prune, step_folder
from pipeline.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor

    from model.training.sole_trainer import Lease

LOOK_EVERY_S = 0.1


class CheckpointWriter:
    """The writer of one process; it writes one checkpoint at a time.

    `save` is given copies, which only the writing thread uses. Processes learn from files that the others are done: a
    collective here could get in between the collectives of training.

    Args:
        folder: The folder of the run's checkpoints.
        rank: This process.
        world_size: Number of processes, all of which must save the same steps.
        in_background: Whether `save` returns before the checkpoint is written.
        lease: Of a folder on S3, in the main process; a checkpoint is completed only while it is held.
    """

    def __init__(
        self, folder: str, rank: int, world_size: int, *, in_background: bool, lease: Lease | None = None
    ) -> None:
        self._folder = folder
        self._rank = rank
        self._world_size = world_size
        self._in_background = in_background
        self._lease = lease
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._is_given_up = threading.Event()
        self._made: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None:
            self._is_given_up.set()  # the other processes may never write their parts
            if self._thread is not None:
                self._thread.join()
        else:
            self.wait()

    def save(
        self,
        step: int,
        optimizer_piece: Mapping[str, Tensor],
        save_model: Callable[[Path], None] | None,
        trainer_state: Mapping[str, Any] | None,
        *,
        keep_last: int,
        best_step: int | None,
    ) -> None:
        """Starts a checkpoint once the previous one is written; see `write_part` and `prune`.

        Raises:
            RunError: the previous checkpoint could not be written (or this one, unless in the background).
            TwistError: another training has taken the folder over meanwhile.
        """
        self.wait()

        def work() -> None:
            try:
                placeholder = self._begin(step) if self._rank == 0 else None
                write_part(self._folder, step, self._rank, self._world_size, optimizer_piece, save_model, trainer_state)
                if self._rank == 0 and self._commit(step, placeholder):
                    prune(self._folder, keep_last, best_step)
            except (OSError, SafetensorError) as error:  # a full disk, for one
                give_up(self._folder, step)
                place = step_folder(self._folder, step)
                self._failure = RunError(f"cannot write the checkpoint {place}: {error}; mend that and train on")
                self._failure.__cause__ = error
            except BaseException as failure:
                self._failure = failure

        if self._in_background:
            self._thread = threading.Thread(target=work, name=f"checkpoint-{step}")
            self._thread.start()
        else:
            work()
            self.wait()

    def wait(self) -> None:
        """Waits until the current checkpoint, if any, is written.

        Raises:
            RunError: it could not be written.
            TwistError: another training has taken the folder over meanwhile.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def made(self) -> list[int]:
        """The steps whose checkpoints were completed since the last call."""
        made, self._made = self._made, []
        return made

    def _begin(self, step: int) -> str | None:
        placeholder = put_placeholder(self._folder, step)
        if self._lease is not None:
            self._lease.confirm()  # after the placeholder is put, so that whoever takes the lease over finds it
        return placeholder

    def _commit(self, step: int, placeholder: str | None) -> bool:
        parts: list[dict[str, str] | None] = [None] * self._world_size
        while None in parts:
            parts = [part or read_part_checksums(self._folder, step, rank) for rank, part in enumerate(parts)]
            if None in parts and self._is_given_up.wait(LOOK_EVERY_S):
                return False
            if self._lease is not None and self._lease.is_lost:
                self._lease.confirm()  # else parts that another training has removed would be waited for
        if self._lease is not None:
            self._lease.confirm()
        commit(self._folder, step, parts, placeholder)
        self._made.append(step)
        return True
