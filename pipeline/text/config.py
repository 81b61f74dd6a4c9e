"""The text that a model learns beside speech, and how it becomes tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import TwistError


@dataclass(frozen=True)
class TextCorpus:
    """A corpus of text.

    Args:
        path: A file, a folder, or a pattern such as data/wiki/*.parquet; local or s3://. .txt, .jsonl and .parquet are
            read, the first two also compressed (.gz, .zst).
        name: Name of the corpus; by default the last part of `path` without wildcards and suffixes.
        column: The column of Parquet, and the key of JSON lines, that holds the text.
        document: What a document of a .txt is: file, the whole of it; paragraph, what blank lines part; line.
    """

    path: str
    name: str | None = None
    column: str = "text"
    document: Literal["file", "paragraph", "line"] = "file"

    def __post_init__(self) -> None:
        if self.document not in ("file", "paragraph", "line"):
            raise TwistError(f"text.corpora: document is {self.document!r}; it must be file, paragraph or line")
        if not self.label or "/" in self.label:
            raise TwistError(f"text.corpora: {self.path!r} gives the corpus no name; set `name`, without a slash")

    @property
    def label(self) -> str:
        """`name`, or what `path` says of it."""
        if self.name is not None:
            return self.name
        parts = [part for part in self.path.rstrip("/").split("/") if not set(part) & set("*?[")]
        return parts[-1].partition(".")[0] if parts else ""


@dataclass(frozen=True)
class TextConfig:
    """The text LM's tokenizer, and text to train on beside speech.

    Args:
        tokenizer: A folder of transformers with the text LM's tokenizer, local or s3://; must be given. With it, shards
            of speech carry the words that `twist align` found.
        corpora: Text; none: a model learns the texts of speech alone.
        validation: Share of documents that go to validation, by a hash of their content.
        tokens_per_shard: Most tokens per shard, on average.
        seed: Seed of the shuffle.
    """

    tokenizer: str = ""
    corpora: tuple[TextCorpus, ...] = ()
    validation: float = 0.01
    tokens_per_shard: int = 10_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tokenizer:
            raise TwistError("text.tokenizer is missing; name the folder of the text LM, or of its tokenizer alone")
        if not 0 <= self.validation < 1:
            raise TwistError(f"text.validation is {self.validation}; it is a share that leaves some for training")
        if self.tokens_per_shard < 1:
            raise TwistError(f"text.tokens_per_shard must be positive, not {self.tokens_per_shard}")
        labels = [corpus.label for corpus in self.corpora]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise TwistError(f"text.corpora has {twice[0]} twice; give each corpus a `name` of its own")
