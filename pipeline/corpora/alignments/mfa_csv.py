"""The Montreal Forced Aligner's CSV: Begin, End, Label, Type (words or phones), Speaker."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from pipeline.corpora.alignments.labelled import time_s

if TYPE_CHECKING:
    from pipeline.corpora.alignments.labelled import Labelled

COLUMNS = ("Begin", "End", "Label", "Type")


def read_mfa_csv(text: str, tier: str) -> list[Labelled] | None:
    """The labels of one type, in order of time; None if it is another table.

    Raises:
        AlignmentError: a time is none.
    """
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if not set(COLUMNS) <= set(rows.fieldnames or ()):
        return None
    labelled: list[Labelled] = []
    for row in rows:
        if row["Type"] == tier:
            start_s, end_s = (time_s(row[name], f"line {rows.line_num}") for name in ("Begin", "End"))
            labelled.append((row["Label"] or "", start_s, end_s))
    return sorted(labelled, key=lambda interval: interval[1])
