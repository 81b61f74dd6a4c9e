"""Pitch and style beside the units: how often each code occurs, and how high voices are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import stage
from pipeline.files import parquet
from pipeline.pitch.parts import part_uris
from pipeline.report.chart import Chart, Series, histogram
from pipeline.runs import PITCH, STYLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Part files of which voices are counted; a chunk is half an hour of speech.
MOST_PARTS = 64
F0_STEP_HZ, F0_HIGHEST_HZ = 20, 600


@dataclass(frozen=True)
class StreamFigures:
    """The codes of one stream.

    Attributes:
        name: What they tell: pitch or style.
        rate_hz: Codes a second.
        num_codes: Codes of the model, of which `num_used` occur.
        num_seen: How many codes there are, repeats and all.
        perplexity: Of their frequencies.
        hours: Of the segments that have codes.
        num_voiceless: Segments without voice, of pitch.
        charts: How often each occurs; of pitch, how high segments are.
    """

    name: str
    rate_hz: float
    num_codes: int
    num_used: int
    num_seen: int
    perplexity: float
    hours: float
    num_voiceless: int | None
    charts: tuple[Chart, ...]


def read_streams(run: str, seed: int) -> tuple[StreamFigures, ...]:
    """Reads what the stages of pitch and style, as far as they are finished, say; voices from a seeded draw of parts.

    Raises:
        TwistError: a part is damaged.
    """
    found = []
    if stage.is_finished(run, PITCH):
        facts = stage.read_facts(run, PITCH)
        voiceless = facts["segments_without_voice"]
        found.append(_figures(PITCH, facts, facts["pitch_model"], facts["code_uses"], [_voices(run, seed)], voiceless))
    if stage.is_finished(run, STYLE):
        facts = stage.read_facts(run, STYLE)
        found.append(_figures(STYLE, facts, facts["style_model"], facts["code_counts"], [], None))
    return tuple(found)


def _figures(
    name: str,
    facts: dict[str, Any],
    model: dict[str, Any],
    uses: Sequence[int],
    charts: Sequence[Chart],
    num_voiceless: int | None,
) -> StreamFigures:
    counts: NDArray[np.int64] = np.array(uses, np.int64)
    shares = counts[counts > 0] / max(1, counts.sum())
    percents = tuple((100 * counts / max(1, counts.sum())).tolist())
    labels = tuple(map(str, range(len(counts))))
    bars = Chart(
        f"How often each code of {name} occurs", "bars", "code", "percent", (Series("share", percents),), labels
    )
    return StreamFigures(
        name,
        float(model["rate_hz"]),
        int(model["num_codes"]),
        int((counts > 0).sum()),
        int(counts.sum()),
        float(np.exp(-(shares * np.log(shares)).sum())),
        facts["counts"]["kept"]["hours"],
        num_voiceless,
        (bars, *charts),
    )


def _voices(run: str, seed: int) -> Chart:
    """The mean F0 of segments, as their parts state it."""
    uris = part_uris(run)
    drawn = np.random.default_rng(seed).permutation(len(uris))[:MOST_PARTS]
    edges = np.arange(0, F0_HIGHEST_HZ + F0_STEP_HZ, F0_STEP_HZ)
    counts = np.zeros(len(edges) - 1, np.int64)
    for number in sorted(drawn):
        means_hz = parquet.read(uris[number], ["f0_mean_hz"])["f0_mean_hz"].drop_null().to_numpy()
        counts += np.histogram(np.minimum(means_hz, F0_HIGHEST_HZ), edges)[0]
    labels = [f"{low}–{low + F0_STEP_HZ}" for low in edges[:-1].tolist()]
    return histogram("How high the voice of a segment is on average", "Hz", "segments", labels, {"segments": counts})
