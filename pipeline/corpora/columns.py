"""The names under which tables and JSON give what is known about a recording."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.corpora.tables import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.corpora.source import Notices

# By field, the names of its column, the preferred ones first; written in any case, with any or no signs between words.
_NAMES = {
    "path": """path file_name file filepath audio_path audio_file audio_filepath audio_file_path audio_filename
        wav_filename wav_path wav_file wav clip clip_path audio""",
    "language": "language locale lang language_code lang_code language_id lang_id",
    "speaker": "speaker speaker_id client_id spk_id spk speaker_name spk_name reader reader_id narrator",
    "text": """text sentence transcription transcript normalized_text normalized_transcription raw_text
        raw_transcription transcript_text""",
    "split": "split",
    "duration": "duration_s duration_ms duration duration_sec duration_secs duration_seconds",
}
COLUMNS = {field: names.split() for field, names in _NAMES.items()}
SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "development": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_LOOKS_LIKE = {
    "language": re.compile("lang|locale"),
    "speaker": re.compile("speaker|spk|clientid"),
    "text": re.compile("transcri|sentence"),
    "duration": re.compile("duration"),
}
_NO_SPEAKER = {"", "unknown", "nan", "none", "null", "n/a", "-", "?", "<unk>"}
_MILLISECONDS = re.compile("(?:ms|millis|milliseconds)$")


def same_name(name: str) -> str:
    """What two ways to write a column's name have in common: `Speaker ID` and `speaker_id` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def choose_columns(header: Iterable[str], fields: Iterable[str]) -> dict[str, str]:
    """The column, as the header writes it, of each field that has one."""
    written: dict[str, str] = {}
    for column in header:
        written.setdefault(same_name(column), column)
    chosen = {field: (written.get(same_name(name)) for name in COLUMNS[field]) for field in fields}
    found = {field: next((column for column in columns if column), None) for field, columns in chosen.items()}
    return {field: column for field, column in found.items() if column}


def notice_unused(
    header: Iterable[str], chosen: Mapping[str, str], fields: Iterable[str], where: str, notices: Notices
) -> None:
    """Notices each column that looks like one of `fields` but is not the one that was chosen for it."""
    fields = set(fields)
    for column in header:
        if column in chosen.values():
            continue
        for field, pattern in _LOOKS_LIKE.items():
            if field in fields and pattern.search(same_name(column)):
                instead = f", {field} is taken from {chosen[field]!r}" if field in chosen else ""
                notices.add("unused_column", f"{column!r} of {where}{instead}")
                break


def language_of(value: object) -> str | None:
    """A tag as it is written; None unless it is text."""
    return value.strip() or None if isinstance(value, str) else None


def split_of(value: object) -> str | None:
    """The split that a value names, under its usual names; any other stays as it is."""
    text = str(value).strip() if value not in (None, "") else ""
    return SPLITS.get(text.lower(), text) or None


def split_of_table(stem: str) -> str | None:
    """The split that a table's name without suffixes tells, as `train_manifest` and `dev-clean` do; None if none."""
    return next((SPLITS[part] for part in re.split(r"[^a-z0-9]+", stem.lower()) if part in SPLITS), None)


def duration_of(value: object, column: str | None) -> float | None:
    """A length in seconds, whose column may say that it is in milliseconds; None if it is not known."""
    length = number(value)
    if length and column and _MILLISECONDS.search(same_name(column)):
        length /= 1000
    return length or None


def speaker_of(value: object) -> str | None:
    """A speaker's name; None where a table writes that it has none."""
    text = str(value).strip() if value is not None else ""
    return None if text.lower() in _NO_SPEAKER else text
