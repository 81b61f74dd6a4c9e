"""The Spotify podcast dataset (100,000 podcasts; no longer distributed): Ogg Vorbis of unstated rate and channels.

    ROOT/metadata.tsv           a row per episode
    ROOT/podcasts-audio/<X>/<Y>/show_<id>/<episode>.ogg

The audio may lie in any folder below ROOT that ends in show_<id>. `language` is a tag of the show, such as `[en]` or
`['en-US']`: single episodes may be in another language. `duration` is in minutes.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.corpora.source import AudioFile, CorpusConfig, CorpusError, Notices, is_audio
from pipeline.corpora.tables import number, read_columns, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.corpora.source import Notice

TABLE = "metadata.tsv"
REQUIRED = ("show_filename_prefix", "episode_filename_prefix", "language")
_DESCRIPTION = ("show_name", "episode_name", "show_description", "episode_description")


def is_spotify(config: CorpusConfig, names: list[str]) -> bool:
    """Whether a folder has the table of the podcasts, and its audio lies in folders of shows."""
    tables = [name for name in names if name.rpartition("/")[2] == TABLE]
    audio = [name for name in names if is_audio(name)]
    if not audio or not tables or not all(PurePosixPath(name).parent.name.startswith("show_") for name in audio):
        return False
    return set(REQUIRED) <= set(next(read_lines(config.uri_of(tables[0])), "").split("\t"))


def find_recordings(config: CorpusConfig) -> Iterator[AudioFile | Notice]:
    """Yields the episodes in the order of their paths, then those that have no file.

    Raises:
        CorpusError: there is no metadata.tsv, or it lacks a column.
    """
    names = config.list_files()
    tables = [name for name in names if PurePosixPath(name).name == TABLE]
    if not tables:
        raise CorpusError(f"{config.root} holds no {TABLE}, which says which episodes there are")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    notices = Notices()
    for table in tables:
        uri = config.uri_of(table)
        for row in read_columns(uri, "\t", REQUIRED, _DESCRIPTION, notices):
            rows[row["show_filename_prefix"].strip(), row["episode_filename_prefix"].strip()] = row
    for name in names:
        path = PurePosixPath(name)
        if not is_audio(name) or not config.takes(name):
            continue
        uri = config.uri_of(name)
        known = rows.pop((path.parent.name, path.stem), None)
        if known is None:
            detail = f"no row of {TABLE} names this episode"
            yield AudioFile(name, uri, drop_reason="unlisted", drop_detail=detail)
        else:
            yield _episode(f"{path.parent.name}/{path.stem}", uri, known)
    for show, episode in [] if config.folders else rows:
        yield AudioFile(
            f"{show}/{episode}",
            config.uri_of(f"{show}/{episode}"),
            drop_reason="missing",
            drop_detail=f"{TABLE} names it, but there is no such file",
        )
    yield from notices


def _episode(id: str, uri: str, row: dict[str, str]) -> AudioFile:
    minutes = number(row.get("duration"))
    return AudioFile(
        id=id,
        uri=uri,
        language=row.get("language") or None,
        language_source="show",
        speaker=row["show_filename_prefix"],  # the show stands in for its hosts, who are not named
        description=_plain(" ".join(row[name] for name in _DESCRIPTION if row.get(name))) or None,
        duration_s=minutes * 60 if minutes else None,
        duration_from="duration",
    )


def _plain(text: str) -> str:
    """Removes HTML tags and web addresses, which descriptions have because they come from feeds."""
    return " ".join(re.sub(r"<[^>]*>|https?://\S+", " ", text).split())
