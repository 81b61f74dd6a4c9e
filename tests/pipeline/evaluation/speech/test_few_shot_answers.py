"""Answers to few-shot prompts: as plain transformers draws them, and never with an example of oneself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jiwer
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import TwistError
from pipeline.evaluation.config import AsrConfig, EvaluationConfig, IntentConfig
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.speech.few_shot_answers import Asked, answers_to
from pipeline.evaluation.speech.few_shot_tasks import GREEDY, asr, intent
from pipeline.evaluation.speech.word_errors import letter_errors
from pipeline.speaking.few_shot import draw_shots, read_examples
from tests.pipeline.evaluation.pairs.test_directions import checkpoint, spoken, subject_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["checkpoint"]  # the fixture

TEXTS = {
    "one": "the quick brown fox",
    "two": "over the lazy dog",
    "three": "she sells sea shells",
    "four": "by the sea",
}
LABELS = {"one": "animal", "two": "animal", "three": "shore", "four": "shore"}
STOP = np.array([1, 2], np.uint16)
NEW_TOKENS = 6


@pytest.fixture
def units() -> dict[str, np.ndarray]:
    return {name: spoken(text)[:20] for name, text in TEXTS.items()} | {"stop": STOP, "asked": spoken("by the shore")}


@pytest.fixture
def examples(tmp_path: Path) -> str:
    rows = [{"audio": f"{name}.wav", "text": text, "label": LABELS[name]} for name, text in TEXTS.items()]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "examples.jsonl")


@pytest.mark.parametrize("task", ["asr", "tts", "speech_intent", "text_intent"])
def test_answers_are_those_of_plain_transformers(
    task: Any, checkpoint: Path, units: dict[str, np.ndarray], examples: str
) -> None:
    of_text = task in ("tts", "text_intent")
    asked = Asked("a", None if of_text else AudioItem("a", "asked.wav"), "by the shore")
    found = answers_to(
        subject_of(checkpoint, units),
        task,
        [asked],
        examples=examples,
        num_shots=2,
        seed=3,
        sampling=GREEDY,
        max_new_tokens=NEW_TOKENS,
        stop="stop.wav" if task == "tts" else None,
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def heard(name: str) -> str:
        return "".join(f"[Hu{unit}]" for unit in units[name])

    prompt = ""
    for shot in draw_shots(read_examples_of(examples), 2, 3):
        name, text, label = shot.audio.removesuffix(".wav"), shot.text, shot.label
        prompt += {
            "asr": f"[Speech]{heard(name)}[Text] <START Transcript> {text} <END>",
            "tts": f"[Text] {text} 'stop'[Speech]{heard(name)}{heard('stop')}",
            "speech_intent": f"[Speech]{heard(name)}[Text] A:{label}",
            "text_intent": f" {text} A:{label}\n",
        }[task]
    prompt += {
        "asr": f"[Speech]{heard('asked')}[Text]",
        "tts": "[Text] by the shore 'stop'[Speech]",
        "speech_intent": f"[Speech]{heard('asked')}[Text] A:",
        "text_intent": "by the shore A:",
    }[task]
    # The first text of a prompt has no blank before it; of texts side by side, one behind a new line has none.
    prompt = prompt.replace("[Text] ", "[Text]", 1) if "[Text] " in prompt else f"[Text]{prompt[1:]}"
    prompt = prompt.replace("\n ", "\n")
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    first = tokenizer.convert_tokens_to_ids("[Hu0]")
    is_text = task != "tts"
    drawn: list[int] = []
    while len(drawn) < NEW_TOKENS and not (drawn and drawn[-1] == tokenizer.eos_token_id):
        with torch.no_grad():
            logits = model(torch.tensor([ids + drawn])).logits[0, -1]
        drawn.append(int(logits[:320].argmax()) if is_text else int(logits[first:].argmax()) + first)
    drawn = [token for token in drawn if token != tokenizer.eos_token_id]
    assert not found.left_out
    if is_text:
        assert found.texts["a"].strip() == tokenizer.decode(drawn, skip_special_tokens=True).strip()
    else:
        assert found.units["a"].tolist() == [token - first for token in drawn]
        assert found.stop.tolist() == STOP.tolist()


def read_examples_of(path: str) -> Any:
    from pathlib import Path

    return read_examples(Path(path))


def test_who_is_asked_is_never_shown(checkpoint: Path, units: dict[str, np.ndarray], examples: str) -> None:
    subject = subject_of(checkpoint, units)
    options = {"seed": 0, "sampling": GREEDY, "max_new_tokens": 2, "examples": examples}
    for asked in (Asked("a", AudioItem("a", "one.wav"), None), Asked("a", AudioItem("a", "asked.wav"), TEXTS["one"])):
        assert answers_to(subject, "asr", [asked], num_shots=3, **options).texts.keys() == {"a"}  # type: ignore[arg-type]
        with pytest.raises(TwistError, match="4 examples are to be shown, but of 4 there are 3"):
            answers_to(subject, "asr", [replace(asked)], num_shots=4, **options)  # type: ignore[arg-type]


def with_config(checkpoint: Path, units: dict[str, np.ndarray], **config: Any) -> Any:
    subject = subject_of(checkpoint, units)
    other = replace(subject, config=EvaluationConfig(**config))
    vars(other).update({name: vars(subject)[name] for name in ("lm", "codebook", "units", "units_heard")})
    return other


def test_asr_counts_all_errors(checkpoint: Path, units: dict[str, np.ndarray], examples: str, tmp_path: Path) -> None:
    rows = [
        {"audio": "asked.wav", "text": "by the shore", "speaker": "a"},
        {"audio": "two.wav", "text": TEXTS["two"], "speaker": "b"},
        {"audio": "missing.wav", "text": "nothing"},
        {"audio": "long.wav", "text": "no room"},
        {"audio": "asked.wav", "id": "untold"},
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    units["long"] = np.tile(STOP, 2000)
    config = AsrConfig(source=str(tmp_path / "asked.jsonl"), examples=examples, num_shots=3, max_new_tokens=12)
    (result,) = asr(with_config(checkpoint, units, asr=config))
    assert {one.item_id: one.reason for one in result.left_out} == {
        "untold": "no_text", "missing.wav": "missing", "long.wav": "too_long",
    }  # fmt: skip
    found = result.items.to_pylist()
    assert [row["item_id"] for row in found] == ["asked.wav", "two.wav"]
    normalize = pytest.importorskip("whisper_normalizer.english").EnglishTextNormalizer()
    said, heard = ([normalize(row[side]) for row in found] for side in ("said", "heard"))
    assert result.headline.value == pytest.approx(jiwer.wer(said, heard))
    assert result.figures["CER"].value == pytest.approx(jiwer.cer(said, heard))


def test_letters_are_counted_with_blanks() -> None:
    assert letter_errors("the cat", "teh cat") == (2, 7)
    assert letter_errors("", "ab") == (2, 0)
    assert letter_errors("ab", "") == (2, 2)


def test_intents_are_right_to_the_letter(
    checkpoint: Path, units: dict[str, np.ndarray], examples: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.evaluation.speech import few_shot_tasks

    written = {"1": " animal\nand more", "2": " shore", "3": "shore", "4": " Shore"}

    class Answered:
        texts, left_out, fingerprint = written, (), "answers"

    monkeypatch.setattr(few_shot_tasks, "answers_to", lambda *_, **__: Answered)
    (result,) = intent(with_config(checkpoint, units, intent=IntentConfig(source=examples, examples=examples)))
    assert [row["right"] for row in result.items.to_pylist()] == [1.0, 0.0, 1.0, 0.0]
    told = {name: figure.value for name, figure in result.figures.items()}
    assert told == {"accuracy": 0.5, "mean of labels": 0.5, "answers that are a label": 0.75}


def test_what_is_missing_is_told(checkpoint: Path, units: dict[str, np.ndarray], examples: str, tmp_path: Path) -> None:
    with pytest.raises(TwistError, match=r"give --evaluation.asr.examples"):
        asr(with_config(checkpoint, units))
    with pytest.raises(TwistError, match=r"give --evaluation.asr.source, or --run"):
        asr(with_config(checkpoint, units, asr=AsrConfig(examples=examples)))
    (tmp_path / "bare.jsonl").write_text('{"text": "words"}\n')
    with pytest.raises(TwistError, match="example 1 has no label"):
        intent(with_config(checkpoint, units, intent=IntentConfig(source=str(tmp_path / "bare.jsonl"), examples="e")))
    with pytest.raises(TwistError, match=r"evaluation.asr.num_shots is 0; it must be at least 1"):
        AsrConfig(num_shots=0)
    del units["one"]
    config = AsrConfig(source=str(tmp_path / "asked.jsonl"), examples=examples, num_shots=4)
    (tmp_path / "asked.jsonl").write_text('{"audio": "asked.wav", "text": "by"}\n')
    with pytest.raises(TwistError, match=r"one.wav cannot be shown: missing"):
        asr(with_config(checkpoint, units, asr=config))
