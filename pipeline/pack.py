"""Packs units into training shards: duplicates out, split by speaker, shuffled, in tars of even size.

    RUN/units/, RUN/segments/, RUN/manifest/ -> RUN/shards/ (see shards.py)

A sample's place depends on the seed and the ids of the samples alone.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import codebook, duplicates, shards, storage
from pipeline.codebook_fit import STAGE as CODEBOOK
from pipeline.errors import TwistError
from pipeline.language import normalize_code, read_decisions
from pipeline.manifest import STAGE as MANIFEST
from pipeline.manifest import read_recordings
from pipeline.records import SPLITS, Dropped, Recording
from pipeline.shards import Sample
from pipeline.split import SplitConfig, assign_splits
from pipeline.stage import Stage, StageCounts, Tally, fingerprint_of
from pipeline.tokenize import STAGE as UNITS
from pipeline.tokenize import read_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from pipeline.progress import ReportProgress

STAGE = "shards"


@dataclass(frozen=True)
class PackConfig:
    """How units become shards.

    Args:
        split: How samples are parted into train, validation and test.
        units_per_shard: Units that a shard holds at most, on average; 10 million are about 40 MB.
        min_shards: Fewest shards of the training split, so that every reader has one (never more than samples).
        drop_duplicates: Whether segments with exactly the units and durations of another are dropped.
        seed: Seed of the shuffle.
    """

    split: SplitConfig = field(default_factory=SplitConfig)
    units_per_shard: int = 10_000_000
    min_shards: int = 1
    drop_duplicates: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.units_per_shard < 1 or self.min_shards < 1:
            raise TwistError("pack.units_per_shard and pack.min_shards must be positive")


def pack(run: str, config: PackConfig, report: ReportProgress) -> None:
    """Writes the shards of a run.

    Raises:
        TwistError: the training split is empty, or a part of the units is damaged.
    """
    inputs = {name: fingerprint_of(run, name) for name in (MANIFEST, UNITS)}
    stage = Stage(run, STAGE, asdict(config), inputs)
    with stage.begin() as has_work:
        if not has_work:
            return
        samples, dropped, total = _read_samples(stage, config)
        by_split: dict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            by_split[sample.split].append(sample)
        if not by_split["train"]:
            counts = ", ".join(f"{len(by_split[split])} {split}" for split in SPLITS)
            raise TwistError(
                f"no sample is left to train on ({counts}): the corpora put every speaker into another split. Set "
                f"pack.split.corpus_splits to ignore, or add a corpus to train on"
            )
        _write(stage, by_split, dropped, total, config, report)


def _read_samples(stage: Stage, config: PackConfig) -> tuple[list[Sample], list[Dropped], Tally]:
    recordings = {recording.recording_id: recording for recording in read_recordings(stage.run)}
    languages = {id: decision.language for id, decision in read_decisions(stage.run).items()}
    rows = [row for table in read_parts(stage.run) for row in _kept_rows(table)]
    rows.sort(key=lambda row: str(row["segment_id"]))  # which twin stays must not depend on the plan of work units
    total = Tally(len(rows), sum(row["end_s"] - row["start_s"] for row in rows) / 3600)
    twins = {}
    if config.drop_duplicates:
        twins = duplicates.find_exact((row["segment_id"], row["units"], row["durations"]) for row in rows)
    splits = _split_recordings({row["recording_id"] for row in rows}, recordings, config.split)
    samples, dropped = [], []
    for row in rows:
        recording = recordings[row["recording_id"]]
        if row["segment_id"] in twins:
            detail = f"same units as {twins[row['segment_id']]}"
            duration_s = row["end_s"] - row["start_s"]
            dropped.append(Dropped(row["segment_id"], recording.corpus, "duplicate", detail, duration_s))
        else:
            language = languages[recording.recording_id] or recording.language
            split = splits[recording.recording_id]
            samples.append(_sample(row, recording, language and normalize_code(language), split))
    return samples, dropped, total


def _kept_rows(table: pa.Table) -> list[dict[str, Any]]:
    columns = {name: table[name].to_pylist() for name in ("segment_id", "recording_id", "start_s", "end_s")}
    units, durations = (table[name].combine_chunks() for name in ("units", "durations"))
    return [
        {name: values[i] for name, values in columns.items()}
        | {"units": units[i].values.to_numpy(), "durations": durations[i].values.to_numpy()}
        for i in range(len(table))
        if units[i].is_valid
    ]


def _split_recordings(ids: set[str], recordings: dict[str, Recording], config: SplitConfig) -> dict[str, str]:
    """The split of each recording; all recordings of a speaker share one."""
    groups: dict[str, str | None] = {}
    for id in sorted(ids):
        group = recordings[id].speaker or id
        own = recordings[id].split
        # A speaker whom a corpus puts into several splits is kept out of training.
        known = groups.get(group)
        groups[group] = max((known, own), key=lambda split: SPLITS.index(split) if split else -1)
    splits = assign_splits(groups, config)
    return {id: splits[recordings[id].speaker or id] for id in ids}


def _sample(row: dict[str, Any], recording: Recording, language: str | None, split: str) -> Sample:
    return Sample(
        key=shards.make_key(row["segment_id"]),
        segment_id=row["segment_id"],
        corpus=recording.corpus,
        speaker=recording.speaker,
        language=language,
        split=split,
        start_s=row["start_s"],
        end_s=row["end_s"],
        units=row["units"],
        durations=row["durations"],
    )


def _write(
    stage: Stage,
    by_split: dict[str, list[Sample]],
    dropped: list[Dropped],
    total: Tally,
    config: PackConfig,
    report: ReportProgress,
) -> None:
    plan: list[tuple[str, list[Sample]]] = []
    for split in SPLITS:
        if by_split[split]:
            minimum = config.min_shards if split == "train" else 1
            groups = _even_groups(_shuffled(by_split[split], config.seed), config.units_per_shard, minimum)
            plan += [(f"{split}/{split}-{number:06d}.tar", group) for number, group in enumerate(groups)]
    descriptions, rows = [], []
    for number, (name, samples) in enumerate(plan, start=1):
        description, shard_rows = shards.write_shard(stage.uri, name, samples)
        descriptions.append(description)
        rows += shard_rows
        report(number, len(plan), "shards")
    book = codebook.load(storage.join(stage.run, CODEBOOK))
    kept = [sample for samples in by_split.values() for sample in samples]
    info = {
        "num_units": book.num_units,
        "frame_rate_hz": book.facts["encoder"]["frame_rate_hz"],
        "encoder": book.facts["encoder"],
        "codebook": {key: value for key, value in book.facts.items() if key != "encoder"},
        "totals": _totals(kept),
        "languages": _languages(kept),
        "shards": descriptions,
    }
    dataset = shards.write_index(stage.uri, info, rows)
    kept_tally = Tally(len(kept), sum(sample.end_s - sample.start_s for sample in kept) / 3600)
    stage.finish(StageCounts.of(total, kept_tally, dropped), dropped, dataset.fingerprint)


def _shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    def place(sample: Sample) -> bytes:
        return hashlib.blake2b(f"{seed}:{sample.segment_id}".encode(), digest_size=16).digest()

    return sorted(samples, key=place)


def _even_groups(samples: Sequence[Sample], units_per_shard: int, minimum: int) -> list[list[Sample]]:
    """Neighbours in groups of nearly equal numbers of units, none of them empty."""
    sizes = np.array([len(sample.units) for sample in samples])
    count = min(len(samples), max(minimum, math.ceil(sizes.sum() / units_per_shard)))
    numbers = np.arange(count)
    middles = np.cumsum(sizes) - sizes / 2
    starts = np.searchsorted(middles, numbers * sizes.sum() / count)
    # Where a sample is larger than a group, its neighbours still get one of their own.
    starts = np.maximum.accumulate(starts - numbers) + numbers
    starts = np.minimum(starts, len(samples) - count + numbers)
    edges = [*starts.tolist(), len(samples)]
    return [list(samples[start:end]) for start, end in itertools.pairwise(edges)]


def _totals(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.corpus, sample.split].append(sample)
    return [{"corpus": corpus, "split": split, **_figures(groups[corpus, split])} for corpus, split in sorted(groups)]


def _languages(samples: Sequence[Sample]) -> dict[str, Any]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.language or "unknown"].append(sample)
    return {language: _figures(groups[language]) for language in sorted(groups)}


def _figures(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "num_samples": len(samples),
        "hours": round(math.fsum(sample.end_s - sample.start_s for sample in samples) / 3600, 6),
        "num_units": sum(len(sample.units) for sample in samples),
        "num_frames": sum(sample.num_frames for sample in samples),
    }
