"""Labels as fairseq's HuBERT pretraining and unit language models take them (examples/hubert/simple_kmeans).

    OUTPUT/<split>.km           units of each frame of a sample, separated by spaces, a sample a line
    OUTPUT/<split>.tsv          `.`, then <key>.wav TAB <samples at 16 kHz>, in the same order
    OUTPUT/dict.km.txt          <unit> 1, a unit a line

The tables name samples, which are stretches of recordings: no such .wav files are written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from pipeline.export.source import Source


def write(output: str, source: Source) -> None:
    """Writes labels and table of each split, and the dictionary.

    Raises:
        DatasetError: a shard is missing or damaged.
    """
    for split, tars in source.splits.items():
        with (
            storage.open_write(storage.join(output, f"{split}.km")) as labels,
            storage.open_write(storage.join(output, f"{split}.tsv")) as table,
        ):
            table.write(b".\n")
            for sample in source.samples(tars):
                frames = np.repeat(sample.units, sample.durations).tolist()
                labels.write(" ".join(map(str, frames)).encode() + b"\n")
                table.write(f"{sample.key}.wav\t{round(sample.duration_s * SAMPLE_RATE_HZ)}\n".encode())
    units = "".join(f"{unit} 1\n" for unit in range(source.dataset.codebook_size))
    storage.write_bytes(storage.join(output, "dict.km.txt"), units.encode())
