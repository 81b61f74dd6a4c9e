"""twist generate with prompts of text and speech: a tiny model of both, of the embedded units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model.artefacts import resolve
from model.lm.text_lm import extend_text_lm, text_tokenizer
from model.lm.vocab import Vocabulary
from pipeline.synthetic.espeak import synthesize
from tests.text_models import TEXT, write_tokenizer

if TYPE_CHECKING:
    from tests.jobs.conftest import Twist

FINGERPRINT = json.loads(Path(resolve("hubert-tiny-25hz-km100"), "codebook.json").read_text())["fingerprint"]
LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 330,
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model of text and the embedded units."""
    folder = tmp_path_factory.mktemp("mixed")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LLAMA)).save_pretrained(folder / "text-lm")
    write_tokenizer(folder / "text-lm")
    vocabulary = Vocabulary(100, 332, codebook_fingerprint=FINGERPRINT, text_size=330)
    extend_text_lm(str(folder / "text-lm"), vocabulary, seed=0).save_pretrained(folder / "checkpoint")
    text_tokenizer(str(folder / "text-lm"), vocabulary).save_pretrained(folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speech") / "river.wav"
    wav, rate_hz = synthesize("The river had risen.", "en-us+f2")
    soundfile.write(path, wav.astype(np.float32) / 2**15, rate_hz)
    return path


def description(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.parametrize("modality", ["text", "speech", "any"])
def test_prompts_of_both_are_continued(
    twist: Twist, mixed: Path, recording: Path, modality: str, tmp_path: Path
) -> None:
    prompts = [f"[TEXT] {TEXT[0]} [SPEECH] {recording} [TEXT] and", f"[SPEECH] {recording}"]
    options = ["--output-modality", modality, "--max-new-tokens", 40, "--checkpoint", mixed, "--num-continuations", 2]
    done = twist("generate", "--prompt", *prompts, "--output-file", tmp_path / "out", *options)
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {"0-0.json", "0-1.json", "1-0.json", "1-1.json"}
    for path in sorted((tmp_path / "out").glob("*.json")):
        told = description(path)
        kinds = {part["modality"] for part in told["parts"]}
        assert kinds == ({"text", "speech"} if modality == "any" else {modality})
        assert told["prompt"][0].get("text") == (TEXT[0] if path.name.startswith("0") else None)
        time_s = 0.0
        for number, part in enumerate(told["parts"]):
            assert part["start_s"] == pytest.approx(time_s)
            if part["modality"] == "speech":
                assert part["wav"] == f"{path.stem}.{number}.wav"
                wav, rate_hz = soundfile.read(path.with_name(part["wav"]))
                assert len(wav) == 640 * sum(part["durations"]), "the prompt's share is cut off"
                assert len(part["units"]) == len(part["durations"])
                time_s += len(wav) / rate_hz
            assert part["end_s"] == pytest.approx(time_s)
            text = part.get("text", "").strip().splitlines()
            assert not text or text[0] in done.stdout or not text[0].isprintable()
    alone = tmp_path / "alone.wav"
    twist("generate", "--prompt", prompts[1], "--output-file", alone, *options)
    assert description(tmp_path / "alone-0.json") == {
        **description(tmp_path / "out" / "1-0.json"),
        "parts": description(tmp_path / "alone-0.json")["parts"],
    }
    for one, other in zip(
        description(tmp_path / "alone-0.json")["parts"], description(tmp_path / "out/1-0.json")["parts"], strict=True
    ):
        assert {**one, "wav": ""} == {**other, "wav": ""}, "a neighbour changed a prompt's"


def test_prompts_from_a_file(twist: Twist, mixed: Path, recording: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": [{"text": TEXT[1]}, {"audio": str(recording)}]}) + "\n")
    options = ["--checkpoint", mixed, "--max-new-tokens", 20, "--output-modality", "speech"]
    twist("generate", "--prompts", file, "--output-file", tmp_path / "a", *options)
    twist("generate", "--prompt", f"[TEXT] {TEXT[1]} [SPEECH] {recording}", "--output-file", tmp_path / "b", *options)
    ours, theirs = (description(tmp_path / f"{name}.json")["parts"] for name in "ab")
    assert [part["units"] for part in ours] == [part["units"] for part in theirs]


def test_text_alone_needs_no_units(twist: Twist, mixed: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", mixed, "--output-modality", "text", "--codebook", tmp_path / "none"]
    done = twist("generate", "--prompt", f"[TEXT] {TEXT[2]}", "--output-file", tmp_path / "out", *options)
    told = description(tmp_path / "out.json")
    assert told["vocoder"] is None and told["codebook_fingerprint"] is None
    assert "".join(part["text"] for part in told["parts"])
    assert "no audio, in" in done.stdout


def test_what_does_not_fit_is_refused(twist: Twist, mixed: Path, recording: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    units_alone = tmp_path / "units"
    config = AutoConfig.for_model("llama", **{**LLAMA, **Vocabulary(100, codebook_fingerprint=FINGERPRINT).as_config()})
    AutoModelForCausalLM.from_config(config).save_pretrained(units_alone)
    text = ["--prompt", "[TEXT] hello", "--output-file", tmp_path / "out"]
    for options, words in (
        ([*text, "--checkpoint", units_alone], "is a model of units alone, which neither reads nor writes text"),
        ([*text, "--checkpoint", mixed, "--max-new-tokens", 0], "max_new_tokens is 0"),
        ([*text, "--checkpoint", mixed, "--max-new-tokens", 4000], "more than the model's 2048 positions"),
        ([*text, "--checkpoint", mixed, "--max-units", 100], "max_units is for continuing speech alone"),
        ([*text, "--checkpoint", mixed, "--input-file", recording], "input_file is for continuing speech alone"),
        ([*text, "--checkpoint", mixed, "--prompts", "x.jsonl"], "not both"),
        (["--prompt", "hello", "--output-file", "x", "--checkpoint", mixed], "does not begin with"),
        (["--prompt", "[SPEECH] no.wav", "--output-file", "x", "--checkpoint", mixed], "no.wav cannot be used"),
        (
            ["--input-file", recording, "--output-file", "x", "--checkpoint", mixed, "--output-modality", "text"],
            "--prompt",
        ),
    ):
        done = twist("generate", *options, status=2)
        assert words in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_task_is_shown_by_examples(mixed: Path, recording: Path, tmp_path: Path, twist: Twist) -> None:
    examples = tmp_path / "examples.jsonl"
    lines = [{"audio": str(recording), "text": f"the river {word}", "label": word} for word in ("rises", "falls")]
    examples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = [f"--checkpoint={mixed}", "--codebook=hubert-tiny-25hz-km100", "--max-new-tokens=12", "--shots=2"]
    options += [f"--examples={examples}"]
    asked = {"asr": "[SPEECH] {0}", "tts": "[TEXT] a boat", "text_intent": "[TEXT] the sea rises"}
    other = tmp_path / "other.wav"
    soundfile.write(other, *soundfile.read(recording))
    for task, prompt in asked.items():
        stop = [f"--stop={recording}"] if task == "tts" else []
        output = tmp_path / f"{task}.wav"
        twist(
            "generate", *options, *stop, f"--task={task}", f"--prompt={prompt.format(other)}", f"--output-file={output}"
        )
        content = description(output.with_suffix(".json"))
        assert content["task"] == task
        assert {part["modality"] for part in content["parts"]} <= {"speech" if task == "tts" else "text"}
        assert len(content["prompt"]) == {"asr": 5, "tts": 7, "text_intent": 1}[task]
    done = twist(
        "generate", *options, "--task=asr", "--prompt=[TEXT] a boat", f"--output-file={tmp_path / 'x.wav'}", status=2
    )
    assert "asr is asked in speech" in done.stderr
