"""Word error rate of speech that is spoken again from its units, beside that of the recordings themselves.

    recordings with texts -> units -> voice -> ASR -> normalized words -> errors

What the ASR gets wrong in the recordings is not the units' fault: the difference of the two rates is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.errors import TwistError
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.speech.asr import find_asr
from pipeline.evaluation.speech.audio_reader import audio_reader
from pipeline.evaluation.speech.normalize import NORMALIZER, english_normalizer
from pipeline.evaluation.speech.transcripts import as_heard, transcripts_of
from pipeline.evaluation.speech.utterances import held_out_recordings, read_utterances, spread_out
from pipeline.evaluation.speech.wavs import write_wavs
from pipeline.evaluation.speech.word_errors import MANY_REPEATS, most_repeats, word_errors
from pipeline.speaking.units import Units
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.item_units import UnitRow
    from pipeline.evaluation.results import Result
    from pipeline.evaluation.speech.utterances import Utterance
    from pipeline.evaluation.subject import Subject
    from pipeline.speaking.voice import Voice

RULE = "word errors over words of all clips, after Whisper's English normalizer on both sides"
SIDES = ("original", "resynthesized")


def resynthesis(subject: Subject) -> list[Result]:
    """Word error rate of resynthesized speech.

    Raises:
        TwistError: no ASR or no speech with texts is named, models do not fit together, or no recording can be used.
        RunError: a disk or store fails.
    """
    config = subject.config.resynthesis
    if config.asr is None:
        raise TwistError("resynthesis needs an ASR that hears: give --evaluation.resynthesis.asr")
    if config.source is None and not subject.run:
        raise TwistError("resynthesis needs speech with texts: give --evaluation.resynthesis.source, or --run")
    asr = find_asr(config.asr, subject.device)
    normalize = english_normalizer()
    spoken = _Spoken(subject.voice(config.vocoder), predict_durations=config.durations == "predicted")

    found = (
        read_utterances(config.source, config.split)
        if config.source is not None
        else held_out_recordings(subject.run, config.split)
    )
    with_text = [one for one in found if one.text is not None]
    utterances = {one.item.item_id: one for one in spread_out(with_text, config.max_items)}
    left_out = [LeftOut(one.item.item_id, "no_text", "what is said is not known") for one in found if one.text is None]
    if not utterances:
        raise TwistError(f"none of {len(found)} recordings has a text to compare with")

    units = subject.units([one.item for one in utterances.values()])
    with_units = list(units.of)
    read = audio_reader({name: one.item for name, one in utterances.items()})
    original = transcripts_of(
        subject.output, with_units, units.audio_fingerprint, read, asr, subject.cluster, subject.report
    )
    again = transcripts_of(
        subject.output,
        with_units,
        digest(units.fingerprint, spoken.voice.fingerprint, config.durations),
        lambda ids: (as_heard(wav, spoken.voice.sample_rate_hz) for wav in spoken.wavs([units.of[one] for one in ids])),
        asr,
        subject.cluster,
        subject.report,
    )
    if config.wavs is not None:
        write_wavs(Path(config.wavs), with_units, lambda ids: spoken.wavs([units.of[one] for one in ids]), spoken.voice)
    left_out += [*units.left_out, *original.left_out, *again.left_out]

    rows = [
        _row(utterances[one], normalize, {"original": original.of[one], "resynthesized": again.of[one]})
        for one in with_units
        if one in original.of and one in again.of
    ]
    table = pa.Table.from_pylist(rows)
    settings = {
        "source": config.source or subject.run,
        "split": config.split,
        "max_items": config.max_items,
        "durations": config.durations,
        "normalizer": NORMALIZER,
        "many_repeats": MANY_REPEATS,
        **asr.settings,
    }
    return [
        subject.result(
            "resynthesis",
            _measures() if rows else [],
            table,
            rule=RULE,
            settings=settings,
            data=units.fingerprint,
            left_out=left_out,
            notes=[f"Spoken by {spoken.voice.path}, heard by {asr.source}."],
            needs_lm=False,
            other_models={"asr": asr.fingerprint, "vocoder": spoken.voice.fingerprint},
        )
    ]


@dataclass(frozen=True)
class _Spoken:
    """Speaks units as long as they last in the recording, or as the voice predicts."""

    voice: Voice
    predict_durations: bool

    def wavs(self, rows: Sequence[UnitRow]) -> list[NDArray[np.float32]]:
        return self.voice.batch([Units(row.units, None if self.predict_durations else row.durations) for row in rows])


def _row(utterance: Utterance, normalize: Callable[[str], str], heard: Mapping[str, str]) -> dict[str, Any]:
    assert utterance.text is not None
    said = normalize(utterance.text)
    row: dict[str, Any] = {"item_id": utterance.item.item_id, GROUP: utterance.group, "said": utterance.text}
    for side in SIDES:
        words = normalize(heard[side])
        errors = word_errors(said, words)
        row |= {
            f"heard_{side}": heard[side],
            f"substitutions_{side}": errors.substitutions,
            f"deletions_{side}": errors.deletions,
            f"insertions_{side}": errors.insertions,
            f"errors_{side}": errors.errors,
            f"is_empty_{side}": not words,
            f"is_repeated_{side}": most_repeats(words) >= MANY_REPEATS,
            "num_words": errors.num_words,
        }
    return {**row, "errors_added": row["errors_resynthesized"] - row["errors_original"]}


def _measures() -> list[Measure]:
    measures = [
        Measure("WER", "errors_resynthesized", "num_words"),
        Measure("WER of the original", "errors_original", "num_words"),
        Measure("difference", "errors_added", "num_words"),
    ]
    for side in reversed(SIDES):
        measures += [
            Measure(f"{kind}, {side}", f"{kind}_{side}", "num_words")
            for kind in ("substitutions", "deletions", "insertions")
        ]
        measures += [
            Measure(f"nothing heard, {side}", f"is_empty_{side}"),
            Measure(f"a phrase {MANY_REPEATS} times in a row, {side}", f"is_repeated_{side}"),
        ]
    return measures
