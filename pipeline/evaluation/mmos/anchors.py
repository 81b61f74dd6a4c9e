"""Anchors: clips of known score, which raters take for any other, and which tell how they use the scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.corpora.tables import number
from pipeline.errors import TwistError
from pipeline.files import csv_table, storage

if TYPE_CHECKING:
    from collections.abc import Sequence

LOWEST, HIGHEST = 1.0, 5.0


@dataclass(frozen=True)
class Anchor:
    """A clip and the score that it is known to deserve."""

    path: str
    score: float


def read_anchors(uri: str) -> Sequence[Anchor]:
    """Reads a CSV with the columns `path` (relative to it, or absolute) and `score`.

    Raises:
        TwistError: it is no such table, a row has no score from 1 to 5, or there is no row.
    """
    anchors = []
    for line, row in csv_table.read_rows(uri, ("path", "score")):
        score = number(row["score"])
        if score is None or not LOWEST <= score <= HIGHEST or not row["path"]:
            raise TwistError(f"{uri}, line {line}: an anchor has a path and a score from 1 to 5")
        path = row["path"]
        is_absolute = path.startswith("/") or storage.is_s3(path)
        anchors.append(Anchor(path if is_absolute else storage.join(uri.rpartition("/")[0] or ".", path), score))
    if not anchors:
        raise TwistError(f"{uri} names no anchors")
    return anchors
