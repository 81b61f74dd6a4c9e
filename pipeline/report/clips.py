"""One clip of the report: its audio, pictures of it, and what lies where in it."""

from __future__ import annotations

import colorsys
import io
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import soundfile

from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.report.pictures import draw_mel, draw_wave

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

AUDIO, PICTURES = "audio", "pictures"
GOLDEN_RATIO = 0.618034


@dataclass(frozen=True)
class Region:
    """A stretch of a clip, in seconds from its start."""

    start_s: float
    end_s: float
    label: str = ""


@dataclass(frozen=True)
class UnitBlock:
    """A unit of a clip, in seconds from its start."""

    start_s: float
    end_s: float
    unit: int
    colour: str


@dataclass(frozen=True)
class CodeBlock:
    """A code of pitch or style, or equal ones in a row, in seconds from the start of a clip."""

    start_s: float
    end_s: float
    code: int
    colour: str


@dataclass(frozen=True)
class Span:
    """A span of an interleaved sample, in seconds from the start of a clip.

    Attributes:
        start_s, end_s: From the cut before its first word to the cut behind its last.
        kind: speech or text.
        words: Its words where they are said.
        said: What the model reads of it: units, or the words as text.
    """

    start_s: float
    end_s: float
    kind: Literal["speech", "text"]
    words: tuple[Region, ...]
    said: str


@dataclass(frozen=True)
class HeardClip:
    """The files of a clip's audio, relative to the report; `missing` says why there is none."""

    duration_s: float
    audio: str | None = None
    wave: str | None = None
    mel: str | None = None
    missing: str = ""


@dataclass(frozen=True)
class Clip:
    """A clip as the report shows it.

    Attributes:
        name: The id of its segment or recording, or the file.
        fate: `kept`, or the reason for which it was dropped.
        detail: What its drop says.
        heard: Its audio and pictures.
        speech: Where speech is.
        segments: Where segments lie; the one that the clip is about has the label `this`.
        units: The units of the segment that the clip is about.
        pitch, style: The codes of the segment that the clip is about.
        spans: How training on speech and text in turn divides it.
        text: What is said, as far as it is known.
        text_of: Whose text that is.
        facts: What else is known: names and values.
        command: What writes this audio to a file again; "" where nothing does.
    """

    name: str
    fate: str
    detail: str
    heard: HeardClip
    speech: tuple[Region, ...] = ()
    segments: tuple[Region, ...] = ()
    units: tuple[UnitBlock, ...] = ()
    pitch: tuple[CodeBlock, ...] = ()
    style: tuple[CodeBlock, ...] = ()
    spans: tuple[Span, ...] = ()
    text: str = ""
    text_of: Literal["segment", "recording"] = "segment"
    facts: tuple[tuple[str, str], ...] = ()
    command: str = ""


class ClipWriter:
    """Writes the audio and the pictures of clips into a report, up to a number of bytes of audio.

    Clips of an earlier report in the same folder are removed first.

    Args:
        output: The report's folder.
        max_bytes: Of audio, in all.
    """

    def __init__(self, output: str, max_bytes: int) -> None:
        self._output = output
        self._bytes_left = max_bytes
        self._count = 0
        for folder in (AUDIO, PICTURES):
            for name in storage.list_files(storage.join(output, folder)):
                if name.startswith("clip-"):
                    storage.delete(storage.join(output, folder, name))

    def write(self, wav: NDArray[np.float32]) -> HeardClip:
        """Writes a wav [S] at 16 kHz as FLAC, and pictures of it; nothing where that would be more than the limit."""
        duration_s = len(wav) / SAMPLE_RATE_HZ
        buffer = io.BytesIO()
        soundfile.write(buffer, wav, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
        flac = buffer.getvalue()
        if len(flac) > self._bytes_left:
            return HeardClip(duration_s, missing="left out, since the report's limit of audio is reached")
        self._bytes_left -= len(flac)
        self._count += 1
        name = f"clip-{self._count:04d}"
        files = {
            f"{AUDIO}/{name}.flac": flac,
            f"{PICTURES}/{name}-wave.png": draw_wave(wav),
            f"{PICTURES}/{name}-mel.png": draw_mel(wav),
        }
        for path, content in files.items():
            storage.write_bytes(storage.join(self._output, *path.split("/")), content)
        return HeardClip(duration_s, *files)


def unit_blocks(
    units: Sequence[int],
    durations: Sequence[int],
    frame_rate_hz: float,
    colours: Sequence[str],
    start_s: float,
    end_s: float,
) -> tuple[UnitBlock, ...]:
    """The units that lie before `end_s`, the first of them at `start_s`."""
    edges = start_s + np.concatenate([[0], np.cumsum(durations, dtype=np.int64)]) / frame_rate_hz
    return tuple(
        UnitBlock(begin, min(end, end_s), unit, colours[unit])
        for unit, begin, end in zip(units, edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if begin < end_s and unit < len(colours)
    )


def code_blocks(codes: Sequence[int], rate_hz: float, start_s: float, end_s: float) -> tuple[CodeBlock, ...]:
    """Codes at a fixed rate that lie before `end_s`, the first of them at `start_s`; equal neighbours are one block."""
    blocks = []
    place = 0
    for code, equal in itertools.groupby(codes):
        begin_s, place = start_s + place / rate_hz, place + len(list(equal))
        if begin_s < end_s:
            blocks.append(CodeBlock(begin_s, min(start_s + place / rate_hz, end_s), code, _code_colour(code)))
    return tuple(blocks)


def _code_colour(code: int) -> str:
    """As far from those of the codes next to it as can be: which codes are alike is not known here."""
    red, green, blue = colorsys.hls_to_rgb(code * GOLDEN_RATIO % 1, 0.55, 0.5)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
