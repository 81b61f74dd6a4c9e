"""Where the recordings of segments lie, as the segments' table says, a batch after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.source import CorpusConfig
from pipeline.files import parquet, storage
from pipeline.runs import MANIFEST, SEGMENTS
from pipeline.segments.segment import SEGMENTS_FILE
from pipeline.stage import read_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COLUMNS = ["recording_id", "uri", "channel"]


class Recorded:
    """Addresses and channels of a run's recordings.

    Addresses are relative to the root of their corpus, so that shards do not depend on where the audio lies; those of
    audio outside it, which a manifest may name, are whole.

    Batches come in the order of chunks within a corpus, as the table's rows do: it is read on as they are asked for,
    and what lies behind is forgotten, so that millions of addresses are never in memory. Where another corpus comes
    next than in the table, it is read from its beginning once more.
    """

    def __init__(self, run: str) -> None:
        told = read_facts(run, MANIFEST)["config"]["corpora"]
        corpora = [CorpusConfig(root=one["root"], name=one["name"]) for one in told]
        self._roots = {corpus.label: f"{corpus.root.rstrip('/')}/" for corpus in corpora}
        self._uri = storage.join(run, SEGMENTS, SEGMENTS_FILE)
        self._tables = self._read()
        # The last one that was read: a recording of one batch may go on in the next.
        self._last = next(self._tables)

    def of(self, recording_ids: pa.ChunkedArray, corpora: Sequence[str]) -> dict[str, pa.Array]:
        """`uri` and `channel` of each of these recordings, which are of the next batch and of these corpora."""
        wanted = pc.unique(recording_ids)
        known = [self._of_these(wanted)]
        rounds = 0
        while len(wanted := wanted.filter(pc.invert(pc.is_in(wanted, known[-1]["recording_id"])))):
            following = next(self._tables, None)
            if following is None:
                rounds += 1
                assert rounds < 3, f"{self._uri} does not name {wanted[0]}"
                self._tables = self._read()
                continue
            self._last = following
            known.append(self._of_these(wanted))
        table = pa.concat_tables(known)
        found = table.take(pc.index_in(recording_ids, table["recording_id"]))
        uris = [
            uri.removeprefix(self._roots[corpus]) for uri, corpus in zip(found["uri"].to_pylist(), corpora, strict=True)
        ]
        return {"uri": pa.array(uris, pa.string()), "channel": found["channel"]}

    def _read(self) -> Iterator[pa.Table]:
        return parquet.iterate(self._uri, COLUMNS)

    def _of_these(self, wanted: pa.Array) -> pa.Table:
        """The rows of the last table that are about these recordings."""
        return self._last.filter(pc.is_in(self._last["recording_id"], wanted))
