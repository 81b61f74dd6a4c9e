"""Prompts of text and speech continued in text, speech or any of the two, and the files that come of it.

OUTPUT.json       the prompt and the parts of its continuation: text, or units, with times
OUTPUT.0.wav      where part 0 is speech: what the voice said
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.lm.generate_mixed import DrawnIds, continue_parts
from model.lm.parts import Part
from model.lm.sampling_config import MAX_NEW_TOKENS
from model.lm.text_tokenizer import TextTokenizer, read_tokenizer
from model.training import checkpoint
from pipeline.errors import TwistError
from pipeline.speaking.expressive import StreamTokenizer, spoken_of
from pipeline.speaking.few_shot import answer_in_text
from pipeline.speaking.prompts import PromptPart
from pipeline.speaking.spoken import with_suffix, write_wav
from pipeline.speaking.units import Units

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from model.lm.modality import OutputModality
    from model.lm.sampling_config import SamplingConfig
    from model.lm.streams import Spoken
    from model.lm.vocab import Vocabulary
    from pipeline.speaking.few_shot import Task
    from pipeline.speaking.speech_lm import SpeechLM
    from pipeline.speaking.tokenizer import Tokenizer
    from pipeline.speaking.voice import Voice
    from pipeline.units.codebook import Codebook


class TextAndSpeechLM:
    """A speech LM that knows text too, with the tokenizer in its folder.

    Args:
        lm: The model.

    Raises:
        TwistError: it knows no text, or there is no tokenizer beside it, or that of another model.
    """

    def __init__(self, lm: SpeechLM) -> None:
        if not lm.vocabulary.text_size:
            raise TwistError(
                f"{lm.path} is a model of units alone, which neither reads nor writes text: give it speech with "
                f"--input-file, or take a model that was trained on a mixture"
            )
        self.lm = lm
        folder = str(checkpoint.fetch(lm.path))
        self._tokenizer = TextTokenizer(folder)
        names = read_tokenizer(folder)
        self._drawn_ids = DrawnIds.of(lm.model, names, lm.vocabulary, lm.path)
        self._decode = names.decode

    def text_parts(self, texts: Sequence[str]) -> list[Part]:
        """The texts of one prompt, tokenized as one, as in training: all but the first have a blank before them."""
        if not texts:
            return []
        ((tokens, counts),) = self._tokenizer.encode_words([texts])
        return [Part("text", each.astype(np.int64)) for each in np.split(tokens, np.cumsum(counts)[:-1])]

    def text_of(self, part: Part, before: Part | None = None) -> str:
        """What a part of text says; behind another one, with the blank that parts them."""
        if before is None or before.modality != "text":
            return str(self._decode(part.values, skip_special_tokens=True)).strip()
        # A tokenizer may drop the blank before what it decodes first.
        last = before.values[-1:]
        given = self._decode(last, skip_special_tokens=True)
        return str(self._decode(np.concatenate([last, part.values]), skip_special_tokens=True)).removeprefix(given)

    def continue_batch(
        self,
        prompts: Sequence[Sequence[Part]],
        output_modality: OutputModality,
        sampling: SamplingConfig,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        num_continuations: int = 1,
        batch_size: int = 32,
    ) -> list[list[list[Part]]]:
        """Continues many prompts: the parts of each continuation of each; see `continue_parts`.

        Raises:
            TwistError: a prompt does not fit the model.
        """
        return continue_parts(
            self.lm.drawing_model,
            self.lm.vocabulary,
            self._drawn_ids,
            prompts,
            output_modality,
            sampling,
            max_new_tokens=max_new_tokens,
            num_continuations=num_continuations,
            batch_size=batch_size,
        )


@dataclass(frozen=True, eq=False)
class Continuation:
    """A continuation of text and speech.

    Attributes:
        output: The path to write it to, without a suffix.
        text: Its text, and the names of its recordings.
        wavs: What was said, [S] by the number of the part.
        sample_rate_hz: Of these; None where nothing was said.
        description: What OUTPUT.json says.
    """

    output: Path
    text: str
    wavs: dict[int, NDArray[np.float32]]
    sample_rate_hz: int | None
    description: dict[str, Any]

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return sum(map(len, self.wavs.values())) / self.sample_rate_hz if self.sample_rate_hz else 0.0

    def write(self) -> None:
        """Writes OUTPUT.json, and OUTPUT.N.wav for each part that is speech."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        for number, wav in self.wavs.items():
            assert self.sample_rate_hz is not None
            write_wav(with_suffix(self.output, f".{number}.wav"), wav, self.sample_rate_hz)
        with_suffix(self.output, ".json").write_text(json.dumps(self.description) + "\n")


