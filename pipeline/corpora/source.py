"""The input of a corpus reader (CorpusConfig), and what it yields before any audio is opened (AudioFile)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.languages import normalize_code

# The folder that holds a table per corpus also holds the stage's dropped.parquet.
RESERVED_NAME = "dropped"
MOST_WITNESSES = 100

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
    "fairseq",
    "nemo",
]


class CorpusError(TwistError):
    """A corpus that is missing, damaged or not laid out as its reader expects."""


@dataclass(frozen=True)
class CorpusConfig:
    """One corpus of a run.

    Args:
        root: Its folder, local or s3://.
        kind: How the corpus is laid out (docs/corpora.md); auto: that which all of its audio
            fits, else folder; stage.json names it.
        name: Its name in tables and ids; by default the folder's name. The corpora of a run need different names.
        language: ISO 639-1 code of all recordings, for a corpus that does not state it. Names of folders in a plain
            folder then tell none.
        metadata: CSV or JSONL file (.csv, .jsonl) with the metadata of a plain folder; by default ROOT/metadata.csv or
            ROOT/metadata.jsonl.
        folders: Names of folders below the root; only audio within these is taken, e.g. [train-clean-100], [small],
            [clean, clean_sa], [raw_audios], [en]. By default the whole corpus.
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
        if self.language is not None and not normalize_code(self.language):
            raise CorpusError(f"language {self.language!r} of corpus {self.label} is the code or name of no language")
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

    def list_files(self, suffix: str = "") -> list[str]:
        """The files below the root, as sorted paths relative to it, without hidden ones."""
        return [name for name in storage.list_files(self.root, suffix) if not is_hidden(name)]

    def uri_of(self, name: str) -> str:
        """The address of a file that `list_files` gave; a key on S3 keeps its odd slashes and dots."""
        return f"{self.root.rstrip('/')}/{name}" if storage.is_s3(self.root) else storage.join(self.root, name)

    def witnesses(self) -> list[str]:
        """Files below the root, the first that a listing meets: whether any can be read tells if the root can."""
        return [self.uri_of(name) for name in storage.some_files(self.root, MOST_WITNESSES)]

    def takes(self, name: str) -> bool:
        """Whether `folders` selects a path, which is relative to the root."""
        return not self.folders or not set(self.folders).isdisjoint(name.split("/")[:-1])


@dataclass(frozen=True)
class AudioFile:
    """An audio file (or a channel of one, a member of a tar, a row of a Parquet file) as its corpus describes it.

    Attributes:
        id: Unique within the corpus.
        uri: The audio's address; see files/audio_uri.py.
        speaker_namespace: Prefix of the speaker's id that corpora with the same speakers share; None: the corpus' name.
        duration_s: The length, if the corpus states it: the audio header is then not read.
        duration_from: Where the corpus states it: a column or key.
        drop_reason: Why it is dropped unopened; `drop_detail` says more. None if it is wanted.
        complete: Adds metadata that must be read file by file; called on the machine that reads the header, so it must
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
    duration_from: str | None = None
    sample_rate_hz: int | None = None
    num_channels: int | None = None
    drop_reason: str | None = None
    drop_detail: str = ""
    complete: Callable[[AudioFile], AudioFile] | None = None


@dataclass(frozen=True)
class Notice:
    """What a corpus says that was not used, told by count and example beside the recordings.

    Attributes:
        what: One of NOTICES.
        example: The first of them.
        count: How many there are.
    """

    what: str
    example: str
    count: int = 1

    def __post_init__(self) -> None:
        assert self.what in NOTICES, self.what


# What can be noticed, and what it means.
NOTICES = {
    "description_without_audio": "descriptions (JSON, text, a line of a table) of audio that is not there",
    "undescribed_audio": "audio beside a table of what there is, which does not name it",
    "unreadable_description": "descriptions that cannot be read",
    "unreadable_row": "rows whose columns cannot be told apart, at least not all, or whose times are impossible",
    "unread_file": "tables and archives that this kind of corpus does not read",
    "unused_column": "columns that look like one that is used, but are not",
    "repeated_id": "rows of a table whose ids repeat: they are named by their place in it",
    "language_of_folder": "recordings whose language is told by the name of their folder alone",
    "unknown_language_tag": "language tags that name no language, or several",
    "other_length": "recordings, of a sample of them, that are not as long as the corpus says",
    "times_beyond_end": "recordings that end before speech does, by the corpus' times",
    "unsupported_cut": "cuts made of several recordings",
}


class Notices:
    """Notices under way: counts and first examples, by what is noticed."""

    def __init__(self) -> None:
        self._found: dict[str, Notice] = {}

    def add(self, what: str, example: str, count: int = 1) -> None:
        if count:
            before = self._found.get(what, Notice(what, example, 0))
            self._found[what] = Notice(what, before.example, before.count + count)

    def __iter__(self) -> Iterator[Notice]:
        return iter(self._found.values())


def is_hidden(name: str) -> bool:
    """Whether a path leads through a hidden file or folder, such as those that macOS leaves beside each file."""
    return (name.startswith(".") or "/." in name) and any(
        part.startswith(".") and part.strip(".") for part in name.split("/")
    )


def misplaced(name: str, uri: str) -> AudioFile:
    """An audio file, to be dropped, in a folder where the corpus' layout has none."""
    return AudioFile(name, uri, drop_reason="misplaced", drop_detail="audio where the corpus' layout has none")


def is_audio(name: str) -> bool:
    """Whether a file's name is that of audio."""
    # Imported here, so that reading a recipe does not import the decoders.
    from pipeline.audio.decoders import AUDIO_SUFFIXES

    path = PurePosixPath(name)
    # Dot files belong to the system, e.g. those that macOS leaves beside each file it copies.
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")
