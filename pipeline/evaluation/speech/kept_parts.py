"""What models say of many things, made once and kept: an interruption costs what was under way.

<folder>/part-<number of the first thing>.parquet    a row a thing
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from pipeline.files import parquet, storage
from pipeline.runs import part_file
from pipeline.work import cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipeline.progress import ReportProgress
    from pipeline.work.cluster import ClusterConfig

Some = TypeVar("Some")


def kept_parts(
    folder: str,
    num_things: int,
    things_per_part: int,
    take: Callable[[slice], Some],
    judge: Callable[[Some], pa.Table],
    config: ClusterConfig,
    report: ReportProgress,
    what: str,
) -> list[pa.Table]:
    """The parts in `folder`, in order; those that are not there are made now, by actors on Ray.

    Args:
        folder: Of these things, this model and these settings alone.
        num_things: How many there are.
        things_per_part: How many make a part.
        take: Gives some of them; called here, for what is not kept.
        judge: Makes the part of these; called by actors, which load its model once.
        config: How much of the cluster to use.
        report: Takes the number of things that are done.
        what: What they are called in reports.

    Raises:
        TwistError: a model cannot be loaded.
        RunError: actors die, or `judge` fails.
    """

    def on_ray(slices: Iterable[slice]) -> Iterable[pa.Table]:
        return cluster.map_actors(judge, (take(one) for one in slices), config)

    return _kept(folder, num_things, things_per_part, on_ray, report, what)


def parts_made_here(
    folder: str,
    num_things: int,
    things_per_part: int,
    make: Callable[[slice], pa.Table],
    report: ReportProgress,
    what: str,
) -> list[pa.Table]:
    """As `kept_parts`, but of the model of this process: `make` makes the part of some things."""
    return _kept(folder, num_things, things_per_part, lambda slices: map(make, slices), report, what)


def _kept(
    folder: str,
    num_things: int,
    things_per_part: int,
    make_parts: Callable[[Iterable[slice]], Iterable[pa.Table]],
    report: ReportProgress,
    what: str,
) -> list[pa.Table]:
    slices = [slice(start, min(start + things_per_part, num_things)) for start in range(0, num_things, things_per_part)]
    uris = [storage.join(folder, part_file(f"{one.start:08d}")) for one in slices]
    there = set(storage.list_files(folder))
    missing = [place for place, one in enumerate(slices) if part_file(f"{one.start:08d}") not in there]
    num_done = num_things - sum(slices[place].stop - slices[place].start for place in missing)
    for place, part in zip(missing, make_parts(slices[place] for place in missing), strict=True):
        parquet.write(uris[place], part)
        num_done += slices[place].stop - slices[place].start
        report(num_done, num_things, what)
    return [parquet.read(uri) for uri in uris]
