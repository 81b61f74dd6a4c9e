"""What the stages of a small run took and gave, read from what they wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.files import storage
from pipeline.runs import CODEBOOK, PITCH, SHARDS, STAGE_NAMES, UNITS, stage_of
from pipeline.stage import is_finished, read_facts

if TYPE_CHECKING:
    from pipeline.estimate.sample import Part

# Its actors have no GPU, whatever there is.
ON_CORES = (PITCH,)
IN_SEGMENTS = "hours in segments"
# Of all segments; pack reads tables and writes tars. docs/performance.md: 5 core hours for 22 million segments.
PACK_CORE_S_PER_SEGMENT = 5 * 3600 / 22e6


@dataclass(frozen=True)
class Measured:
    """Totals of one small run, by name.

    Attributes:
        hours: Hours of audio that went in.
        decode_s: Seconds of cores, by stage: reading and decoding audio.
        process_s: Seconds of actors, by stage: of GPUs if they have one, else of cores.
        amounts: What came out: hours in segments and in shards, samples, segments, units; dropped hours by reason.
        stored_bytes: Size of each stage's folder.
    """

    hours: float
    decode_s: dict[str, float]
    process_s: dict[str, float]
    amounts: dict[str, float]
    stored_bytes: dict[str, float]


def measure(part: Part) -> Measured:
    """Reads what the stages of a small run, finished up to `pack`, say of themselves."""
    names = [name for name in STAGE_NAMES if name != CODEBOOK and is_finished(part.run, name)]
    facts = {name: read_facts(part.run, name) for name in names}
    # Of the stages that open audio stage.json has the time of workers.
    seconds = {name: facts[name]["work"].get("worker_seconds", {}) for name in names if "work" in facts[name]}
    shards = facts[SHARDS]["counts"]
    decode_s = {name: of_step.get("decode", 0.0) for name, of_step in seconds.items()}
    process_s = {name: of_step.get("encode", 0.0) + of_step.get("commit", 0.0) for name, of_step in seconds.items()}
    for name in seconds.keys() & set(ON_CORES):
        decode_s[name] += process_s.pop(name)
    decode_s[SHARDS] = shards["input"]["items"] * PACK_CORE_S_PER_SEGMENT
    amounts = {
        IN_SEGMENTS: facts[UNITS]["counts"]["input"]["hours"],
        "hours in shards": shards["kept"]["hours"],
        "samples": float(shards["kept"]["items"]),
        "segments": float(shards["input"]["items"]),
        "units": facts[UNITS]["num_units"] * shards["kept"]["hours"] / facts[UNITS]["counts"]["kept"]["hours"],
    }
    for name, of_stage in facts.items():
        for reason, tally in of_stage["counts"]["dropped"].items():
            amounts[f"dropped by {stage_of(name).command}: {reason}"] = tally["hours"]
    return Measured(
        part.hours,
        decode_s,
        process_s,
        amounts,
        {name: float(folder_bytes(storage.join(part.run, name))) for name in facts},
    )


def folder_bytes(folder: str) -> int:
    """The size of all files below a folder."""
    return sum(storage.size(storage.join(folder, name)) for name in storage.list_files(folder))
