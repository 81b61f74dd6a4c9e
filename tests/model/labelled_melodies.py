"""Clips whose units do not say all: a code of pitch says the octave of a tone, and the speaker how loud it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from model.vocoder.batches import CodeFacts, Conditions
from tests.model.labelled_tones import HOP_SAMPLES, LabelledTones

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPEAKERS = ("loud", "low")
LEVELS = (0.3, 0.03)
FRAMES_PER_CODE = {"pitch": 2, "style": 25}
CODES_PER_TONE = 4
FACTS = {"pitch": CodeFacts(25.0, 3, "a model of pitch"), "style": CodeFacts(2.0, 4, "a model of style")}


@dataclass(frozen=True)
class LabelledMelodies(LabelledTones):
    """LabelledTones with tones an octave higher for each code of pitch, said by one of two speakers."""

    facts: dict[str, CodeFacts] = field(default_factory=lambda: dict(FACTS))

    @property
    def codes(self) -> dict[str, CodeFacts]:
        return self.facts

    @property
    def speakers(self) -> tuple[str, ...]:
        return SPEAKERS

    def conditions(self, index: int) -> Conditions:
        generator = np.random.default_rng([index, 1])
        num_frames = self.frames_per_clip[index]
        codes = {}
        for name, each in FRAMES_PER_CODE.items():
            num_codes = -(-num_frames // each)
            drawn = generator.integers(self.facts[name].num_codes, size=-(-num_codes // CODES_PER_TONE))
            codes[name] = np.repeat(drawn, CODES_PER_TONE)[:num_codes].astype(np.uint16)
        return Conditions(codes, index % 2)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        wav, units = super().__getitem__(index)
        told = self.conditions(index)
        octaves = np.repeat(told.codes["pitch"], FRAMES_PER_CODE["pitch"])[: len(units)].astype(np.float64)
        hertz = 300 * 2.0 ** np.repeat((units > 1) * 0.5 + octaves, HOP_SAMPLES)
        assert told.speaker is not None
        wav[: len(hertz)] = LEVELS[told.speaker] * np.sin(2 * np.pi * np.cumsum(hertz) / 16_000)
        return wav, units
