"""A text tokenizer of one's own: byte-level BPE, for models that begin with no text LM."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NUM_BYTES = 256
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class TokenizerConfig:
    """Which text a tokenizer is trained on, and its size.

    Args:
        files: Files of text, a document a line.
        num_tokens: Tokens, 256 bytes and the end of a text among them; fewer if no more pieces repeat.
    """

    files: tuple[str, ...] = ()
    num_tokens: int = 8192

    def __post_init__(self) -> None:
        if not self.files:
            raise TwistError("no text to train the tokenizer on: name files with --text.files")
        if self.num_tokens <= NUM_BYTES:
            raise TwistError(
                f"a tokenizer has at least {NUM_BYTES + 1} tokens, bytes and the end of a text; not {self.num_tokens}"
            )


def make_tokenizer(folder: Path, texts: Iterable[str], size: int) -> int:
    """Trains byte-level BPE as GPT-2 has, and writes it as a folder that transformers' AutoTokenizer loads.

    A text keeps every character: what BPE has no piece for becomes bytes.

    Args:
        folder: The folder to write.
        texts: What to train on.
        size: Tokens, with the 256 bytes and the end of a text; fewer if the texts have no more pieces that repeat.

    Returns:
        The number of tokens.

    Raises:
        TwistError: the folder exists.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    assert size > NUM_BYTES, f"{size} tokens leave no room for bytes"
    if folder.exists():
        raise TwistError(f"{folder} exists; name a folder that does not")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT)
    with contextlib.redirect_stderr(io.StringIO()):
        fast.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def lines_of(files: Sequence[str]) -> Iterator[str]:
    """The lines of text files, one after the other.

    Raises:
        TwistError: a file is missing, or is no text in UTF-8.
    """
    for name in files:
        try:
            with Path(name).open(encoding="utf-8") as file:
                yield from file
        except FileNotFoundError:
            raise TwistError(f"{name} does not exist") from None
        except UnicodeDecodeError as error:
            raise TwistError(f"{name} is no text in UTF-8: {error}") from error
