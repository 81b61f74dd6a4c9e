"""A text LM that learns units beside its text: rows added to its table, and its tokenizer with names for them.

Source: Nguyen et al. 2024 (SpiRit-LM), section 3.3 and appendix A; names of tokens as in Meta's released models.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.lm.speech_lm import initialize, is_tied, load_text_lm, table_names
from model.lm.spiritlm import speech_names
from model.lm.text_tokenizer import read_tokenizer, tokenizer_of_process
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.shards import Dataset


def text_vocabulary(folder: str, dataset: Dataset, *, is_expressive: bool = False) -> Vocabulary:
    """The ids of a text LM's tokens, then [TEXT] and [SPEECH], then the units of some shards.

    Args:
        folder: Folder, local or s3://, of the text LM with its tokenizer, or of a tokenizer alone.
        dataset: The shards.
        is_expressive: Whether the shards' pitch and style follow.

    Raises:
        TwistError: there is no tokenizer, or the shards carry no pitch and style.
    """
    text_size = tokenizer_of_process(folder).vocab_size
    if is_expressive:
        return Vocabulary.of_streams(dataset, text_size)
    units = Vocabulary.of_dataset(dataset)
    return Vocabulary(
        units.codebook_size,
        offset=text_size + 2,
        codebook_fingerprint=units.codebook_fingerprint,
        text_size=text_size,
    )


def extend_text_lm(
    folder: str, vocabulary: Vocabulary, seed: int, *, rope_theta: float | None = None
) -> PreTrainedModel:
    """Adds rows for [TEXT], [SPEECH] and units to a text LM; all of its own tensors stay, bit for bit, in float32.

    New rows are drawn as the model's family initializes its table.

    Args:
        folder: A transformers folder of a causal LM, local or s3://.
        vocabulary: The ids of its text, and of units.
        seed: Seed of the new rows.
        rope_theta: Another base of the rotary positions; None: the text LM's own.

    Raises:
        TwistError: there is no such folder, it holds no complete causal LM, or it has no rotary positions to change.
        RunError: it cannot be fetched.
    """
    text_model = load_text_lm(folder)
    settings = text_model.config.to_dict()
    if rope_theta is not None:
        _set_rope_theta(settings, rope_theta, folder)
    settings["tie_word_embeddings"] = is_tied(text_model)
    model = initialize(settings, vocabulary, seed)
    tables = table_names(text_model)
    new = model.state_dict()
    num_rows = len(text_model.get_input_embeddings().weight)
    if num_rows > vocabulary.text_size:
        raise TwistError(f"{folder} has {num_rows} tokens in its table, and {vocabulary.text_size} in its config.json")
    with torch.no_grad():
        for name, tensor in text_model.state_dict().items():
            assert name in new, f"the new model lacks {name}"
            (new[name][: len(tensor)] if name in tables else new[name]).copy_(tensor)
    # What begins, ends and pads text is the text LM's; a row that pads is the one that gets no gradient.
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(text_model.config, name, None))
    model.generation_config = text_model.generation_config
    padding = getattr(text_model.get_input_embeddings(), "padding_idx", None)
    model.get_input_embeddings().padding_idx = padding
    return model


def text_tokenizer(folder: str, vocabulary: Vocabulary) -> PreTrainedTokenizerBase:
    """The text LM's tokenizer with names for all ids behind its own: [Text], [Speech], [Hu0], [Hu1] ... [St99].

    Args:
        folder: The text LM's folder, or that of a model made of it.
        vocabulary: The model's.

    Raises:
        TwistError: there is no tokenizer, or it is not this model's.
    """
    from transformers import AddedToken

    tokenizer = read_tokenizer(folder)
    if len(tokenizer) < vocabulary.vocab_size:
        unused = [_unused_name(token_id) for token_id in range(len(tokenizer), vocabulary.text_size)]
        of_speech = speech_names(vocabulary.codebook_size, vocabulary.num_pitch, vocabulary.num_style)
        names = [*unused, "[Text]", "[Speech]", *of_speech]
        tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    require_names(tokenizer, vocabulary, folder)
    return tokenizer


def require_names(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, folder: str) -> None:
    """Refuses a tokenizer that does not name a vocabulary's ids behind those of text.

    Raises:
        TwistError: a name stands for another id, or for none.
    """
    last_unit = vocabulary.codebook_size - 1
    names = ["[Text]", "[Speech]", "[Hu0]", f"[Hu{last_unit}]"]
    expected = [vocabulary.text_id, vocabulary.speech_id, vocabulary.offset, vocabulary.offset + last_unit]
    if vocabulary.is_expressive:
        names += ["[Pi0]", "[St0]", f"[St{vocabulary.num_style - 1}]"]
        expected += [vocabulary.pitch_offset, vocabulary.style_offset, vocabulary.vocab_size - 1]
    ids = tokenizer.convert_tokens_to_ids(names)
    if ids != expected:
        raise TwistError(f"the tokenizer of {folder} has other ids for units than its model: {ids}")


def ids_of_text(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """The ids below `text_size` that stand for text: all but the rows of the table that its tokenizer never gives."""
    names = tokenizer.convert_ids_to_tokens(list(range(vocabulary.text_size)))
    return np.array(
        [token_id for token_id, name in enumerate(names) if name not in (None, _unused_name(token_id))], np.int64
    )


def _unused_name(token_id: int) -> str:
    return f"[Unused{token_id}]"


def _set_rope_theta(settings: dict[str, Any], rope_theta: float, folder: str) -> None:
    parameters = settings.get("rope_parameters") or settings.get("rope_scaling")
    if not isinstance(parameters, dict) or "rope_theta" not in parameters:
        raise TwistError(f"{folder} has no rotary positions: leave train.rope_theta out")
    settings["rope_parameters"] = {**parameters, "rope_theta": rope_theta}
    warnings.warn(
        f"rotary positions have the base {rope_theta:g}: load the checkpoints with transformers 5 or later; earlier "
        f"ones do not read it where config.json has it, and take the family's own without a word",
        stacklevel=3,
    )
