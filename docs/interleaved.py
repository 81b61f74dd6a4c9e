"""Draws docs/interleaved.png: one sample of the demo of speech and text, as it is interleaved in an epoch.

    python docs/interleaved.py runs/spirit-demo [--sample 3] [--place 3]

Needs the extra `plots`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.lm.mixture.config import SpanConfig
from model.lm.mixture.spans import draw_speech, span_starts
from model.lm.samples import AlignedSamples
from pipeline.shards import open_dataset, read_sample

SPEECH_COLOUR, TEXT_COLOUR = "#2f6f9f", "#b5651d"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--sample", type=int, default=3)
    parser.add_argument("--place", type=int, default=3)
    arguments = parser.parse_args()
    dataset = open_dataset(f"{arguments.run}/shards")
    samples = AlignedSamples(dataset, "train")
    sample = read_sample(dataset.uri, dataset.row(int(samples.manifest_rows()[arguments.sample])))
    assert sample.words is not None
    timed, table = sample.words.timed, sample.words.table
    spans = SpanConfig(text_words=(1, 4), speech_words=(1, 4))
    is_speech = draw_speech(np.array([len(timed)]), np.array([arguments.place]), 0, spans)
    starts_s = np.concatenate([[0], np.cumsum(sample.durations)]) / 25

    figure, (above, below) = plt.subplots(2, 1, figsize=(11, 3.4), sharex=True, height_ratios=[1, 1.2])
    for place, unit in enumerate(sample.units):
        start, end = starts_s[place], starts_s[place + 1]
        above.barh(
            0, end - start, left=start, height=1, color=plt.cm.tab20(unit % 20), edgecolor="white", linewidth=0.3
        )
    above.set_yticks([0], [f"{len(sample.units)} units"])
    for word, ((spoken, _, _), (_, first, end), speech) in enumerate(zip(timed, table, is_speech, strict=True)):
        start_s, end_s = starts_s[first], starts_s[end]
        colour = SPEECH_COLOUR if speech else TEXT_COLOUR
        below.barh(0, end_s - start_s, left=start_s, height=1, color=colour, alpha=0.25, edgecolor=colour)
        below.text((start_s + end_s) / 2, 0, spoken, ha="center", va="center", rotation=90, fontsize=8)
        if span_starts(is_speech, np.array([len(timed)]))[word]:
            below.text(start_s, 0.62, "[Speech]" if speech else "[Text]", fontsize=8, color=colour)
            for axis in (above, below):
                axis.axvline(start_s, color=colour, linewidth=1.2)
    below.set_ylim(-0.5, 0.95)
    below.set_yticks([0], ["words"])
    below.set_xlabel("seconds of the sample's units")
    for axis in (above, below):
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False)
    figure.tight_layout()
    output = Path(__file__).with_name("interleaved.png")
    figure.savefig(output, dpi=110)
    sys.stdout.write(f"{output}: {sample.key}, {sample.words.text!r}\n")


if __name__ == "__main__":
    main()
