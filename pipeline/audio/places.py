"""Reads audio with patience, and drops a file for what may be its place's fault only if its neighbours can be read.

A file that is missing, forbidden or gives an I/O error is read again. Each time other files of its corpus, the
witnesses, are tried too. If one of them can be read, before and after, the failure stands, and the file is dropped with
a reason that `--retry-dropped` takes up. If none can, the place is waited for, and at last the run ends. It ends, too,
where file after file gives I/O errors although others can be read: the disk is dying.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Protocol, TypeGuard, TypeVar

from pipeline.audio.errors import AudioError
from pipeline.errors import RunError
from pipeline.files import audio_uri, storage
from pipeline.files.places import DOUBTFUL_REASONS, PlaceError, reason_of
from pipeline.records import Dropped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

logger = logging.getLogger(__name__)

# How long a place that fails is waited for, and a file that fails among readable ones.
PLACE_PATIENCE_S = 120.0
FILE_PATIENCE_S = 10.0
LONGEST_PAUSE_S = 10.0
# Neighbours that are tried, of those just read and of the witnesses each.
MOST_TRIED = 8
# So many files in a row, of all that a stage reads, are the disk's fault.
MAX_IO_ERRORS_IN_A_ROW = 20

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _Failure(Protocol):
    reason: str
    detail: str


def read_patiently(
    read: Callable[[Sequence[Item]], list[Outcome]],
    items: Sequence[Item],
    uri_of: Callable[[Item], str],
    witnesses: Callable[[], Sequence[str]],
) -> list[Outcome]:
    """Reads items; those whose failure may be their place's are read again until it is known whose it is.

    Args:
        read: Gives the outcome of each item, in order; a failure is an AudioError or a Dropped.
        items: What to read.
        uri_of: The audio of an item.
        witnesses: Gives URIs of other files of the same corpus, if they are needed.

    Returns:
        The outcome of each item.

    Raises:
        ConnectionError: the place fails, and goes on failing.
    """
    began = time.monotonic()
    outcomes = _once_the_machine_can(lambda: read(items))
    place_was_fine = False
    for attempt in itertools.count():
        doubtful = [number for number, outcome in enumerate(outcomes) if _is_doubtful(outcome)]
        if not doubtful:
            return outcomes
        failed = {_file(uri_of(items[number])) for number in doubtful}
        first = outcomes[doubtful[0]]
        assert _is_doubtful(first)
        just_read = [uri_of(item) for item, outcome in zip(items, outcomes, strict=True) if not _is_failure(outcome)]
        failure = _failure_of_place(sorted(failed), [lambda: just_read, witnesses], first)  # noqa: B023
        waited_s = time.monotonic() - began
        if failure is None and place_was_fine:
            are_missing = all(getattr(outcomes[number], "reason", "") == "missing" for number in doubtful)
            if are_missing or waited_s > FILE_PATIENCE_S:
                return outcomes
        elif failure is not None and waited_s > PLACE_PATIENCE_S:
            raise PlaceError(f"{first.detail}; it is not this file alone: {failure}")
        if waited_s > FILE_PATIENCE_S:
            logger.warning("trying again after %.0f s: %s", waited_s, first.detail)
        place_was_fine = failure is None
        _pause(attempt)
        again = _once_the_machine_can(lambda: read([items[number] for number in doubtful]))  # noqa: B023
        for number, outcome in zip(doubtful, again, strict=True):
            outcomes[number] = outcome
    raise AssertionError("unreachable: the loop ends by returning or raising")


def read_file_patiently(read: Callable[[], Outcome], file: str, witnesses: Callable[[], Sequence[str]]) -> Outcome:
    """The same for something that is read of one file: what `read` returns.

    Raises:
        AudioError: the file cannot be read.
        ConnectionError: the place fails, and goes on failing.
    """

    def read_once(_: Sequence[str]) -> list[Outcome | AudioError]:
        try:
            return [read()]
        except OSError as error:
            return [AudioError(reason_of(error), str(error))]

    [outcome] = read_patiently(read_once, [file], str, witnesses)
    if isinstance(outcome, AudioError):
        raise outcome
    return outcome


class IoErrorsInARow:
    """Counts files that gave I/O errors since the last one that could be read."""

    def __init__(self) -> None:
        self._files: set[str] = set()

    def add(self, files: Iterable[str | None]) -> None:
        """Adds what `io_errors` gives.

        Raises:
            RunError: there are MAX_IO_ERRORS_IN_A_ROW.
        """
        for file in files:
            if file is None:
                self._files.clear()
                continue
            self._files.add(file)
            if len(self._files) >= MAX_IO_ERRORS_IN_A_ROW:
                raise RunError(
                    f"{len(self._files)} files in a row gave I/O errors, the last {file}: their disk seems to fail. "
                    f"Mend it, or take these files out of the corpus"
                )


def io_errors(uris: Iterable[str], outcomes: Iterable[object]) -> tuple[str | None, ...]:
    """The files that gave I/O errors, in the order in which they were read; None for any number read in between."""
    found: list[str | None] = []
    for uri, outcome in zip(uris, outcomes, strict=True):
        if not _is_failure(outcome) or outcome.reason not in DOUBTFUL_REASONS:
            found.append(None)
        elif outcome.reason == "io_error":
            found.append(_file(uri))
    return tuple(file for file, _ in itertools.groupby(found))


def _once_the_machine_can(do: Callable[[], list[Outcome]]) -> list[Outcome]:
    """Calls `do` again while the machine or a mount fails; a store's failure was waited for already."""
    began = time.monotonic()
    for attempt in itertools.count():
        try:
            return do()
        except OSError as failure:
            is_stores = isinstance(failure, ConnectionError) and not isinstance(failure, PlaceError)
            waited_s = time.monotonic() - began
            if is_stores:
                raise
            if waited_s > PLACE_PATIENCE_S:
                raise PlaceError(str(failure)) from failure
            logger.warning("trying again after %.0f s: %s", waited_s, failure)
            _pause(attempt)
    raise AssertionError("unreachable: the loop ends by returning or raising")


