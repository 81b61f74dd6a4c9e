"""CTM, NIST's and Kaldi's table of labels: file, channel, start, duration, label and perhaps more a line."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pipeline.corpora.alignments.labelled import AlignmentError, time_s

if TYPE_CHECKING:
    from pipeline.corpora.alignments.labelled import Labelled


def read_ctm(text: str) -> dict[str, list[Labelled]]:
    """Labels by file; of a file with several channels by "<file>-<number>", which counts the channels from 0.

    Raises:
        AlignmentError: a line is none of CTM.
    """
    rows: dict[str, dict[str, list[Labelled]]] = defaultdict(lambda: defaultdict(list))
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        if len(fields) < 5:
            raise AlignmentError("bad_alignment", f"line {number} is not: file channel start duration label")
        start_s, length_s = (time_s(field, f"line {number}") for field in fields[2:4])
        rows[fields[0]][fields[1]].append((fields[4], start_s, start_s + length_s))
    labelled: dict[str, list[Labelled]] = {}
    for file, channels in rows.items():
        for place, channel in enumerate(sorted(channels)):
            labelled[file if len(channels) == 1 else f"{file}-{place}"] = channels[channel]
    return labelled
