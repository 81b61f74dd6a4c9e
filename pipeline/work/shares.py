"""Files that all processes of a training read, and of which each makes a share."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

POLL_S = 2.0


def rank_and_world_size() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun says; 0 and 1 without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process is the one of its training that speaks: the only one, or torchrun's first."""
    return rank_and_world_size()[0] == 0


def num_local_processes() -> int:
    """How many processes of this training share this machine, as torchrun says; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def make_missing(
    uris: Sequence[str],
    make: Callable[[Sequence[int]], Iterable[tuple[int, bytes]]],
    report: Callable[[int, int], None],
    rank: int,
    world_size: int,
) -> None:
    """Makes this process's share of the files that are not there yet, and waits for the shares of the others.

    Args:
        uris: All files, local or s3://, the same in each process.
        make: Given places in `uris`, yields each with the file's content.
        report: Called with the number of files that this process has made, and will have made.
        rank: Of this process, from 0.
        world_size: Number of processes.
    """
    missing = [place for place, uri in enumerate(uris) if not storage.exists(uri)]
    ours = [place for place in missing if place % world_size == rank]
    for done, (place, content) in enumerate(make(ours), start=1):
        storage.put_if_absent(uris[place], content)
        report(done, len(ours))
    # Not by a barrier: its patience is minutes, and who waits here may wait for hours. If a process fails, torchrun
    # ends the others.
    for place in missing:
        while not storage.exists(uris[place]):
            time.sleep(POLL_S)
