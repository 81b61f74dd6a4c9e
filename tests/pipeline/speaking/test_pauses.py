"""Which units are pauses: those that stand where a recording is quiet."""

from __future__ import annotations

import numpy as np

from pipeline.speaking.pauses import pause_units
from pipeline.speaking.units import Units


def test_units_of_quiet_frames_are_pauses() -> None:
    loud = np.random.default_rng(0).normal(0, 0.1, 25 * 640).astype(np.float32)
    wav = np.concatenate([loud, 0.0005 * loud[: 10 * 640], loud])
    # Unit 4 is quiet in four frames of five, unit 5 in five of ten, unit 6 in one of 20.
    frames = np.array([*[1] * 19, 4, *[5] * 5, *[4] * 4, *[5] * 5, 6, *[6] * 19, *[2] * 6], np.uint16)
    units = Units.of_frames(frames, 25.0)
    assert pause_units([wav], [units]) == (4, 5)
    assert pause_units([wav, 0.01 * wav], [units, units]) == (4, 5), "loudness does not matter"
    assert pause_units([loud], [Units.of_frames(frames[:25], 25.0)]) == ()
