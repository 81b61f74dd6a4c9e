"""The shards that an export reads, a sample in memory at a time."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import shards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.progress import ReportProgress
    from pipeline.shards import Dataset, Sample


@dataclass(frozen=True)
class Source:
    """Finished shards, and where to tell how many of their samples were read."""

    dataset: Dataset
    report: ReportProgress

    @property
    def splits(self) -> dict[str, list[str]]:
        """The tars of each split, in order."""
        tars: dict[str, list[str]] = {}
        for shard in self.dataset.info["shards"]:
            tars.setdefault(shard["path"].partition("/")[0], []).append(shard["path"])
        return tars

    def samples(self, tars: list[str]) -> Iterator[Sample]:
        """The samples of some tars.

        Raises:
            DatasetError: a tar is missing or damaged.
        """
        for tar in tars:
            yield from shards.read_shard(self.dataset.uri, tar)
            self.report(self._read_after[tar], self._num_samples, "samples", tar)

    @functools.cached_property
    def _read_after(self) -> dict[str, int]:
        """Samples that are read once each tar is, as splits are written one after the other."""
        sizes = {shard["path"]: shard["num_samples"] for shard in self.dataset.info["shards"]}
        order = [tar for tars in self.splits.values() for tar in tars]
        return dict(zip(order, itertools.accumulate(sizes[tar] for tar in order), strict=True))

    @property
    def _num_samples(self) -> int:
        return sum(shard["num_samples"] for shard in self.dataset.info["shards"])
