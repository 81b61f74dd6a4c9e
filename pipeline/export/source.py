"""The shards that an export reads, a tar in memory at a time."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.progress import ReportProgress
    from pipeline.shards import Dataset, Sample

# What dataset.json says of a tar.
Shard = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Finished shards, and where to tell how many of their samples were read."""

    dataset: Dataset
    report: ReportProgress

    @functools.cached_property
    def splits(self) -> dict[str, list[Shard]]:
        """The tars of each split, in order, as dataset.json describes them."""
        tars: dict[str, list[Shard]] = {}
        for shard in self.dataset.info["shards"]:
            tars.setdefault(shard["path"].partition("/")[0], []).append(shard)
        return tars

    def samples(self, tars: Sequence[Shard]) -> Iterator[Sample]:
        """The samples of some tars.

        Raises:
            DatasetError: a tar is missing or damaged.
        """
        for tar in tars:
            yield from shards.read_shard(self.dataset.uri, tar)
            self.report(self._read_after[tar["path"]], sum(self.num_samples.values()), "samples", tar["path"])

    @functools.cached_property
    def num_samples(self) -> dict[str, int]:
        """By split."""
        return {split: sum(tar["num_samples"] for tar in tars) for split, tars in self.splits.items()}

    @functools.cached_property
    def _read_after(self) -> dict[str, int]:
        """Samples that are read once each tar is, as splits are written one after the other."""
        order = [tar for tars in self.splits.values() for tar in tars]
        ends = itertools.accumulate(tar["num_samples"] for tar in order)
        return {tar["path"]: end for tar, end in zip(order, ends, strict=True)}
