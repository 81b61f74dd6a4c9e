"""What is particular to each stage of a run but shards. Tables are read a row group at a time."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from pipeline import stage
from pipeline.corpora.manifest import iterate_tables
from pipeline.files import parquet, storage
from pipeline.inspection import figures
from pipeline.inspection.describe_shards import NUM_EXAMPLE_UNITS, NUM_EXAMPLES
from pipeline.language.filter import DECISIONS
from pipeline.pitch import parts as pitch_parts
from pipeline.runs import CODEBOOK, LANGUAGE, MANIFEST, PITCH, SEGMENTS, STYLE, UNITS, WORDS
from pipeline.segments.segment import SEGMENTS_FILE
from pipeline.units import codebook
from pipeline.units.parts import part_uris, read_part
from pipeline.words import parts as words_parts

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def describe_manifest(run: str) -> dict[str, Any]:
    """Recordings and hours by corpus, and what the corpora say of them."""
    told = ("speaker", "language", "text")
    shown = ["recording_id", "duration_s", *told]
    corpora: dict[str, dict[str, float]] = {}
    sample_rates: Counter[int | None] = Counter()
    known = dict.fromkeys(told, 0)
    speakers: set[str | None] = set()
    durations_s: list[NDArray[np.float64]] = [np.empty(0)]
    examples: list[dict[str, Any]] = []
    for table in iterate_tables(run, [*shown, "corpus", "sample_rate_hz"]):
        durations_s.append(table["duration_s"].to_numpy())
        for row in table.group_by("corpus").aggregate([("duration_s", "count"), ("duration_s", "sum")]).to_pylist():
            corpus = corpora.setdefault(row["corpus"], {"recordings": 0, "hours": 0.0})
            corpus["recordings"] += row["duration_s_count"]
            corpus["hours"] += row["duration_s_sum"] / 3600
        sample_rates += _counted(table["sample_rate_hz"])
        for name in told:
            known[name] += len(table) - table[name].null_count
        speakers.update(pc.unique(table["speaker"]).to_pylist())
        examples += table.slice(0, NUM_EXAMPLES - len(examples)).select(shown).to_pylist()
    return {
        "corpora": corpora,
        **{what: stage.read_facts(run, MANIFEST).get(what, {}) for what in ("kinds", "notices")},
        "recordings_s": figures.quantiles(np.concatenate(durations_s)),
        "sample_rates_hz": figures.most_common(sample_rates),
        "num_speakers": len(speakers - {None}),
        **{f"with_{name}": count for name, count in known.items()},
        "examples": examples,
    }


def describe_language(run: str) -> dict[str, Any]:
    """How many recordings are in which language, and by which evidence."""
    languages: Counter[str] = Counter()
    evidence: Counter[str] = Counter()
    for table in parquet.iterate(storage.join(run, LANGUAGE, DECISIONS), ["language", "evidence"]):
        languages += _counted(table["language"].fill_null("unknown"))
        evidence += _counted(table["evidence"])
    facts = stage.read_facts(run, LANGUAGE)
    return {
        "languages": figures.most_common(languages),
        "evidence": figures.most_common(evidence),
        **{key: facts[key] for key in ("by_evidence", "least_certain", "audio_evidence")},
        "kept_without_evidence": facts.get("kept_without_evidence"),
        "kept_unsure": facts.get("kept_unsure"),
    }


def describe_segments(run: str) -> dict[str, Any]:
    """How many segments there are, and how long they are."""
    durations_s: list[NDArray[np.float64]] = [np.empty(0)]
    chunks: set[str] = set()
    examples: list[dict[str, Any]] = []
    shown = ["segment_id", "start_s", "end_s"]
    for table in parquet.iterate(storage.join(run, SEGMENTS, SEGMENTS_FILE), [*shown, "work_unit"]):
        durations_s.append(pc.subtract(table["end_s"], table["start_s"]).to_numpy())
        chunks.update(pc.unique(table["work_unit"]).to_pylist())
        examples += table.slice(0, NUM_EXAMPLES - len(examples)).select(shown).to_pylist()
    durations = np.concatenate(durations_s)
    del durations_s
    return {
        "num_segments": len(durations),
        "num_work_units": len(chunks),
        "segments_s": figures.quantiles(durations),
        "lengths": stage.read_facts(run, SEGMENTS).get("lengths"),
        "examples": examples,
    }


def describe_words(run: str) -> dict[str, Any]:
    """How many words there are, whose times they have, and how long they are.

    Raises:
        TwistError: a part is damaged.
    """
    durations_s: list[NDArray[np.float64]] = [np.empty(0)]
    examples: list[dict[str, Any]] = []
    for uri in words_parts.part_uris(run):
        part = words_parts.read_part(uri)
        words = pc.list_flatten(part["words"])
        durations_s.append(pc.subtract(pc.struct_field(words, "end_s"), pc.struct_field(words, "start_s")).to_numpy())
        if len(examples) < NUM_EXAMPLES:
            kept = part.filter(pc.is_valid(part["words"])).slice(0, NUM_EXAMPLES - len(examples))
            examples += kept.select(["segment_id", "words", "source"]).to_pylist()
    facts = stage.read_facts(run, WORDS)
    return {
        **{key: facts[key] for key in ("num_words", "by_source", "notices")},
        "words_s": figures.quantiles(np.concatenate(durations_s)),
        "examples": examples,
    }


def describe_codebook(run: str) -> dict[str, Any]:
    """What the codebook was fitted on, and how well."""
    return {"codebook": codebook.load(storage.join(run, CODEBOOK)).facts}


def describe_units(run: str) -> dict[str, Any]:
    """How often units occur, counted in all parts.

    Raises:
        TwistError: a part is damaged.
    """
    book = codebook.load(storage.join(run, CODEBOOK))
    counts = np.zeros(book.codebook_size, np.int64)
    examples: list[dict[str, Any]] = []
    for uri in part_uris(run):
        part = read_part(uri)
        counts += figures.count_units(pc.list_flatten(part["units"]).to_numpy(), book.codebook_size, uri)
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
        "lengths": facts.get("lengths"),
        "segments_with_channels_left_out": facts.get("segments_with_channels_left_out", 0),
        "levels": figures.levels(facts.get("levels_dbfs", {})),
        "remarks": figures.remarks(book.facts["encoder"], book.codebook_size, facts["units_per_hour"]),
        **figures.unit_statistics(counts),
        "examples": examples,
    }


def describe_pitch(run: str) -> dict[str, Any]:
    """What gave the codes of pitch, how often each occurs, and how high the segments' voices are.

    Raises:
        TwistError: a part is damaged.
    """
    means_hz: list[NDArray[np.float64]] = [np.empty(0)]
    examples: list[dict[str, Any]] = []
    for uri in pitch_parts.part_uris(run):
        part = pitch_parts.read_part(uri)
        means_hz.append(part["f0_mean_hz"].drop_null().to_numpy())
        kept = part.filter(pc.is_valid(part["pitch"])).slice(0, NUM_EXAMPLES - len(examples))
        examples += kept.select(["segment_id", "start_s", "end_s", "f0_mean_hz", "pitch"]).to_pylist()
    facts = stage.read_facts(run, PITCH)
    uses = np.array(facts["code_uses"], np.float64)
    shares = uses[uses > 0] / uses.sum()
    return {
        **{key: facts[key] for key in ("pitch_model", "num_pitch_codes", "segments_without_voice")},
        "codes_used": int((uses > 0).sum()),
        "code_perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
        "f0_means_hz": figures.quantiles(np.concatenate(means_hz)),
        "examples": examples,
    }


def _counted(column: pa.ChunkedArray) -> Counter[Any]:
    counted = pc.value_counts(column)
    return Counter(dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)))


def describe_style(run: str) -> dict[str, Any]:
    """Which model gave the codes, and how often each occurs."""
    facts = stage.read_facts(run, STYLE)
    counts = np.array(facts["code_counts"])
    shares = counts[counts > 0] / max(1, counts.sum())
    return {
        "model": facts["style_model"],
        "num_seconds": int(counts.sum()),
        "codes_used": int((counts > 0).sum()),
        "code_perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
        "largest_share": float(shares.max(initial=0.0)),
    }


def _example_segment(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "segment_id": row["segment_id"],
        "duration_s": row["end_s"] - row["start_s"],
        "num_units": len(row["units"]),
        "first_units": row["units"][:NUM_EXAMPLE_UNITS],
    }
