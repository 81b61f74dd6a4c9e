"""The text files of LibriSpeech-alignments (github.com/CorentinJ/librispeech-alignments).

    <speaker>-<chapter>.alignment.txt       ID ",GO,,DO,YOU," "0.490,0.890,1.270,1.380,1.480,2.000"     a line

The times are those at which labels end; an empty label is a pause.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from pipeline.corpora.alignments.labelled import AlignmentError, time_s

if TYPE_CHECKING:
    from pipeline.corpora.alignments.labelled import Labelled

LINE = re.compile(r'(\S+)\s+"([^"]*)"\s+"([^"]*)"')


def read_librispeech_alignments(text: str) -> dict[str, list[Labelled]]:
    """Words by utterance.

    Raises:
        AlignmentError: a line is none of this format.
    """
    words: dict[str, list[Labelled]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line.strip())
        labels = match[2].split(",") if match else []
        ends = match[3].split(",") if match else []
        if match is None or len(labels) != len(ends):
            raise AlignmentError("bad_alignment", f'line {number} is not: ID "words" "end times", as many as words')
        ends_s = [time_s(end, f"line {number}") for end in ends]
        words[match[1]] = [
            (label, start_s, end_s)
            for label, (start_s, end_s) in zip(labels, itertools.pairwise([0.0, *ends_s]), strict=True)
        ]
    return words
