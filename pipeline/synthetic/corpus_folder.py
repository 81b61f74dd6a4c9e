"""Folders of synthesized speech: made whole or not at all, and never over another.

FOLDER/corpus.json    the edition and the configuration that it was made with, and what it holds
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline.errors import TwistError
from pipeline.synthetic.whole_folder import is_in_use, make_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MARKER = "corpus.json"


def make_corpus(
    folder: Path, what: str, edition: int, config: Mapping[str, Any], write: Callable[[Path], Mapping[str, Any]]
) -> dict[str, Any]:
    """Makes a corpus in `folder`, unless it is there already.

    Args:
        folder: Where it belongs.
        what: What it is, for messages: a corpus of one voice.
        edition: Raised when the same configuration starts to give other bytes, so that an old corpus is not mistaken
            for a new one.
        config: What it is made of.
        write: Writes it into an empty folder; gives a summary of what it holds.

    Returns:
        The summary.

    Raises:
        TwistError: the folder holds something else, or a corpus of another edition or configuration.
    """
    folder = folder.resolve()
    if is_in_use(folder):
        return _summary_of(folder, what, edition, config)

    def write_with_marker(root: Path) -> dict[str, Any]:
        summary = dict(write(root))
        facts = {"edition": edition, "config": config, "summary": summary}
        (root / MARKER).write_text(json.dumps(facts, indent=2) + "\n")
        return summary

    return make_whole(folder, write_with_marker)


def _summary_of(folder: Path, what: str, edition: int, config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        facts = json.loads((folder / MARKER).read_text())
        found, summary = (facts["edition"], facts["config"]), dict(facts["summary"])
    except (OSError, ValueError, KeyError, TypeError):
        raise TwistError(
            f"{folder} is in use, and not by a {what} of this version; name another folder, or empty it"
        ) from None
    if found != (edition, config):
        raise TwistError(
            f"{folder} holds a {what} made with {found[1]} (edition {found[0]}), not with {config} (edition "
            f"{edition}); name another folder, or delete this one"
        )
    return summary
