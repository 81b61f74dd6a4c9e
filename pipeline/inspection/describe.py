"""What a person wants to know of a run, or of any one of its folders, as plain data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import stage
from pipeline.corpora.manifest import read_recordings
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.language.filter import read_decisions
from pipeline.records import SPLITS
from pipeline.runs import CODEBOOK, LANGUAGE, MANIFEST, SEGMENTS, SHARDS, STAGE_NAMES, UNITS, parts_uri
from pipeline.segments.segment import read_segments
from pipeline.shards import DATASET, Dataset, DatasetError, open_dataset
from pipeline.units import codebook
from pipeline.units.parts import part_uris, read_part
from pipeline.work.progress import read_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

NUM_EXAMPLES = 3
NUM_EXAMPLE_UNITS = 12
NUM_BINS = 60
# Where 25 Hz HuBERT units of a codebook of 500 lie for speech (TWIST, Table 1, and later work).
SANE_UNITS_PER_HOUR = (55_000, 72_000)


def kind_of(uri: str) -> str:
    """What lies at `uri` (absolute, without a slash at its end): run, the name of a stage, checkpoints, or checkpoint.

    Raises:
        TwistError: nothing of ours, or a stage in a folder of another name.
    """
    if storage.exists(storage.join(uri, DATASET)):
        return SHARDS
    if storage.exists(storage.join(uri, codebook.FACTS)):
        return CODEBOOK
    if storage.exists(storage.join(uri, stage.STAGE_JSON)):
        kind = str(stage.read_facts(uri, "").get("stage"))
        if kind in STAGE_NAMES and uri.rpartition("/")[2] != kind:
            raise TwistError(f"{uri} holds the output of stage {kind}; give the folder that name, in its run")
        if kind in STAGE_NAMES:
            return kind
    was_begun = any(_was_begun(uri, name) for name in STAGE_NAMES)
    if was_begun or storage.exists(storage.join(uri, "checkpoints/metrics.jsonl")):
        return "run"
    if storage.exists(storage.join(uri, "config.json")):
        return "checkpoint"
    if storage.exists(storage.join(uri, "metrics.jsonl")):
        return "checkpoints"
    raise TwistError(
        f"{uri} is no run, and no stage, shards, codebook or checkpoint of one; name a folder that a twist command made"
    )


def describe_run(run: str) -> dict[str, Any]:
    """Every stage of a run that was begun: its counts, or that it is unfinished."""
    return {"run": run, "stages": {name: describe_stage(run, name) for name in STAGE_NAMES if _was_begun(run, name)}}


def describe_folder(uri: str, kind: str) -> dict[str, Any]:
    """One stage's folder; shards and codebooks also where they lie outside of a run."""
    run, _, name = uri.rpartition("/")
    if name == kind and _was_begun(run, name):
        return describe_stage(run, name)
    return describe_shards(uri) if kind == SHARDS else {"codebook": codebook.load(uri).facts}


def describe_stage(run: str, name: str) -> dict[str, Any]:
    """A stage's counts and settings, and what is particular to it; for an unfinished one the files it has so far."""
    uri = storage.join(run, name)
    facts = stage.read_facts(run, name)
    if not stage.is_finished(run, name):
        made = [file for file in storage.list_files(uri) if file.endswith((".parquet", ".tar"))]
        description = {"finished": False, "files_so_far": len(made), "config": facts["config"]}
        return {**description, "progress": read_progress(parts_uri(run, name), time.time())}
    particulars: dict[str, Callable[[str], dict[str, Any]]] = {
        MANIFEST: _describe_manifest,
        LANGUAGE: _describe_language,
        SEGMENTS: _describe_segments,
        CODEBOOK: _describe_codebook,
        UNITS: _describe_units,
        SHARDS: lambda run: describe_shards(storage.join(run, SHARDS)),
    }
    keys = ("counts", "config", "versions", "wall_time_s", "finished_at")
    description = {"finished": True, **{key: facts[key] for key in keys}, **particulars[name](run)}
    dropped = parquet.read(storage.join(uri, stage.DROPPED))
    return {
        **description,
        "dropped_by_corpus": _dropped_by_corpus(dropped),
        "dropped_examples": _dropped_examples(dropped),
    }


