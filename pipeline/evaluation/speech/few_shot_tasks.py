"""ASR, TTS and intent classification by a model of text and speech that is shown a few examples.

    asr       [SPEECH] clip [TEXT] <START Transcript> words <END> ... [SPEECH] clip [TEXT]
              word errors of the text
    tts       [TEXT] words 'stop' [SPEECH] clip STOP ... [TEXT] words 'stop' [SPEECH]
              word and letter errors of what an ASR hears of the clip
    intent    [SPEECH] clip [TEXT] A:label ... [SPEECH] clip [TEXT] A:
              share of right labels

Source: Nguyen et al. 2024 (SpiRit-LM), section 5.2 and appendix B, for prompts and numbers of examples (10, 10, 30); it
says neither which examples nor how answers are drawn. Here ASR and intents take the likeliest token each time.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from model.lm.sampling_config import SamplingConfig
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.speech.asr import find_asr
from pipeline.evaluation.speech.few_shot_answers import Asked, answers_to
from pipeline.evaluation.speech.normalize import NORMALIZER, english_normalizer
from pipeline.evaluation.speech.transcripts import as_heard, transcripts_of
from pipeline.evaluation.speech.utterances import held_out_recordings, read_utterances, spread_out
from pipeline.evaluation.speech.wavs import write_wavs
from pipeline.evaluation.speech.word_errors import letter_errors, word_errors
from pipeline.speaking.few_shot import END_TRANSCRIPT, answer_in_text, read_examples
from pipeline.speaking.text_and_speech import before_first
from pipeline.speaking.units import Units
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.config import AsrConfig, TtsConfig
    from pipeline.evaluation.results import Result
    from pipeline.evaluation.speech.utterances import Utterance
    from pipeline.evaluation.subject import Subject

GREEDY = SamplingConfig(temperature=0)
WER_RULE = "word errors over words of all clips, after Whisper's English normalizer on both sides"
SPOKEN_AT_ONCE = 32


def asr(subject: Subject) -> list[Result]:
    """Word error rate of what the model writes of clips.

    Raises:
        TwistError: no examples or no speech with texts is named, the model knows no text, or no clip has a score.
        RunError: a disk or store fails.
    """
    config = subject.config.asr
    examples = _given("asr", "examples", config.examples)
    utterances, left_out = _utterances(subject, "asr", config)
    normalize = english_normalizer()
    answers = answers_to(
        subject,
        "asr",
        [Asked(item_id, one.item, one.text) for item_id, one in utterances.items()],
        examples=examples,
        num_shots=config.num_shots,
        seed=config.seed,
        sampling=GREEDY,
        max_new_tokens=config.max_new_tokens,
    )
    rows = []
    for item_id, written in answers.texts.items():
        row = _errors(utterances[item_id], answer_in_text("asr", written), normalize)
        rows.append({**row, "has_end": END_TRANSCRIPT in written})
    return [
        subject.result(
            "asr",
            [*_error_measures(), Measure("answers that end", "has_end")] if rows else [],
            pa.Table.from_pylist(rows),
            rule=WER_RULE,
            settings={**asdict(config), "source": config.source or subject.run, "normalizer": NORMALIZER},
            data=answers.fingerprint,
            left_out=[*left_out, *answers.left_out],
        )
    ]


def tts(subject: Subject) -> list[Result]:
    """Word and letter error rates of what an ASR hears of texts that the model reads aloud.

    Raises:
        TwistError: no examples, STOP, ASR or texts are named, models do not fit together, or no text has a score.
        RunError: a disk or store fails.
    """
    config = subject.config.tts
    examples, stop = _given("tts", "examples", config.examples), _given("tts", "stop", config.stop)
    heard_by = find_asr(_given("tts", "asr", config.asr), subject.device)
    utterances, left_out = _utterances(subject, "tts", config)
    normalize = english_normalizer()
    voice = subject.voice(config.vocoder)
    answers = answers_to(
        subject,
        "tts",
        [Asked(item_id, None, one.text) for item_id, one in utterances.items()],
        examples=examples,
        num_shots=config.num_shots,
        seed=config.seed,
        sampling=config.sampling,
        max_new_tokens=config.max_new_tokens,
        stop=stop,
    )
    said = {item_id: before_first(units, answers.stop) for item_id, units in answers.units.items()}

    def speak(ids: Sequence[str]) -> list[NDArray[np.float32]]:
        spoken = [Units(said[one].astype(np.uint16), None, subject.frame_rate_hz) for one in ids]
        wavs = iter(voice.batch([one for one in spoken if len(one)]))
        return [next(wavs) if len(one) else np.zeros(0, np.float32) for one in spoken]

    heard = transcripts_of(
        subject.output,
        list(said),
        digest(voice.fingerprint, *(f"{item_id} {units.tolist()}" for item_id, units in said.items())),
        lambda ids: (as_heard(wav, voice.sample_rate_hz) for wav in speak(ids)),
        heard_by,
        subject.cluster,
        subject.report,
    )
    if config.wavs is not None:
        write_wavs(Path(config.wavs), list(said), speak, voice)
    rows = [
        {
            **_errors(utterances[item_id], text, normalize),
            "has_end": len(said[item_id]) < len(answers.units[item_id]),
            "num_units": len(said[item_id]),
        }
        for item_id, text in heard.of.items()
    ]
    settings = {**asdict(config), "source": config.source or subject.run, "normalizer": NORMALIZER, **heard_by.settings}
    del settings["wavs"], settings["vocoder"]  # files; the voice is part of what is measured
    cer, *others = sorted(_error_measures(), key=lambda measure: measure.name != "CER")
    return [
        subject.result(
            "tts",
            [cer, *others, Measure("answers that end", "has_end")] if rows else [],
            pa.Table.from_pylist(rows),
            rule=WER_RULE.replace("word errors over words", "letter errors over letters"),
            settings=settings,
            data=answers.fingerprint,
            left_out=[*left_out, *answers.left_out, *heard.left_out],
            notes=[f"Spoken by {voice.path}, heard by {heard_by.source}."],
            other_models={"asr": heard_by.fingerprint, "vocoder": voice.fingerprint},
        )
    ]


def intent(subject: Subject) -> list[Result]:
    """Share of clips, or of texts, whose intent the model names.

    Raises:
        TwistError: no examples or nothing to classify is named, a label is missing, or the model knows no text.
        RunError: a disk or store fails.
    """
    config = subject.config.intent
    source, examples = _given("intent", "source", config.source), _given("intent", "examples", config.examples)
    found = read_examples(Path(source))
    if without := [number for number, one in enumerate(found, 1) if not one.label]:
        raise TwistError(f"{source}: example {without[0]} has no label to compare with")
    asked = {}
    for number, one in enumerate(found, 1):
        if config.modality == "speech" and not one.audio:
            raise TwistError(f"{source}: example {number} has no audio; give evaluation.intent.modality text")
        item_id = str(number)
        audio = AudioItem(item_id, one.audio) if config.modality == "speech" else None
        asked[item_id] = Asked(item_id, audio, one.text)
    answers = answers_to(
        subject,
        "speech_intent" if config.modality == "speech" else "text_intent",
        list(asked.values()),
        examples=examples,
        num_shots=config.num_shots,
        seed=config.seed,
        sampling=GREEDY,
        max_new_tokens=config.max_new_tokens,
    )
    known = {one.label for one in found}
    rows = []
    for item_id, written in answers.texts.items():
        label, answer = found[int(item_id) - 1].label, answer_in_text("speech_intent", written)
        row = {"item_id": item_id, GROUP: item_id, "label": label, "answer": answer, "is_known": answer in known}
        rows.append({**row, "right": float(answer == label)})
    return [
        subject.result(
            "intent",
            [
                Measure("accuracy", "right"),
                Measure("mean of labels", "right", mean_over="label"),
                Measure("answers that are a label", "is_known"),
            ]
            if rows
            else [],
            pa.Table.from_pylist(rows),
            rule="share of answers, up to the end of their line, that are the label to the letter",
            settings=asdict(config),
            data=answers.fingerprint,
            left_out=answers.left_out,
        )
    ]


def _given(benchmark: str, setting: str, value: str | None) -> str:
    if value is None:
        raise TwistError(f"{benchmark} needs its data: give --evaluation.{benchmark}.{setting}")
    return value


def _utterances(
    subject: Subject, benchmark: str, config: AsrConfig | TtsConfig
) -> tuple[dict[str, Utterance], list[LeftOut]]:
    """What has words, by item, and what has none."""
    if config.source is None and not subject.run:
        raise TwistError(f"{benchmark} needs speech with texts: give --evaluation.{benchmark}.source, or --run")
    found = (
        read_utterances(config.source, config.split)
        if config.source is not None
        else held_out_recordings(subject.run, config.split)
    )
    with_text = [one for one in found if one.text is not None]
    if not with_text:
        raise TwistError(f"none of {len(found)} recordings has a text to compare with")
    without = [LeftOut(one.item.item_id, "no_text", "what is said is not known") for one in found if one.text is None]
    return {one.item.item_id: one for one in spread_out(with_text, config.max_items)}, without


def _errors(utterance: Utterance, heard: str, normalize: Callable[[str], str]) -> dict[str, Any]:
    assert utterance.text is not None
    said, words = normalize(utterance.text), normalize(heard)
    errors = word_errors(said, words)
    wrong_letters, num_letters = letter_errors(said, words)
    return {
        "item_id": utterance.item.item_id,
        GROUP: utterance.group,
        "said": utterance.text,
        "heard": heard,
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
        "errors": errors.errors,
        "num_words": errors.num_words,
        "wrong_letters": wrong_letters,
        "num_letters": num_letters,
        "is_empty": not words,
    }


def _error_measures() -> list[Measure]:
    kinds: Mapping[str, str] = {"WER": "errors", **{one: one for one in ("substitutions", "deletions", "insertions")}}
    return [
        *(Measure(name, column, "num_words") for name, column in kinds.items()),
        Measure("CER", "wrong_letters", "num_letters"),
        Measure("nothing said", "is_empty"),
    ]
