"""Continues prompts of text and speech with a model of both, in one of the two or in any.

Ids of the other modality are never drawn where one is asked for, and ids that stand for nothing never at all.

Source: Nguyen et al. 2024 (SpiRit-LM), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.lm.controls import GrowingSequence
from model.lm.generate import Row, by_prompt, end_ids, uniforms_of, write
from model.lm.parts import Part, encode, parse
from model.lm.sampling_config import MAX_NEW_TOKENS
from model.lm.text_lm import ids_of_text, require_names
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from model.lm.modality import OutputModality
    from model.lm.sampling_config import SamplingConfig
    from model.lm.vocab import Vocabulary


@dataclass(frozen=True, eq=False)
class DrawnIds:
    """The ids that a model of text and speech can draw.

    Attributes:
        text: Those that stand for text.
        ends: Those that each end a sequence.
    """

    text: NDArray[np.int64]
    ends: frozenset[int]

    @classmethod
    def of(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, folder: str
    ) -> DrawnIds:
        """Those of a model and the tokenizer in its folder; the end of a text is the tokenizer's EOS.

        Raises:
            TwistError: the tokenizer is another model's.
        """
        require_names(tokenizer, vocabulary, folder)
        end_of_text = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
        return cls(ids_of_text(tokenizer, vocabulary), end_ids(model) | end_of_text)

    def allowed(self, modality: OutputModality, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """Those that can be drawn where the output is text, speech or any."""
        speech = vocabulary.speech_ids
        if modality == "text":
            return self.text
        return speech if modality == "speech" else np.concatenate([self.text, vocabulary.switch_ids, speech])


def continue_parts(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    drawn_ids: DrawnIds,
    prompts: Sequence[Sequence[Part]],
    output_modality: OutputModality,
    config: SamplingConfig,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    num_continuations: int = 1,
    batch_size: int = 32,
) -> list[list[list[Part]]]:
    """Continues each prompt `num_continuations` times; returns the parts of what is new.

    Args:
        model: A model of text and speech, from `ready_for_generation`.
        vocabulary: The model's.
        drawn_ids: What it can draw.
        prompts: Parts in any order, at least one each.
        output_modality: What the continuations are.
        config: How to draw; its lengths and pauses are for units alone, and not looked at here.
        max_new_tokens: Ids that are drawn at most, [TEXT] and [SPEECH] among them.
        num_continuations: Continuations per prompt.
        batch_size: Continuations written at once.

    Raises:
        TwistError: a prompt is empty, has a token or unit that is not the model's, or leaves too few positions.
    """
    rows = [
        _row(encode(prompt, vocabulary, output_modality), config, max_new_tokens, drawn_ids.ends, (place, number))
        for place, prompt in enumerate(prompts)
        for number in range(num_continuations)
    ]
    _require_room(model, rows, max_new_tokens)
    write(model, rows, vocabulary.pad_id, config, batch_size, drawn_ids.allowed(output_modality, vocabulary))
    return [[_parts(row, vocabulary) for row in of_prompt] for of_prompt in by_prompt(rows, num_continuations, config)]


def _row(
    ids: list[int], config: SamplingConfig, max_new_tokens: int, ends: frozenset[int], place: tuple[int, int]
) -> Row:
    uniforms = uniforms_of(np.array(ids, np.int64).tobytes(), config.seed, place[1], max_new_tokens)
    sequence = GrowingSequence(
        ids, max_ids=len(ids) + max_new_tokens, end_ids=ends, no_repeat_ngram=config.no_repeat_ngram
    )
    return Row(place, sequence, uniforms)


def _parts(row: Row, vocabulary: Vocabulary) -> list[Part]:
    has_ended = int(row.written[-1]) in row.sequence.end_ids
    return parse(row.written[:-1] if has_ended else row.written, vocabulary)


def _require_room(model: PreTrainedModel, rows: Sequence[Row], max_new_tokens: int) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = max((row.sequence.num_prompt_ids for row in rows), default=0)
    if positions is not None and longest + max_new_tokens > positions:
        raise TwistError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones are more than the model's {positions} "
            f"positions: give less of a prompt, or lower max_new_tokens"
        )