def describe_shards(uri: str) -> dict[str, Any]:
    """Shards by themselves: totals, lengths, and the statistics of their units.

    Raises:
        DatasetError: there are no finished shards, or a tar is missing or damaged.
    """
    dataset = open_dataset(uri)
    manifest = dataset.columns(["duration_s", "num_units", "num_frames", "speaker"])
    hours = pc.sum(manifest["duration_s"]).as_py() / 3600
    num_units, num_frames = (pc.sum(manifest[name]).as_py() for name in ("num_units", "num_frames"))
    encoder = dataset.info["encoder"]
    return {
        "fingerprint": dataset.fingerprint,
        "codebook": dataset.info["codebook"]["fingerprint"],
        "encoder": encoder["name"],
        "frame_rate_hz": dataset.info["frame_rate_hz"],
        "codebook_size": dataset.codebook_size,
        "num_shards": len(dataset.info["shards"]),
        "num_samples": len(manifest),
        "num_speakers": pc.count_distinct(manifest["speaker"].cast(pa.string()), mode="only_valid").as_py(),
        "hours": hours,
        "num_units": num_units,
        "num_frames": num_frames,
        "units_per_hour_before": num_frames / hours,
        "units_per_hour": num_units / hours,
        "remarks": _remarks(encoder, dataset.codebook_size, num_units / hours),
        "totals": dataset.info["totals"],
        "languages": dataset.info["languages"],
        "samples_s": _quantiles(manifest["duration_s"].to_numpy()),
        "samples_units": _quantiles(manifest["num_units"].to_numpy()),
        "samples_s_histogram": _bins(manifest["duration_s"].to_numpy()),
        "samples_units_histogram": _bins(manifest["num_units"].to_numpy()),
        **_unit_statistics(count_units(dataset, SPLITS)),
        "examples": _example_samples(dataset),
    }


def count_units(dataset: Dataset, splits: Iterable[str]) -> NDArray[np.int64]:
    """How often each unit occurs in some splits [K]: as dataset.json says, else (of older shards) counted in the tars.

    Raises:
        DatasetError: a tar is missing, or does not hold what the manifest says.
    """
    counts = np.zeros(dataset.codebook_size, np.int64)
    told: dict[str, list[int]] = dataset.info.get("unit_counts", {})
    if told and all(len(counts_of_split) == dataset.codebook_size for counts_of_split in told.values()):
        return sum((np.array(told[split]) for split in splits if split in told), start=counts)
    splits_of_samples = np.array(dataset.manifest["split"].to_pylist(), dtype=object)
    wanted = dataset.manifest.filter(np.isin(splits_of_samples, list(splits)))
    for shard in pc.unique(wanted["shard"]).to_pylist():
        rows = wanted.filter(pc.equal(wanted["shard"], shard))
        for units in _units_of(dataset, shard, rows):
            counts += _count(units, dataset.codebook_size, storage.join(dataset.uri, shard))
    return counts


def _units_of(dataset: Dataset, shard: str, rows: pa.Table) -> list[NDArray[np.uint16]]:
    uri = storage.join(dataset.uri, shard)
    places = zip(rows["num_units"].to_pylist(), rows["units_offset"].to_pylist(), strict=True)
    try:
        content = storage.read_bytes(uri)
        return [np.frombuffer(content, "<u2", num_units, offset) for num_units, offset in places]
    except FileNotFoundError:
        raise DatasetError(f"{uri} is missing; `twist inspect --verify` says what else is wrong") from None
    except ValueError as error:
        raise DatasetError(f"{uri} ends too soon; `twist inspect --verify` says what else is wrong") from error


def _count(units: NDArray[np.uint16], codebook_size: int, where: str) -> NDArray[np.int64]:
    counts = np.bincount(units, minlength=codebook_size)
    if len(counts) > codebook_size:
        raise TwistError(
            f"{where} holds unit {len(counts) - 1}, the codebook only {codebook_size} units; `twist inspect --verify` "
            f"says what else is wrong"
        )
    return counts


def _example_samples(dataset: Dataset) -> list[dict[str, Any]]:
    columns = ["key", "split", "corpus", "speaker", "duration_s", "num_units", "shard", "units_offset"]
    rows = dataset.head(NUM_EXAMPLES).select(columns)
    units = [_units_of(dataset, rows["shard"][i].as_py(), rows.slice(i, 1))[0] for i in range(len(rows))]
    for i, first in enumerate(units):
        _count(first, dataset.codebook_size, storage.join(dataset.uri, rows["shard"][i].as_py()))
    return [
        {**row, "first_units": first[:NUM_EXAMPLE_UNITS].tolist()}
        for row, first in zip(rows.select(columns[:6]).to_pylist(), units, strict=True)
    ]


def _remarks(encoder: dict[str, Any], codebook_size: int, units_per_hour: float) -> list[str]:
    low, high = SANE_UNITS_PER_HOUR
    is_known = encoder["name"] == "hubert" and encoder["frame_rate_hz"] == 25 and codebook_size == 500
    if not is_known or low <= units_per_hour <= high:
        return []
    return [
        f"{units_per_hour:,.0f} units an hour are unusual, speech gives {low:,} to {high:,}: do the segments hold "
        f"speech, and are the encoder's layer and normalization those of its checkpoint?"
    ]


def _was_begun(run: str, name: str) -> bool:
    return storage.exists(storage.join(run, name, stage.STAGE_JSON))


def _dropped_by_corpus(dropped: pa.Table) -> list[dict[str, Any]]:
    """Items and hours by reason and corpus."""
    sums = dropped.group_by(["reason", "corpus"]).aggregate([("num_items", "sum"), ("duration_s", "sum")])
    return [
        {"reason": r["reason"], "corpus": r["corpus"], "items": r["num_items_sum"], "hours": r["duration_s_sum"] / 3600}
        for r in sums.sort_by([("reason", "ascending"), ("corpus", "ascending")]).to_pylist()
    ]


