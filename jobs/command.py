"""What all commands share: reading settings, one-sentence errors, exit statuses, and the summary line of a stage."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Protocol

from jobs.kept_recipe import kept_for_stage
from jobs.progress import progress
from jobs.recipe import read_recipe
from jobs.stopping import Stopped, end_children, stoppable
from jobs.submitted import refuse_relative_paths
from pipeline.errors import RunError, TwistError
from pipeline.printable import printable
from pipeline.runs import stage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jsonargparse import ArgumentParser, Namespace

    from jobs.recipe import Recipe
    from pipeline.progress import ReportProgress

USERS_MISTAKE, FAILURE = 2, 1


class Main(Protocol):
    """Runs a command with these arguments (by default this process's) and returns the exit status."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def command(
    name: str,
    description: str | None,
    work: Callable[[Recipe, Namespace], object],
    sections: Sequence[str] = (),
    add_arguments: Callable[[ArgumentParser], None] | None = None,
    needs_run: Callable[[Namespace], bool] = lambda _: True,
) -> Main:
    """Makes the `main` of a job.

    Args:
        name: What follows `twist`.
        description: What the command does, for --help.
        work: The command itself; takes the recipe and the command's own arguments.
        sections: The sections of a recipe that the command has options for.
        add_arguments: Adds the command's own arguments.
        needs_run: Whether, with these arguments, the command reads or writes the run's folder.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        arguments = sys.argv[1:] if argv is None else argv

        def read_and_work() -> None:
            recipe, given = read_recipe(name, description or "", sections, arguments, add_arguments, needs_run)
            refuse_relative_paths(recipe, given, sections)
            work(recipe, given)

        return guard(name, read_and_work)

    return main


def guard(command: str, work: Callable[[], None]) -> int:
    """Runs a command's work and returns its exit status; prints a user's mistake or an I/O failure as one sentence."""
    try:
        with stoppable():
            try:
                work()
            except KeyboardInterrupt:
                end_children()
                raise
            finally:
                sys.stdout.flush()
    except TwistError as mistake:
        print(printable(f"twist {command}: {mistake}"), file=sys.stderr)
        return USERS_MISTAKE
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
        return 0
    except (RunError, OSError) as failure:
        print(printable(f"twist {command}: {failure}; run the command again to go on from here"), file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt as interrupt:
        stop = interrupt if isinstance(interrupt, Stopped) else Stopped(signal.SIGINT)
        print(f"twist {command}: {stop.sentence}", file=sys.stderr)
        return stop.status
    return 0


def add_option(parser: ArgumentParser, name: str, **settings: Any) -> None:
    """Adds an option named like a-b, which may also be spelled --a_b."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
    parser.add_argument(*spellings, **settings)


def add_retry_dropped(parser: ArgumentParser) -> None:
    """Adds --retry-dropped."""
    add_option(
        parser,
        "retry-dropped",
        action="store_true",
        help="Take up again what was dropped because it was missing, forbidden, gave I/O errors, or was quarantined.",
    )


def quiet_transformers() -> None:
    """Turns off transformers' warnings, and its progress bars for every file that it reads or writes."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def run_stage(recipe: Recipe, name: str, work: Callable[[ReportProgress], None]) -> None:
    """Runs a stage with a progress bar, then prints what it kept and dropped, or that it was already finished.

    The recipe is kept in the run.
    """
    from pipeline import stage

    run = recipe.run

    finished_before = stage.read_facts(run, name)["finished_at"] if stage.is_finished(run, name) else None
    with kept_for_stage(recipe, name), progress(name) as report:
        work(report)
    facts = stage.read_facts(run, name)
    is_as_before = facts["finished_at"] == finished_before
    told = f"{'already finished: ' if is_as_before else ''}{summary(name, facts)}"
    for label, line in [(name, told), *(("", notice) for notice in notices(facts))]:
        print(printable(f"{label:<10} {line}"), flush=True)


def summary(name: str, facts: dict[str, Any]) -> str:
    """One line about a finished stage from its stage.json: hours and items kept, and dropped by reason."""
    if "imported_from" in facts:
        return f"taken from {facts['imported_from']}"
    counts = facts["counts"]
    if stage_of(name).counts == "documents":
        dropped = [f"{tally['items']:,} {reason}" for reason, tally in counts["dropped"].items()]
        line = f"kept {facts['num_tokens']:,} tokens in {counts['kept']['items']:,} documents"
        return f"{line}; dropped {', '.join(dropped) if dropped else 'nothing'}"
    line = f"kept {_hours(counts['kept']['hours'])} in {counts['kept']['items']:,} {stage_of(name).counts}"
    if "segments" in facts:
        line += f" ({facts['segments']:,} segments)"
    if (unproven := facts.get("kept_without_evidence")) and unproven["items"]:
        line += f", {unproven['items']:,} of them ({_hours(unproven['hours'])}) without evidence of their language"
    if (unsure := facts.get("kept_unsure")) and unsure["items"]:
        line += f", {unsure['items']:,} of them ({_hours(unsure['hours'])}) in a language that audio leaves unsure"
    dropped = [
        (f"{tally['items']:,} " if tally["items"] else "") + f"{reason} ({_hours(tally['hours'])})"
        for reason, tally in counts["dropped"].items()
    ]
    return f"{line}; dropped {', '.join(dropped) if dropped else 'nothing'}"


def notices(facts: dict[str, Any]) -> Iterator[str]:
    """A line about the splits, per corpus whose kind was found from its files, and per thing noticed and not used."""
    if splits := facts.get("splits"):
        yield from _shares(splits)
        if facts["split_by"] == "recording" and any(splits[name]["hours"] for name in ("validation", "test")):
            yield "warning: all are of one speaker, so recordings were split: validation and test know the voice"
    for name, kind in facts.get("recognized", {}).items():
        yield f"{name} is read as `{kind}`"
    for name, told in facts.get("notices", {}).items():
        for what, notice in told.items():
            yield f"noticed in {name}: {notice['count']:,} {what}, e.g. {notice['example']}"


def _shares(splits: dict[str, dict[str, float]]) -> Iterator[str]:
    """A line on the hours that were dealt out, and one on those in splits of the corpora's own, where there are any."""
    own = {name: split.get("own_hours", 0.0) for name, split in splits.items()}  # earlier versions do not tell
    if any(split["share"] for split in splits.values()):
        told = (f"{name} {split['share']:.1%} ({split['asked']:.1%} asked)" for name, split in splits.items())
        yield f"of the hours{' dealt out' if any(own.values()) else ''} {', '.join(told)}"
    if total := sum(own.values()):
        told = (f"{name} {hours / total:.1%}" for name, hours in own.items())
        yield f"of the hours in the corpora's own splits {', '.join(told)}"


def _hours(hours: float) -> str:
    return f"{hours:,.2f} h" if hours >= 1 else f"{hours * 60:.1f} min"
