"""Text files of units, as the baselines of ZeroSpeech 2021 write and read them.

    OUTPUT/<split>/quantized_outputs.txt        <key> TAB <unit of each frame>,...

Every frame has its unit, repeats and all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.files import storage

if TYPE_CHECKING:
    from pipeline.export.source import Source


def write(output: str, source: Source) -> None:
    """Writes a file a split.

    Raises:
        DatasetError: a shard is missing or damaged.
    """
    for split, tars in source.splits.items():
        with storage.open_write(storage.join(output, split, "quantized_outputs.txt")) as file:
            for sample in source.samples(tars):
                frames = np.repeat(sample.units, sample.durations).tolist()
                file.write(f"{sample.key}\t{','.join(map(str, frames))}\n".encode())