def continue_prompts(
    prompts: Sequence[Sequence[PromptPart]],
    outputs: Sequence[Path],
    model: TextAndSpeechLM,
    book: Codebook | None,
    tokenizer: Tokenizer | StreamTokenizer | None,
    voice: Voice | None,
    output_modality: OutputModality,
    sampling: SamplingConfig,
    *,
    max_new_tokens: int,
    num_continuations: int,
    batch_size: int,
    task: Task | None = None,
    stop: str | None = None,
) -> Iterator[Continuation]:
    """Continues prompts of text and speech, and speaks what is speech.

    Args:
        prompts: What to continue.
        outputs: Where each is written to, without a suffix; with several continuations -0, -1, ... is added.
        model: Continues them.
        book: The codebook of the model's units; needed where anything is speech.
        tokenizer: Gives units, or of an expressive model streams; needed where a prompt has speech.
        voice: Speaks; needed where the output may be speech.
        output_modality: What continuations are.
        sampling: How to draw.
        max_new_tokens: The most that is drawn for each.
        num_continuations: Continuations of each prompt.
        batch_size: Continuations that are written at once.
        task: What the prompts show by examples; only the answer is kept of what comes behind them.
        stop: The recording of the word "stop" that ends the examples of TTS.

    Raises:
        TwistError: a recording cannot be used, or a prompt does not fit the model.
    """
    encoded = [_encoded(prompt, model, tokenizer) for prompt in prompts]
    stop_part = None if stop is None else _encoded([PromptPart("speech", stop)], model, tokenizer)[0]
    continued = model.continue_batch(
        encoded,
        output_modality,
        sampling,
        max_new_tokens=max_new_tokens,
        num_continuations=num_continuations,
        batch_size=batch_size,
    )
    drawn_with = {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "max_new_tokens": max_new_tokens,
    }
    for prompt, parts, output, continuations in zip(prompts, encoded, outputs, continued, strict=True):
        described = [_description(*pair, model.lm.vocabulary) for pair in zip(prompt, parts, strict=True)]
        for number, continuation in enumerate(continuations):
            path = output if num_continuations == 1 else output.with_name(f"{output.name}-{number}")
            if stop_part is not None:
                continuation = _until(continuation, stop_part, model.lm.vocabulary)
            said, wavs = _said(continuation, parts, path, model, book, voice)
            description = {
                "prompt": described,
                "continuation": number,
                "output_modality": output_modality,
                "parts": said,
                "model": model.lm.path,
                "vocoder": None if voice is None else voice.path,
                "codebook_fingerprint": None if book is None else book.fingerprint,
                "sampling": drawn_with,
            }
            text = "".join(part["text"] if "text" in part else f" [{part['wav']}] " for part in said).strip()
            if task is not None:
                text = answer_in_text(task, text)
                description |= {"task": task, "answer": text}
            yield Continuation(path, text, wavs, None if voice is None else voice.sample_rate_hz, description)


def _until(continuation: Sequence[Part], stop: Part, vocabulary: Vocabulary) -> list[Part]:
    """A clip that is spoken, up to its STOP: wherever its units stand, whatever pitch and style stand among them."""
    stream = np.concatenate([part.values for part in continuation] or [np.zeros(0, np.int64)])
    is_unit, is_unit_of_stop = (vocabulary.is_unit(each + vocabulary.offset) for each in (stream, stop.values))
    num_units = len(before_first(stream[is_unit], stop.values[is_unit_of_stop]))
    if not num_units:
        return []
    is_answer = np.cumsum(is_unit) - is_unit < num_units
    return [Part("speech", stream[is_answer])]


