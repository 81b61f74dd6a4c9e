"""What all commands share: both spellings of an option, exit statuses, errors in one sentence, progress, and the line
that sums up a stage."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pipeline import stage
from pipeline.errors import RunError, TwistError
from pipeline.runs import stage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jsonargparse import ArgumentParser

    from pipeline.progress import ReportProgress

USERS_MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130
LOG_LINE_EVERY_S = 30.0


def add_option(parser: ArgumentParser, name: str, **settings: Any) -> None:
    """Adds --a-b, also as --a_b."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
    parser.add_argument(*spellings, **settings)


def quiet_transformers() -> None:
    """Keeps transformers from drawing bars of its own for every file that it reads or writes."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def guard(command: str, work: Callable[[], None]) -> int:
    """Runs a command's work and gives its exit status; a mistake, or a disk that fails, is told in one sentence."""
    try:
        work()
    except TwistError as mistake:
        print(f"twist {command}: {mistake}", file=sys.stderr)
        return USERS_MISTAKE
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for what Python still flushes as it ends
        return 0
    except (RunError, OSError) as failure:
        print(f"twist {command}: {failure}; run the command again to go on from here", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print(f"twist {command}: interrupted; run the command again to go on from here", file=sys.stderr)
        return INTERRUPTED
    return 0


@contextlib.contextmanager
def progress(name: str) -> Iterator[ReportProgress]:
    """A bar on a terminal; elsewhere a line every half minute."""
    if sys.stderr.isatty():
        with tqdm(desc=f"{name:<10}", dynamic_ncols=True, leave=False) as bar:

            def draw(done: int, total: int, noun: str, detail: str = "") -> None:
                bar.total, bar.unit = total, f" {noun}"
                bar.set_postfix_str(detail, refresh=False)
                bar.update(done - bar.n)

            yield draw
        return
    started_at = last_line_at = time.monotonic()
    done_before: int | None = None

    def log(done: int, total: int, noun: str, detail: str = "") -> None:
        nonlocal last_line_at, done_before
        if done_before is None:
            done_before = done - 1  # by commands before this one
        now = time.monotonic()
        if now - last_line_at >= LOG_LINE_EVERY_S:
            last_line_at = now
            left_s = (now - started_at) / max(done - done_before, 1) * (total - done)
            remark = f", {detail}" if detail else ""
            print(
                f"{name:<10} {done} of {total} {noun}, about {left_s:.0f} s left{remark}", file=sys.stderr, flush=True
            )

    yield log


def run_stage(run: str, name: str, work: Callable[[ReportProgress], None]) -> None:
    """Does one stage's work under a progress bar and prints a line on what it kept and dropped."""
    finished_before = stage.read_facts(run, name)["finished_at"] if stage.is_finished(run, name) else None
    with progress(name) as report:
        work(report)
    is_as_before = stage.read_facts(run, name)["finished_at"] == finished_before
    print(f"{name:<10} {'already finished: ' if is_as_before else ''}{summary(run, name)}", flush=True)


def summary(run: str, name: str) -> str:
    """One line on a finished stage: hours and items kept, and dropped by reason."""
    facts = stage.read_facts(run, name)
    if "imported_from" in facts:
        return f"taken from {facts['imported_from']}"
    counts = facts["counts"]
    line = f"kept {_hours(counts['kept']['hours'])} in {counts['kept']['items']:,} {stage_of(name).counts}"
    if "segments" in facts:
        line += f" ({facts['segments']:,} segments)"
    dropped = [
        (f"{tally['items']:,} " if tally["items"] else "") + f"{reason} ({_hours(tally['hours'])})"
        for reason, tally in counts["dropped"].items()
    ]
    return f"{line}; dropped {', '.join(dropped) if dropped else 'nothing'}"


def _hours(hours: float) -> str:
    return f"{hours:,.2f} h" if hours >= 1 else f"{hours * 60:.1f} min"
