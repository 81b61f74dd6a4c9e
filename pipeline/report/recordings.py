"""The recordings of a run by the hashes of their ids, to look up lengths and corpora of millions of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.corpora.manifest import iterate_tables
from pipeline.inspection.accounts import hashes_of

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Recordings:
    """The recordings of a manifest, 20 bytes each.

    Attributes:
        corpora: Names, in the order of the manifest.
        hashes: [n] of ids, rising.
        durations_s: [n] as the manifest states them.
        corpus: [n] index of `corpora`.
    """

    corpora: tuple[str, ...]
    hashes: NDArray[np.int64]
    durations_s: NDArray[np.float32]
    corpus: NDArray[np.int32]

    @classmethod
    def of(cls, run: str) -> Recordings:
        """Reads those of a finished manifest."""
        corpora: dict[str, int] = {}
        hashes, durations_s, corpus = [np.empty(0, np.int64)], [np.empty(0, np.float32)], [np.empty(0, np.int32)]
        for table in iterate_tables(run, ["recording_id", "corpus", "duration_s"]):
            hashes.append(hashes_of([table["recording_id"]]))
            durations_s.append(table["duration_s"].to_numpy().astype(np.float32))
            coded = table["corpus"].combine_chunks().dictionary_encode()
            numbers = [corpora.setdefault(name, len(corpora)) for name in coded.dictionary.to_pylist()]
            corpus.append(np.array(numbers, np.int32)[coded.indices.to_numpy()])
        every = np.concatenate(hashes)
        order = np.argsort(every)
        return cls(tuple(corpora), every[order], np.concatenate(durations_s)[order], np.concatenate(corpus)[order])

    def find(self, ids: pa.ChunkedArray) -> NDArray[np.int64]:
        """The place of each id [ids]; -1 where the manifest has none such."""
        hashes = hashes_of([ids])
        if not len(self.hashes):
            return np.full(len(hashes), -1)
        places = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        return np.where(self.hashes[places] == hashes, places, -1)
