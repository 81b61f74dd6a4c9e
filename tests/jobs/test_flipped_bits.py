"""Bits flipped at random in every kind of file of a whole run: `inspect --verify` finds them, and who uses weights too.

The run has everything that commands make: words, pitch, style, text, preferences, checkpoints of five trainings, and a
style model.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from model.lm.samples import AlignedSamples, TextSamples, UnitSamples
from model.preferences.pair_shards import open_pairs
from model.preferences.reference import SCHEMA
from model.training import checkpoint, resumption
from model.training.distributed import Ranks
from pipeline import stage
from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.inspection import checkpoints
from pipeline.inspection.verify import verify_run, verify_stage, verify_style_model
from pipeline.packing.streams import Stream, codes_of_segments
from pipeline.runs import (
    PITCH,
    PITCH_MODEL,
    PREFERENCES,
    STAGE_NAMES,
    STYLE,
    STYLE_MODEL,
    TUNED,
    UNITS,
    WORDS,
)
from pipeline.shards import WORD_BYTES, open_dataset
from pipeline.text_shards import open_text
from pipeline.units import parts as units_parts
from pipeline.words import parts as words_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jobs.whole_runs import WholeRun

NUM_FLIPS_OF_A_KIND = 40
TRAININGS = ("checkpoints", TUNED, "vocoder", "tokenizer", PITCH_MODEL)
# It has no list beside it: pages have checksums, its footer has none.
REFERENCE = "log-probabilities of a reference"
# Each file of a run is of the first kind that it fits.
KINDS = {
    "weights": ["*/0*/model*.safetensors"],
    "optimizers": ["*/0*/optimizer-*"],
    "style model": [f"{STYLE_MODEL}/*"],
    "lists of checksums": ["*/0*/checksums.json"],
    "states and settings of checkpoints": ["*/0*/*"],
    REFERENCE: ["tuned/*.parquet"],
    "units, pitch and style": [f"{name}/part-*.parquet" for name in ("units", "pitch", "style")],
    "shards": ["shards/*/*.tar"],
    "shards of text": ["text/*/*.tar"],
    "shards of pairs": ["preferences/*/*.tar"],
    "words": ["words/**/part-*.parquet"],
    "codebook": ["codebook/codebook.*", "codebook/frames/*"],
    "what is dropped": ["*/dropped.parquet"],
    "tables": [
        *("manifest/*.parquet", "language/**/*.parquet", "segments/**/*.parquet"),
        *("*/manifest.parquet", "preferences/*.parquet"),
    ],
    "facts": ["*/stage.json", "*/dataset.json", "*/DONE", "*/SHA256SUMS", "preferences/*.json"],
}
# They have no checksum: text that anybody may edit or that only tells, pictures, and figures that are made anew.
UNCHECKED = [
    *("recipe.yaml", "*/metrics.jsonl", "*/.lock", "*/curve.png", "*/progress.json"),
    *("vocoder/samples/*", "evaluation/**/*"),
    f"{PITCH_MODEL}/contours-*/*",  # is made anew; its zip has checksums, which who trains on it is told of
]


def read_codes(uri: str) -> pa.Table:
    """The codes of a part of pitch or style, as who packs them takes them."""
    folder, _, part = uri.rpartition("/")
    run, _, name = folder.rpartition("/")
    stream = Stream(name, folder, 1.0, 2**16, "")
    ids = units_parts.read_part(f"{run}/{UNITS}/{part}").select(["segment_id"])
    return ids.append_column(name, codes_of_segments(ids, part, stream, stream.checksums()))


READ_PART = {UNITS: units_parts.read_part, WORDS: words_parts.read_part, PITCH: read_codes, STYLE: read_codes}


@pytest.fixture
def run(whole_run: WholeRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run.run, tmp_path / "run"))


def files_of(run: Path) -> dict[str, list[Path]]:
    """The files of a run that have a checksum, by their kind."""
    left = {path for path in run.rglob("*") if path.is_file()}
    left -= {path for pattern in UNCHECKED for path in run.glob(pattern)}
    kinds = {}
    for kind, patterns in KINDS.items():
        kinds[kind] = sorted(path for pattern in patterns for path in run.glob(pattern) if path in left)
        left -= set(kinds[kind])
    assert not left, f"files of no kind: {sorted(left)}"
    return kinds


@contextlib.contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    yield
    path.write_bytes(content)


def flips(files: list[Path], count: int, seed: int) -> Iterator[tuple[str, Path]]:
    """Does flips one after the other; tells each, and the file."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        path = files[generator.integers(len(files))]
        bit = int(generator.integers(8 * path.stat().st_size))
        with flipped(path, bit):
            yield f"bit {bit} of {path}", path


