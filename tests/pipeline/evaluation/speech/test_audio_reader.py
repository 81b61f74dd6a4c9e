from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from pipeline.audio.read import AudioError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.speech.audio_reader import audio_reader

if TYPE_CHECKING:
    from pathlib import Path

RATE_HZ = 16_000


@pytest.fixture
def long(tmp_path: Path) -> str:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 6 * RATE_HZ), RATE_HZ)
    return str(path)


def test_a_stretch_of_a_file_is_that_stretch(long: str) -> None:
    whole, _ = soundfile.read(long, dtype="float32")
    items = {
        "middle": AudioItem("middle", long, 1.0, 2.5),
        "rest": AudioItem("rest", long, 4.0),
        "all": AudioItem("all", long),
    }
    middle, rest, everything = audio_reader(items)(list(items))
    np.testing.assert_array_equal(middle, whole[RATE_HZ : 5 * RATE_HZ // 2])
    np.testing.assert_array_equal(rest, whole[4 * RATE_HZ :])
    np.testing.assert_array_equal(everything, whole)


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.wav")
    items = {"whole": AudioItem("whole", gone), "part": AudioItem("part", gone, 0.0, 1.0)}
    assert all(isinstance(outcome, AudioError) for outcome in audio_reader(items)(list(items)))
