"""twist generate, resynthesize, speak and train-vocoder, with tiny models of the embedded units."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model.artefacts import EMBEDDED_FOLDER, resolve
from model.lm.vocab import Vocabulary
from model.vocoder import mel_picture
from model.vocoder.checkpoint import load_melody, save_vocoder
from model.vocoder.config import VocoderConfig
from model.vocoder.vocoder import Vocoder
from pipeline.speaking import tokenizer
from pipeline.synthetic.espeak import synthesize
from pipeline.units import codebook
from tests.jobs.small_trainings import VOCODER

if TYPE_CHECKING:
    from tests.jobs.conftest import Twist


class Done(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


def run(command: str, *arguments: object, status: int = 0) -> Done:
    """Runs `twist COMMAND ARGUMENTS` in this process: in its own, loading torch would take longer than the rest."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        found = importlib.import_module(f"jobs.{command.replace('-', '_')}").main([str(each) for each in arguments])
    assert found == status, f"exit status {found}\n{stdout.getvalue()}\n{stderr.getvalue()}"
    return Done(stdout.getvalue(), stderr.getvalue())


FINGERPRINT = json.loads(Path(resolve("hubert-tiny-25hz-km100"), "codebook.json").read_text())["fingerprint"]
OPT: dict[str, Any] = {
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "max_position_embeddings": 1024,
}


