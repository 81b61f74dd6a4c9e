"""What a model says is kept as it comes: a command that was killed goes on from it, and ends with the same answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from model.lm.sampling_config import SamplingConfig
from pipeline.evaluation.item_units import AudioItem, ItemUnits, UnitRow
from pipeline.evaluation.sentiment import answers as stsp_answers
from pipeline.evaluation.sentiment.answers import Drawing, answers_of, encoded
from pipeline.evaluation.speech import continuations, few_shot_answers
from pipeline.evaluation.speech.continuations import continuations_of
from pipeline.evaluation.speech.few_shot_answers import Asked, answers_to
from pipeline.speaking.prompts import PromptPart
from pipeline.speaking.speech_lm import SpeechLM
from pipeline.speaking.text_and_speech import TextAndSpeechLM
from tests.pipeline.evaluation.pairs.test_directions import checkpoint, spoken, subject_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.evaluation.subject import Subject

__all__ = ["checkpoint"]  # the fixture

WORDS = ("one", "two", "three", "four", "five")
SAMPLING = SamplingConfig(temperature=1.0, seed=3)
AT_ONCE = 2


def of_tasks(subject: Subject, folder: Path) -> Any:
    """Answers in text to five clips."""
    (folder / "examples.jsonl").write_text(json.dumps({"audio": "shown.wav", "text": "so"}) + "\n")
    asked = [Asked(word, AudioItem(word, f"{word}.wav"), None) for word in WORDS]
    options: dict[str, Any] = {"num_shots": 1, "seed": 0, "sampling": SAMPLING, "max_new_tokens": 6}
    return answers_to(subject, "asr", asked, examples=str(folder / "examples.jsonl"), **options).texts


def of_reading(subject: Subject, folder: Path) -> Any:
    """Answers in units to five texts."""
    (folder / "examples.jsonl").write_text(json.dumps({"audio": "shown.wav", "text": "so"}) + "\n")
    options: dict[str, Any] = {"num_shots": 1, "seed": 0, "sampling": SAMPLING, "max_new_tokens": 6}
    asked = [Asked(word, None, word) for word in WORDS]
    found = answers_to(subject, "tts", asked, examples=str(folder / "examples.jsonl"), stop="stop.wav", **options)
    return {name: units.tolist() for name, units in found.units.items()}


def of_stsp(subject: Subject, _: Path) -> Any:
    """What is said after five texts."""
    model = TextAndSpeechLM(subject.lm)
    prompts = {word: encoded([PromptPart("text", f"{word} of all")], model, {}) for word in WORDS}
    drawing = Drawing("speech", SAMPLING, max_new_tokens=6, num_runs=1, num_tries=2, batch_size=2)
    found, _fingerprint = answers_of(subject, model, prompts, drawing, 0)
    return {name: one.units.values.tolist() for name, one in found.items() if one.units is not None}


def of_generation(subject: Subject, _: Path) -> Any:
    """Two continuations of each of five prompts."""
    rows = {word: UnitRow(spoken(word), np.ones(len(spoken(word)), np.uint16), 1.0) for word in WORDS}
    sampling = replace(SAMPLING, max_units=30)
    subject.codebook.facts = {"encoder": {"frame_rate_hz": 25.0}}  # type: ignore[misc]
    found, _fingerprint, left_out = continuations_of(subject, ItemUnits(rows, (), "units", "audio"), sampling, 2)
    assert not left_out
    return {one.name: one.units.tolist() for one in found}


@pytest.mark.parametrize("make", [of_tasks, of_reading, of_stsp, of_generation], ids=lambda make: make.__name__)
def test_a_killed_command_goes_on_from_its_answers(
    make: Callable[[Subject, Path], Any], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (few_shot_answers, stsp_answers, continuations):
        monkeypatch.setattr(module, "PROMPTS_AT_ONCE", AT_ONCE)
    units = {word: spoken(word) for word in (*WORDS, "shown")} | {"stop": np.array([1, 2], np.uint16)}

    def subject(output: str) -> Subject:
        (tmp_path / output).mkdir(exist_ok=True)
        made = subject_of(checkpoint, units)
        other = replace(made, output=str(tmp_path / output))
        vars(other).update({name: vars(made)[name] for name in ("lm", "codebook", "units", "units_heard")})
        return other

    whole = make(subject("whole"), tmp_path)
    assert len({name.partition("-")[0] for name in whole}) == len(WORDS)

    asked: list[int] = []
    for owner in (TextAndSpeechLM, SpeechLM):
        draw = owner.continue_batch

        def counted(self: Any, prompts: Any, *args: Any, draw: Any = draw, **options: Any) -> Any:
            asked.append(len(prompts))
            if len(asked) == 2:
                raise KeyboardInterrupt
            return draw(self, prompts, *args, **options)

        monkeypatch.setattr(owner, "continue_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        make(subject("killed"), tmp_path)
    assert asked == [AT_ONCE, AT_ONCE], "killed in the second part"
    assert make(subject("killed"), tmp_path) == whole
    assert sum(asked[2:]) == len(WORDS) - AT_ONCE, "what was answered is not asked again"
    num_asked = len(asked)
    assert make(subject("killed"), tmp_path) == whole
    assert len(asked) == num_asked
    # The parts are those of a command that was never killed, file by file.
    names = {
        output: {
            path.relative_to(tmp_path / output): path.read_bytes() for path in (tmp_path / output).rglob("*.parquet")
        }
        for output in ("whole", "killed")
    }
    assert names["whole"] == names["killed"] and len(names["whole"]) == 3
    shutil.rmtree(tmp_path / "killed")
