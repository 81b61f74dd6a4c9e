"""What a corpus reader is given, and what it yields before any audio is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import TwistError

# Beside the corpora's tables lies the stage's dropped.parquet.
RESERVED_NAME = "dropped"


class CorpusError(TwistError):
    """A corpus that is not where it should be, or not laid out as its reader expects."""


@dataclass(frozen=True)
class CorpusConfig:
    """One corpus of a run.

    Args:
        root: Its folder, local or s3://.
        kind: How the corpus is laid out; auto: librispeech where the folder looks like it, else folder.
        name: What it is called in tables and ids, the folder's name unless given; two corpora of a run need two names.
        language: ISO 639-1 code of every recording, where the corpus does not say but you know.
        metadata: CSV or JSONL file of a plain folder; ROOT/metadata.csv or ROOT/metadata.jsonl unless given. Its name
            ends in .csv or .jsonl.
    """

    root: str
    kind: Literal["auto", "folder", "librispeech"] = "auto"
    name: str | None = None
    language: str | None = None
    metadata: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.label):
            raise CorpusError(f"corpus name {self.label!r} must be letters, digits, '-' and '_' only")
        if self.label == RESERVED_NAME:
            raise CorpusError(f"a corpus cannot be called {self.label!r}; give the one at {self.root} another `name`")
        if self.metadata and self.kind == "librispeech":
            raise CorpusError(f"`metadata` goes with a plain folder; corpus {self.label} is of kind {self.kind}")
        if self.metadata and not self.metadata.endswith((".csv", ".jsonl")):
            raise CorpusError(f"metadata {self.metadata!r} of corpus {self.label} must be a .csv or .jsonl file")

    @property
    def label(self) -> str:
        """The corpus' name in tables and ids."""
        if self.name is not None:
            return self.name
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.root.rstrip("/").rpartition("/")[2]).strip("-") or "corpus"


@dataclass(frozen=True)
class AudioFile:
    """A file (or one channel of it) as the corpus names it; its header has not been read yet.

    `speaker_namespace` says whose ids of speakers these are, where corpora share them; else the corpus' own.
    `misplaced` is audio that lies where the corpus' layout has none.
    """

    id: str
    uri: str
    channel: int | None = None
    language: str | None = None
    speaker: str | None = None
    speaker_namespace: str | None = None
    split: str | None = None
    text: str | None = None
    voice_activity: list[list[float]] | None = None
    misplaced: bool = False
