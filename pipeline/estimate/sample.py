"""A sample of a run's recordings, dealt into small runs that the stages can go on from.

    RUN/manifest/<corpus>.parquet -> FOLDER/part-<number>/manifest/<corpus>.parquet

Each part is a random sample of its own, so that how much they differ tells how far to trust their sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.corpora.manifest import table_uris
from pipeline.files import parquet, storage
from pipeline.records import RECORDING_SCHEMA
from pipeline.runs import MANIFEST
from pipeline.stage import Stage, StageCounts, Tally, digest, fingerprint_of, read_facts

if TYPE_CHECKING:
    from numpy.typing import NDArray

# More than are needed are looked at, because recordings differ in length.
SPARE = 4.0
SPARE_RECORDINGS = 1_000


@dataclass(frozen=True)
class Part:
    """A small run with some of the sample.

    Attributes:
        run: Its folder.
        hours: Of its recordings.
        num_recordings: Their number.
    """

    run: str
    hours: float
    num_recordings: int


@dataclass(frozen=True)
class _Drawn:
    """Recordings by where they stand in the manifest, in the order in which they were drawn; all [n]."""

    table: NDArray[np.int64]
    row_group: NDArray[np.int64]
    row: NDArray[np.int64]
    duration_s: NDArray[np.float64]


def draw_parts(run: str, folder: str, *, sample_hours: float, num_parts: int, seed: int) -> list[Part]:
    """Draws whole recordings, each as likely as any other, and deals them into small runs.

    Args:
        run: A run whose manifest is finished.
        folder: Where the small runs go.
        sample_hours: Hours to draw; of long recordings there is at least one a part, however long.
        num_parts: Number of small runs; there are fewer where there are fewer recordings.
        seed: Determines what is drawn.

    Raises:
        StageError: the manifest is not finished.
    """
    uris = table_uris(run)
    drawn = _draw(run, uris, sample_hours, num_parts, seed)
    num_parts = min(num_parts, len(drawn.row))
    owner = np.arange(len(drawn.row)) % num_parts
    return [
        _write_part(run, storage.join(folder, f"part-{number}"), number, uris, drawn, np.flatnonzero(owner == number))
        for number in range(num_parts)
    ]


def _draw(run: str, uris: list[str], sample_hours: float, num_parts: int, seed: int) -> _Drawn:
    kept = read_facts(run, MANIFEST)["counts"]["kept"]
    share = SPARE * (sample_hours / max(kept["hours"], 1e-9) + SPARE_RECORDINGS / kept["items"])
    columns: list[NDArray[np.float64]] = []
    for number, uri in enumerate(uris):
        with parquet.RowGroups(uri, ["duration_s"]) as groups:
            for group, table in enumerate(groups):
                places = np.random.default_rng([seed, number, group]).random(len(table))
                rows = np.flatnonzero(places < share)
                durations = table["duration_s"].to_numpy()[rows]
                where = np.full((2, len(rows)), [[number], [group]], dtype=np.float64)
                columns.append(np.vstack([where, rows, durations, places[rows]]))
    table_number, group_number, row, duration_s, place = np.hstack(columns)
    order = np.argsort(place, kind="stable")
    hours = duration_s[order].cumsum() / 3600
    order = order[: max(num_parts, 1 + int(np.searchsorted(hours, sample_hours)))]
    return _Drawn(
        table_number[order].astype(np.int64),
        group_number[order].astype(np.int64),
        row[order].astype(np.int64),
        duration_s[order],
    )


def _write_part(run: str, part: str, number: int, uris: list[str], drawn: _Drawn, mine: NDArray[np.int64]) -> Part:
    hours = math.fsum(drawn.duration_s[mine].tolist()) / 3600
    facts = read_facts(run, MANIFEST)
    settings = {**facts["config"], "sample_of": fingerprint_of(run, MANIFEST), "part": number}
    stage = Stage(part, MANIFEST, settings, {})
    with stage.begin() as has_work:
        assert has_work
        contents = []
        for table_number, uri in enumerate(uris):
            # In the order of the manifest, as stages expect them.
            of_table = mine[drawn.table[mine] == table_number]
            if not len(of_table):
                continue
            of_table = of_table[np.lexsort((drawn.row[of_table], drawn.row_group[of_table]))]
            content = parquet.groups_to_bytes([_rows_of(uri, drawn, of_table)], RECORDING_SCHEMA)
            storage.write_bytes(storage.join(stage.uri, uri.rpartition("/")[2]), content)
            contents.append(content)
        tally = Tally(len(mine), hours)
        stage.finish(StageCounts.of(tally, tally, []), [], digest(*contents), kinds=facts["kinds"])
    return Part(part, hours, len(mine))


def _rows_of(uri: str, drawn: _Drawn, wanted: NDArray[np.int64]) -> pa.Table:
    tables = []
    with parquet.RowGroups(uri, RECORDING_SCHEMA.names) as groups:
        for group in np.unique(drawn.row_group[wanted]):
            rows = drawn.row[wanted[drawn.row_group[wanted] == group]]
            tables.append(groups.read(int(group)).take(pa.array(rows)).select(RECORDING_SCHEMA.names))
    return pa.concat_tables(tables)
