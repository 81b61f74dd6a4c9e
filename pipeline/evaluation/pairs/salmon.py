"""SALMon: does a speech LM hear that a voice, a room or a mood changes, or does not fit what is said?

<folder>/<part>/sample_<i>_<j>.wav    j = 0 is right, j = 1 is wrong (slp-rl/salmon)
"""

from __future__ import annotations

import re

from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.pairs.likelier import Pair
from pipeline.evaluation.results import LeftOut
from pipeline.files import storage

PARTS = (
    "sentiment_consistency",
    "speaker_consistency",
    "gender_consistency",
    "bg_domain_consistency",
    "bg_all_consistency",
    "rir_consistency",
    "sentiment_alignment",
    "bg_alignment",
)
SAMPLE = re.compile(r"sample_(\d+)_([01])\.\w+")


def read_pairs(folder: str) -> tuple[list[Pair], list[LeftOut]]:
    """The pairs of all parts, and the samples that lack their twin. Parts that are not there are left out as such.

    Raises:
        TwistError: none of the parts is there.
    """
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []
    for part in PARTS:
        samples: dict[tuple[int, int], str] = {}
        for name in storage.list_files(storage.join(folder, part)):
            if found := SAMPLE.fullmatch(name):
                samples[int(found[1]), int(found[2])] = name
        if not samples:
            left_out.append(LeftOut(part, "missing", f"{folder} has no {part}/sample_<number>_0.wav"))
        for number in sorted({number for number, _ in samples}):
            pair_id = f"{part}/{number}"
            if missing := [twin for twin in (0, 1) if (number, twin) not in samples]:
                detail = f"there is no sample_{number}_{missing[0]}"
                left_out.append(LeftOut(pair_id, "unpaired", detail))
                continue
            positive, negative = (
                AudioItem(f"{part}/{samples[number, twin]}", storage.join(folder, part, samples[number, twin]))
                for twin in (0, 1)
            )
            pairs.append(Pair(pair_id, pair_id, positive, negative, {"part": part}))
    if not pairs:
        raise TwistError(
            f"{folder} holds none of SALMon's parts: what is looked for are {', '.join(PARTS)}, each with "
            f"sample_<number>_0.wav and sample_<number>_1.wav"
        )
    return pairs, left_out