@pytest.fixture(scope="module")
def speech_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a speech LM of the embedded units."""
    folder = tmp_path_factory.mktemp("lm") / "checkpoint"
    torch.manual_seed(0)
    vocabulary = Vocabulary(100, codebook_fingerprint=FINGERPRINT)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **OPT, **vocabulary.as_config())).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prompts in several formats, rates and numbers of channels, some of them unusable."""
    folder = tmp_path_factory.mktemp("prompts")
    wav, rate_hz = synthesize("The river had risen in the night, and the road was under water.", "en-us+f2")
    speech_wav = wav.astype(np.float32) / 2**15
    (folder / "deep").mkdir()
    soundfile.write(folder / "one.wav", speech_wav, rate_hz)
    soundfile.write(
        folder / "deep" / "two.flac", np.stack([speech_wav, 0.5 * speech_wav], axis=1)[: 2 * rate_hz], rate_hz
    )
    soundfile.write(folder / "three.mp3", speech_wav[: rate_hz // 2], rate_hz)
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    soundfile.write(folder / "short.wav", speech_wav[:500], rate_hz)
    (folder / "broken.wav").write_bytes(b"RIFF, but no more of it")
    (folder / "notes.txt").write_text("no audio")
    return folder


def description(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_a_prompt_is_continued(speech_lm: Path, prompts: Path, tmp_path: Path) -> None:
    outputs = []
    # Either spelling of an option, and the same seed: the same continuation.
    for name, style in (("a", "-"), ("b", "_")):
        output = tmp_path / f"{name}.wav"
        given = {"input-file": prompts / "one.wav", "output-file": output, "top-k": 20}
        options = [part for key, value in given.items() for part in (f"--{key.replace('-', style)}", value)]
        done = run("generate", *options, "--checkpoint", speech_lm)
        assert "real-time factor" in done.stdout and str(output) in done.stdout
        outputs.append(output)
    first, second = (description(path.with_suffix(".json")) for path in outputs)
    assert first["units"] == second["units"]
    assert 70 >= first["num_prompt_units"] >= 20, "3 s are 75 frames, fewer without repeats"
    assert len(first["units"]) == min(250, 3 * first["num_prompt_units"])
    wav, rate_hz = soundfile.read(outputs[0])
    assert rate_hz == 16_000
    assert len(wav) == 640 * sum(first["durations"])
    assert first["codebook_fingerprint"] == FINGERPRINT


def test_a_folder_of_prompts_is_continued_and_what_is_bad_is_named(
    speech_lm: Path, prompts: Path, tmp_path: Path
) -> None:
    options = ["--checkpoint", speech_lm, "--num-continuations", 2, "--max-duration-sec", 4]
    done = run("generate", "--input-file", prompts, "--output-file", tmp_path / "out", *options)
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.wav")}
    assert written == {f"{stem}-{number}.wav" for stem in ("one", "deep/two", "three") for number in (0, 1)}
    for name, why in (("silent", "silent"), ("short", "too short"), ("broken", "unreadable")):
        (line,) = [line for line in done.stderr.splitlines() if f"{name}.wav" in line]
        assert why in line
    alone = tmp_path / "alone.wav"
    run("generate", "--input-file", prompts / "three.mp3", "--output-file", alone, "--checkpoint", speech_lm)
    together = description(tmp_path / "out" / "three-0.json")["units"]
    assert description(tmp_path / "alone.json")["units"][: len(together)] == together, "a neighbour changed a prompt's"
    assert description(tmp_path / "out" / "three-1.json")["units"] != together
    for path in (tmp_path / "out").rglob("*.wav"):
        assert soundfile.info(path).duration <= 4.0


@pytest.mark.parametrize(
    ("name", "words"),
    [("silent.wav", "it is silent"), ("short.wav", "too short"), ("broken.wav", "unreadable"), ("none.wav", "missing")],
)
def test_a_prompt_that_cannot_be_used_is_told_in_a_sentence(
    speech_lm: Path, prompts: Path, tmp_path: Path, name: str, words: str
) -> None:
    output = tmp_path / "out.wav"
    done = run("generate", "--input-file", prompts / name, "--output-file", output, "--checkpoint", speech_lm, status=2)
    assert words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not output.exists()


def test_models_and_options_that_do_not_fit_are_refused(speech_lm: Path, prompts: Path, tmp_path: Path) -> None:
    files = ["--input-file", prompts / "one.wav", "--output-file", tmp_path / "out.wav"]
    checkpoint = ["--checkpoint", speech_lm]
    for options, words in (
        (files, "name one model"),
        ([*files, *checkpoint, "--twist-model-name", "TWIST-350M"], "name one model"),
        ([*files, "--twist-model-name", "TWIST-2B"], "no published model TWIST-2B, only TWIST-350M"),
        ([*checkpoint, "--output-file", "x.wav"], "give --input-file"),
        ([*files, *checkpoint, "--held-out", "test"], "give --input-file"),
        ([*checkpoint, "--output-file", "x.wav", "--held-out", "test"], "needs --run"),
        ([*files, *checkpoint, "--temperature", -1], "temperature is -1"),
        ([*files, *checkpoint, "--num_continuations", 0], "num_continuations is 0"),
        ([*files, *checkpoint, "--max-units", 3], "leaves no room"),
        ([*files, *checkpoint, "--vocoder", tmp_path], "vocoder"),
    ):
        done = run("generate", *options, status=2)
        assert words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_an_official_model_that_cannot_be_fetched_is_told_in_a_sentence(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIST_CACHE", str(tmp_path / "cache"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    done = run(
        "generate",
        *("--input-file", prompts / "one.wav", "--output-file", tmp_path / "out.wav"),
        *("--twist-model-name", "TWIST-1.3B"),
        status=1,
    )
    assert "cannot fetch https://dl.fbaipublicfiles.com/textless_nlp/twist/lms/TWIST-1.3B.zip" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_official_model_is_used_with_its_tokenizer(
    speech_lm: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In place of Meta's: a zip of this model, and the embedded tokenizer.
    monkeypatch.setenv("TWIST_CACHE", str(tmp_path))
    shutil.make_archive(str(tmp_path / "TWIST-1.3B"), "zip", speech_lm.parent, speech_lm.name)
    monkeypatch.setattr(tokenizer, "official_codebook", lambda _: codebook.load(resolve("hubert-tiny-25hz-km100")))
    out = tmp_path / "out.wav"
    files = ["--input-file", prompts / "one.wav", "--output-file", out]
    run("generate", *files, "--twist-model-name", "TWIST-1.3B")
    assert description(tmp_path / "out.json")["model"] == str(tmp_path / "TWIST-1.3B")
    assert soundfile.info(out).duration > 3


def test_resynthesis_keeps_the_time_and_speaking_its_units_gives_the_same(prompts: Path, tmp_path: Path) -> None:
    pictures = ["--picture"] if mel_picture.is_available() else []
    run("resynthesize", "--input_file", prompts / "one.wav", "--output_file", tmp_path / "re.wav", *pictures)
    assert (tmp_path / "re.png").is_file() == bool(pictures)
    recorded, made = soundfile.info(prompts / "one.wav"), soundfile.info(tmp_path / "re.wav")
    assert made.samplerate == 16_000
    assert abs(recorded.duration - made.duration) < 0.09
    said = description(tmp_path / "re.json")
    assert len(said["units"]) == len(said["durations"])
    run("speak", "--input-file", tmp_path / "re.json", "--output-file", tmp_path / "again.wav")
    np.testing.assert_array_equal(soundfile.read(tmp_path / "re.wav")[0], soundfile.read(tmp_path / "again.wav")[0])
    # Without durations the vocoder predicts them; a bare list will do.
    run(
        "resynthesize",
        "--input-file",
        prompts / "one.wav",
        "--output-file",
        tmp_path / "p.wav",
        "--durations",
        "predicted",
    )
    (tmp_path / "list.json").write_text(json.dumps(said["units"]))
    run("speak", "--input-file", tmp_path / "list.json", "--output-file", tmp_path / "list.wav")
    np.testing.assert_array_equal(soundfile.read(tmp_path / "p.wav")[0], soundfile.read(tmp_path / "list.wav")[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "holds no units"),
        ("[1, 2", "no JSON"),
        ("[1, -2]", "no list of whole numbers"),
        ('{"units": [1, 2], "durations": [3]}', "1 durations for 2 units"),
        ("[1, 100]", "unit 100 is not one of the 100"),
        ('{"units": [1], "codebook_fingerprint": "another"}', "no vocoder for the units of codebook another"),
    ],
)
def test_units_that_cannot_be_spoken_are_told_in_a_sentence(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "units.json").write_text(content)
    done = run("speak", "--input-file", tmp_path / "units.json", "--output-file", tmp_path / "o.wav", status=2)
    assert words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_vocoder_of_other_units_is_refused(prompts: Path, tmp_path: Path) -> None:
    embedded = EMBEDDED_FOLDER / "hifigan-tiny-25hz"
    shape = VocoderConfig.read(embedded / "config.json")
    save_vocoder(Vocoder(shape), tmp_path, "another codebook", melody=load_melody(embedded))
    files = ["--input-file", prompts / "one.wav", "--output-file", tmp_path / "out.wav"]
    done = run("resynthesize", *files, "--vocoder", tmp_path, status=2)
    assert "speaks the units of another codebook (another codebook)" in done.stderr


@pytest.mark.xdist_group("ray")
def test_a_run_trains_its_vocoder_and_speaks_with_it(
    twist: Twist, finished_run: Path, recipe: Path, tmp_path: Path
) -> None:
    path, copy = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(recipe.read_text() + VOCODER)
    shutil.copytree(finished_run, copy)
    done = twist("train-vocoder", "--config", path, "--run", copy)
    assert "3 steps" in done.stdout and "mel distance" in done.stdout
    assert (copy / "vocoder" / "samples" / "0-00000003.wav").is_file()
    out = tmp_path / "out.wav"
    common = ["--run", copy, "--held-out", "validation", "--output-file", out]
    done = run("resynthesize", *common)
    original = tmp_path / "out.original.wav"
    assert str(original) in done.stdout
    assert abs(soundfile.info(original).duration - soundfile.info(out).duration) < 0.09
    original.unlink()
    assert str(copy / "vocoder") in description(tmp_path / "out.json")["vocoder"]
    run("generate", *common)
    assert soundfile.info(original).duration > 3, "the whole utterance, not its prompt alone"
    continued = description(tmp_path / "out.json")
    assert continued["model"].startswith(str(copy / "checkpoints"))
    assert len(continued["units"]) > continued["num_prompt_units"] > 0
    assert soundfile.info(out).frames == 640 * sum(continued["durations"])
