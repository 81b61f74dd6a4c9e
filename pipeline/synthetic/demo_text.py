"""Text to read for the demo of speech and text: paragraphs of such sentences as its voices speak."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.synthetic.sentences import paragraphs
from pipeline.text.make_tokenizer import make_tokenizer

if TYPE_CHECKING:
    from pipeline.synthetic.config import DemoTextConfig

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
    chosen = list(itertools.islice(paragraphs("en", rng), config.num_paragraphs))
    lines = [" ".join(paragraph) for paragraph in chosen]
    content = ("\n".join(lines) + "\n").encode()
    path = folder / TEXT
    if path.exists() and path.read_bytes() != content:
        raise TwistError(f"{path} is another text; name another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_bytes(str(path), content)
    tokenizer = folder / TOKENIZER
    if tokenizer.exists():
        from transformers import AutoTokenizer

        num_tokens = len(AutoTokenizer.from_pretrained(tokenizer, local_files_only=True))
    else:
        num_tokens = make_tokenizer(tokenizer, lines, config.num_tokens)
    return len(content.split()), num_tokens
