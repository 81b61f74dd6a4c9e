"""Whether what lies on disk is what it must be: checksums, and every invariant of a run's files.

Each function yields a sentence per violation, naming the file; nothing means all is well. A damaged file is a violation
like any other, never the end of the search. `checksums=False` leaves out whatever takes reading all bytes of a run:
checksums, the parts of units, and what is in tars. What is left is a matter of minutes for any run.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from model.artefacts import local_path
from model.language_id.pooled_config import CLASSIFIER
from pipeline import stage
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.inspection import checkpoints
from pipeline.inspection.preferences import verify_preferences
from pipeline.inspection.verify_shards import as_violations, verify_shards
from pipeline.inspection.verify_stages import (
    verify_codebook,
    verify_fitted,
    verify_language,
    verify_manifest,
    verify_packed,
    verify_packed_text,
    verify_pitch,
    verify_segments,
    verify_style,
    verify_units,
    verify_words,
)
from pipeline.inspection.verify_text import verify_text
from pipeline.runs import (
    CODEBOOK,
    LANGUAGE,
    LANGUAGE_CLASSIFIER,
    LANGUAGE_TRAINING,
    MANIFEST,
    PITCH,
    PITCH_MODEL,
    PREFERENCES,
    SEGMENTS,
    SHARDS,
    STAGE_NAMES,
    STYLE,
    STYLE_MODEL,
    TEXT,
    TUNED,
    UNITS,
    WORDS,
    stage_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOURS_TOLERANCE = 1e-6


def verify(uri: str, kind: str, checksums: bool = True) -> Iterator[str]:
    """What is wrong with what lies at `uri`, of the kind that `kind_of` says.

    Raises:
        StageError: it is a stage that is not finished.
    """
    if kind == "run":
        return verify_run(uri, checksums)
    if kind == "checkpoints":
        return checkpoints.verify_checkpoints(uri, checksums)
    if kind == "checkpoint":
        return checkpoints.verify_checkpoint(uri, checksums)
    return verify_folder(uri, kind, checksums)


def verify_run(run: str, checksums: bool = True) -> Iterator[str]:
    """All finished stages of a run, each against itself and what it was made from, and the models trained in it."""
    for name in (*STAGE_NAMES, PREFERENCES):
        if stage.is_finished(run, name):
            yield from verify_stage(run, name, checksums)
    for name in ("tokenizer", "vocoder", "checkpoints", TUNED, PITCH_MODEL, LANGUAGE_TRAINING):
        folder = storage.join(run, name)
        yield from as_violations(folder, checkpoints.verify_checkpoints(folder, checksums))
    yield from verify_style_model(storage.join(run, STYLE_MODEL))
    yield from verify_language_classifier(storage.join(run, LANGUAGE_CLASSIFIER))


def verify_style_model(folder: str) -> Iterator[str]:
    """What `twist train-style` has made, if it has: that it can be loaded, and is what was saved."""
    if storage.exists(storage.join(folder, checkpoints.CONFIG)):
        from model.style.model import load_style

        yield from _complaint_of(lambda: load_style(folder, "cpu"))


def verify_language_classifier(folder: str) -> Iterator[str]:
    """What `twist train-language` has made, if it has: that it can be loaded, and is what was saved."""
    if storage.exists(storage.join(folder, CLASSIFIER)):
        from model.language_id.pooled_folder import load_pooled

        yield from _complaint_of(lambda: load_pooled(local_path(folder), "cpu"))


def _complaint_of(load: Callable[[], object]) -> Iterator[str]:
    try:
        load()
    except TwistError as error:
        yield str(error)


def verify_folder(uri: str, kind: str, checksums: bool = True) -> Iterator[str]:
    """One stage's folder; shards and codebooks also where they lie outside of a run."""
    run, _, name = uri.rpartition("/")
    if name == kind and storage.exists(storage.join(uri, stage.STAGE_JSON)):
        return verify_stage(run, name, checksums)
    if kind == TEXT:
        return verify_text(uri, checksums)
    return verify_shards(uri, checksums) if kind == SHARDS else as_violations(uri, verify_codebook(uri))


