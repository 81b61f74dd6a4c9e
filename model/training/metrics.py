"""The training curve as JSON lines, with each step once, however often the run was interrupted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pipeline.files import foreign_json, storage

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"


class MetricsFile:
    """Appends lines to FOLDER/metrics.jsonl, after dropping lines of steps beyond `resumed_step`, and damaged ones.

    S3 has no append: there, lines are written by `flush`.
    """

    def __init__(self, folder: str, resumed_step: int) -> None:
        self._uri = storage.join(folder, METRICS)
        kept = [line for line in read_metrics(folder) if line["step"] <= resumed_step] if resumed_step else []
        self._text = "".join(json.dumps(line) + "\n" for line in kept)
        storage.write_bytes(self._uri, self._text.encode())

    def append(self, step: int, **values: Any) -> None:
        """Adds a line with the step and these values."""
        line = json.dumps({"step": step, **values}) + "\n"
        if storage.is_s3(self._uri):
            self._text += line
            return
        with Path(self._uri).open("a") as file:
            file.write(line)

    def flush(self) -> None:
        """Writes lines that are not in the file yet (on S3; local files have all lines)."""
        if storage.is_s3(self._uri):
            storage.write_bytes(self._uri, self._text.encode())


def read_metrics(folder: str) -> list[dict[str, Any]]:
    """The lines of FOLDER/metrics.jsonl that are whole; [] without a file. Damaged ones are named in a warning."""
    lines, damaged = _read(folder)
    for problem in damaged:
        logger.warning("%s; it is left out", problem)
    return lines


def damaged_lines(folder: str) -> list[str]:
    """A sentence on each line of FOLDER/metrics.jsonl that holds no figures of a step."""
    return _read(folder)[1]


def _read(folder: str) -> tuple[list[dict[str, Any]], list[str]]:
    uri = storage.join(folder, METRICS)
    try:
        texts = storage.read_bytes(uri).split(b"\n")
    except FileNotFoundError:
        return [], []
    lines, damaged = [], []
    for number, text in enumerate(texts[:-1], start=1):  # behind the last line's end a killed run leaves half a line
        try:
            line = foreign_json.parse(text)
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                raise ValueError("it names no step")
        except ValueError as error:
            damaged.append(f"line {number} of {uri} is damaged ({error})")
        else:
            lines.append(line)
    return lines, damaged
