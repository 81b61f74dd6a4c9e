"""Lists of audio files, which fairseq and NeMo call manifests: finding them, and audio that none of them names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.corpora.source import CorpusError, is_audio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.corpora.source import CorpusConfig, Notices


def find_lists(
    config: CorpusConfig,
    names: Sequence[str],
    is_table: Callable[[str], object],
    is_list: Callable[[str], bool],
    expected: str,
    notices: Notices,
) -> list[str]:
    """The lists of a corpus, by name; tables that are none are noticed.

    Args:
        config: The corpus.
        names: Its files.
        is_table: Whether a name is that of such a table.
        is_list: Whether the table at a URI is such a list.
        expected: What there should be, for people.
        notices: Takes the tables that are not read.

    Raises:
        CorpusError: there is no list.
    """
    tables = [name for name in names if is_table(name) and config.takes(name)]
    chosen = [name for name in tables if is_list(config.uri_of(name))]
    if not chosen:
        raise CorpusError(f"{config.root} holds no manifests {expected}")
    for name in tables:
        if name not in chosen:
            notices.add("unread_file", config.uri_of(name))
    return chosen


def notice_undescribed(config: CorpusConfig, names: Sequence[str], named: set[str], notices: Notices) -> None:
    """Notices audio below the root whose address no list names."""
    if not config.folders:
        left = [name for name in names if is_audio(name) and config.uri_of(name) not in named]
        notices.add("undescribed_audio", next(iter(left), ""), len(left))