def verify_stage(run: str, name: str, checksums: bool = True) -> Iterator[str]:
    """One finished stage of a run.

    Raises:
        StageError: it is not finished.
    """
    stage.fingerprint_of(run, name)
    particular: dict[str, Callable[[str, bool], Iterator[str]]] = {
        MANIFEST: verify_manifest,
        LANGUAGE: verify_language,
        SEGMENTS: verify_segments,
        WORDS: verify_words,
        CODEBOOK: lambda run, _: verify_fitted(run),
        UNITS: verify_units,
        PITCH: verify_pitch,
        TEXT: verify_packed_text,
        STYLE: verify_style,
        SHARDS: verify_packed,
        PREFERENCES: verify_preferences,
    }
    checks = [_verify_counts(run, name), _verify_inputs(run, name), particular[name](run, checksums)]
    if checksums:
        checks.append(stage.damage(run, name))
    for check in checks:
        yield from as_violations(storage.join(run, name), check)


def _verify_counts(run: str, name: str) -> Iterator[str]:
    """What stage.json counts, against the stage before and against dropped.parquet."""
    uri = storage.join(run, name, stage.STAGE_JSON)
    facts = stage.read_facts(run, name)
    counts = facts["counts"]
    # Found behind the stated ends of what came in.
    found = facts.get("lengths", {}).get("longer_than_stated", {"hours": 0.0})
    source = stage_of(name).source
    source_kept = stage.read_facts(run, source)["counts"]["kept"] if source else counts["input"]
    for measure, tolerance in (("items", 0.5), ("hours", HOURS_TOLERANCE * max(1, counts["input"]["items"]))):
        came_in = counts["input"][measure]
        out = counts["kept"][measure] + sum(tally[measure] for tally in counts["dropped"].values())
        if abs(out - came_in) > tolerance:
            yield f"{uri}: kept and dropped {measure} add up to {out}, not to the {came_in} that went in"
        is_comparable = measure == "hours" or (source and stage_of(source).counts == stage_of(name).counts)
        expected = source_kept[measure] + (found["hours"] if source and measure == "hours" else 0)
        if is_comparable and abs(expected - came_in) > tolerance:
            yield f"{uri}: {came_in} {measure} went in, but {source} had kept {expected}"
    rows, items, hours = _dropped(run, name)
    for reason in sorted(items.keys() | counts["dropped"].keys()):
        stated = counts["dropped"].get(reason, {"items": 0, "hours": 0.0})
        tolerance = HOURS_TOLERANCE * max(1, rows[reason])
        if items[reason] != stated["items"] or abs(hours[reason] - stated["hours"]) > tolerance:
            yield (
                f"{uri}: {stated['items']} items ({stated['hours']:.6f} h) were dropped as {reason}, but "
                f"dropped.parquet beside it names {items[reason]} ({hours[reason]:.6f} h)"
            )


def _dropped(run: str, name: str) -> tuple[dict[str, int], dict[str, int], dict[str, float]]:
    """Rows, items and hours of dropped.parquet by reason."""
    rows: dict[str, int] = defaultdict(int)
    items: dict[str, int] = defaultdict(int)
    hours: dict[str, float] = defaultdict(float)
    uri = storage.join(run, name, stage.DROPPED)
    for table in parquet.iterate(uri, ["reason", "num_items", "duration_s"]):
        sums = [("reason", "count"), ("num_items", "sum"), ("duration_s", "sum")]
        for row in table.group_by("reason").aggregate(sums).to_pylist():
            rows[row["reason"]] += row["reason_count"]
            items[row["reason"]] += row["num_items_sum"]
            hours[row["reason"]] += row["duration_s_sum"] / 3600
    return rows, items, hours


def _verify_inputs(run: str, name: str) -> Iterator[str]:
    for source, fingerprint in stage.read_facts(run, name)["inputs"].items():
        if source not in STAGE_NAMES:  # evaluation sets, alignments, a tokenizer: they lie elsewhere
            continue
        if not stage.is_finished(run, source):
            yield f"{storage.join(run, name)} was made from {source}, which is not finished"
        elif stage.fingerprint_of(run, source) != fingerprint:
            yield f"{storage.join(run, name)} was made from another {source} than the one beside it"
