"""What a corpus reader is given, and what it yields before any audio is opened."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from pipeline.errors import TwistError

# Beside the corpora's tables lies the stage's dropped.parquet.
RESERVED_NAME = "dropped"

Kind = Literal[
    "auto",
    "folder",
    "librispeech",
    "libri_light",
    "spotify",
    "peoples_speech",
    "voxpopuli",
    "mls",
    "common_voice",
    "fisher",
    "ljspeech",
    "webdataset",
    "hf_parquet",
    "lhotse",
]


class CorpusError(TwistError):
    """A corpus that is not where it should be, or not laid out as its reader expects."""


@dataclass(frozen=True)
class CorpusConfig:
    """One corpus of a run.

    Args:
        root: Its folder, local or s3://.
        kind: How the corpus is laid out (docs/corpora.md); auto: librispeech where the folder looks like it, else
            folder.
        name: What it is called in tables and ids, the folder's name unless given; two corpora of a run need two names.
        language: ISO 639-1 code of every recording, where the corpus does not say but you know.
        metadata: CSV or JSONL file of a plain folder; ROOT/metadata.csv or ROOT/metadata.jsonl unless given. Its name
            ends in .csv or .jsonl.
        folders: Names of folders below the root; audio is only looked for within those, e.g. [train-clean-100],
            [small], [clean, clean_sa], [raw_audios], [en]. All of the corpus unless given.
    """

    root: str
    kind: Kind = "auto"
    name: str | None = None
    language: str | None = None
    metadata: str | None = None
    folders: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.label):
            raise CorpusError(f"corpus name {self.label!r} must be letters, digits, '-' and '_' only")
        if self.label == RESERVED_NAME:
            raise CorpusError(f"a corpus cannot be called {self.label!r}; give the one at {self.root} another `name`")
        if self.metadata and self.kind not in ("auto", "folder"):
            raise CorpusError(f"`metadata` goes with a plain folder; corpus {self.label} is of kind {self.kind}")
        if self.metadata and not self.metadata.endswith((".csv", ".jsonl")):
            raise CorpusError(f"metadata {self.metadata!r} of corpus {self.label} must be a .csv or .jsonl file")
        if wrong := [name for name in self.folders if not name or "/" in name]:
            raise CorpusError(f"`folders` of corpus {self.label} are names of single folders, not {wrong[0]!r}")

    @property
    def label(self) -> str:
        """The corpus' name in tables and ids."""
        if self.name is not None:
            return self.name
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.root.rstrip("/").rpartition("/")[2]).strip("-") or "corpus"

    def takes(self, name: str) -> bool:
        """Whether a path below the root is one that `folders` asks for."""
        return not self.folders or not set(self.folders).isdisjoint(name.split("/")[:-1])


@dataclass(frozen=True)
class AudioFile:
    """A file (or one channel of it, or what lies in a tar or a Parquet file) as the corpus names it.

    Attributes:
        id: Within its corpus.
        uri: Where it lies; see location.py.
        speaker_namespace: Whose ids of speakers these are, where corpora share them; else the corpus' own.
        duration_s: Where the corpus states it: its header is then not read.
        drop_reason: Why it is not wanted, whatever is in it; `drop_detail` says more.
        complete: Tells more of it, on whichever machine its header is read: for what must be read file by file. It must
            be importable.

    The others are as in records.Recording.
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
    language_source: str | None = None
    description: str | None = None
    origins: list[str] | None = None
    origin_start_s: float | None = None
    origin_end_s: float | None = None
    duration_s: float | None = None
    sample_rate_hz: int | None = None
    num_channels: int | None = None
    drop_reason: str | None = None
    drop_detail: str = ""
    complete: Callable[[AudioFile], AudioFile] | None = None


def misplaced(name: str, uri: str) -> AudioFile:
    """Audio where the corpus' layout has none."""
    return AudioFile(name, uri, drop_reason="misplaced", drop_detail="audio where the corpus' layout has none")


def is_audio(name: str) -> bool:
    """Whether a file is audio by its name."""
    # Here, so that a recipe is read without the decoders.
    from pipeline.audio.decoders import AUDIO_SUFFIXES

    path = PurePosixPath(name)
    # A dot file is a system's own, e.g. what macOS leaves beside each file it copies.
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")
