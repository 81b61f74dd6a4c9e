"""An expressive model hears and speaks: streams of recordings, few-shot tasks, and what OUTPUT.json says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model.encoder.config import EncoderConfig
from model.encoder.encoder import load_encoder
from model.lm.parts import Part
from model.lm.sampling_config import SamplingConfig
from model.lm.streams import Spoken, StreamRates, Streams, merge
from model.lm.text_lm import extend_text_lm, text_tokenizer
from model.lm.vocab import Vocabulary
from model.style.model import PooledStyle
from pipeline.errors import TwistError
from pipeline.speaking.expressive import StreamTokenizer, spoken_of
from pipeline.speaking.few_shot import Example, few_shot_prompt
from pipeline.speaking.prompts import PromptPart
from pipeline.speaking.speech_lm import load_lm
from pipeline.speaking.text_and_speech import TextAndSpeechLM, _until, continue_prompts, speak
from pipeline.speaking.tokenizer import Tokenizer, find_codebook
from pipeline.speaking.units import Units
from pipeline.speaking.voice import voice_for
from pipeline.synthetic.espeak import synthesize
from tests.text_models import write_tokenizer

BOOK = find_codebook("hubert-tiny-25hz-km100")
VOCABULARY = Vocabulary(
    100,
    332,
    codebook_fingerprint=BOOK.fingerprint,
    text_size=330,
    num_pitch=16,
    num_style=4,
    pitch_offset=432,
    pitch_fingerprint="zero crossings",
)


class ZeroCrossings:
    """Stands in for a pitch model: 12.5 codes a second, of how often the wave crosses zero."""

    rate_hz = 12.5
    num_codes = 16
    min_samples = 1280
    fingerprint = "zero crossings"

    def codes(self, wavs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for wav in wavs:
            frames = wav[: len(wav) // 1280 * 1280].reshape(-1, 1280)
            found.append(((frames[:, 1:] * frames[:, :-1]) < 0).sum(dim=1).clamp(max=319) // 20)
        return found


@pytest.fixture(scope="module")
def style() -> PooledStyle:
    config = EncoderConfig(device="cpu")
    encoder = load_encoder(config)
    generator = torch.Generator().manual_seed(0)
    weights = {
        "mean": torch.zeros(encoder.feature_dim),
        "scale": torch.full((encoder.feature_dim,), 10.0),
        "centroids": torch.randn(4, encoder.feature_dim, generator=generator),
    }
    return PooledStyle(encoder, config, "kmeans", weights)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextAndSpeechLM:
    folder = tmp_path_factory.mktemp("expressive")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", **shape, vocab_size=330)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "text-lm")
    write_tokenizer(folder / "text-lm")
    extend_text_lm(str(folder / "text-lm"), VOCABULARY, seed=0).save_pretrained(folder / "checkpoint")
    text_tokenizer(str(folder / "text-lm"), VOCABULARY).save_pretrained(folder / "checkpoint")
    return TextAndSpeechLM(load_lm(str(folder / "checkpoint"), "cpu"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("speech")
    paths = []
    for name, text in (("river", "The river had risen."), ("stop", "stop")):
        wav, rate_hz = synthesize(text, "en-us+f2")
        soundfile.write(folder / f"{name}.wav", wav.astype(np.float32) / 2**15, rate_hz)
        paths.append(str(folder / f"{name}.wav"))
    return paths


@pytest.fixture(scope="module")
def tokenizer(style: PooledStyle) -> StreamTokenizer:
    return StreamTokenizer(Tokenizer(BOOK, "cpu"), ZeroCrossings(), style, VOCABULARY)


def test_a_recording_is_heard_as_one_stream(tokenizer: StreamTokenizer, recordings: list[str]) -> None:
    (river, stop) = tokenizer.values(recordings)
    (streams, _) = tokenizer.streams(recordings)
    assert len(streams.style) == -(-int(streams.durations.sum()) // 25)
    assert len(set(streams.pitch.tolist())) > 2
    assert (river + 332).tolist() == merge([streams], VOCABULARY, StreamRates(25.0, 12.5, 1.0)).ids.tolist()
    spoken, num_given = spoken_of(Part("speech", river), VOCABULARY)
    assert num_given == 0 and spoken.units.tolist() == streams.units.tolist()
    assert tokenizer.values([recordings[1]])[0].tolist() == stop.tolist(), "a neighbour changed a recording's stream"


def test_other_models_of_pitch_and_style_are_refused(style: PooledStyle) -> None:
    tokenizer = Tokenizer(BOOK, "cpu")
    other = ZeroCrossings()
    other.fingerprint = "another"
    with pytest.raises(TwistError, match="16 codes of the pitch model zero crossings"):
        StreamTokenizer(tokenizer, other, style, VOCABULARY)
    with pytest.raises(TwistError, match="codes of the style model"):
        StreamTokenizer(tokenizer, ZeroCrossings(), ZeroCrossings(), VOCABULARY)


def continued(
    prompt: list[PromptPart], model: TextAndSpeechLM, tokenizer: StreamTokenizer, path: Path, **more: Any
) -> Any:
    (found,) = continue_prompts(
        [prompt],
        [path],
        model,
        BOOK,
        tokenizer,
        voice_for(BOOK, device="cpu"),
        more.pop("modality"),
        SamplingConfig(temperature=1.5, top_k=None),
        max_new_tokens=60,
        num_continuations=1,
        batch_size=4,
        **more,
    )
    return found


@pytest.mark.parametrize("modality", ["text", "speech", "any"])
def test_prompts_are_continued_in_every_mode(
    model: TextAndSpeechLM, tokenizer: StreamTokenizer, recordings: list[str], modality: str, tmp_path: Path
) -> None:
    prompt = [PromptPart("text", "the quick"), PromptPart("speech", recordings[0])]
    found = continued(prompt, model, tokenizer, tmp_path / "out", modality=modality)
    told = found.description
    heard = told["prompt"][1]
    assert len(heard["units"]) == len(heard["pitch"]) == len(heard["style"])
    assert max(heard["pitch"]) < 16 and max(heard["style"]) < 4
    kinds = {part["modality"] for part in told["parts"]}
    assert kinds <= ({"text", "speech"} if modality == "any" else {modality}) and kinds
    for number, part in enumerate(told["parts"]):
        if part["modality"] == "speech":
            assert len(part["units"]) == len(part["pitch"]) == len(part["style"]) == len(part["durations"])
            assert len(found.wavs[number]) == 640 * sum(part["durations"]), "the prompt's share is cut off"
            assert max(part["units"]) < 100


def test_few_shot_tasks_take_streams(
    model: TextAndSpeechLM, tokenizer: StreamTokenizer, recordings: list[str], tmp_path: Path
) -> None:
    shots = [Example(recordings[0], "the river had risen")]
    asked = few_shot_prompt("asr", shots, PromptPart("speech", recordings[0]))
    found = continued(asked, model, tokenizer, tmp_path / "asr", modality="text", task="asr")
    assert found.description["task"] == "asr" and "answer" in found.description
    asked = few_shot_prompt("tts", shots, PromptPart("text", "the river"), recordings[1])
    found = continued(asked, model, tokenizer, tmp_path / "tts", modality="speech", task="tts", stop=recordings[1])
    assert all(part["modality"] == "speech" for part in found.description["parts"])


def test_an_answer_ends_where_stop_is_said_in_any_pitch() -> None:
    pitch, style = 432 - 332, 448 - 332
    answer = Part("speech", np.array([style + 1, pitch + 3, 7, pitch + 4, 8, pitch + 5, 20, pitch + 6, 21, 9]))
    stop = Part("speech", np.array([style, pitch, 20, 21]))
    (found,) = _until([answer], stop, VOCABULARY)
    assert found.values.tolist() == [style + 1, pitch + 3, 7, pitch + 4, 8]
    assert _until([Part("speech", np.array([20, pitch, 21]))], stop, VOCABULARY) == []


def test_what_goes_on_from_speech_has_its_pitch_until_another_is_said() -> None:
    streams = Streams(*(np.array(values, np.uint16) for values in ([5, 6], [2, 2], [3, 9], [2])))
    before = Part("speech", merge([streams], VOCABULARY, StreamRates(25.0, 12.5, 1.0)).ids - 332)
    after = Part("speech", np.array([11, 432 - 332 + 1, 12]))
    spoken, num_given = spoken_of(after, VOCABULARY, before)
    assert num_given == 2
    assert spoken.units.tolist() == [5, 6, 11, 12]
    assert spoken.pitch is not None and spoken.pitch.tolist() == [3, 9, 9, 1]
    assert spoken.style is not None and spoken.style.tolist() == [2] * 4


def test_speech_behind_text_has_the_pitch_that_was_said_last() -> None:
    first = Part("speech", np.array([448 - 332 + 3, 432 - 332 + 5, 11]))
    text = Part("text", np.array([4, 5]))
    spoken, num_given = spoken_of(Part("speech", np.array([12, 13])), VOCABULARY, text, [first, text])
    assert num_given == 0 and spoken.units.tolist() == [12, 13]
    assert spoken.pitch is not None and spoken.pitch.tolist() == [5, 5]
    assert spoken.style is not None and spoken.style.tolist() == [3, 3]


class Singer:
    """Stands in for a voice that takes codes of pitch; notes those that it is given."""

    path, sample_rate_hz, num_codes = "singer", 16_000, {"pitch": 16}

    def __init__(self, fingerprint: str | None, needed: tuple[str, ...]) -> None:
        self.code_fingerprints = {} if fingerprint is None else {"pitch": fingerprint}
        self.needed_codes = needed
        self.given: list[int] | None = None

    def with_durations(self, units: Units) -> Units:
        return Units(units.values, np.full(len(units), 2, np.uint16))

    def __call__(self, units: Units, codes: dict[str, Any] | None = None) -> tuple[np.ndarray, int]:
        self.given = None if not codes else codes["pitch"].tolist()
        return np.zeros(len(units) * 1280, np.float32), 16_000


@pytest.mark.parametrize(
    ("fingerprint", "needed", "pitch", "given"),
    [
        ("zero crossings", (), [3, 4], [3, 4]),
        (None, (), [3, 4], [3, 4]),
        ("zero crossings", (), None, None),  # the voice predicts them
        ("another", (), [3, 4], None),
        ("zero crossings", ("pitch",), None, [0, 0]),
        ("another", ("pitch",), None, [0, 0]),
    ],
)
def test_a_voice_is_given_its_own_codes_of_pitch_alone(
    fingerprint: str | None, needed: tuple[str, ...], pitch: list[int] | None, given: list[int] | None
) -> None:
    voice = Singer(fingerprint, needed)
    said = Spoken(np.array([5, 6], np.uint16), None if pitch is None else np.array(pitch, np.uint16), None)
    units, wav = speak(said, 1, BOOK, voice, VOCABULARY)  # type: ignore[arg-type]
    assert voice.given == given
    assert units.values.tolist() == [6] and len(wav) == 1280


def test_codes_of_another_model_of_pitch_are_not_sung() -> None:
    said = Spoken(np.array([5, 6], np.uint16), np.array([3, 4], np.uint16), None)
    with pytest.raises(TwistError, match=r"takes the codes of another model of pitch \(another\).*zero crossings"):
        speak(said, 0, BOOK, Singer("another", ("pitch",)), VOCABULARY)  # type: ignore[arg-type]
