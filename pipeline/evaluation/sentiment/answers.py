"""What a model says to the prompts of STSP, drawn once and kept: an interruption costs the answers under way.

    <folder>/stsp/<key>/part-*.parquet    a row a prompt: item_id, text or units (of an expressive model with codes of
                                          pitch and style among them), and how many tries it took

The key is a hash of the model, the prompts and how answers are drawn. An answer in which there is nothing to judge (no
text, no units) is drawn anew, by another seed, until there is or the tries are used up.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from model.lm.parts import Part, encode
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.speech.kept_parts import parts_made_here
from pipeline.files import storage
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from model.lm.modality import Modality
    from model.lm.sampling_config import SamplingConfig
    from pipeline.evaluation.subject import Subject
    from pipeline.speaking.prompts import PromptPart
    from pipeline.speaking.text_and_speech import TextAndSpeechLM

SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("units", pa.list_(pa.uint16())),
        pa.field("num_tries", pa.int32(), nullable=False),
    ]
)
# Prompts that are answered, and whose answers are kept, together.
PROMPTS_AT_ONCE = 32


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn.

    Attributes:
        modality: What they are.
        sampling: How tokens are drawn; its seed is that of the first run.
        max_new_tokens: Tokens of an answer at most.
        num_runs: Runs of the whole, with a seed each.
        num_tries: How often an answer is drawn, at most, until there is something to judge.
        batch_size: Answers that are written at once.
    """

    modality: Modality
    sampling: SamplingConfig
    max_new_tokens: int
    num_runs: int
    num_tries: int
    batch_size: int

    def of_try(self, run: int, number: int) -> SamplingConfig:
        """The settings of a try of a run; no two have one seed."""
        return replace(self.sampling, seed=self.sampling.seed + run + number * self.num_runs)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model said to a prompt; one of text and units is None.

    Attributes:
        prompt: The parts of the prompt.
        text: The text; "" if it said nothing in any try.
        units: The units [n]; of an expressive model its stream.
        num_tries: How often it was drawn.
    """

    prompt: tuple[Part, ...]
    text: str | None
    units: Part | None
    num_tries: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to judge."""
        return not (self.text if self.units is None else self.units.values.size)


def encoded(prompt: Sequence[PromptPart], model: TextAndSpeechLM, speech: Mapping[str, Part]) -> tuple[Part, ...]:
    """The tokens of a prompt; `speech` has recordings as the model hears them, by the names that the prompt has."""
    texts = iter(model.text_parts([part.content for part in prompt if part.modality == "text"]))
    return tuple(next(texts) if part.modality == "text" else speech[part.content] for part in prompt)


def with_room(
    prompts: Mapping[str, tuple[Part, ...]], subject: Subject, drawing: Drawing
) -> tuple[dict[str, tuple[Part, ...]], list[LeftOut]]:
    """The prompts after which the model has positions for an answer, and those that are too long."""
    positions = getattr(subject.lm.model.config, "max_position_embeddings", None)
    fitting, left_out = {}, []
    for item_id, prompt in prompts.items():
        length = len(encode(prompt, subject.lm.vocabulary, drawing.modality))
        if positions is not None and length + drawing.max_new_tokens > positions:
            detail = f"a prompt of {length} tokens and {drawing.max_new_tokens} new ones need more than {positions}"
            left_out.append(LeftOut(item_id, "too_long", detail))
        else:
            fitting[item_id] = prompt
    return fitting, left_out


def answers_of(
    subject: Subject, model: TextAndSpeechLM, prompts: Mapping[str, tuple[Part, ...]], drawing: Drawing, run: int
) -> tuple[dict[str, Answer], str]:
    """The answer of a run to each prompt, and a fingerprint of them all.

    Raises:
        TwistError: a prompt does not fit the model.
    """
    content = [
        piece.encode() if isinstance(piece, str) else piece.values.tobytes()
        for item_id, prompt in prompts.items()
        for part in prompt
        for piece in (item_id, part.modality, part)
    ]
    how = json.dumps({**asdict(replace(drawing, batch_size=0)), "run": run}, sort_keys=True)
    fingerprint = digest(subject.model_fingerprint, subject.dtype, how, *content)
    ids = list(prompts)

    def draw(some: slice) -> pa.Table:
        return _drawn(model, {item_id: prompts[item_id] for item_id in ids[some]}, drawing, run)

    folder = storage.join(subject.output, "stsp", fingerprint[:16])
    parts = parts_made_here(folder, len(ids), PROMPTS_AT_ONCE, draw, subject.report, "answered prompts")
    answers = {}
    for row in (row for part in parts for row in part.to_pylist()):
        units = None if row["units"] is None else Part("speech", np.asarray(row["units"], np.int64))
        answers[row["item_id"]] = Answer(prompts[row["item_id"]], row["text"], units, row["num_tries"])
    return answers, fingerprint


def _drawn(model: TextAndSpeechLM, prompts: Mapping[str, tuple[Part, ...]], drawing: Drawing, run: int) -> pa.Table:
    rows = []
    waiting = list(prompts)
    for number in range(drawing.num_tries):
        continued = model.continue_batch(
            [prompts[item_id] for item_id in waiting],
            drawing.modality,
            drawing.of_try(run, number),
            max_new_tokens=drawing.max_new_tokens,
            batch_size=drawing.batch_size,
        )
        is_last = number == drawing.num_tries - 1
        made = [
            _row(item_id, _answer(parts, prompts[item_id], model, drawing), number + 1)
            for item_id, (parts,) in zip(waiting, continued, strict=True)
        ]
        done = [row for row in made if is_last or row["text"] or row["units"]]
        rows += done
        waiting = [item_id for item_id in waiting if item_id not in {row["item_id"] for row in done}]
        if not waiting:
            break
    return pa.Table.from_pylist(rows, SCHEMA)


def _answer(parts: Sequence[Part], prompt: Sequence[Part], model: TextAndSpeechLM, drawing: Drawing) -> str | list[int]:
    if drawing.modality == "text":
        before = prompt[-1] if prompt[-1].modality == "text" else None
        texts = [model.text_of(part, before if place == 0 else None) for place, part in enumerate(parts)]
        return "".join(texts).strip()
    values = np.concatenate([np.zeros(0, np.int64), *(part.values for part in parts)])
    vocabulary = model.lm.vocabulary
    # Codes of pitch and style alone are no speech.
    return values.tolist() if vocabulary.is_unit(values + vocabulary.offset).any() else []


def _row(item_id: str, answer: str | list[int], num_tries: int) -> dict[str, object]:
    return {
        "item_id": item_id,
        "text": answer if isinstance(answer, str) else None,
        "units": None if isinstance(answer, str) else answer,
        "num_tries": num_tries,
    }
