"""What was measured on a sample, scaled to the corpus, with the range that the sample leaves open."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from pipeline.estimate.measure import IN_SEGMENTS
from pipeline.runs import CODEBOOK, MANIFEST, UNITS, stage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.estimate.measure import Measured

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Range:
    """A figure, and the 95% interval that it lies in as far as the sample tells; NaN where one part is all there is."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Range:
        """The range of a multiple."""
        return Range(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Machine:
    """What works at once: on this machine, or on the cluster that the sample was worked on."""

    num_cores: float
    num_gpus: float


@dataclass(frozen=True)
class Estimate:
    """What a corpus will give and take.

    Attributes:
        corpus_hours: Hours of the whole manifest.
        sample_hours: Hours that were worked on.
        num_parts: Parts of the sample.
        machine: What they were worked on.
        amounts: Hours in shards, samples, segments, units, and hours dropped by stage and reason.
        core_hours: Hours of a core by command: of reading and decoding, and of the rest where there is no GPU.
        gpu_hours: Hours of a GPU by command; empty without one.
        wall_hours: Hours on this machine, or cluster, alone.
        stored_gb: GB by folder of the run.
    """

    corpus_hours: float
    sample_hours: float
    num_parts: int
    machine: Machine
    amounts: dict[str, Range]
    core_hours: dict[str, Range]
    gpu_hours: dict[str, Range]
    wall_hours: Range
    stored_gb: dict[str, Range]

    def machines_for(self, days: float) -> Range:
        """How many machines like this one are done in so many days; whole ones."""
        needed = self.wall_hours.times(1 / (24 * days))
        return Range(
            *(math.nan if math.isnan(n) else max(1.0, math.ceil(n)) for n in (needed.value, needed.low, needed.high))
        )

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return asdict(self)


def project(
    parts: Sequence[Measured], machine: Machine, *, corpus_hours: float, codebook_hours: float, manifest_bytes: float
) -> Estimate:
    """Scales what was measured on parts of a sample to a corpus.

    Args:
        parts: Of the sample, at least one.
        machine: What they were worked on.
        corpus_hours: Hours of the whole corpus.
        codebook_hours: Hours of segments that are encoded to fit the codebook; 0 if one is taken.
        manifest_bytes: The size of the manifest, which is known.
    """

    def scaled(figure: Callable[[Measured], float], factor: float = 1.0) -> Range:
        return ratio_of_sums([figure(part) for part in parts], [part.hours for part in parts]).times(
            corpus_hours * factor
        )

    has_gpu = machine.num_gpus > 0
    stages = dict.fromkeys(name for part in parts for name in (*part.decode_s, *part.process_s))

    def core_s(part: Measured, stage: str) -> float:
        return part.decode_s.get(stage, 0.0) + (0.0 if has_gpu else part.process_s.get(stage, 0.0))

    def wall_s_of(part: Measured, stage: str) -> float:
        # Decoding goes on beside the GPUs, so that the slower of the two counts.
        on_gpus = part.process_s.get(stage, 0.0) / machine.num_gpus if has_gpu else 0.0
        return max(core_s(part, stage) / machine.num_cores, on_gpus)

    def wall_s(part: Measured) -> float:
        return sum(wall_s_of(part, stage) for stage in stages)

    def core_hours_of(stage: str) -> Range:
        return scaled(lambda part: core_s(part, stage), 1 / 3600)

    def gpu_hours_of(stage: str) -> Range:
        return scaled(lambda part: part.process_s.get(stage, 0.0), 1 / 3600)

    core_hours = {stage_of(name).command: core_hours_of(name) for name in stages}
    gpu_hours = {
        stage_of(name).command: gpu_hours_of(name)
        for name in stages
        if has_gpu and any(part.process_s.get(name) for part in parts)
    }
    wall_hours = scaled(wall_s, 1 / 3600)
    if codebook_hours:
        share = min(1.0, codebook_hours / scaled(lambda part: part.amounts[IN_SEGMENTS]).value)
        tokenize, codebook = (stage_of(name).command for name in (UNITS, CODEBOOK))
        for hours in (core_hours, gpu_hours):
            if tokenize in hours:
                hours[codebook] = hours[tokenize].times(share)
        wall_hours = scaled(lambda part: wall_s(part) + share * wall_s_of(part, UNITS), 1 / 3600)
    names = dict.fromkeys(name for part in parts for name in part.amounts)
    folders = dict.fromkeys(name for part in parts for name in part.stored_bytes)

    def stored_gb_of(folder: str) -> Range:
        return scaled(lambda part: part.stored_bytes.get(folder, 0.0), 1e-9)

    def amount_of(name: str) -> Range:
        return scaled(lambda part: part.amounts.get(name, 0.0))

    stored_gb = {name: stored_gb_of(name) for name in folders}
    stored_gb[MANIFEST] = Range(*3 * (manifest_bytes / 1e9,))
    return Estimate(
        corpus_hours,
        sum(part.hours for part in parts),
        len(parts),
        machine,
        {name: amount_of(name) for name in names},
        core_hours,
        gpu_hours,
        wall_hours,
        stored_gb,
    )


def ratio_of_sums(amounts: Sequence[float], hours: Sequence[float]) -> Range:
    """What there is of something an hour, from the sums over parts, with its 95% interval by how parts differ.

    The usual interval of a ratio estimator (Cochran, Sampling Techniques, 1977, section 6.4), with Student's t; its
    lower end is at least 0.
    """
    x, h = np.array(amounts, dtype=np.float64), np.array(hours, dtype=np.float64)
    ratio = float(x.sum() / h.sum())
    num_parts = len(x)
    if num_parts == 1:
        return Range(ratio, math.nan, math.nan)
    variance = num_parts / (num_parts - 1) * float(((x - ratio * h) ** 2).sum()) / float(h.sum()) ** 2
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, num_parts - 1)) * math.sqrt(variance)
    return Range(ratio, max(0.0, ratio - half), ratio + half)
