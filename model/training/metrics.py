"""The training curve as JSON lines, with each step once, however often the run was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.files import storage

METRICS = "metrics.jsonl"


class MetricsFile:
    """Appends lines to FOLDER/metrics.jsonl, after dropping lines of steps beyond `resumed_step`.

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
    """The lines of FOLDER/metrics.jsonl, except an incomplete last one that a killed run left; [] without a file."""
    try:
        lines = storage.read_bytes(storage.join(folder, METRICS)).decode().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]
