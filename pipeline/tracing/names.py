"""What a user may call a recording, a segment or a sample, and which rows of a run that names."""

from __future__ import annotations

import bisect
import difflib
import itertools
import re
from dataclasses import dataclass

import pyarrow.compute as pc

from pipeline import shards
from pipeline.corpora.manifest import table_uris
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.files.find_rows import find_rows
from pipeline.runs import MANIFEST, SHARDS
from pipeline.stage import DROPPED, is_finished

NUM_SUGGESTIONS = 5
NEIGHBOURS = 3
MAX_LIKE = 50
_SAMPLE_KEY = re.compile(rf"[\w-]*-?[0-9a-f]{{{shards.ID_HASH_DIGITS}}}", re.ASCII)


@dataclass(frozen=True)
class Named:
    """What a name stands for: a recording, and some of its segments; all of them if `segment_ids` is empty."""

    recording_id: str
    segment_ids: tuple[str, ...] = ()


def find_named(run: str, name: str) -> Named:
    """Finds what `name` stands for: the id of a recording or segment, the key of a sample, or a file of audio.

    Raises:
        TwistError: the run has nothing of that name, or a file holds several recordings.
    """
    if _is_recording(run, name):
        return Named(name)
    recording_id, mark, _ = name.rpartition("#")
    if mark and _is_recording(run, recording_id):
        return Named(recording_id, _segments_of_sample(run, name))
    if _SAMPLE_KEY.fullmatch(name) and is_finished(run, SHARDS):
        rows = find_rows(storage.join(run, SHARDS, shards.MANIFEST), "key", [name], is_unique=True)
        if len(rows):
            segment_id = rows["segment_id"][0].as_py()
            return Named(segment_id.rpartition("#")[0], _segments_of_sample(run, segment_id))
    of_file = [
        id
        for uri in table_uris(run)
        for id in find_rows(uri, "uri", [storage.absolute(name)])["recording_id"].to_pylist()
    ]
    if len(of_file) > 1:
        raise TwistError(f"{name} holds {len(of_file)} recordings; name one of them: {', '.join(of_file)}")
    if of_file:
        return Named(of_file[0])
    nearest = _nearest(run, name)
    meant = f"; the nearest names are {', '.join(nearest)}" if nearest else ""
    raise TwistError(f"{run} has no recording, segment, sample or file {name}{meant}")


def _is_recording(run: str, name: str) -> bool:
    drops = storage.join(run, MANIFEST, DROPPED)
    return any(
        len(find_rows(uri, column, [name]))
        for uri, column in [*((uri, "recording_id") for uri in table_uris(run)), (drops, "id")]
    )


def _segments_of_sample(run: str, id: str) -> tuple[str, ...]:
    """The segments of a sample that has several; else `id`, which is a segment's own."""
    groups = storage.join(run, SHARDS, shards.GROUPS)
    if not storage.exists(groups):
        return (id,)
    return tuple(find_rows(groups, "sample", [id])["segment"].to_pylist()) or (id,)


def _nearest(run: str, name: str) -> list[str]:
    """Recordings with names like `name`: of each row group those beside it in order, and some that have its stem."""
    stem = name.rpartition("#")[0] or name
    stem = stem.rpartition("/")[2].partition(".")[0]
    candidates: set[str] = set()
    tables = (parquet.iterate(uri, ["recording_id"], in_ranges=True) for uri in table_uris(run))
    for table in itertools.chain.from_iterable(tables):
        ids = sorted(table["recording_id"].to_pylist())
        place = bisect.bisect(ids, name)
        candidates.update(ids[max(0, place - NEIGHBOURS) : place + NEIGHBOURS])
        alike = table["recording_id"].filter(pc.match_substring(table["recording_id"], stem, ignore_case=True))
        candidates.update(alike.slice(0, MAX_LIKE).to_pylist() if stem else [])
    return difflib.get_close_matches(name, sorted(candidates), NUM_SUGGESTIONS, cutoff=0.3)
