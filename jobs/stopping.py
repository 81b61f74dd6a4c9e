"""How a command ends on SIGTERM and Ctrl-C: in order, with a line that says how to go on, and status 128 + the signal.

The first signal raises `Stopped` in the main thread (while the command is only being loaded, it ends at once); a second
Ctrl-C ends the process without further ado. Trainings, which save a checkpoint first, have handlers of their own in
`model/training/distributed.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PR_SET_CHILD_SUBREAPER = 36
ENDING_TAKES_AT_MOST_S = 5.0
NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end.

    Args:
        signum: The signal.
        kept: What the command has saved, as a clause for the message.
    """

    def __init__(self, signum: int, kept: str = "what is finished is kept") -> None:
        super().__init__(signum, kept)
        self.status = 128 + signum
        name = NAMES[signal.Signals(signum)]
        self.sentence = f"stopped by {name}; {kept}; run the command again to go on from here"


def end_at_once_while_loading() -> None:
    """Lets a signal end the process with a line and no traceback, before `stoppable` begins and after it has ended."""
    for signum in SIGNALS:
        signal.signal(signum, _end_at_once)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raises `Stopped` in a `with` block on the first signal; puts the handlers from before back at its end."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return
    first: int | None = None

    def stop(signum: int, _: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = signum
            raise Stopped(signum)
        if signum == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun passes on what all have got
            os._exit(128 + signum)

    before = {signum: signal.signal(signum, stop) for signum in SIGNALS}
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if first is not None and not isinstance(interrupt, Stopped):  # Ray raises one of its own in place of ours
            raise Stopped(first) from None
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def end_children() -> None:
    """Ends the processes of a Ray cluster that this command has started; leaves a cluster that it joined."""
    ray = sys.modules.get("ray")
    if ray is None:
        return
    import psutil  # type: ignore[import-untyped]  # Ray brings it

    with contextlib.suppress(AttributeError, OSError):  # only Linux has it
        # A process that the dying ones still start, or leave, becomes a child of this one.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    own = psutil.Process()
    started = own.children(recursive=True)
    with contextlib.suppress(Exception):
        ray.shutdown()
    give_up_at = time.monotonic() + ENDING_TAKES_AT_MOST_S
    while started and time.monotonic() < give_up_at:
        for child in started:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(started, timeout=1.0)
        started = own.children(recursive=True)


def _end_at_once(signum: int, _: FrameType | None) -> NoReturn:
    os.write(2, f"twist: stopped by {NAMES[signal.Signals(signum)]}; run the command again to go on\n".encode())
    os._exit(128 + signum)
