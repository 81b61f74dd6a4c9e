"""The stages of a run, in their order: a row for each, with everything that is known of it before it is done.

    RUN/<name>/                         a stage's folder (stage.py)
    RUN/<name>/<parts>/part-*.parquet   what its workers write, a file per chunk of work

A new stage is a name and a row here, and a file jobs/<command>.py with a function `work`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.files import storage

MANIFEST = "manifest"
LANGUAGE = "language"
SEGMENTS = "segments"
CODEBOOK = "codebook"
UNITS = "units"
SHARDS = "shards"


@dataclass(frozen=True)
class StageRow:
    """One stage.

    Attributes:
        name: Its folder in the run.
        command: The command that does it: `twist COMMAND`.
        purpose: What the command does, in the list of commands.
        counts: What its tallies count.
        source: The stage whose kept hours are its input; None where its input is nothing that another stage kept.
        parts: The folder of its part files, in its own folder; "" is that folder itself.
        needs_encoder: Whether it is of no use without an encoder that can be loaded.
    """

    name: str
    command: str
    purpose: str
    counts: Literal["recordings", "segments"]
    source: str | None = None
    parts: str = ""
    needs_encoder: bool = False


STAGES = (
    StageRow(MANIFEST, "manifest", "list the recordings of the corpora", "recordings"),
    StageRow(
        LANGUAGE,
        "filter",
        "keep the recordings that are in a wanted language",
        "recordings",
        source=MANIFEST,
        parts="audio",
    ),
    StageRow(
        SEGMENTS,
        "segment",
        "cut recordings into segments of speech and plan the work",
        "recordings",
        source=LANGUAGE,
        parts="speech",
    ),
    # Fitted on a sample of the segments: nothing else is made from what it keeps.
    StageRow(CODEBOOK, "codebook", "fit the k-means codebook", "segments", parts="frames", needs_encoder=True),
    StageRow(
        UNITS,
        "tokenize",
        "turn segments into units, on a Ray cluster or this machine",
        "segments",
        source=SEGMENTS,
        needs_encoder=True,
    ),
    StageRow(SHARDS, "pack", "pack units into WebDataset shards", "segments", source=UNITS, needs_encoder=True),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def stage_of(name: str) -> StageRow:
    """The row of the stage whose folder is called `name`."""
    return next(stage for stage in STAGES if stage.name == name)


def parts_uri(run: str, name: str) -> str:
    """The folder of a stage's part files."""
    return storage.join(run, name, *filter(None, [stage_of(name).parts]))


def part_file(chunk: str) -> str:
    """The name of the part file of a chunk."""
    return f"part-{chunk}.parquet"


def is_part_file(name: str) -> bool:
    """Whether a stage's file is the part of a chunk."""
    return name.startswith("part-") and name.endswith(".parquet")
