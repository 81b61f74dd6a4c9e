"""Makes what training on text beside speech needs, where there is nothing to fetch.

twist make-text demo FOLDER: a text of the kind of sentences that the demo's voices speak, and a tokenizer for it.
twist make-text primer FOLDER: the same for the primer's voice.
twist make-text tokenizer FOLDER --text.files FILE...: a byte-level BPE tokenizer, for models without a text LM.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.folder_makers import Maker, command_of
from pipeline.synthetic.config import DemoTextConfig, PrimerTextConfig
from pipeline.text.make_tokenizer import TokenizerConfig


def demo(folder: Path, text: DemoTextConfig) -> None:
    """Makes a text of the kind of sentences that the demo's voices speak, and a tokenizer for it."""
    from pipeline.synthetic.demo_text import write_demo_text

    num_words, num_tokens = write_demo_text(folder, text)
    print(f"text       {num_words:,} words, and a tokenizer of {num_tokens:,} tokens, in {folder}")


def primer(folder: Path, text: PrimerTextConfig) -> None:
    """Makes a text of the kind of sentences that the primer's voice speaks, and a tokenizer for it."""
    from pipeline.synthetic.demo_text import write_primer_text

    num_words, num_tokens = write_primer_text(folder, text)
    print(f"text       {num_words:,} words, and a tokenizer of {num_tokens:,} tokens, in {folder}")


def tokenizer(folder: Path, text: TokenizerConfig) -> None:
    """Trains a byte-level BPE tokenizer, for models that begin with no text LM."""
    from pipeline.text.make_tokenizer import lines_of, make_tokenizer

    num_tokens = make_tokenizer(folder, lines_of(text.files), text.num_tokens)
    print(f"tokenizer  {num_tokens:,} tokens, in {folder}")


main = command_of(
    "make-text",
    __doc__,
    {
        "demo": Maker(demo, DemoTextConfig),
        "primer": Maker(primer, PrimerTextConfig),
        "tokenizer": Maker(tokenizer, TokenizerConfig),
    },
    group="text",
)


if __name__ == "__main__":
    sys.exit(main())
