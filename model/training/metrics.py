"""The training curve as JSON lines, with each step once however often the run was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.files import storage

METRICS = "metrics.jsonl"


class MetricsFile:
    """Appends to FOLDER/metrics.jsonl, from which lines beyond `resumed_step` are dropped first.

    On S3, where nothing can be appended to, lines appear with `flush`.
    """

    def __init__(self, folder: str, resumed_step: int) -> None:
        self._uri = storage.join(folder, METRICS)
        kept = [line for line in read_metrics(folder) if line["step"] <= resumed_step] if resumed_step else []
        self._text = "".join(json.dumps(line) + "\n" for line in kept)
        storage.write_bytes(self._uri, self._text.encode())

    def append(self, step: int, **values: Any) -> None:
        """Adds a line."""
        line = json.dumps({"step": step, **values}) + "\n"
        if storage.is_s3(self._uri):
            self._text += line
            return
        with Path(self._uri).open("a") as file:
            file.write(line)

    def flush(self) -> None:
        """Lets others see all lines."""
        if storage.is_s3(self._uri):
            storage.write_bytes(self._uri, self._text.encode())


def read_metrics(folder: str) -> list[dict[str, Any]]:
    """The lines of FOLDER/metrics.jsonl, but for one that a killed run left unfinished; none where there is no file."""
    try:
        lines = storage.read_bytes(storage.join(folder, METRICS)).decode().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]
