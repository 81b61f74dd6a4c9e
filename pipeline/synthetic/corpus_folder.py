"""Folders of one voice's speech: made whole or not at all, and never over another.

FOLDER/corpus.json    the edition and the configuration that it was made with, and its length in seconds
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MARKER = "corpus.json"


def make_corpus(
    folder: Path, what: str, edition: int, config: Mapping[str, Any], write: Callable[[Path], float]
) -> float:
    """Makes a corpus in `folder`, unless it is there already.

    It is made in a hidden folder beside `folder`, and renamed when complete.

    Args:
        folder: Where it belongs.
        what: What it is, for messages: a corpus of one voice.
        edition: Raised when the same configuration starts to give other bytes, so that an old corpus is not mistaken
            for a new one.
        config: What it is made of.
        write: Writes it into an empty folder; gives its length in seconds.

    Returns:
        Its length in seconds.

    Raises:
        TwistError: the folder holds something else, or a corpus of another edition or configuration.
    """
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        return _duration_of(folder, what, edition, config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        root = Path(beside) / folder.name
        root.mkdir()
        duration_s = write(root)
        facts = {"edition": edition, "config": config, "duration_s": duration_s}
        (root / MARKER).write_text(json.dumps(facts, indent=2) + "\n")
        root.rename(folder)  # over an empty folder, if there is one
    return duration_s


def _duration_of(folder: Path, what: str, edition: int, config: Mapping[str, Any]) -> float:
    try:
        facts = json.loads((folder / MARKER).read_text())
        found, duration_s = (facts["edition"], facts["config"]), float(facts["duration_s"])
    except (OSError, ValueError, KeyError, TypeError):
        raise TwistError(f"{folder} is not empty and holds no {what}; name another folder") from None
    if found != (edition, config):
        raise TwistError(
            f"{folder} holds a {what} that was made otherwise ({found[1]}, edition {found[0]}); name another folder, "
            f"or delete it"
        )
    return duration_s
