"""What a person wants to know of a run, or of any one of its folders, as plain data."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from pipeline import stage
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.inspection import checkpoints
from pipeline.inspection.describe_shards import NUM_EXAMPLES, describe_shards
from pipeline.inspection.describe_stages import (
    describe_codebook,
    describe_language,
    describe_manifest,
    describe_pitch,
    describe_segments,
    describe_style,
    describe_units,
    describe_words,
)
from pipeline.inspection.describe_text import describe_text
from pipeline.inspection.preferences import describe_preferences
from pipeline.runs import (
    CODEBOOK,
    LANGUAGE,
    MANIFEST,
    PITCH,
    PREFERENCES,
    SEGMENTS,
    SHARDS,
    STAGE_NAMES,
    STYLE,
    TEXT,
    TUNED,
    UNITS,
    WORDS,
    parts_uri,
)
from pipeline.shards import DATASET
from pipeline.text_shards import is_text
from pipeline.units import codebook
from pipeline.work.progress import read_progress

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = (*STAGE_NAMES, PREFERENCES)


def kind_of(uri: str) -> str:
    """What lies at `uri` (absolute, without a slash at its end): run, the name of a stage, checkpoints, or checkpoint.

    Raises:
        TwistError: nothing of ours, or a stage in a folder of another name.
    """
    if storage.exists(storage.join(uri, DATASET)):
        return TEXT if is_text(uri) else SHARDS
    if storage.exists(storage.join(uri, codebook.FACTS)):
        return CODEBOOK
    if storage.exists(storage.join(uri, stage.STAGE_JSON)):
        kind = str(stage.read_facts(uri, "").get("stage"))
        if kind in NAMES and uri.rpartition("/")[2] != kind:
            raise TwistError(f"{uri} holds the output of stage {kind}; give the folder that name, in its run")
        if kind in NAMES:
            return kind
    was_begun = any(_was_begun(uri, name) for name in NAMES)
    if was_begun or checkpoints.are_at(storage.join(uri, "checkpoints")):
        return "run"
    if storage.exists(storage.join(uri, "config.json")):
        return "checkpoint"
    if checkpoints.are_at(uri):
        return "checkpoints"
    raise TwistError(
        f"{uri} is no run, and no stage, shards, codebook or checkpoint of one; name a folder that a twist command made"
    )


def describe(uri: str, kind: str) -> dict[str, Any]:
    """What lies at `uri`, which is of the kind that `kind_of` says.

    Raises:
        TwistError: something is damaged, or a codebook or shards are unfinished.
    """
    if kind == "run":
        return describe_run(uri)
    if kind == "checkpoints":
        return checkpoints.describe_checkpoints(uri)
    if kind == "checkpoint":
        return checkpoints.describe_checkpoint(uri)
    return describe_folder(uri, kind)


def describe_run(run: str) -> dict[str, Any]:
    """Every stage of a run that was begun (its counts, or that it is unfinished), and the speech LMs trained in it."""
    stages = {name: describe_stage(run, name) for name in NAMES if _was_begun(run, name)}
    description: dict[str, Any] = {"run": run, "stages": stages}
    for name in ("checkpoints", TUNED):
        trained = storage.join(run, name)
        if checkpoints.are_at(trained):
            description[name] = checkpoints.describe_checkpoints(trained)
    return description


def describe_folder(uri: str, kind: str) -> dict[str, Any]:
    """One stage's folder; shards and codebooks also where they lie outside of a run."""
    run, _, name = uri.rpartition("/")
    if name == kind and _was_begun(run, name):
        return describe_stage(run, name)
    if kind == TEXT:
        return describe_text(uri)
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
        MANIFEST: describe_manifest,
        LANGUAGE: describe_language,
        SEGMENTS: describe_segments,
        WORDS: describe_words,
        CODEBOOK: describe_codebook,
        UNITS: describe_units,
        PITCH: describe_pitch,
        TEXT: lambda run: describe_text(storage.join(run, TEXT)),
        STYLE: describe_style,
        PREFERENCES: describe_preferences,
        SHARDS: lambda run: describe_shards(storage.join(run, SHARDS)),
    }
    keys = ("counts", "config", "versions", "wall_time_s", "finished_at")
    return {
        "finished": True,
        **{key: facts[key] for key in keys},
        **particulars[name](run),
        **_drops(storage.join(uri, stage.DROPPED)),
    }


def _was_begun(run: str, name: str) -> bool:
    return storage.exists(storage.join(run, name, stage.STAGE_JSON))


def _drops(uri: str) -> dict[str, Any]:
    """Items and hours by reason and corpus, and the first few drops of each reason."""
    items: dict[tuple[str, str], int] = defaultdict(int)
    hours: dict[tuple[str, str], float] = defaultdict(float)
    examples: dict[str, list[dict[str, Any]]] = {}
    for table in parquet.iterate(uri):
        sums = table.group_by(["reason", "corpus"]).aggregate([("num_items", "sum"), ("duration_s", "sum")])
        for row in sums.to_pylist():
            items[row["reason"], row["corpus"]] += row["num_items_sum"]
            hours[row["reason"], row["corpus"]] += row["duration_s_sum"] / 3600
        for reason in pc.unique(table["reason"]).to_pylist():
            shown = examples.setdefault(reason, [])
            if len(shown) < NUM_EXAMPLES:
                rows = table.filter(pc.equal(table["reason"], reason))
                shown += rows.slice(0, NUM_EXAMPLES - len(shown)).to_pylist()
    return {
        "dropped_by_corpus": [
            {"reason": reason, "corpus": corpus, "items": items[reason, corpus], "hours": hours[reason, corpus]}
            for reason, corpus in sorted(items)
        ],
        "dropped_examples": [row for rows in examples.values() for row in rows],
    }
