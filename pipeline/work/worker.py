"""A worker's part: decoding a chunk (in a task), and processing and committing it (in an actor)."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from pipeline.audio.places import io_errors, read_patiently
from pipeline.audio.read import AudioError, Clip, read_clips
from pipeline.errors import RunError, TwistError
from pipeline.files import parquet, storage
from pipeline.runs import part_file

if TYPE_CHECKING:
    from pipeline.work.plan import Chunk


class Processor(Protocol):
    """Turns a chunk's decoded spans (a clip or an error for each) into its part; made once per actor.

    The part needs a column `drop_reason`, null for kept items.
    """

    def __call__(self, chunk: Chunk, clips: Sequence[Clip | AudioError]) -> pa.Table: ...


def part_uri(parts: str, name: str) -> str:
    """The URI of a chunk's part file."""
    return storage.join(parts, part_file(name))


@dataclass(frozen=True)
class Result:
    """The result of one step of work on a chunk; it succeeded if `mistake`, `failure` and `error` are None."""

    mistake: str | None = None  # the user's mistake: ends the run
    failure: str | None = None  # failure of a disk or store: ends the run
    error: str | None = None  # counts against the chunk
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    dropped: dict[str, int] = field(default_factory=dict)  # items by reason
    io_errors: tuple[str | None, ...] = ()  # of decoding; audio/places.py


def decode(chunk: Chunk, time_limit_s: float, witnesses: Sequence[str] = ()) -> tuple[Result, list[Clip | AudioError]]:
    """Decodes a chunk: for each span, in order, its clip or its error.

    `witnesses` are URIs of other audio of its corpus, to tell a failing place from a failing file.
    """
    began = time.perf_counter()
    try:
        with _time_limit(time_limit_s):
            clips = read_patiently(
                lambda spans: list(read_clips(spans)), chunk.spans, lambda span: span.uri, lambda: witnesses
            )
            failed = io_errors((span.uri for span in chunk.spans), clips)
            return Result(seconds={"decode": time.perf_counter() - began}, io_errors=failed), clips
    except ConnectionError as failure:
        # Not the chunk's fault: if the store cannot be reached, the next chunk would fail as well.
        return Result(failure=f"cannot read {chunk.spans[0].uri}: {failure}"), []
    except Exception as failure:
        return Result(error=_describe(failure)), []


class ProcessAndCommit:
    """The actor; it also commits its parts, so that they are not sent to the driver."""

    def __init__(
        self, parts: str, processor: type[Processor], processor_args: dict[str, Any], time_limit_s: float
    ) -> None:
        self._parts = parts
        self._make_processor = functools.partial(processor, **processor_args)
        self._time_limit_s = time_limit_s

    def prepare(self) -> tuple[str, Result]:
        """Makes the processor; returns the id of this actor's node, and why that failed if it did."""
        import ray

        result = Result()
        try:
            self._process: Processor = self._make_processor()
        except (RunError, OSError) as failure:
            result = Result(failure=f"a worker cannot start: {failure}")
        except Exception as failure:
            told = str(failure) if isinstance(failure, TwistError) else f"a worker cannot start: {_describe(failure)}"
            result = Result(mistake=told)
        return ray.get_runtime_context().get_node_id(), result

    def process(self, chunk: Chunk, clips: list[Clip | AudioError]) -> Result:
        """Makes and commits one part."""
        uri = part_uri(self._parts, chunk.name)
        began = time.perf_counter()
        try:
            with _time_limit(self._time_limit_s):
                table = self._process(chunk, clips)
                part = parquet.to_bytes(table)
        except TwistError as mistake:
            return Result(mistake=str(mistake))
        except Exception as failure:
            return Result(error=_describe(failure))
        encoded = time.perf_counter()
        try:
            storage.put_if_absent(uri, part)
        except Exception as failure:
            # Not the chunk's fault either: the disk may be full.
            return Result(failure=f"cannot write {uri}: {failure}")
        seconds = {"encode": encoded - began, "commit": time.perf_counter() - encoded}
        return Result(seconds=seconds, dropped=Counter(table["drop_reason"].drop_null().to_pylist()))


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Kills this worker process if a block takes too long; nothing gentler stops a C library that hangs."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _describe(failure: Exception) -> str:
    frames = traceback.extract_tb(failure.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(failure).__name__}: {first_line(failure)}{place}"


def first_line(error: Exception) -> str:
    error = getattr(error, "cause", None) or error  # the error inside Ray's wrapper says more than the wrapper
    return (str(error).strip() or type(error).__name__).splitlines()[0]
