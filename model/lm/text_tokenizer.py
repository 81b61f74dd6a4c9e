"""The tokenizer of a text LM: any folder that transformers' AutoTokenizer reads."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.artefacts import local_path
from pipeline.errors import TwistError, brief
from pipeline.files import foreign_json
from pipeline.files.checksums import sha256_of_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

# The files that say how text becomes tokens.
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def read_tokenizer(folder: str, **settings: Any) -> Any:
    """transformers' tokenizer in a folder, local or s3://.

    Raises:
        TwistError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            local_path(folder), local_files_only=True, trust_remote_code=False, **settings
        )
    except Exception as error:  # whatever a damaged file leads to
        raise TwistError(f"{folder} holds no tokenizer that transformers can read: {brief(error)}") from error


class TextTokenizer:
    """Turns text into tokens, without special ones; `</s>` in a text is text.

    Args:
        folder: A folder of transformers with a tokenizer, local or s3://.

    Attributes:
        fingerprint: Equal for equal files of the tokenizer.
        vocab_size: Above every token: rows of the LM's table, where a config.json beside the tokenizer names them.

    Raises:
        TwistError: there is no tokenizer.
    """

    def __init__(self, folder: str) -> None:
        # Rust's threads do not survive a fork, and tasks have a core each.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        path = local_path(folder)
        self.fingerprint = fingerprint_of_tokenizer(folder)
        self._tokenizer = read_tokenizer(folder, split_special_tokens=True)
        self.vocab_size = max(len(self._tokenizer), _rows(path))
        # Rust's own, which is twice as fast without what transformers adds for models; None of a slow tokenizer.
        self._rust: Any = getattr(self._tokenizer, "backend_tokenizer", None)
        if self._rust is not None:
            self._rust.no_truncation()
            self._rust.no_padding()
            self._rust.encode_special_tokens = True

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The tokens [T] of each text."""
        if not texts:
            return []
        if self._rust is not None:
            encoded = self._rust.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(one.ids, np.uint32) for one in encoded]
        found = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(tokens, np.uint32) for tokens in found]

    def encode_words(self, sentences: Sequence[Sequence[str]]) -> list[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
        """The tokens [T] of each text that words make, with blanks between them; and how many of these each word has.

        The text is tokenized as a whole, and a token belongs to the word that holds its last character. Where a token
        reaches over two words, words are tokenized one by one, with a blank before them.
        """
        if not sentences:
            return []
        if self._rust is None:
            return [self._word_by_word(words) for words in sentences]
        encoded = self._rust.encode_batch([" ".join(words) for words in sentences], add_special_tokens=False)
        found = []
        for words, one in zip(sentences, encoded, strict=True):
            counts = tokens_of_words(words, one.offsets)
            found.append(self._word_by_word(words) if counts is None else (np.array(one.ids, np.uint32), counts))
        return found

    def _word_by_word(self, words: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        tokens = self.encode([word if place == 0 else f" {word}" for place, word in enumerate(words)])
        return np.concatenate(tokens), np.array([len(of_word) for of_word in tokens], np.int64)


def tokens_of_words(words: Sequence[str], spans: Iterable[tuple[int, int]]) -> NDArray[np.int64] | None:
    """How many tokens each word has [W].

    Args:
        words: The text is these, with blanks between them.
        spans: The first character of each token in the text, and the one after its last.

    Returns:
        None where a token reaches over two words.
    """
    # A blank belongs to the word behind it.
    word_of = np.repeat(np.arange(len(words)), [len(word) + (place > 0) for place, word in enumerate(words)])
    edges = np.array(list(spans), np.int64).reshape(-1, 2)
    first = word_of[edges[:, 0].clip(0, len(word_of) - 1)]
    last = word_of[(np.maximum(edges[:, 1] - 1, edges[:, 0])).clip(0, len(word_of) - 1)]
    if (first != last).any() or (last[1:] < last[:-1]).any():
        return None
    counts: NDArray[np.int64] = np.bincount(last, minlength=len(words))
    return counts


@functools.lru_cache(maxsize=2)
def tokenizer_of_process(folder: str) -> TextTokenizer:
    """The tokenizer in a folder, read once a process."""
    return TextTokenizer(folder)


def has_tokenizer(folder: str) -> bool:
    """Whether a folder holds any of a tokenizer's files."""
    return any((local_path(folder) / name).is_file() for name in TOKENIZER_FILES)


def fingerprint_of_tokenizer(folder: str) -> str:
    """What tells a tokenizer from others, wherever it lies: a sha256 over its files.

    Raises:
        TwistError: there is no such folder, or it holds none of a tokenizer's files.
    """
    path = local_path(folder)
    files = [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
    if not files:
        what = "holds no tokenizer" if path.is_dir() else "does not exist"
        raise TwistError(
            f"{folder} {what}; text.tokenizer must name the text LM's folder, with tokenizer.json or tokenizer.model"
        )
    return f"sha256:{sha256_of_files(files)}"


def _rows(folder: Path) -> int:
    """The rows of the table of the LM in a folder; 0 where it does not say."""
    try:
        rows = foreign_json.parse((folder / "config.json").read_bytes()).get("vocab_size")
    except (FileNotFoundError, ValueError, AttributeError):
        return 0
    return rows if isinstance(rows, int) else 0
