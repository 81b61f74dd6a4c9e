"""Parts of a sequence of text and speech, and the ids that stand for them.

[TEXT] or [SPEECH] stands before a part that is of another modality than the one before it.

Source: Nguyen et al. 2024 (SpiRit-LM), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.lm.modality import Modality, OutputModality
    from model.lm.vocab import Vocabulary


@dataclass(frozen=True, eq=False)
class Part:
    """A stretch of one modality.

    Attributes:
        modality: text or speech.
        values: Token ids of text, or units, [n]; of a model of pitch and style its stream (streams.py), each token by
            its distance from unit 0.
    """

    modality: Modality
    values: NDArray[np.int64]


def encode(parts: Sequence[Part], vocabulary: Vocabulary, next_modality: OutputModality = "any") -> list[int]:
    """The ids of a prompt: BOS, where the model has one, and each part behind the id of its modality.

    Args:
        parts: The prompt's.
        vocabulary: The model's.
        next_modality: What is to follow; where the last part is of the other modality, its id comes at the end.

    Raises:
        TwistError: a token or unit is not the model's.
    """
    assert vocabulary.text_id is not None and vocabulary.speech_id is not None
    switches = {"text": vocabulary.text_id, "speech": vocabulary.speech_id}
    ids = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    modality: OutputModality = "any"
    for part in parts:
        if part.modality != modality:
            modality = part.modality
            ids.append(switches[modality])
        if modality == "speech":
            ids += _speech_ids(part.values, vocabulary)
        elif part.values.size and int(part.values.max()) >= vocabulary.text_size:
            raise TwistError(f"token {int(part.values.max())} is not among the model's {vocabulary.text_size} of text")
        else:
            ids += part.values.tolist()
    if next_modality not in ("any", modality):
        ids.append(switches[next_modality])
    return ids


def parse(ids: NDArray[np.int64], vocabulary: Vocabulary) -> list[Part]:
    """The parts that ids [n] stand for: runs of text and runs of speech, whatever [TEXT] or [SPEECH] says of them.

    These two, and ids that stand for nothing, are left out, so that equal neighbours become one.
    """
    is_speech = np.isin(ids, vocabulary.speech_ids)
    is_kept = is_speech | (ids < vocabulary.text_size)
    ids, is_speech = ids[is_kept], is_speech[is_kept]
    if not len(ids):
        return []
    cuts = np.flatnonzero(is_speech[1:] != is_speech[:-1]) + 1
    return [
        Part("speech", run - vocabulary.offset) if run[0] >= vocabulary.offset else Part("text", run)
        for run in np.split(ids, cuts)
    ]


def _speech_ids(values: NDArray[np.int64], vocabulary: Vocabulary) -> list[int]:
    if not vocabulary.is_expressive:
        return list(vocabulary.encode(values.astype(np.uint16)).tolist())
    ids = values + vocabulary.offset
    if not (is_known := np.isin(ids, vocabulary.speech_ids)).all():
        raise TwistError(f"{int(values[~is_known][0])} is no unit, pitch or style of the model's")
    return list(ids.tolist())
