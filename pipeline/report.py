"""What a person wants to know of a run, or of any one of its folders, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from pipeline import codebook, parquet, stage, storage
from pipeline.codebook_fit import STAGE as CODEBOOK
from pipeline.errors import TwistError
from pipeline.language import STAGE as LANGUAGE
from pipeline.language import read_decisions
from pipeline.manifest import STAGE as MANIFEST
from pipeline.manifest import read_recordings
from pipeline.pack import STAGE as SHARDS
from pipeline.records import SPLITS
from pipeline.segment import STAGE as SEGMENTS
from pipeline.segment import read_segments
from pipeline.shards import DATASET, Dataset, open_dataset
from pipeline.tokenize import STAGE as UNITS
from pipeline.tokenize import read_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

STAGES = (MANIFEST, LANGUAGE, SEGMENTS, CODEBOOK, UNITS, SHARDS)
NUM_EXAMPLES = 3
# Where the tokens per hour of 25 Hz, 500-unit HuBERT units lie for speech (TWIST, Table 1, and later work).
SANE_UNITS_PER_HOUR = (55_000, 72_000)


def kind_of(uri: str) -> str:
    """What lies at `uri`: run, shards, the name of another stage, or checkpoint.

    Raises:
        TwistError: nothing of ours.
    """
    name = uri.rstrip("/").rpartition("/")[2]
    if storage.exists(storage.join(uri, DATASET)):
        return SHARDS
    if storage.exists(storage.join(uri, codebook.FACTS)):
        return CODEBOOK
    if storage.exists(storage.join(uri, "stage.json")):
        return name
    if any(storage.exists(storage.join(uri, stage_name, "stage.json")) for stage_name in STAGES):
        return "run"
    if storage.exists(storage.join(uri, "config.json")) or storage.exists(storage.join(uri, "model", "config.json")):
        return "checkpoint"
    if name == "checkpoints":
        return "checkpoints"
    raise TwistError(
        f"{uri} is no run, and no stage, shards, codebook or checkpoint of one; name a folder that a twist command wrote"
    )


def describe_run(run: str) -> dict[str, Any]:
    """Every stage of a run that was begun: its counts, or that it is unfinished."""
    return {"run": run, "stages": {name: describe_stage(run, name) for name in STAGES if _was_begun(run, name)}}


def describe_stage(run: str, name: str) -> dict[str, Any]:
    """A stage's counts and settings, and what is particular to it."""
    facts = stage.read_facts(run, name)
    finished = stage.is_finished(run, name)
    description: dict[str, Any] = {"finished": finished}
    if not finished:
        if name == UNITS:
            description["parts"] = len(storage.list_files(storage.join(run, name), ".parquet"))
        return description
    particulars = {
        MANIFEST: _describe_manifest,
        LANGUAGE: _describe_language,
        SEGMENTS: _describe_segments,
        CODEBOOK: _describe_codebook,
        UNITS: _describe_units,
        SHARDS: lambda run: describe_shards(storage.join(run, SHARDS)),
    }
    keys = ("counts", "config", "versions", "wall_time_s", "finished_at")
    description |= {key: facts[key] for key in keys} | particulars[name](run)
    description["dropped_examples"] = _dropped_examples(run, name)
    return description