def _failure_of_place(
    failed: Sequence[str], groups: Sequence[Callable[[], Sequence[str]]], first: _Failure
) -> str | None:
    """Says how the neighbours of failed files fail too; None if one of them can be read, or there is none to ask.

    A group of neighbours is only asked for, which may take a listing, if none of the group before can be read.
    """
    tried: list[str] = []
    failure = None
    for group in groups:
        files = dict.fromkeys(map(_file, group()))
        near = [file for file in files if file not in (*failed, *tried) and _store(file) == _store(failed[0])]
        for file in _spread(near, MOST_TRIED):
            tried.append(file)
            try:
                _read_from_disk(file)
            except ConnectionError:
                raise
            except OSError as error:
                failure = f"nor can any of {len(tried)} others be read, such as {file} ({error})"
            else:
                return None
    if failure is not None:
        return failure
    if first.reason != "missing":
        return f"all {len(failed)} files here fail" if len(failed) > 1 else None
    folder = f"s3://{_store(failed[0])}" if storage.is_s3(failed[0]) else os.path.dirname(failed[0])  # noqa: PTH120
    try:
        return None if storage.has_files(folder) else f"{folder} does not exist or is empty"
    except ConnectionError:
        raise
    except OSError as error:
        return f"{folder} cannot be listed ({error})"


def _read_from_disk(file: str) -> None:
    """Reads the first byte of a file, not from the cache, which goes on answering for a disk that is gone."""
    if storage.is_s3(file):
        storage.read_range(file, 0, 1)
        return
    with storage.open_read(file) as opened:
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        opened.read(1)


def _spread(files: Sequence[str], count: int) -> Sequence[str]:
    return files[:: max(1, len(files) // count)][:count]


def _file(uri: str) -> str:
    part = audio_uri.parse(uri)
    return uri if part is None else part.file


def _store(file: str) -> str:
    """The bucket of an object; empty for a local file."""
    return file.removeprefix("s3://").partition("/")[0] if file.startswith("s3://") else ""


def _is_failure(outcome: object) -> TypeGuard[_Failure]:
    return isinstance(outcome, AudioError | Dropped)


def _is_doubtful(outcome: object) -> TypeGuard[_Failure]:
    return _is_failure(outcome) and outcome.reason in DOUBTFUL_REASONS


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0.5, 1) * min(LONGEST_PAUSE_S, 0.1 * 2**attempt))
