"""The page of generation: what `twist generate` and `twist resynthesize` have written, beside the originals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.audio.read import AudioError, Span, probe, read_clips
from pipeline.errors import TwistError
from pipeline.files import foreign_json, storage
from pipeline.report.clips import Clip, HeardClip, Region, unit_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.report.clips import ClipWriter

# Of a folder's outputs, in the order of their names.
MOST_OUTPUTS = 40


@dataclass(frozen=True)
class Spoken:
    """What was made of a recording, and the recording, where it is at hand. `kind` is continuation or resynthesis."""

    kind: str
    made: Clip
    original: Clip | None


@dataclass(frozen=True)
class GenerationFigures:
    """The outputs in a folder; `num_found` may be more than are shown."""

    folder: str
    num_found: int
    outputs: tuple[Spoken, ...]


def read_generation(
    folder: str, colours: Sequence[str], max_s: float, writer: ClipWriter | None
) -> GenerationFigures | None:
    """Reads what was written to a folder; None where there is nothing.

    Raises:
        TwistError: the JSON beside an output is damaged.
    """
    descriptions = []
    for name in storage.list_files(folder, ".json"):
        stem = storage.join(folder, name.removesuffix(".json"))
        if storage.exists(f"{stem}.wav"):
            descriptions.append((stem, _read(f"{stem}.json")))
    descriptions = [(stem, told) for stem, told in descriptions if told.keys() & {"prompt", "input"}]
    if not descriptions:
        return None
    outputs = tuple(_spoken(stem, told, colours, max_s, writer) for stem, told in descriptions[:MOST_OUTPUTS])
    return GenerationFigures(folder, len(descriptions), outputs)


def _read(uri: str) -> dict[str, Any]:
    try:
        told = foreign_json.parse(storage.read_bytes(uri))
    except ValueError as error:
        raise TwistError(f"{uri} is damaged ({error}); remove it, or make it again") from error
    return told if isinstance(told, dict) else {}


def _spoken(stem: str, told: dict[str, Any], colours: Sequence[str], max_s: float, writer: ClipWriter | None) -> Spoken:
    is_continuation = "prompt" in told
    heard = _hear(f"{stem}.wav", max_s, writer)
    try:
        units, durations, rate_hz = list(told["units"]), list(told["durations"]), float(told["frame_rate_hz"])
        blocks = unit_blocks(units, durations, rate_hz, colours, 0.0, heard.duration_s)
        prompt_s = sum(durations[: told["num_prompt_units"]]) / rate_hz if is_continuation else 0.0
    except (KeyError, TypeError, ValueError) as error:
        raise TwistError(f"{stem}.json does not describe speech ({error}); remove it, or make it again") from error
    regions = (Region(0.0, min(prompt_s, heard.duration_s), "this"),) if prompt_s else ()
    kind = "continuation" if is_continuation else "resynthesis"
    facts = [("model", str(told["model"]))] if "model" in told else []
    if isinstance(sampling := told.get("sampling"), dict):
        chosen = ", ".join(f"{name} {value}" for name, value in sampling.items() if value is not None)
        facts.append(("sampling", chosen.replace("_", " ")))
    if prompt_s:
        facts.append(("prompt", f"the first {prompt_s:.2f} s"))
    facts += [("voice", str(told.get("vocoder", ""))), ("file", f"{stem}.wav")]
    name = str(told.get("prompt", told.get("input")))
    made = Clip(name, kind, "", heard, segments=regions, units=blocks, facts=tuple(facts))
    original = f"{stem}.original.wav"
    if not storage.exists(original):
        return Spoken(kind, made, None)
    recorded = _hear(original, max_s, writer)
    return Spoken(kind, made, Clip(name, "original", "", recorded, facts=(("file", original),)))


def _hear(uri: str, max_s: float, writer: ClipWriter | None) -> HeardClip:
    try:
        duration_s = min(max_s, probe(uri).duration_s)
        if writer is None:
            return HeardClip(duration_s, missing="the report was made without audio")
        (found,) = read_clips([Span(uri, None, 0.0, duration_s)])
    except AudioError as error:
        return HeardClip(0.0, missing=f"it cannot be read: {error}")
    if isinstance(found, AudioError):
        return HeardClip(duration_s, missing=f"it cannot be read: {found}")
    return writer.write(found.wav)
