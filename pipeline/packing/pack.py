"""Packs units into training shards: drops duplicates, evaluation speech and what is not speech, splits the rest by
speaker, shuffles it and writes tars of even size.

    RUN/units/, RUN/language/, RUN/manifest/ -> RUN/shards/ (see shards.py)
    RUN/words/, where there are words and a tokenizer, goes along (words.py)
    RUN/pitch/ and RUN/style/, where there are both, go along (streams.py)

1. For each batch of part files a task writes compact facts about its segments, and their landmarks (facts.py).
2. Tasks find near duplicates by the landmarks, passing data on in files (duplicates.py).
3. From the facts of all segments, this process decides what is dropped (reasons.py) and which shard each of the other
   segments belongs to (place.py).
4. Tasks partition each batch's segments by shard, and others write the shards (write.py).

This process numbers segments in the order of their ids; the tasks' files number them in the order of batches and rows.
`Facts.by_batch` maps the second numbering to the first.

Tasks run on all cores of the cluster. Each writes a file in RUN/shards/work and is skipped if its file exists; the
folder is deleted at the end. A sample's position depends only on the seed and the ids of the samples.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.encoder.config import EncoderConfig
from model.lm.text_tokenizer import fingerprint_of_tokenizer, tokenizer_of_process
from pipeline import shards
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.packing import duplicates
from pipeline.packing.config import PackConfig
from pipeline.packing.evaluation_speech import read_evaluation_sets
from pipeline.packing.facts import Facts, SortFacts, Survey, id_ranges
from pipeline.packing.place import (
    Arrangement,
    arrange,
    have_own_split,
    join_neighbours,
    read_recordings,
    split_by,
    split_recordings,
)
from pipeline.packing.reasons import Reasons
from pipeline.packing.recorded import Recorded
from pipeline.packing.streams import Stream, streams_of
from pipeline.packing.write import PLAN_SCHEMA, Deal, Fill
from pipeline.records import SPLITS
from pipeline.runs import CODEBOOK, LANGUAGE, MANIFEST, SHARDS, UNITS, WORDS
from pipeline.stage import Stage, StageCounts, fingerprint_of, is_finished, read_facts
from pipeline.units import codebook
from pipeline.units.parts import Batch, part_uris
from pipeline.work import cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.packing.decontaminate import EvaluationIndex
    from pipeline.progress import ReportProgress

WORK = "work"
# Sizes of tasks: each holds some hundred MB of its batch or partition in memory.
PARTS_PER_BATCH = 64
LANDMARKS_PER_PARTITION = 4_000_000
CANDIDATES_PER_PARTITION = 100_000
# Samples with ten million units in all take a GiB as Python objects.
UNITS_PER_FILL = 8_000_000
# About a quarter of a million segments.
UNITS_PER_ID_RANGE = 100_000_000
MOST_FILLS = 1024
# Up to this many tasks run in this process, without a cluster.
FEW_TASKS = 2


def pack(
    run: str,
    config: PackConfig,
    report: ReportProgress,
    encoder: EncoderConfig | None = None,
    tokenizer: str | None = None,
    *,
    again: bool = False,
) -> None:
    """Writes the shards of a run.

    Args:
        run: The run's folder.
        config: How to pack.
        report: Called after every task.
        encoder: The run's encoder, to tokenize evaluation sets that are audio.
        tokenizer: Folder of a text LM's tokenizer: samples carry the words of their segments, if the run has words.
        again: Removes the shards that are there first, whatever settings they were made with.

    Raises:
        TwistError: the training split or one that was asked for is empty, or a part of the units or an evaluation set
            is damaged.
    """
    inputs = {name: fingerprint_of(run, name) for name in (MANIFEST, LANGUAGE, UNITS)}
    book = codebook.load(storage.join(run, CODEBOOK))
    index = None
    facts: dict[str, Any] = {}
    if config.decontaminate:
        index, num_short = read_evaluation_sets(config.decontaminate, encoder or EncoderConfig(), book)
        inputs["evaluation sets"] = index.digest()
        facts = {"evaluation_clips": len(index.clips), "evaluation_clips_too_short": num_short}
    takes_words = tokenizer is not None and is_finished(run, WORDS)
    if tokenizer is not None and takes_words:
        inputs[WORDS] = fingerprint_of(run, WORDS)
        inputs["tokenizer"] = fingerprint_of_tokenizer(tokenizer)
    streams = streams_of(run)
    inputs |= {stream.name: fingerprint_of(run, stream.name) for stream in streams}
    stage = Stage(run, SHARDS, asdict(config), inputs)
    with stage.begin(again=again) as has_work:
        if has_work:
            _Packing(stage, config, book, report, tokenizer if takes_words else None, streams).run(index, facts)


@dataclass(frozen=True)
class _Plan:
    """What is decided: the tasks that are left, and the counts and drops to report."""

    deal: Deal
    shards: tuple[str, ...]
    counts: StageCounts
    dropped: pa.Table
    kept_together: str
    splits: dict[str, dict[str, float]]


class _Packing:
    """Packing one run."""

    def __init__(
        self,
        stage: Stage,
        config: PackConfig,
        book: codebook.Codebook,
        report: ReportProgress,
        tokenizer: str | None,
        streams: tuple[Stream, ...],
    ) -> None:
        self.stage = stage
        self.config = config
        self.book = book
        self.report = report
        self.tokenizer = None if tokenizer is None else storage.absolute(tokenizer)
        self.streams = streams
        self.folder = storage.absolute(storage.join(stage.uri, WORK))
        parts = [storage.absolute(uri) for uri in part_uris(stage.run)]
        starts = range(0, len(parts), PARTS_PER_BATCH)
        self.batches = [Batch(n, tuple(parts[start : start + PARTS_PER_BATCH])) for n, start in enumerate(starts)]
        self.num_units = int(read_facts(stage.run, UNITS)["num_units"])

    def run(self, index: EvaluationIndex | None, facts: dict[str, Any]) -> None:
        """Packs the run and finishes the stage.

        Args:
            index: Evaluation speech to keep out of training; None if there is none.
            facts: Further figures for stage.json.
        """
        survey = self._survey(index)
        plan = self._decide(survey)
        self._map(plan.deal, self.batches, "batches dealt out")
        fill = Fill(
            plan.deal,
            self.stage.uri,
            plan.shards,
            len(self.batches),
            self.book.codebook_size,
            float(self.book.facts["encoder"]["frame_rate_hz"]),
            self.tokenizer,
        )
        self._map(fill, range(plan.deal.num_partitions), "groups of shards")
        dataset = self._write_index(fill, plan.kept_together)
        for name in storage.list_files(self.folder):
            storage.delete(storage.join(self.folder, name))
        self.stage.finish(
            plan.counts, plan.dropped, dataset.fingerprint, split_by=plan.kept_together, splits=plan.splits, **facts
        )

    def _map(self, function: Callable[[Any], None], items: Sequence[Any], noun: str) -> None:
        # A few tasks are done before a cluster has started.
        done = map(function, items) if len(items) <= FEW_TASKS else cluster.map_tasks(function, items)
        for number, _ in enumerate(done, start=1):
            self.report(number, len(items), noun)

    def _survey(self, index: EvaluationIndex | None) -> Survey:
        """Runs the tasks that write the facts and landmarks of all batches."""
        evaluation_uri = None
        if index is not None:
            evaluation_uri = storage.join(self.folder, "evaluation.npz")
            index.save(evaluation_uri)
        near = self.config.duplicates.for_size(self.num_units)
        num_landmarks = self.num_units // 2 * near.pairs_per_landmark
        survey = Survey(
            self.folder,
            self.config.degenerate,
            near,
            evaluation_uri,
            num_partitions=1 + num_landmarks // LANDMARKS_PER_PARTITION,
            first_ids=id_ranges(self.stage.run, 1 + self.num_units // UNITS_PER_ID_RANGE),
        )
        self._map(survey, self.batches, "batches surveyed")
        return survey

    def _read_facts(self, survey: Survey) -> Facts:
        """The facts about all segments, sorted by id."""
        sort = SortFacts(self.folder, tuple(survey.facts_uri(batch.number) for batch in self.batches))
        ranges = range(len(survey.first_ids) + 1)
        self._map(sort, ranges, "ranges of ids sorted")
        return Facts.read(tuple(map(sort.sorted_uri, ranges)), len(self.batches))

    def _decide(self, survey: Survey) -> _Plan:
        """Decides what is dropped and which shard the rest belongs to, and writes that for the tasks."""
        facts = self._read_facts(survey)
        recordings = read_recordings(self.stage.run, facts.recording_ids)
        recordings = recordings.take(pc.index_in(facts.recording_ids, recordings["recording_id"]).combine_chunks())
        splits = split_recordings(recordings, facts.seconds_of_recordings(), self.config.split)[facts.recording]
        reasons = self._find_reasons(facts, splits, survey)
        self._refuse_empty_splits(splits, reasons.kept)
        arrangement = self._arrange(facts, splits, reasons.kept)
        deal = self._write_plans(arrangement, facts, recordings)
        self._write_groups(arrangement, facts)
        dropped = reasons.dropped(recordings["corpus"].combine_chunks())
        total, kept = reasons.tallies()
        counts = StageCounts.of_table(total, kept, dropped)
        are_own = have_own_split(recordings, self.config.split)[facts.recording]
        shares = self._shares(reasons.kept_hours_by_split(~are_own), reasons.kept_hours_by_split(are_own))
        return _Plan(deal, tuple(arrangement.shards), counts, dropped, split_by(recordings), shares)

    def _find_reasons(self, facts: Facts, splits: NDArray[np.int8], survey: Survey) -> Reasons:
        """Decides which segments are dropped and why."""
        reasons = Reasons(facts, splits)
        if survey.duplicates.drop != "none":
            reasons.drop_exact()
        if survey.duplicates.drop == "near":
            similar = self._compare_speech(survey, facts.batch_starts)
            reasons.drop_near(similar, survey.duplicates, float(self.book.facts["encoder"]["frame_rate_hz"]))
        return reasons

    def _compare_speech(self, survey: Survey, batch_starts: tuple[int, ...]) -> pa.Table:
        """Compares segments that may be of the same recording (SIMILAR_SCHEMA)."""
        landmarks = tuple(survey.landmarks_uri(batch.number) for batch in self.batches)
        share = duplicates.ShareLandmarks(self.folder, landmarks, batch_starts)
        partitions = range(survey.num_partitions)
        self._map(share, partitions, "groups of landmarks")
        assert survey.duplicates.landmark_units is not None
        pairs = tuple(map(share.pairs_uri, partitions))
        propose = duplicates.Propose(self.folder, pairs, survey.duplicates.landmark_units)
        self._map(propose, partitions, "groups of candidates")

        candidates = parquet.as_one(parquet.read_many(map(propose.candidates_uri, partitions)))
        candidates_uri = storage.join(self.folder, "candidates.parquet")
        parquet.write(candidates_uri, candidates)
        num_partitions = 1 + len(candidates) // CANDIDATES_PER_PARTITION
        fetch = duplicates.FetchSpeech(self.folder, candidates_uri, batch_starts, num_partitions)
        self._map(fetch, self.batches, "batches fetched from")
        speech = tuple(fetch.speech_uri(batch.number) for batch in self.batches)
        compare = duplicates.Compare(self.folder, speech, candidates_uri, num_partitions)
        self._map(compare, range(num_partitions), "groups compared")
        return parquet.as_one(parquet.read_many(map(compare.similar_uri, range(num_partitions))))

    def _refuse_empty_splits(self, splits: NDArray[np.int8], kept: NDArray[np.bool_]) -> None:
        sizes = dict(zip(SPLITS, np.bincount(splits[kept], minlength=len(SPLITS)).tolist(), strict=True))
        counts = ", ".join(f"{size} {split}" for split, size in sizes.items())
        if not sizes["train"]:
            raise TwistError(
                f"no sample is left to train on ({counts}): the corpora put every speaker into another split. Set "
                f"pack.split.corpus_splits to ignore, or add a corpus to train on"
            )
        for split, asked in (("validation", self.config.split.validation), ("test", self.config.split.test)):
            if asked and not sizes[split]:
                raise TwistError(
                    f"pack.split.{split} is {asked}, but no sample is left for it ({counts}): there are too few "
                    f"speakers without a split of their corpus' own. Set it to 0, set pack.split.corpus_splits to "
                    f"ignore, or add speakers"
                )

    def _shares(self, dealt: NDArray[np.float64], own: NDArray[np.float64]) -> dict[str, dict[str, float]]:
        """What stage.json tells about each split: its hours and, of those that were dealt out, the share asked for and
        the one reached.

        Args:
            dealt: [splits] hours that were dealt out.
            own: [splits] hours that the corpora's own splits put there.
        """
        validation, test = self.config.split.validation_share, self.config.split.test_share
        reached = dealt / dealt.sum() if dealt.any() else dealt
        return {
            split: {
                "asked": round(asked, 6),
                "share": round(share, 6),
                "hours": round(hours + hours_own, 6),
                "own_hours": round(hours_own, 6),
            }
            for split, asked, share, hours, hours_own in zip(
                SPLITS,
                (1 - validation - test, validation, test),
                reached.tolist(),
                dealt.tolist(),
                own.tolist(),
                strict=True,
            )
        }

    def _arrange(self, facts: Facts, splits: NDArray[np.int8], kept: NDArray[np.bool_]) -> Arrangement:
        """Assigns every kept segment to a sample and a shard."""
        if self.config.sample_s:
            times = (facts.column("start_s"), facts.column("end_s"))
            longest_s, longest_gap_s = self.config.sample_s, self.config.sample_gap_s
            samples = join_neighbours(facts.recording, *times, kept, longest_s, longest_gap_s)
        else:
            samples = np.where(kept, np.arange(len(facts), dtype=np.int32), np.int32(-1))
        return arrange(
            (table["segment_id"].combine_chunks() for _, table in facts.tables(["segment_id"])),
            facts.num_units,
            splits,
            samples,
            seed=self.config.seed,
            units_per_shard=self.config.units_per_shard,
            min_shards=self.config.min_shards,
        )

    def _write_plans(self, arrangement: Arrangement, facts: Facts, recordings: pa.Table) -> Deal:
        """Writes each batch's plan: which shard and sample its segments belong to."""
        num_shards = len(arrangement.shards)
        num_partitions = min(num_shards, MOST_FILLS, 1 + self.num_units // UNITS_PER_FILL)
        words = None if self.tokenizer is None else storage.absolute(storage.join(self.stage.run, WORDS))
        deal = Deal(self.folder, num_shards, num_partitions, words, self.streams)
        ends = [*facts.batch_starts[1:], len(facts)]
        recorded = Recorded(self.stage.run)
        for batch, start, end in zip(self.batches, facts.batch_starts, ends, strict=True):
            rows = facts.by_batch[start:end]
            of_rows = recordings.take(pa.array(facts.recording[rows]))
            columns = {
                **{name: getattr(arrangement, name)[rows] for name in ("shard", "index", "member")},
                "sample_id": arrangement.sample_ids(rows),
                **{name: of_rows[name] for name in ("corpus", "speaker", "language", "sample_rate_hz")},
                **recorded.of(of_rows["recording_id"], of_rows["corpus"].to_pylist()),
            }
            parquet.write(deal.plan_uri(batch.number), pa.table(columns, schema=PLAN_SCHEMA))
        return deal

    def _write_groups(self, arrangement: Arrangement, facts: Facts) -> None:
        """Writes which segments make up each sample, if any sample has several."""
        if not len(arrangement.joined_ids):
            return

        def groups() -> Iterator[pa.Table]:
            for rows, table in facts.tables(["segment_id"]):
                sample_ids = arrangement.sample_ids(rows)
                is_joined = sample_ids.is_valid()
                columns = [sample_ids.filter(is_joined), table["segment_id"].filter(is_joined)]
                yield pa.table(columns, schema=shards.GROUP_SCHEMA)

        content = parquet.groups_to_bytes(shards.even_groups(groups()), shards.GROUP_SCHEMA)
        storage.write_bytes(storage.join(self.stage.uri, shards.GROUPS), content)

    def _write_index(self, fill: Fill, kept_together: str) -> shards.Dataset:
        """Writes the manifest of the shards and dataset.json."""
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
            "split_by": kept_together,
            "unit_counts": {split: counts.tolist() for split, counts in unit_counts.items()},
            "shards": [one["description"] for one in told],
        }
        if self.tokenizer is not None:
            tokenizer = tokenizer_of_process(self.tokenizer)
            info["text"] = {
                "tokenizer": tokenizer.fingerprint,
                "vocab_size": tokenizer.vocab_size,
                "totals": _totals_of(figures, "with_words", ("num_samples", "num_words", "num_text_tokens")),
            }
        for stream in self.streams:
            info[stream.name] = stream.facts()
        if self.streams:
            info["streams"] = {"totals": _totals_of(figures, "with_streams", ("num_samples", "num_pitch", "num_style"))}
        return shards.write_index(self.stage.uri, info, parquet.read_many(map(fill.rows_uri, partitions)))


def _totals_of(figures: Iterable[dict[str, Any]], what: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """What dataset.json says of the samples with words, or with pitch and style, by corpus and split."""
    totals: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in figures:
        totals.setdefault((row["corpus"], row["split"]), []).append(row[what])
    return [
        {
            "corpus": corpus,
            "split": split,
            "hours": round(math.fsum(row["duration_s"] for row in rows) / 3600, 6),
            **{name: sum(row[name] for row in rows) for name in names},
        }
        for (corpus, split), rows in sorted(totals.items())
    ]


def _sums(figures: Iterable[dict[str, Any]], keys: tuple[str, ...]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Sums the figures of samples by the values of these keys, in the order of the values."""
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
