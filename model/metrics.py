"""The training curve as JSON lines, with each step once however often the run was interrupted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline import storage

if TYPE_CHECKING:
    from pathlib import Path


class MetricsFile:
    """Appends to FOLDER/metrics.jsonl, from which lines beyond `resumed_step` are dropped first."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        self._path = folder / "metrics.jsonl"
        lines = read_metrics(folder)
        kept = [line for line in lines if line["step"] <= resumed_step] if resumed_step else []
        storage.write_bytes(str(self._path), "".join(json.dumps(line) + "\n" for line in kept).encode())

    def append(self, step: int, **values: Any) -> None:
        """Adds a line."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of FOLDER/metrics.jsonl, but for one that a killed run left unfinished; none where there is no file."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]
