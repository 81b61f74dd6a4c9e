"""Token files of slamkit (github.com/slp-rl/slamkit), which its training reads as they are.

    OUTPUT/<split>.jsonl        {"file_name": <key>, "audio_repr": "<Un3><Un49>..."}

Repeats are left out; slamkit adds its `<S>` at both ends itself.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipeline.files import storage

if TYPE_CHECKING:
    from pipeline.export.source import Source


def write(output: str, source: Source) -> None:
    """Writes a file a split.

    Raises:
        DatasetError: a shard is missing or damaged.
    """
    for split, tars in source.splits.items():
        with storage.open_write(storage.join(output, f"{split}.jsonl")) as file:
            for sample in source.samples(tars):
                tokens = "".join(f"<Un{unit}>" for unit in sample.units.tolist())
                file.write(json.dumps({"file_name": sample.key, "audio_repr": tokens}).encode() + b"\n")