def describe_shards(uri: str) -> dict[str, Any]:
    """Shards by themselves: totals, lengths, and the statistics of their units.

    Raises:
        DatasetError: there are no finished shards.
    """
    dataset = open_dataset(uri)
    manifest = dataset.manifest
    hours = pc.sum(manifest["duration_s"]).as_py() / 3600
    num_units, num_frames = (pc.sum(manifest[name]).as_py() for name in ("num_units", "num_frames"))
    counts = count_units(dataset, SPLITS)
    return {
        "fingerprint": dataset.fingerprint,
        "codebook": dataset.info["codebook"]["fingerprint"],
        "encoder": dataset.info["encoder"]["name"],
        "codebook_size": dataset.num_units,
        "num_shards": len(dataset.info["shards"]),
        "num_samples": len(manifest),
        "num_speakers": pc.count_distinct(manifest["speaker"], mode="only_valid").as_py(),
        "hours": hours,
        "num_units": num_units,
        "num_frames": num_frames,
        "units_per_hour_before": num_frames / hours,
        "units_per_hour": num_units / hours,
        "totals": dataset.info["totals"],
        "samples_s": _quantiles(manifest["duration_s"].to_numpy()),
        "samples_units": _quantiles(manifest["num_units"].to_numpy()),
        **_unit_statistics(counts),
        "examples": manifest.slice(0, NUM_EXAMPLES).select(["key", "corpus", "duration_s", "num_units"]).to_pylist(),
    }


def count_units(dataset: Dataset, splits: Iterable[str]) -> NDArray[np.int64]:
    """How often each unit occurs in some splits [K]."""
    counts = np.zeros(dataset.num_units, np.int64)
    wanted = dataset.manifest.filter(pc.is_in(dataset.manifest["split"], pc.cast(list(splits), "string")))
    for shard in pc.unique(wanted["shard"]).to_pylist():
        content = storage.read_bytes(storage.join(dataset.uri, shard))
        rows = wanted.filter(pc.equal(wanted["shard"], shard))
        for offset, length in zip(rows["units_offset"].to_pylist(), rows["num_units"].to_pylist(), strict=True):
            counts += np.bincount(np.frombuffer(content, "<u2", length, offset), minlength=dataset.num_units)
    return counts


def _was_begun(run: str, name: str) -> bool:
    return storage.exists(storage.join(run, name, "stage.json"))


def _dropped_examples(run: str, name: str) -> list[dict[str, Any]]:
    dropped = parquet.read(storage.join(run, name, "dropped.parquet"))
    examples: dict[str, list[dict[str, Any]]] = {}
    for row in dropped.to_pylist():
        if len(examples.setdefault(row["reason"], [])) < NUM_EXAMPLES:
            examples[row["reason"]].append(row)
    return [row for rows in examples.values() for row in rows]


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
        "with_speaker": sum(recording.speaker is not None for recording in recordings),
        "with_text": sum(recording.text is not None for recording in recordings),
    }


def _describe_language(run: str) -> dict[str, Any]:
    decisions = list(read_decisions(run).values())
    return {
        "languages": _histogram([decision.language or "unknown" for decision in decisions]),
        "evidence": _histogram([decision.evidence for decision in decisions]),
    }


def _describe_segments(run: str) -> dict[str, Any]:
    table = read_segments(run)
    durations = pc.subtract(table["end_s"], table["start_s"]).to_numpy()
    return {
        "num_segments": len(table),
        "num_work_units": pc.count_distinct(table["work_unit"]).as_py(),
        "segments_s": _quantiles(durations),
    }


def _describe_codebook(run: str) -> dict[str, Any]:
    return {"codebook": codebook.load(storage.join(run, CODEBOOK)).facts}


def _describe_units(run: str) -> dict[str, Any]:
    size = codebook.load(storage.join(run, CODEBOOK)).num_units
    counts = np.zeros(size, np.int64)
    for table in read_parts(run):
        counts += np.bincount(pc.list_flatten(table["units"]).to_numpy(), minlength=size)
    facts = stage.read_facts(run, UNITS)
    rates = ("num_frames", "num_units", "units_per_hour_before", "units_per_hour")
    return {key: facts[key] for key in rates} | _unit_statistics(counts)


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


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    names = ("min", "p10", "median", "p90", "max")
    return dict(zip(names, np.quantile(values, (0, 0.1, 0.5, 0.9, 1)).tolist(), strict=True)) if len(values) else {}


def _histogram(values: list[Any]) -> dict[str, int]:
    names, counts = np.unique(np.array([str(value) for value in values]), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(names[i]): int(counts[i]) for i in order}
