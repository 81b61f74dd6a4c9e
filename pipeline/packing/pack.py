"""Packs units into training shards: what is no speech, comes twice or is for evaluation goes; the rest is split by
speaker and shuffled, in tars of even size.

    RUN/units/, RUN/language/, RUN/manifest/ -> RUN/shards/ (see shards.py)

1. Survey: each batch of part files gives compact facts on its segments, and their landmarks (`survey.py`).
2. Near duplicates are found by these, through files (`duplicates.py`).
3. All decisions, on the facts of all segments: what is dropped, and where the rest goes (`arrange.py`).
4. Each batch deals its segments out, and each few shards are written by one task (`fill_shards.py`).

Tasks run on all cores of the cluster. Each leaves a file in RUN/shards/work, and is not done again where that is there;
the folder goes when all is done. A sample's place depends on the seed and the ids of the samples alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.encoder.config import EncoderConfig
from pipeline import shards
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.packing import duplicates
from pipeline.packing.config import DuplicatesConfig, PackConfig
from pipeline.packing.evaluation_speech import read_evaluation_sets
from pipeline.packing.facts import Survey
from pipeline.packing.place import Arrangement, arrange, join_neighbours, read_recordings, split_recordings
from pipeline.packing.write import PLAN_SCHEMA, Deal, Fill
from pipeline.records import DROPPED_SCHEMA, SPLITS
from pipeline.runs import CODEBOOK, LANGUAGE, MANIFEST, SHARDS, UNITS
from pipeline.stage import Stage, StageCounts, Tally, fingerprint_of, read_facts
from pipeline.units import codebook
from pipeline.units.parts import Batch, part_uris
from pipeline.work import cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.progress import ReportProgress

WORK = "work"
# What a task holds of a batch or a partition is some hundred MB.
PARTS_PER_BATCH = 64
LANDMARKS_PER_PARTITION = 4_000_000
CANDIDATES_PER_PARTITION = 100_000
# Samples of ten million units take a GiB as objects.
UNITS_PER_FILL = 8_000_000
MOST_FILLS = 1024
# Fewer tasks than this are done here, without a cluster.
FEW_TASKS = 2


def pack(run: str, config: PackConfig, report: ReportProgress, encoder: EncoderConfig | None = None) -> None:
    """Writes the shards of a run.

    Args:
        run: The run's folder.
        config: How to.
        report: Told of every task that is done.
        encoder: The run's, for evaluation sets that are audio.

    Raises:
        TwistError: the training split is empty, or a part of the units or an evaluation set is damaged.
    """
    inputs = {name: fingerprint_of(run, name) for name in (MANIFEST, LANGUAGE, UNITS)}
    book = codebook.load(storage.join(run, CODEBOOK))
    index = None
    facts: dict[str, Any] = {}
    if config.decontaminate:
        index, num_short = read_evaluation_sets(config.decontaminate, encoder or EncoderConfig(), book)
        inputs["evaluation sets"] = index.digest()
        facts = {"evaluation_clips": len(index.clips), "evaluation_clips_too_short": num_short}
    stage = Stage(run, SHARDS, asdict(config), inputs)
    with stage.begin() as has_work:
        if not has_work:
            return
        packing = _Packing(stage, config, book, report)
        if index is not None:
            index.save(packing.evaluation_uri)
        packing.run(index is not None, facts)


class _Packing:
    """One run of the stage."""

    def __init__(self, stage: Stage, config: PackConfig, book: codebook.Codebook, report: ReportProgress) -> None:
        self.stage = stage
        self.config = config
        self.book = book
        self.report = report
        self.folder = storage.absolute(storage.join(stage.uri, WORK))
        self.evaluation_uri = storage.join(self.folder, "evaluation.npz")
        parts = [storage.absolute(uri) for uri in part_uris(stage.run)]
        starts = range(0, len(parts), PARTS_PER_BATCH)
        self.batches = [Batch(n, tuple(parts[start : start + PARTS_PER_BATCH])) for n, start in enumerate(starts)]
        self.num_units = int(read_facts(stage.run, UNITS)["num_units"])

    def run(self, has_evaluation: bool, facts: dict[str, Any]) -> None:
        near = self.config.duplicates.for_size(self.num_units)
        num_landmarks = self.num_units // 2 * near.pairs_per_landmark
        survey = Survey(
            self.folder,
            self.config.degenerate,
            near,
            self.evaluation_uri if has_evaluation else None,
            num_partitions=1 + num_landmarks // LANDMARKS_PER_PARTITION,
        )
        self._map(survey, self.batches, "batches surveyed")
        table, bases = self._read_facts(survey)
        by_id = pc.sort_indices(table["segment_id"]).to_numpy().astype(np.int64)
        recordings = read_recordings(self.stage.run, table["recording_id"])
        recording = pc.index_in(table["recording_id"], recordings["recording_id"]).to_numpy().astype(np.int64)
        splits = split_recordings(recordings, self.config.split)[recording]

        reasons = _Reasons(table)
        priority = self._priority(table, splits, by_id, reasons)
        if near.drop != "none":
            reasons.exact(priority)
        if near.drop == "near":
            similar = self._similar(survey, bases)
            reasons.near(similar, priority, splits != SPLITS.index("train"), near, self._frame_rate_hz)

        kept = reasons.kept()
        samples = join_neighbours(
            recording[by_id],
            table["start_s"].to_numpy()[by_id],
            table["end_s"].to_numpy()[by_id],
            kept[by_id],
            self.config.sample_s,
            self.config.sample_gap_s,
        )
        self._refuse_nothing_to_train_on(splits, kept)
        arrangement = arrange(
            table["segment_id"].take(pa.array(by_id)),
            table["num_units"].to_numpy()[by_id].astype(np.int64),
            splits[by_id],
            samples,
            seed=self.config.seed,
            units_per_shard=self.config.units_per_shard,
            min_shards=self.config.min_shards,
        )
        deal = self._plan(arrangement, by_id, bases, recordings, recording)
        self._map(deal, self.batches, "batches dealt out")
        fill = Fill(deal, self.stage.uri, tuple(arrangement.shards), len(self.batches), self.book.codebook_size)
        self._map(fill, range(deal.num_partitions), "groups of shards")

        dropped = reasons.dropped(by_id, recordings, recording)
        durations_s = pc.subtract(table["end_s"], table["start_s"]).to_numpy()
        dataset = self._write_index(fill)
        self._write_groups(arrangement, table["segment_id"].take(pa.array(by_id)))
        total, kept_tally = (Tally(len(hours), float(hours.sum()) / 3600) for hours in (durations_s, durations_s[kept]))
        for name in storage.list_files(self.folder):
            storage.delete(storage.join(self.folder, name))
        counts = StageCounts.of_table(total, kept_tally, dropped)
        self.stage.finish(counts, dropped, dataset.fingerprint, **facts)

    @property
    def _frame_rate_hz(self) -> float:
        return float(self.book.facts["encoder"]["frame_rate_hz"])

    def _map(self, function: Callable[[Any], None], items: Sequence[Any], noun: str) -> None:
        # A few tasks are done sooner than a cluster is there.
        done = map(function, items) if len(items) <= FEW_TASKS else cluster.map_tasks(function, items)
        for number, _ in enumerate(done, start=1):
            self.report(number, len(items), noun)

    def _read_facts(self, survey: Survey) -> tuple[pa.Table, list[int]]:
        """All segments' facts, and the number of the first segment of each batch."""
        lengths: list[int] = []

        def read() -> Iterator[pa.Table]:
            for table in parquet.read_many(survey.facts_uri(batch.number) for batch in self.batches):
                lengths.append(len(table))
                yield table

        table = parquet.as_one(read())
        return table, np.cumsum([0, *lengths])[:-1].tolist()

    def _priority(
        self, table: pa.Table, splits: NDArray[np.int8], by_id: NDArray[np.int64], reasons: _Reasons
    ) -> NDArray[np.int64]:
        """The order in which segments may stay, where two say the same; -1 for those that go anyway.

        Evaluation comes before training; then the longer; then the first by its id.
        """
        frames = table["num_frames"].to_numpy()
        rank = np.empty(len(table), np.int64)
        rank[by_id] = np.arange(len(table))
        order = np.lexsort((rank, -frames, -splits))
        priority = np.empty(len(table), np.int64)
        priority[order] = np.arange(len(table))
        priority[~reasons.kept()] = -1
        return priority

    def _similar(self, survey: Survey, bases: list[int]) -> pa.Table:
        """Segments that may be of one recording, compared (SIMILAR_SCHEMA)."""
        share = duplicates.ShareLandmarks(
            self.folder, tuple(survey.landmarks_uri(batch.number) for batch in self.batches), tuple(bases)
        )
        partitions = range(survey.num_partitions)
        self._map(share, partitions, "groups of landmarks")
        assert survey.duplicates.landmark_units is not None
        propose = duplicates.Propose(
            self.folder, tuple(map(share.pairs_uri, partitions)), survey.duplicates.landmark_units
        )
        self._map(propose, partitions, "groups of candidates")

        candidates = parquet.as_one(parquet.read_many(map(propose.candidates_uri, partitions)))
        candidates_uri = storage.join(self.folder, "candidates.parquet")
        parquet.write(candidates_uri, candidates)
        num_partitions = 1 + len(candidates) // CANDIDATES_PER_PARTITION
        fetch = duplicates.FetchSpeech(self.folder, candidates_uri, tuple(bases), num_partitions)
        self._map(fetch, self.batches, "batches fetched from")
        compare = duplicates.Compare(
            self.folder,
            tuple(fetch.speech_uri(batch.number) for batch in self.batches),
            candidates_uri,
            num_partitions,
        )
        self._map(compare, range(num_partitions), "groups compared")
        return parquet.as_one(parquet.read_many(map(compare.similar_uri, range(num_partitions))))

    def _plan(
        self,
        arrangement: Arrangement,
        by_id: NDArray[np.int64],
        bases: list[int],
        recordings: pa.Table,
        recording: NDArray[np.int64],
    ) -> Deal:
        """Writes what is to become of each batch's segments."""
        num_shards = len(arrangement.shards)
        num_partitions = min(num_shards, MOST_FILLS, 1 + self.num_units // UNITS_PER_FILL)
        deal = Deal(self.folder, num_shards, num_partitions)
        place = np.empty(len(by_id), np.int64)
        place[by_id] = np.arange(len(by_id))
        for batch, start, end in zip(self.batches, bases, [*bases[1:], len(by_id)], strict=True):
            rows = place[start:end]
            told = recordings.take(pa.array(recording[start:end]))
            columns = {
                **{name: getattr(arrangement, name)[rows] for name in ("shard", "index", "member")},
                "sample_id": arrangement.sample_ids.take(pa.array(rows)),
                **{name: told[name] for name in ("corpus", "speaker", "language")},
            }
            parquet.write(deal.plan_uri(batch.number), pa.table(columns, schema=PLAN_SCHEMA))
        return deal

    def _refuse_nothing_to_train_on(self, splits: NDArray[np.int8], kept: NDArray[np.bool_]) -> None:
        sizes = np.bincount(splits[kept], minlength=len(SPLITS)).tolist()
        if not sizes[SPLITS.index("train")]:
            counts = ", ".join(f"{size} {split}" for split, size in zip(SPLITS, sizes, strict=True))
            raise TwistError(
                f"no sample is left to train on ({counts}): the corpora put every speaker into another split. Set "
                f"pack.split.corpus_splits to ignore, or add a corpus to train on"
            )

    def _write_index(self, fill: Fill) -> shards.Dataset:
        partitions = range(fill.deal.num_partitions)
        told = [one for p in partitions for one in json.loads(storage.read_bytes(fill.told_uri(p)))]
        unit_counts = {
            split: sum((np.array(one["unit_counts"]) for one in told if one["split"] == split), start=np.zeros(1, int))
            for split in dict.fromkeys(one["split"] for one in told)
        }
        figures = [row for one in told for row in one["figures"]]
        encoder = self.book.facts["encoder"]
        info = {
            "num_units": self.book.codebook_size,
            "frame_rate_hz": encoder["frame_rate_hz"],
            "encoder": encoder,
            "codebook": {key: value for key, value in self.book.facts.items() if key != "encoder"},
            "totals": [
                {"corpus": corpus, "split": split, **total}
                for (corpus, split), total in _sums(figures, ("corpus", "split")).items()
            ],
            "languages": {language: total for (language,), total in _sums(figures, ("language",)).items()},
            "unit_counts": {split: counts.tolist() for split, counts in unit_counts.items()},
            "shards": [one["description"] for one in told],
        }
        return shards.write_index(self.stage.uri, info, parquet.read_many(map(fill.rows_uri, partitions)))

    def _write_groups(self, arrangement: Arrangement, segment_ids: pa.ChunkedArray) -> None:
        """Which segments make up which sample, where some have several."""
        is_joined = arrangement.sample_ids.is_valid()
        if self.config.sample_s and pc.any(is_joined).as_py():
            columns = [arrangement.sample_ids.filter(is_joined), segment_ids.filter(is_joined)]
            table = pa.table(columns, schema=shards.GROUP_SCHEMA)
            parquet.write(storage.join(self.stage.uri, shards.GROUPS), table)


class _Reasons:
    """What goes, and why: the first reason that was found counts."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._reasons = np.full(len(table), None, object)
        own = np.flatnonzero(table["reason"].is_valid())
        self._reasons[own] = table["reason"].take(pa.array(own)).to_pylist()
        self._details = dict(zip(own.tolist(), table["detail"].take(pa.array(own)).to_pylist(), strict=True))

    def kept(self) -> NDArray[np.bool_]:
        """[rows] what stays."""
        is_kept: NDArray[np.bool_] = self._reasons == None  # noqa: E711 - elementwise
        return is_kept

    def exact(self, priority: NDArray[np.int64]) -> None:
        """Segments with the very units of another go."""
        contents = [chunk for chunk in self._table["content"].chunks if len(chunk)]
        halves = np.concatenate([np.empty((0, 2), "<u8"), *map(_halves, contents)])
        order = np.argsort(priority, kind="stable")
        order = order[priority[order] >= 0]
        gone, twins = duplicates.find_exact((halves[:, 0], halves[:, 1]), order)
        for row, id in zip(gone.tolist(), self._ids(twins), strict=True):
            self._drop(row, "duplicate", f"same units as {id}")
        priority[gone] = -1

    def near(
        self,
        similar: pa.Table,
        priority: NDArray[np.int64],
        is_evaluation: NDArray[np.bool_],
        config: DuplicatesConfig,
        frame_rate_hz: float,
    ) -> None:
        """Segments with the speech of another go."""
        frames = self._table["num_frames"].to_numpy().astype(np.int64)
        twins = duplicates.choose_twins(similar, priority, frames, is_evaluation, config)
        ids = self._ids(np.array([twin for twin, _, _ in twins.values()], np.int64))
        for (row, (_, similarity, overlap)), id in zip(twins.items(), ids, strict=True):
            overlap_s = overlap / frame_rate_hz
            self._drop(
                row, "near_duplicate", f"same speech as {id}, similarity {similarity:.2f} over {overlap_s:.1f} s"
            )

    def dropped(self, by_id: NDArray[np.int64], recordings: pa.Table, recording: NDArray[np.int64]) -> pa.Table:
        """All drops, by id (DROPPED_SCHEMA)."""
        rows = by_id[~self.kept()[by_id]]
        taken = self._table.take(pa.array(rows))
        columns = {
            "id": taken["segment_id"].cast(pa.string()),
            "corpus": recordings["corpus"].take(pa.array(recording[rows])),
            "reason": pa.array(self._reasons[rows], pa.string()),
            "detail": pa.array([self._details[row] for row in rows.tolist()], pa.string()),
            "duration_s": pc.subtract(taken["end_s"], taken["start_s"]),
            "num_items": pa.array(np.ones(len(rows), np.int8)),
        }
        return pa.table(columns, schema=DROPPED_SCHEMA)

    def _drop(self, row: int, reason: str, detail: str) -> None:
        self._reasons[row] = reason
        self._details[row] = detail

    def _ids(self, rows: NDArray[np.int64]) -> list[str]:
        ids: list[str] = self._table["segment_id"].take(pa.array(rows)).to_pylist()
        return ids


def _halves(contents: pa.FixedSizeBinaryArray) -> NDArray[np.uint64]:
    """[rows, 2] two halves of each hash."""
    whole = np.frombuffer(contents.buffers()[1], "<u8").reshape(-1, 2)
    return whole[contents.offset : contents.offset + len(contents)]


def _sums(figures: Iterable[dict[str, Any]], keys: tuple[str, ...]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Figures of samples summed by some of what is told of them, in order."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in figures:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return {
        group: {
            "num_samples": sum(row["num_samples"] for row in rows),
            "hours": round(math.fsum(row["duration_s"] for row in rows) / 3600, 6),
            "num_units": sum(row["num_units"] for row in rows),
            "num_frames": sum(row["num_frames"] for row in rows),
        }
        for group, rows in sorted(groups.items())
    }
