"""What a model of text and speech answers to prompts that show by examples what is asked: for ASR, TTS and intents.

    <folder>/answers/<key>/part-*.parquet    a row a prompt: item_id, text or units

The units of all clips are made as those of any benchmark. Answers are drawn in batches, once, and kept: an interruption
costs those under way. The key is a hash of the model, the prompts and how answers are drawn.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from model.lm.parts import encode
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.pairs.directions import require_text
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.speech.kept_parts import parts_made_here
from pipeline.files import storage
from pipeline.speaking.few_shot import ANSWERED_IN, ASKED_IN, draw_shots, few_shot_prompt, read_examples
from pipeline.speaking.prompts import PromptPart
from pipeline.speaking.text_and_speech import TextAndSpeechLM
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from model.lm.parts import Part
    from model.lm.sampling_config import SamplingConfig
    from pipeline.evaluation.subject import Subject
    from pipeline.speaking.few_shot import Example, Task

SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("units", pa.list_(pa.uint16())),
    ]
)
# Prompts that are answered, and whose answers are kept, together.
PROMPTS_AT_ONCE = 32
STOP = "stop"


@dataclass(frozen=True)
class Asked:
    """What is asked: a clip, or a text.

    Attributes:
        item_id: Unique among what is asked.
        audio: The clip; None where a text is asked.
        text: The words, as far as they are known.
    """

    item_id: str
    audio: AudioItem | None
    text: str | None


@dataclass(frozen=True)
class Answers:
    """What was answered.

    Attributes:
        texts: By item: what was written, as it came.
        units: By item: what was said, [n].
        stop: The units of the word that ends a clip, [m]; empty for tasks without one.
        left_out: What was not asked.
        fingerprint: Of everything that the prompts were made of.
    """

    texts: Mapping[str, str]
    units: Mapping[str, NDArray[np.int64]]
    stop: NDArray[np.int64]
    left_out: tuple[LeftOut, ...]
    fingerprint: str


def answers_to(
    subject: Subject,
    task: Task,
    asked: Sequence[Asked],
    *,
    examples: str,
    num_shots: int,
    seed: int,
    sampling: SamplingConfig,
    max_new_tokens: int,
    stop: str | None = None,
) -> Answers:
    """Asks a model.

    The examples are drawn once, all labels alike, and shown before everything that is asked; where what is asked is
    among them, others are drawn for it.

    Args:
        subject: The model.
        task: What is to be done.
        asked: What is asked.
        examples: JSONL file to draw examples from.
        num_shots: How many are shown.
        seed: Of their draw.
        sampling: How answers are drawn.
        max_new_tokens: Tokens of an answer at most.
        stop: The recording that ends a clip, for TTS.

    Raises:
        TwistError: the model knows no text, an example cannot be used, or there are too few.
        RunError: a disk or store fails.
    """
    require_text(subject.lm, task)
    model = TextAndSpeechLM(subject.lm)
    shown = read_examples(Path(examples))
    if not task.endswith("intent"):  # classes are nothing to a transcript
        shown = [replace(example, label="") for example in shown]
    clips = {example.audio: AudioItem(f"example/{example.audio}", example.audio) for example in shown if example.audio}
    items = [one.audio for one in asked if one.audio is not None]
    items += clips.values() if ASKED_IN[task] == "speech" or ANSWERED_IN[task] == "speech" else ()
    items += [AudioItem(STOP, stop)] if stop is not None else ()
    units = subject.units_heard(items)
    why = {item.item_id: item for item in units.left_out}
    if stop is not None and STOP in why:
        raise TwistError(f"{stop}, the recording that ends a clip, cannot be used: {why[STOP].detail}")

    def part(given: PromptPart) -> Part:
        name = STOP if given.content == stop else f"example/{given.content}"
        row = units.of.get(name) or units.of.get(given.content)
        if row is None:
            cause = why[name]
            raise TwistError(f"{examples}: {given.content} cannot be shown: {cause.reason} ({cause.detail})")
        return subject.part_of(row)

    prompts: dict[str, list[Part]] = {}
    left_out: list[LeftOut] = []
    positions = getattr(subject.lm.model.config, "max_position_embeddings", None)
    for one in asked:
        if one.audio is not None and one.audio.item_id in why:
            left_out.append(LeftOut(one.item_id, why[one.audio.item_id].reason, why[one.audio.item_id].detail))
            continue
        shots = draw_shots([other for other in shown if not _is_same(one, other)], num_shots, seed)
        question = PromptPart("text", one.text or "") if one.audio is None else PromptPart("speech", one.audio.item_id)
        told = few_shot_prompt(task, shots, question, stop)
        texts = iter(model.text_parts([given.content for given in told if given.modality == "text"]))
        parts = [next(texts) if given.modality == "text" else part(given) for given in told]
        num_tokens = len(encode(parts, subject.lm.vocabulary, ANSWERED_IN[task])) + max_new_tokens
        if positions is not None and num_tokens > positions:
            detail = f"{num_tokens} tokens with {max_new_tokens} new ones, but the model takes {positions}"
            left_out.append(LeftOut(one.item_id, "too_long", detail))
        else:
            prompts[one.item_id] = parts
    texts_of, units_of = _answered(subject, model, task, prompts, sampling, max_new_tokens)
    content = [*map(repr, shown), *(f"{one.item_id} {one.text}" for one in asked)]
    return Answers(
        texts_of,
        units_of,
        units.of[STOP].units.astype(np.int64) if stop is not None else np.zeros(0, np.int64),
        tuple(left_out),
        digest(units.fingerprint, *content),
    )


def _is_same(asked: Asked, example: Example) -> bool:
    if asked.text is not None and asked.text == example.text:
        return True
    if asked.audio is None or not example.audio:
        return False
    return storage.absolute(asked.audio.uri) == storage.absolute(example.audio)


def _answered(
    subject: Subject,
    model: TextAndSpeechLM,
    task: Task,
    prompts: Mapping[str, list[Part]],
    sampling: SamplingConfig,
    max_new_tokens: int,
) -> tuple[dict[str, str], dict[str, NDArray[np.int64]]]:
    ids = list(prompts)

    def draw(some: slice) -> pa.Table:
        return _drawn(model, task, {one: prompts[one] for one in ids[some]}, sampling, max_new_tokens)

    how = json.dumps({**asdict(sampling), "task": task, "max_new_tokens": max_new_tokens}, sort_keys=True)
    content = [
        piece.encode() if isinstance(piece, str) else piece.values.tobytes()
        for item_id, prompt in prompts.items()
        for part in prompt
        for piece in (item_id, part.modality, part)
    ]
    key = digest(subject.model_fingerprint, subject.dtype, how, *content)[:16]
    folder = storage.join(subject.output, "answers", key)
    parts = parts_made_here(folder, len(ids), PROMPTS_AT_ONCE, draw, subject.report, "answers")
    rows = [row for part in parts for row in part.to_pylist()]
    texts = {row["item_id"]: row["text"] for row in rows if row["text"] is not None}
    units = {row["item_id"]: np.asarray(row["units"], np.int64) for row in rows if row["units"] is not None}
    return texts, units


def _drawn(
    model: TextAndSpeechLM,
    task: Task,
    prompts: Mapping[str, list[Part]],
    sampling: SamplingConfig,
    max_new_tokens: int,
) -> pa.Table:
    continued = model.continue_batch(list(prompts.values()), ANSWERED_IN[task], sampling, max_new_tokens=max_new_tokens)
    rows: list[dict[str, object]] = []
    for (item_id, prompt), (answer,) in zip(prompts.items(), continued, strict=True):
        if ANSWERED_IN[task] == "text":
            text = "".join(model.text_of(part, prompt[-1]) for part in answer)
            rows.append({"item_id": item_id, "text": text, "units": None})
        else:
            units = [int(unit) for part in answer for unit in part.values]
            rows.append({"item_id": item_id, "text": None, "units": units})
    return pa.Table.from_pylist(rows, SCHEMA)
