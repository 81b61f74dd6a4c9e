"""Text of the kind of sentences that synthesized voices speak, the demo's or the primer's, and a tokenizer for it."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.synthetic.primer import primer_sentences
from pipeline.synthetic.sentences import paragraphs
from pipeline.text.make_tokenizer import make_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.synthetic.config import DemoTextConfig, PrimerTextConfig

TEXT = "text.txt"
TOKENIZER = "tokenizer"


def write_demo_text(folder: Path, config: DemoTextConfig) -> tuple[int, int]:
    """Writes FOLDER/text.txt, a paragraph a line, and FOLDER/tokenizer, trained on it; the same settings, same bytes.

    Returns:
        The number of words, and of tokens that the tokenizer knows.

    Raises:
        TwistError: the folder holds something else.
    """
    rng = random.Random(config.seed)
    chosen = itertools.islice(paragraphs("en", rng), config.num_paragraphs)
    return _write(folder, [" ".join(paragraph) for paragraph in chosen], config.num_tokens)


def write_primer_text(folder: Path, config: PrimerTextConfig) -> tuple[int, int]:
    """As `write_demo_text`, of the primer's sentences: one a line.

    Raises:
        TwistError: the folder holds something else.
    """
    sentences = primer_sentences(random.Random(f"primer {config.seed}"))
    return _write(folder, list(itertools.islice(sentences, config.num_sentences)), config.num_tokens)


def _write(folder: Path, lines: Sequence[str], num_tokens: int) -> tuple[int, int]:
    content = ("\n".join(lines) + "\n").encode()
    path = folder / TEXT
    if path.exists() and path.read_bytes() != content:
        raise TwistError(f"{path} is another text; name another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_bytes(str(path), content)
    tokenizer = folder / TOKENIZER
    if tokenizer.exists():
        from transformers import AutoTokenizer

        return len(content.split()), len(
            AutoTokenizer.from_pretrained(tokenizer, local_files_only=True, trust_remote_code=False)
        )
    return len(content.split()), make_tokenizer(tokenizer, lines, num_tokens)
