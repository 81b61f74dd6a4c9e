"""How far a run is: what each stage has done, at what rate, what holds it up, and what it has cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import stage
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.files.folder_lock import holder_of
from pipeline.printable import printable
from pipeline.runs import STAGE_NAMES, parts_uri
from pipeline.work.progress import read_progress

# A chunk that a worker has for so many times the mean, and at least so long, is a straggler.
STRAGGLER_FACTOR, STRAGGLER_AT_LEAST_S = 3.0, 60.0
MAX_SHOWN = 5


def status(run: str, now: float) -> dict[str, Any]:
    """The stages of a run that were begun, by name.

    Args:
        run: The run's folder.
        now: The time, in seconds since 1970.

    Returns:
        For each stage `state` (finished, running, or stopped: its folder is not locked, and nobody has told of it for
        minutes), `seconds` of its last command, `quarantined` (errors by chunk, or by segment once it is finished),
        `stragglers` (seconds by chunk) and `progress` (work/progress.py; None where it is finished or tells nothing).

    Raises:
        TwistError: no stage was begun.
    """
    begun = [name for name in STAGE_NAMES if storage.exists(storage.join(run, name, stage.STAGE_JSON))]
    if not begun:
        raise TwistError(f"{run} is no run, or none that was begun: it has no stage")
    return {name: _of_stage(run, name, now) for name in begun}


def _of_stage(run: str, name: str, now: float) -> dict[str, Any]:
    if stage.is_finished(run, name):
        return {
            "state": "finished",
            "seconds": stage.read_facts(run, name).get("wall_time_s", 0.0),
            "quarantined": _quarantined(storage.join(run, name, stage.DROPPED)),
            "stragglers": {},
            "progress": None,
        }
    told = read_progress(parts_uri(run, name), now)
    folder = storage.join(run, name)
    # S3 has no locks: there, what tells nothing of itself cannot be told from what was killed.
    is_locked = not storage.is_s3(run) and holder_of(folder) is not None
    if told is None:
        seconds = max(0.0, now - Path(folder, stage.STAGE_JSON).stat().st_mtime) if is_locked else 0.0
        state = "running" if is_locked else "stopped"
        return {"state": state, "seconds": seconds, "quarantined": {}, "stragglers": {}, "progress": None}
    mean_s = sum(told["worker_seconds"].values()) / max(1, told["num_done"])
    longest_s = max(STRAGGLER_AT_LEAST_S, STRAGGLER_FACTOR * mean_s)
    ages_s = {chunk: now - since for chunk, since in told.get("in_hand", {}).items()}
    return {
        "state": "stopped" if told["is_stale"] and not is_locked else "running",
        "seconds": (told["told_at"] if told["is_stale"] else now) - told["begun_at"],
        "quarantined": told.get("quarantined", {}),
        "stragglers": {} if told["is_stale"] else {chunk: age for chunk, age in ages_s.items() if age > longest_s},
        "progress": told,
    }


def _quarantined(uri: str) -> dict[str, str]:
    return {
        row["id"]: row["detail"]
        for table in parquet.iterate(uri, ["id", "reason", "detail"])
        for row in table.to_pylist()
        if row["reason"] == "quarantined"
    }


def as_text(stages: dict[str, Any], price_per_hour: float | None) -> str:
    """Lines for people; `price_per_hour` is that of all machines together."""
    lines = []
    for name, told in stages.items():
        progress = told["progress"]
        line = f"{name:<10} {told['state']}, {_duration(told['seconds'])}"
        if progress:
            done = progress["num_done_before"] + progress["num_done"]
            line += f"; {done:,} of {progress['num_chunks']:,} chunks; {progress['summary']}"
            if progress["seconds_left"] is not None and told["state"] == "running":
                line += f"; {_duration(progress['seconds_left'])} left"
        elif told["state"] == "stopped":
            line = f"{name:<10} begun, not finished; it does not tell how far it is"
        lines.append(line)
        lines += [f"{'':<10} straggler {chunk}: {_duration(age)}" for chunk, age in _first(told["stragglers"])]
        lines += [f"{'':<10} quarantined {id}: {error}" for id, error in _first(told["quarantined"])]
    if not any(told["state"] == "running" for told in stages.values()):
        lines.append("nothing runs")
    if price_per_hour is not None:
        hours = sum(told["seconds"] for told in stages.values()) / 3600
        lines.append(f"cost       {hours * price_per_hour:,.2f} for {hours:,.2f} h of these commands")
    return "\n".join(map(printable, lines))


def _first(told: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(told.items())[:MAX_SHOWN]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
