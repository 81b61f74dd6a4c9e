"""What rows about stretches of one recording say of it as a whole: each has any of start, duration, language, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.corpora.tables import number
from pipeline.languages import normalize_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Row = dict[str, Any]


def language(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """The language of all rows that name one, however they write it; None if they differ or none has a tag."""
    tags = sorted({str(row["language"]) for row in rows if row.get("language")})
    codes = {normalize_code(tag): tag for tag in tags if normalize_code(tag)}
    if not codes:
        return next(iter(tags), None)
    return next(iter(codes.values())) if len(codes) == 1 else None


def agreed(rows: Iterable[Mapping[str, Any]], key: str) -> str | None:
    """The value that all rows with one share; None if they differ or none has one."""
    values = {str(row[key]) for row in rows if row.get(key)}
    return values.pop() if len(values) == 1 else None


def text(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """The texts of all rows, one after the other; None if none has one."""
    return " ".join(str(row["text"]) for row in _once(rows) if row.get("text")) or None


def times(rows: Iterable[Mapping[str, Any]], duration_s: float | None) -> list[list[float]] | None:
    """The (start, end) seconds of rows; None if a row has none, or if one row covers the whole recording."""
    found: list[list[float]] = []
    for row in _once(rows):
        start_s, length_s = number(row.get("start")), number(row.get("duration"))
        if start_s is None or not length_s:
            return None
        found.append([start_s, start_s + length_s])
    if duration_s and len(found) == 1 and found[0][0] == 0 and found[0][1] >= duration_s - 1e-3:
        return None
    return found or None


def _once(rows: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """The rows without those that say again what one of them said: the same row may lie in two tables."""
    return {(row.get("start"), row.get("duration"), row.get("text")): row for row in rows}.values()