def before_first(units: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
    """The units [n] before the first place where `stop` [m] begins; all, if it is not there."""
    for start in range(len(units) - len(stop) + 1):
        if np.array_equal(units[start : start + len(stop)], stop):
            return units[:start]
    return units


def _encoded(
    prompt: Sequence[PromptPart], model: TextAndSpeechLM, tokenizer: Tokenizer | StreamTokenizer | None
) -> list[Part]:
    texts = iter(model.text_parts([part.content for part in prompt if part.modality == "text"]))
    recordings: list[str] = [part.content for part in prompt if part.modality == "speech"]
    heard: Iterator[NDArray[np.int64]] = iter(())
    if recordings:
        assert tokenizer is not None, "a prompt has speech"
        if isinstance(tokenizer, StreamTokenizer):
            heard = iter(tokenizer.values(recordings))
        else:
            heard = (units.values.astype(np.int64) for units in tokenizer.batch(recordings))
    return [next(texts) if part.modality == "text" else Part("speech", next(heard)) for part in prompt]


def _description(given: PromptPart, part: Part, vocabulary: Vocabulary) -> dict[str, Any]:
    if part.modality == "text":
        return {"text": given.content}
    return {"audio": given.content, **_units_of(spoken_of(part, vocabulary)[0], 0)}


def _units_of(spoken: Spoken, first: int) -> dict[str, list[int]]:
    """The units from `first` on; of an expressive model with the pitch and style of each, as far as they are said."""
    streams = {"units": spoken.units, "pitch": spoken.pitch, "style": spoken.style}
    return {name: values[first:].tolist() for name, values in streams.items() if values is not None}


def _said(
    parts: Sequence[Part],
    prompt: Sequence[Part],
    output: Path,
    model: TextAndSpeechLM,
    book: Codebook | None,
    voice: Voice | None,
) -> tuple[list[dict[str, Any]], dict[int, NDArray[np.float32]]]:
    """What OUTPUT.json says of each part, and the wav [S] of each that is speech. Text takes no time."""
    said: list[dict[str, Any]] = []
    wavs: dict[int, NDArray[np.float32]] = {}
    time_s = 0.0
    for place, part in enumerate(parts):
        number, before = len(said), prompt[-1] if place == 0 else None
        description: dict[str, Any] = {"modality": part.modality, "start_s": time_s}
        if part.modality == "text":
            description["text"] = model.text_of(part, before)
        else:
            assert book is not None and voice is not None, "the output may be speech"
            earlier = prompt[:-1] if place == 0 else [*prompt, *parts[:place]]
            spoken, num_given = spoken_of(part, model.lm.vocabulary, before, earlier)
            if len(spoken.units) == num_given:  # pitch and style, and no unit that has them
                continue
            units, wavs[number] = speak(spoken, num_given, book, voice, model.lm.vocabulary)
            assert units.durations is not None
            time_s += len(wavs[number]) / voice.sample_rate_hz
            description["wav"] = with_suffix(output, f".{number}.wav").name
            description |= {**_units_of(spoken, num_given), "durations": units.durations.tolist()}
        said.append({**description, "end_s": time_s})
    return said, wavs


def speak(
    spoken: Spoken, num_given: int, book: Codebook, voice: Voice, vocabulary: Vocabulary
) -> tuple[Units, NDArray[np.float32]]:
    """The units behind the first `num_given`, with durations, and their wav [S].

    Speech that goes on from a prompt is spoken together with it, and the prompt's share cut off: the voice is one. A
    voice that takes codes of pitch and style gets those of each unit. Where the model says none, or those of another
    model of pitch, it predicts them; if it cannot, it gets 0 for none.

    Raises:
        TwistError: the voice takes codes of another model of pitch or style than the speech LM says, and cannot do
            without.
    """
    units = Units(spoken.units, None, float(book.facts["encoder"]["frame_rate_hz"]), book.fingerprint)
    timed = voice.with_durations(units)
    said = {"pitch": spoken.pitch, "style": spoken.style}
    codes = {}
    for name in voice.num_codes:
        of_voice, of_model = voice.code_fingerprints.get(name), getattr(vocabulary, f"{name}_fingerprint")
        is_other = said[name] is not None and None not in (of_voice, of_model) and of_voice != of_model
        if name in voice.needed_codes and is_other:
            raise TwistError(
                f"the voice {voice.path} takes the codes of another model of {name} ({of_voice}) than the speech LM "
                f"says ({of_model}): the same numbers mean other sounds; name a voice of these with --vocoder"
            )
        if name in voice.needed_codes or not (said[name] is None or is_other):
            codes[name] = _or_zero(said[name], units)
    wav, _ = voice(units, codes=codes) if codes else voice(timed)
    assert timed.durations is not None
    if not len(timed):
        return timed, np.zeros(0, np.float32)
    share = int(timed.durations[:num_given].sum(dtype=np.int64)) / int(timed.durations.sum(dtype=np.int64))
    return timed[num_given:], wav[round(share * len(wav)) :]


def _or_zero(codes: NDArray[np.uint16] | None, units: Units) -> NDArray[np.uint16]:
    return np.zeros_like(units.values) if codes is None else codes.astype(np.uint16)