def is_found(run: Path, path: Path) -> bool:
    """Whether `twist inspect RUN --verify` finds something; to be quick, it begins where there is something."""
    name = path.relative_to(run).parts[0]
    if name in TRAININGS and path.parent != run / name:
        nearest = checkpoints.verify_checkpoint(str(path.parent))
    elif name in TRAININGS:
        nearest = checkpoints.verify_checkpoints(str(run / name))
    elif name == STYLE_MODEL:
        nearest = verify_style_model(str(path.parent))
    else:
        nearest = verify_stage(str(run), name) if stage.is_finished(str(run), name) else iter(())
    return next(nearest, None) is not None or next(verify_run(str(run)), None) is not None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != REFERENCE])
def test_flips_are_found_by_inspection(kind: str, run: Path) -> None:
    files = files_of(run)[kind]
    assert files
    unfound = [flip for flip, path in flips(files, NUM_FLIPS_OF_A_KIND, seed=16) if not is_found(run, path)]
    assert not unfound, f"{len(unfound)} of {NUM_FLIPS_OF_A_KIND} went unnoticed"


def test_flips_in_what_a_reference_said_are_found_or_change_nothing(run: Path) -> None:
    files = files_of(run)[REFERENCE]
    whole = {path: parquet.read(str(path), SCHEMA.names) for path in files}
    unfound = [
        flip
        for flip, path in flips(files, NUM_FLIPS_OF_A_KIND, seed=16)
        if not is_found(run, path) and not parquet.read(str(path), SCHEMA.names).equals(whole[path])
    ]
    assert not unfound


def test_a_sound_run_has_no_violation(whole_run: WholeRun) -> None:
    assert list(verify_run(str(whole_run.run))) == []
    finished = {name for name in (*STAGE_NAMES, PREFERENCES) if stage.is_finished(str(whole_run.run), name)}
    assert finished == {*STAGE_NAMES, PREFERENCES}
    assert all(checkpoints.are_at(str(whole_run.run / name)) for name in TRAININGS)


def test_flips_in_weights_are_found_by_who_loads_them(run: Path) -> None:
    for _, path in flips(files_of(run)["weights"], 60, seed=1):
        with pytest.raises(TwistError, match="is damaged"):
            checkpoint.fetch(str(path.parent))
        with pytest.raises(TwistError, match="is damaged"):
            resumption.fetch_to_resume(str(path.parent.parent), int(path.parent.name), Ranks())


def test_flips_in_optimizers_are_found_by_who_resumes(run: Path) -> None:
    for _, path in flips(files_of(run)["optimizers"], 30, seed=2):
        with pytest.raises(TwistError, match="is damaged"):
            resumption.fetch_to_resume(str(path.parent.parent), int(path.parent.name), Ranks())


def test_flips_in_units_words_and_text_are_found_by_who_trains_on_them(run: Path) -> None:
    generator = np.random.default_rng(3)
    for folder, start, end, read in (
        ("shards", "units_offset", lambda row: row["units_offset"] + 2 * row["num_units"], _read_units),
        ("shards", "units_offset", lambda row: row["words_offset"] + WORD_BYTES * row["num_words"], _read_words),
        ("text", "tokens_offset", lambda row: row["tokens_offset"] + 2 * row["num_tokens"], _read_text),
    ):
        dataset = open_text(str(run / "text")) if folder == "text" else open_dataset(str(run / "shards"))
        table = dataset.manifest
        rows = [row for row in table.to_pylist() if read is not _read_words or row["num_words"]]
        read(run, {row["split"] for row in rows})
        for row in generator.choice(rows, 40):
            bit = int(generator.integers(8 * row[start], 8 * end(row)))
            with flipped(run / folder / row["shard"], bit), pytest.raises(TwistError, match="is damaged"):
                read(run, {row["split"]})


def _read_units(run: Path, splits: set[str]) -> None:
    dataset = open_dataset(str(run / "shards"))
    for samples in (UnitSamples(dataset, split, 4096) for split in splits):
        samples.read(range(len(samples)))


def _read_words(run: Path, splits: set[str]) -> None:
    dataset = open_dataset(str(run / "shards"))
    for samples in (AlignedSamples(dataset, split) for split in splits):
        samples.read(range(len(samples)))


def _read_text(run: Path, splits: set[str]) -> None:
    dataset = open_text(str(run / "text"))
    for samples in (TextSamples(dataset, split, 4096) for split in splits):
        samples.read(range(len(samples)))


def test_flips_in_pairs_are_found_by_who_tunes_on_them(run: Path) -> None:
    for _, path in flips(files_of(run)["shards of pairs"], 40, seed=4):
        with pytest.raises(TwistError, match="is damaged"):
            list(open_pairs(str(run / "preferences")).pairs(path.parent.name))


@pytest.mark.parametrize("name", READ_PART)
def test_flips_in_parts_are_found_by_who_packs_them_or_change_nothing(name: str, run: Path) -> None:
    read = READ_PART[name]
    files = sorted((run / name).rglob("part-*.parquet"))
    whole = {path: read(str(path)) for path in files}
    num_found = 0
    for flip, path in flips(files, 100, seed=5):
        try:
            assert read(str(path)).equals(whole[path]), f"{flip} gives other {name}"
        except TwistError:
            num_found += 1
    assert num_found > 40
