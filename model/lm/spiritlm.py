"""SpiRit-LM as Meta released it: a LLaMA whose tokenizer, not its config.json, says which ids are units.

    0 ... T - 1       text, T = 32000
    T, T + 1          [Text], [Speech]
    from T + 2 on     [Hu0] ... [Hu500]; of EXPRESSIVE also [Pi0] ... [Pi63], [St0] ... [St99]; then rows up to a
                      multiple of 256, which stand for nothing

Each sequence has BOS before it and nothing behind it. [Hu500] is the blank of the quantizer's CTC, and never said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.lm.text_tokenizer import has_tokenizer, read_tokenizer
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def vocabulary_of(folder: str, config: PretrainedConfig) -> Vocabulary | None:
    """The vocabulary by the names of ids in a model's tokenizer; None where these name no units.

    Raises:
        TwistError: the names are in another order than here, or the model's table has too few rows for them.
    """
    if not has_tokenizer(folder):
        return None
    tokenizer = read_tokenizer(folder)
    ids: dict[str, int] = tokenizer.get_vocab()
    if "[Hu0]" not in ids:
        return None
    num_units, num_pitch, num_style = (_count(kind, ids) for kind in ("Hu", "Pi", "St"))
    text_size = ids.get("[Text]", 0)
    names = ["[Text]", "[Speech]", *speech_names(num_units, num_pitch, num_style)]
    if [ids.get(name) for name in names] != list(range(text_size, text_size + len(names))):
        raise TwistError(
            "its tokenizer has [Text], [Speech], [Hu0], [Hu1] ... (then [Pi0] ..., [St0] ...) in another order than "
            "SpiRit-LM"
        )
    if text_size + len(names) > config.vocab_size:
        raise TwistError(
            f"its tokenizer names {text_size + len(names)} ids, but its table has {config.vocab_size} rows"
        )
    return Vocabulary(
        num_units,
        text_size + 2,
        bos_id=tokenizer.bos_token_id,
        text_size=text_size,
        counts_rows=True,
        num_pitch=num_pitch,
        num_style=num_style,
        pitch_offset=text_size + 2 + num_units if num_pitch else 0,
    )


def speech_names(num_units: int, num_pitch: int = 0, num_style: int = 0) -> list[str]:
    """The names of units, and of pitch and style, in the order of their ids."""
    counts = {"Hu": num_units, "Pi": num_pitch, "St": num_style}
    return [f"[{kind}{code}]" for kind, count in counts.items() for code in range(count)]


def _count(kind: str, ids: dict[str, int]) -> int:
    return sum(f"[{kind}{code}]" in ids for code in range(len(ids)))