def _dropped_examples(dropped: pa.Table) -> list[dict[str, Any]]:
    """The first few drops of each reason."""
    reasons = pc.unique(dropped["reason"]).to_pylist()
    examples = (dropped.filter(pc.equal(dropped["reason"], reason)).slice(0, NUM_EXAMPLES) for reason in reasons)
    return [row for table in examples for row in table.to_pylist()]


def _describe_manifest(run: str) -> dict[str, Any]:
    corpora: dict[str, dict[str, float]] = {}
    recordings = read_recordings(run)
    for recording in recordings:
        corpus = corpora.setdefault(recording.corpus, {"recordings": 0, "hours": 0.0})
        corpus["recordings"] += 1
        corpus["hours"] += recording.duration_s / 3600
    return {
        "corpora": corpora,
        "recordings_s": _quantiles(np.array([recording.duration_s for recording in recordings])),
        "sample_rates_hz": _histogram([recording.sample_rate_hz for recording in recordings]),
        "num_speakers": len({recording.speaker for recording in recordings} - {None}),
        "with_speaker": sum(recording.speaker is not None for recording in recordings),
        "with_language": sum(recording.language is not None for recording in recordings),
        "with_text": sum(recording.text is not None for recording in recordings),
        "examples": [
            {name: getattr(recording, name) for name in ("recording_id", "duration_s", "speaker", "language", "text")}
            for recording in recordings[:NUM_EXAMPLES]
        ],
    }


def _describe_language(run: str) -> dict[str, Any]:
    decisions = list(read_decisions(run).values())
    facts = stage.read_facts(run, LANGUAGE)
    return {
        "languages": _histogram([decision.language or "unknown" for decision in decisions]),
        "evidence": _histogram([decision.evidence for decision in decisions]),
        **{key: facts[key] for key in ("by_evidence", "least_certain", "audio_evidence")},
    }


def _describe_segments(run: str) -> dict[str, Any]:
    table = read_segments(run)
    durations = pc.subtract(table["end_s"], table["start_s"]).to_numpy()
    return {
        "num_segments": len(table),
        "num_work_units": pc.count_distinct(table["work_unit"]).as_py(),
        "segments_s": _quantiles(durations),
        "examples": table.slice(0, NUM_EXAMPLES).select(["segment_id", "start_s", "end_s"]).to_pylist(),
    }


def _describe_codebook(run: str) -> dict[str, Any]:
    return {"codebook": codebook.load(storage.join(run, CODEBOOK)).facts}


def _describe_units(run: str) -> dict[str, Any]:
    book = codebook.load(storage.join(run, CODEBOOK))
    counts = np.zeros(book.codebook_size, np.int64)
    examples: list[dict[str, Any]] = []
    for uri in part_uris(run):
        part = read_part(uri)
        counts += _count(pc.list_flatten(part["units"]).to_numpy(), book.codebook_size, uri)
        if len(examples) < NUM_EXAMPLES:
            kept = part.filter(pc.is_valid(part["units"])).slice(0, NUM_EXAMPLES - len(examples))
            examples += [_example_segment(row) for row in kept.to_pylist()]
    facts = stage.read_facts(run, UNITS)
    rates = ("num_frames", "num_units", "units_per_hour_before", "units_per_hour")
    return {
        "encoder": book.facts["encoder"]["name"],
        "frame_rate_hz": book.facts["encoder"]["frame_rate_hz"],
        "codebook_size": book.codebook_size,
        **{key: facts[key] for key in rates},
        "remarks": _remarks(book.facts["encoder"], book.codebook_size, facts["units_per_hour"]),
        **_unit_statistics(counts),
        "examples": examples,
    }


def _example_segment(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "segment_id": row["segment_id"],
        "duration_s": row["end_s"] - row["start_s"],
        "num_units": len(row["units"]),
        "first_units": row["units"][:NUM_EXAMPLE_UNITS],
    }


def _unit_statistics(counts: NDArray[np.int64]) -> dict[str, Any]:
    shares = counts[counts > 0] / max(1, counts.sum())
    entropy_bits = float(-(shares * np.log2(shares)).sum())
    order = np.argsort(-counts, kind="stable")
    return {
        "unit_entropy_bits": entropy_bits,
        "unit_perplexity": 2**entropy_bits,
        "unused_units": int((counts == 0).sum()),
        "most_frequent_units": [{"unit": int(u), "share": float(counts[u] / max(1, counts.sum()))} for u in order[:5]],
        "unit_histogram": counts.tolist(),
    }


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    names = ("min", "p10", "median", "p90", "max")
    return dict(zip(names, np.quantile(values, (0, 0.1, 0.5, 0.9, 1)).tolist(), strict=True)) if len(values) else {}


def _bins(values: NDArray[Any]) -> dict[str, list[float]]:
    """How many values lie between one edge and the next."""
    counts, edges = np.histogram(values, bins=NUM_BINS)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _histogram(values: list[Any]) -> dict[str, int]:
    names, counts = np.unique(np.array([str(value) for value in values]), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(names[i]): int(counts[i]) for i in order}
