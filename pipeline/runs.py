"""The stages of a run in order, one row each: its folder, its command, its input.

    RUN/<name>/                         a stage's folder (stage.py)
    RUN/<name>/<parts>/part-*.parquet   what its workers write, a file per chunk of work

A new stage is a name and a row here, and a file jobs/<command>.py with a function `work`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.files import storage

# The recipe that a run keeps.
RECIPE = "recipe.yaml"
MANIFEST = "manifest"
LANGUAGE = "language"
SEGMENTS = "segments"
WORDS = "words"
CODEBOOK = "codebook"
UNITS = "units"
PITCH = "pitch"
TEXT = "text"
STYLE = "style"
SHARDS = "shards"
PREFERENCES = "preferences"
# The folder of the checkpoints of `twist tune`.
TUNED = "tuned"
# Those of the models that `twist train-pitch` and `twist train-style` make.
PITCH_MODEL, STYLE_MODEL = "pitch_model", "style_model"
# The checkpoints of `twist train-language`, and the classifier that it makes.
LANGUAGE_TRAINING, LANGUAGE_CLASSIFIER = "language_training", "language_classifier"


@dataclass(frozen=True)
class StageRow:
    """Everything about a stage that is known before it runs.

    Attributes:
        name: Its folder in the run.
        command: The command that runs it: `twist COMMAND`.
        purpose: Description of the command in the list of commands.
        counts: The items that its tallies count.
        source: The stage whose kept hours are its input; None if no stage's kept hours are.
        parts: Subfolder for its part files; "" is the stage's folder itself.
        needs_encoder: Whether it, or the stage it builds on, can only run with an encoder that can be loaded.
        reads_audio: Whether it opens audio, and so takes `--retry-dropped`.
        section: The section, or the setting of one (text.corpora), without which `twist run` leaves the stage out; None
            if it always runs it.
    """

    name: str
    command: str
    purpose: str
    counts: Literal["recordings", "segments", "documents", "pairs"]
    source: str | None = None
    parts: str = ""
    needs_encoder: bool = False
    reads_audio: bool = True
    section: str | None = None


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
    StageRow(
        WORDS,
        "align",
        "find the words of segments and their times, in alignments or by forced alignment",
        "segments",
        source=SEGMENTS,
        parts="recordings",
        section="words",
    ),
    # No source: its input is a sample of the segments, not all that were kept.
    StageRow(CODEBOOK, "codebook", "fit the k-means codebook", "segments", parts="frames", needs_encoder=True),
    StageRow(
        UNITS,
        "tokenize",
        "turn segments into units, on a Ray cluster or this machine",
        "segments",
        source=SEGMENTS,
        needs_encoder=True,
    ),
    StageRow(
        PITCH,
        "pitch",
        "turn the pitch of segments into codes, on a Ray cluster or this machine",
        "segments",
        source=SEGMENTS,
        section="pitch.model",
    ),
    StageRow(
        TEXT,
        "pack-text",
        "pack text into shards of tokens, to train on beside speech",
        "documents",
        reads_audio=False,
        section="text.corpora",
    ),
    StageRow(
        STYLE,
        "style",
        "give each second of a segment a code of style, on a Ray cluster or this machine",
        "segments",
        source=SEGMENTS,
        section="style.model",
    ),
    StageRow(
        SHARDS,
        "pack",
        "pack units into WebDataset shards",
        "segments",
        source=UNITS,
        needs_encoder=True,
        reads_audio=False,
    ),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)
# Made by a command of its own, of what a run has or of something else; `twist run` does not make it.
AFTER_TRAINING = (
    StageRow(
        PREFERENCES,
        "prepare-preferences",
        "make pairs of a good and a bad ending, to tune a speech language model on",
        "pairs",
        needs_encoder=True,
    ),
)


def stage_of(name: str) -> StageRow:
    """Finds the row of the stage whose folder is called `name`."""
    return next(stage for stage in (*STAGES, *AFTER_TRAINING) if stage.name == name)


def parts_uri(run: str, name: str) -> str:
    """The folder of a stage's part files."""
    return storage.join(run, name, *filter(None, [stage_of(name).parts]))


def part_file(chunk: str) -> str:
    """The file name of a chunk's part."""
    return f"part-{chunk}.parquet"


def part_files(folder: str) -> list[str]:
    """The URIs of the part files in a folder, in the order of their chunks."""
    return [storage.join(folder, name) for name in storage.list_files(folder) if is_part_file(name)]


def is_part_file(name: str) -> bool:
    """Whether a file name is that of a chunk's part."""
    return name.startswith("part-") and name.endswith(".parquet")
