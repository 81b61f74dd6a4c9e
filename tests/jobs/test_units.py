"""`twist units`: the same units as the tokenizer gives, as JSON or .npy, whatever lies beside the recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import twist as front_door

if TYPE_CHECKING:
    from tests.jobs.conftest import Twist


@pytest.fixture(scope="module")
def recordings(demo_speech: Path) -> list[Path]:
    return sorted(path for path in demo_speech.rglob("*.flac") if path.stat().st_size > 50_000)[:3]


def test_each_recording_is_a_line_with_the_tokenizers_units(twist: Twist, recordings: list[Path]) -> None:
    lines = [json.loads(line) for line in twist("units", *recordings).stdout.splitlines()]
    assert [line["audio"] for line in lines] == [str(path) for path in recordings]
    tokenizer = front_door.load_tokenizer("hubert-tiny-25hz")
    for line, path in zip(lines, recordings, strict=True):
        units = tokenizer(path)
        assert line["units"] == units.values.tolist() and line["durations"] == units.durations.tolist()
        assert (line["frame_rate_hz"], line["codebook_fingerprint"]) == (25.0, units.codebook_fingerprint)


def test_a_run_names_the_tokenizer(twist: Twist, recordings: list[Path], finished_run: Path) -> None:
    (line,) = map(json.loads, twist("units", recordings[0], "--run", finished_run).stdout.splitlines())
    assert line["codebook_fingerprint"] == front_door.load_tokenizer(finished_run).codebook.fingerprint
    assert max(line["units"]) < 20, "the run has a codebook of 20"


def test_arrays_keep_the_places_of_a_folder(twist: Twist, recordings: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/one.v1.flac").write_bytes(recordings[0].read_bytes())
    (tmp_path / "in/broken.wav").write_bytes(b"no audio")
    done = twist("units", tmp_path / "in", recordings[1], "--output", tmp_path / "out")
    assert "left out" in done.stderr and "broken.wav" in done.stderr
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.npy")}
    stem = recordings[1].stem
    of_two = {"a/one.v1", stem}
    assert names == {f"{name}.{what}.npy" for name in of_two for what in ("units", "durations")}
    units, durations = (np.load(tmp_path / f"out/a/one.v1.{what}.npy") for what in ("units", "durations"))
    assert units.dtype == durations.dtype == np.uint16 and len(units) == len(durations) > 0
    assert (units[1:] != units[:-1]).all()


def test_a_line_can_be_spoken(twist: Twist, recordings: list[Path], tmp_path: Path) -> None:
    (tmp_path / "clip.json").write_text(twist("units", recordings[0]).stdout)
    twist("speak", "--input-file", tmp_path / "clip.json", "--output-file", tmp_path / "said.wav")
    assert (tmp_path / "said.wav").stat().st_size > 1000


def test_two_recordings_of_one_name_are_refused(twist: Twist, recordings: list[Path], tmp_path: Path) -> None:
    other = tmp_path / recordings[0].name
    other.write_bytes(recordings[0].read_bytes())
    error = twist("units", recordings[0], other, "--output", tmp_path / "out", status=2).stderr
    assert "two recordings would be written to" in error
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_told(twist: Twist) -> None:
    assert "nothing.wav does not exist" in twist("units", "nothing.wav", status=2).stderr
