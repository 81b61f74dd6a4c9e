"""The audio of a benchmark of units, and who speaks in it.

<audio>/<speaker>/…/<name>.flac     the folder below the top is the speaker, unless a table says otherwise
speakers.csv: file,speaker,gender   of files (or .tsv; names as those of alignments)
speakers.csv: speaker,gender        of speakers
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.audio.decoders import AUDIO_SUFFIXES, without_audio_suffix
from pipeline.errors import TwistError
from pipeline.files import csv_table, storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class SpokenFile:
    """An audio file.

    Attributes:
        name: Its path below the folder without the suffix.
        uri: Where it is.
        speaker, gender: Of the one who speaks; None if not known.
    """

    name: str
    uri: str
    speaker: str | None
    gender: str | None


def find_files(folder: str, speakers: str | None = None) -> list[SpokenFile]:
    """The audio files below a folder, in order of their names.

    Args:
        folder: Local or s3://.
        speakers: The table of speakers, if there is one.

    Raises:
        TwistError: there is no audio, two files differ in their suffix alone, or the table does not fit.
    """
    names = [name for name in storage.list_files(folder) if name.lower().endswith(tuple(AUDIO_SUFFIXES))]
    if not names:
        raise TwistError(f"{folder} has no audio")
    uris: dict[str, str] = {}
    for name in names:
        stem = name.rpartition(".")[0]
        if stem in uris:
            raise TwistError(f"{folder} has two files of one name: {uris[stem].rpartition('/')[2]} and {name}")
        uris[stem] = storage.join(folder, name)
    speaker_of = {name: name.partition("/")[0] if "/" in name else None for name in uris}
    gender_of: dict[str, str | None] = {}
    if speakers:
        rows = _table(speakers)
        by_speaker = {row["speaker"]: row.get("gender") or None for row in rows}
        if "file" in rows[0]:
            places = matches((row["file"] for row in rows), uris)
            for row in rows:
                if row["file"] in places:
                    file = places[row["file"]]
                    speaker_of[file], gender_of[file] = row["speaker"] or None, row.get("gender") or None
        else:
            gender_of = {name: by_speaker.get(who or "") for name, who in speaker_of.items()}
            if not any(who in by_speaker for who in speaker_of.values()):
                raise TwistError(f"{speakers} knows none of the speakers of {folder}, whose names are its folders'")
    return [SpokenFile(name, uri, speaker_of[name], gender_of.get(name)) for name, uri in sorted(uris.items())]


def matches(wanted: Iterable[str], names: Mapping[str, object]) -> dict[str, str]:
    """The file that each wanted name means: the one of that path, else the only one with that last part.

    Suffixes of audio are ignored; names that mean no file, or several, are left out.
    """
    times = Counter(name.rpartition("/")[2] for name in names)
    of_last = {last: name for name in names if times[last := name.rpartition("/")[2]] == 1}
    paths = {one: without_audio_suffix(one) for one in wanted}
    found = {one: path for one, path in paths.items() if path in names}
    taken = set(found.values())
    # A path that is not there may still be a file's by its last part; not where that file has what bears its own path.
    for one, path in paths.items():
        last = path.rpartition("/")[2]
        if one not in found and last in of_last and of_last[last] not in taken:
            found[one] = of_last[last]
    return found


def _table(uri: str) -> list[dict[str, str]]:
    rows = [row for _, row in csv_table.read_rows(uri, ("speaker",))]
    if not rows:
        raise TwistError(f"{uri} has no rows")
    if not {"file", "gender"} & rows[0].keys():
        raise TwistError(f"{uri} needs the columns file, speaker and gender, or the last two; it has {list(rows[0])}")
    return rows
