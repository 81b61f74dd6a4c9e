"""What of the melody, loudness and pace of recordings is in what voices say from their units, beside each other.

recordings -> units, and codes of pitch where a voice takes them -> voices -> comparison with the recordings

<folder>/prosody/<key>/part-*.parquet    a row a recording: what `likeness` tells
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from model.pitch.contour import extract
from model.pitch.model_config import Extractor
from pipeline.audio.read import AudioError
from pipeline.errors import TwistError
from pipeline.evaluation.item_units import AudioItem
from pipeline.evaluation.measures import GROUP, Measure
from pipeline.evaluation.results import LeftOut
from pipeline.evaluation.speech.audio_reader import audio_reader
from pipeline.evaluation.speech.kept_parts import kept_parts
from pipeline.evaluation.speech.prosody import likeness
from pipeline.evaluation.speech.transcripts import as_heard
from pipeline.evaluation.speech.utterances import held_out_segments, read_utterances, spread_out
from pipeline.evaluation.speech.wavs import write_wavs
from pipeline.files import storage
from pipeline.speaking.code_models import load_code_models
from pipeline.speaking.expression import Expression, with_other_durations
from pipeline.speaking.units import Units
from pipeline.stage import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.item_units import UnitRow
    from pipeline.evaluation.results import Result
    from pipeline.evaluation.subject import Subject
    from pipeline.speaking.units import Codes
    from pipeline.speaking.voice import Voice

    Heard = NDArray[np.float32] | AudioError

RULE = "mean over recordings of the correlation of log F0 with the recording's, where both are voiced"
EXTRACTOR: Extractor = "nccf"
ITEMS_AT_ONCE = 16
FIGURES = {
    "F0 correlation": "f0_correlation",
    "F0 error in cents": "f0_error_cents",
    "F0 frame error": "f0_frame_error",
    "energy correlation": "energy_correlation",
}
SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        *(pa.field(name, pa.float64()) for name in FIGURES.values()),
        pa.field("rate_recorded_hz", pa.float64()),
        pa.field("rate_said_hz", pa.float64()),
        pa.field("drop_reason", pa.string()),
        pa.field("drop_detail", pa.string()),
    ]
)


def prosody(subject: Subject) -> list[Result]:
    """What of the prosody of recordings is kept, by each voice.

    Raises:
        TwistError: no speech is named, voices and models do not fit together, or no recording can be used.
        RunError: a disk or store fails.
    """
    config = subject.config.prosody
    if config.source is None and not subject.run:
        raise TwistError("prosody needs speech: give --evaluation.prosody.source, or --run")
    named: dict[str, str | None] = dict(config.voices) or {"voice": None}
    voices = {name: subject.voice(path) for name, path in named.items()}
    models = Expression(load_code_models(config.pitch_model, config.style_model))
    # Voices stand side by side: one that predicts pitch speaks without the codes that another is given.
    expressions = {name: models.of_voice(voice) for name, voice in voices.items()}
    for name, voice in voices.items():
        expressions[name].require_fit(voice)
    given = {name: expressions[name].names(voice) for name, voice in voices.items()}
    for name, model in (("pitch", config.pitch_model), ("style", config.style_model)):
        if model is not None and not any(name in of_voice for of_voice in given.values()):
            raise TwistError(f"no voice takes the codes of evaluation.prosody.{name}_model {model}; leave it out")
    found = (
        read_utterances(config.source, config.split)
        if config.source is not None
        else held_out_segments(subject.run, config.split)
    )
    utterances = {one.item.item_id: one for one in spread_out(found, config.max_items)}
    items = {name: one.item for name, one in utterances.items()}
    units = subject.units(list(items.values()))
    left_out = list(units.left_out)
    compared: dict[str, dict[str, dict[str, Any]]] = {}
    for name, voice in voices.items():
        expression = expressions[name]
        spoken = Spoken(voice, expression, config.durations == "predicted", items, units.of)
        fingerprint = digest(
            units.fingerprint, units.audio_fingerprint, voice.fingerprint, config.durations, EXTRACTOR,
            *expression.fingerprints(voice),
        )  # fmt: skip
        rows = _compared(subject, spoken, list(units.of), fingerprint)
        compared[name] = {row["item_id"]: row for row in rows if row["drop_reason"] is None}
        dropped = [
            LeftOut(row["item_id"], row["drop_reason"], row["drop_detail"]) for row in rows if row["drop_reason"]
        ]
        left_out += [one for one in dropped if one not in left_out]
        if config.wavs is not None:
            write_wavs(Path(config.wavs, name), list(compared[name]), spoken.wavs, voice)
    table = _table({name: one.group for name, one in utterances.items()}, compared)
    settings = {**asdict(config), "source": config.source or subject.run, "extractor": EXTRACTOR, "names": list(voices)}
    for name in ("wavs", "voices", "pitch_model", "style_model"):
        del settings[name]
    return [
        subject.result(
            "prosody",
            _measures(list(voices)) if len(table) else [],
            table,
            rule=RULE,
            settings=settings,
            data=units.fingerprint,
            left_out=left_out,
            notes=["; ".join(_told(name, voice, given[name]) for name, voice in voices.items()) + "."],
            needs_lm=False,
            other_models={name: _identity(voice, expressions[name]) for name, voice in voices.items()},
        )
    ]


def _told(name: str, voice: Voice, given: Sequence[str]) -> str:
    """Which voice a name is, and what it was given beside units."""
    return f"{name} is {voice.path}" + (f", given codes of {' and '.join(given)}" if given else "")


def _identity(voice: Voice, expression: Expression) -> str:
    """A fingerprint of a voice and of the models whose codes it was given."""
    given = expression.fingerprints(voice)
    return digest(voice.fingerprint, *given) if given else voice.fingerprint


@dataclass(frozen=True)
class Spoken:
    """Says recordings again: from units, and codes where the voice takes some."""

    voice: Voice
    expression: Expression
    predict_durations: bool
    items: Mapping[str, AudioItem]
    units: Mapping[str, UnitRow]

    def pairs(self, item_ids: Sequence[str]) -> list[tuple[str, Heard, Heard]]:
        """Each recording, and what the voice makes of it, at 16 kHz."""
        recorded = list(audio_reader(self.items)(item_ids))
        usable = [place for place, wav in enumerate(recorded) if not isinstance(wav, AudioError)]
        said: list[Heard] = list(recorded)
        wavs = self._say([item_ids[place] for place in usable], [recorded[place] for place in usable])
        for place, wav in zip(usable, wavs, strict=True):
            said[place] = as_heard(wav, self.voice.sample_rate_hz)
        return list(zip(item_ids, recorded, said, strict=True))

    def wavs(self, item_ids: Sequence[str]) -> list[NDArray[np.float32]]:
        """What the voice makes of some recordings that can be read, at its own rate."""
        return self._say(item_ids, list(audio_reader(self.items)(item_ids)))

    def _say(self, item_ids: Sequence[str], recorded: Sequence[Any]) -> list[NDArray[np.float32]]:
        rows = [self.units[name] for name in item_ids]
        units = [Units(row.units, row.durations) for row in rows]
        codes: list[Codes] = self.expression.of_wavs(recorded, self.expression.names(self.voice))
        if self.predict_durations:
            units = [self.voice.with_durations(each) for each in units]
            codes = [
                with_other_durations(of_clip, row.durations, each.known_durations, self.voice.frames_per_code)
                for of_clip, row, each in zip(codes, rows, units, strict=True)
            ]
        return self.voice.batch(units, codes=codes)


def _compared(subject: Subject, spoken: Spoken, item_ids: Sequence[str], fingerprint: str) -> list[dict[str, Any]]:
    kept = storage.join(subject.output, "prosody", digest(fingerprint, *item_ids)[:16])
    parts = kept_parts(
        kept,
        len(item_ids),
        ITEMS_AT_ONCE,
        lambda some: spoken.pairs(item_ids[some]),
        functools.partial(_compare, EXTRACTOR),
        subject.cluster,
        subject.report,
        "recordings",
    )
    return [row for part in parts for row in part.to_pylist()]


def _compare(extractor: Extractor, pairs: Sequence[tuple[str, Heard, Heard]]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for item_id, recorded, said in pairs:
        if isinstance(recorded, AudioError) or isinstance(said, AudioError):
            error = recorded if isinstance(recorded, AudioError) else said
            assert isinstance(error, AudioError)
            rows.append({"item_id": item_id, "drop_reason": error.reason, "drop_detail": error.detail})
            continue
        found = likeness(recorded, said, lambda wav: extract(wav, extractor).f0)
        row = asdict(found)
        row["rate_recorded_hz"], row["rate_said_hz"] = row.pop("syllable_rates_hz")
        rows.append({"item_id": item_id, **row})
    return pa.Table.from_pylist(rows, SCHEMA)


def _table(groups: Mapping[str, str], compared: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pa.Table:
    """A row a recording that all voices said, with a column for each figure of each voice, and whether there is one."""
    first = next(iter(compared))
    common = [name for name in compared[first] if all(name in of_voice for of_voice in compared.values())]
    rows = []
    for item_id in common:
        row: dict[str, Any] = {"item_id": item_id, GROUP: groups[item_id]}
        for voice, of_voice in compared.items():
            told = of_voice[item_id]
            values = {name: told[column] for name, column in FIGURES.items()}
            recorded_hz, said_hz = told["rate_recorded_hz"], told["rate_said_hz"]
            has_rates = recorded_hz > 0 and said_hz > 0
            values["pace"] = abs(float(np.log(said_hz / recorded_hz))) if has_rates else None
            for name, value in values.items():
                row[f"{name}, {voice}"] = value
                row[f"has {name}, {voice}"] = value is not None
                ours = row[f"{name}, {first}"]
                both = value is not None and ours is not None
                row[f"{name}, {voice} less {first}"] = value - ours if both else None
                row[f"has {name}, {voice} less {first}"] = both
        rows.append(row)
    return pa.Table.from_pylist(rows)


def _measures(voices: Sequence[str]) -> list[Measure]:
    """The figures of each voice, and how much each is above the first voice's on the same recordings."""
    measures = []
    for name in (*FIGURES, "pace"):
        columns = [f"{name}, {voice}" for voice in voices]
        columns += [f"{name}, {voice} less {voices[0]}" for voice in voices[1:]]
        measures += [Measure(column, column, where=f"has {column}") for column in columns]
    return measures
