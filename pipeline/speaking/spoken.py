"""Recordings heard and spoken again, as they were or with a continuation, and the files that come of it.

OUTPUT.wav             what the voice said
OUTPUT.json            its units, and which tokenizer, model and voice they went through
OUTPUT.png             where asked for: what was heard and what was said, as waveforms and mel spectrograms
OUTPUT.original.wav    for a clip that a run kept aside: the recording, to compare by ear
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from model.vocoder import mel_picture
from model.vocoder.mel_config import MelConfig
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.speaking.clips import read_in_groups
from pipeline.speaking.expression import Expression, with_other_durations
from pipeline.speaking.wav import read_clip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from model.lm.sampling_config import SamplingConfig
    from pipeline.speaking.clips import Clip
    from pipeline.speaking.speech_lm import SpeechLM
    from pipeline.speaking.tokenizer import Tokenizer
    from pipeline.speaking.units import Codes, Units
    from pipeline.speaking.voice import Voice


@dataclass(frozen=True, eq=False)
class Spoken:
    """Something said.

    Attributes:
        output: The path to write it to, without a suffix.
        heard: The recording that it comes from, wav [S] at 16 kHz.
        wav: What was said, [S].
        sample_rate_hz: Of `wav`.
        description: What OUTPUT.json says.
    """

    output: Path
    heard: NDArray[np.float32]
    wav: NDArray[np.float32]
    sample_rate_hz: int
    description: dict[str, Any]

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return len(self.wav) / self.sample_rate_hz

    def write(self, *, picture: bool = False) -> None:
        """Writes OUTPUT.wav and OUTPUT.json, and OUTPUT.png where asked for."""
        write_wav(with_suffix(self.output, ".wav"), self.wav, self.sample_rate_hz)
        with_suffix(self.output, ".json").write_text(json.dumps(self.description) + "\n")
        if picture:
            wavs = {"heard": self.heard, "said": self.wav}
            mel_picture.draw(with_suffix(self.output, ".png"), wavs, MelConfig())


def resynthesize_clips(
    clips: Sequence[Clip],
    tokenizer: Tokenizer,
    voice: Voice,
    *,
    predict_durations: bool,
    warn: Callable[[str], None],
    expression: Expression | None = None,
) -> Iterator[Spoken]:
    """Speaks the units of each clip, with its pitch and style where the voice takes them.

    Args:
        clips: What to hear.
        tokenizer: Gives the units.
        voice: Speaks them.
        predict_durations: Whether units last as long as the voice predicts, not as in the recording.
        warn: Gets a sentence on each clip that cannot be used.
        expression: Gives the codes that the voice takes.

    Raises:
        TwistError: no clip can be used, or the voice takes other codes than `expression` gives.
    """
    (expression or Expression({})).require_fit(voice)
    for group in read_in_groups(clips, tokenizer, warn):
        wavs = [heard for _, heard in group]
        units = tokenizer.of_wavs(wavs)
        codes: list[Codes] = [{} for _ in units]
        if expression is not None:
            codes = expression.of_wavs(wavs, expression.names(voice))
        if predict_durations:
            heard_units, units = units, [voice.with_durations(each) for each in units]
            codes = [
                with_other_durations(of_clip, before.known_durations, after.known_durations, voice.frames_per_code)
                for of_clip, before, after in zip(codes, heard_units, units, strict=True)
            ]
        spoken = voice.batch(units, codes=codes)
        for (clip, heard), said, of_clip, wav in zip(group, units, codes, spoken, strict=True):
            description = {"input": clip.name, **_facts(said, voice)}
            if of_clip:
                description["codes"] = {name: values.tolist() for name, values in of_clip.items()}
            yield Spoken(clip.output, heard, wav, voice.sample_rate_hz, description)


def continue_clips(
    clips: Sequence[Clip],
    tokenizer: Tokenizer,
    lm: SpeechLM,
    voice: Voice,
    sampling: SamplingConfig,
    *,
    num_continuations: int,
    batch_size: int,
    max_s: float | None,
    warn: Callable[[str], None],
) -> Iterator[Spoken]:
    """Continues each clip, and speaks it with its continuation in one piece, as the published script does.

    Args:
        clips: The prompts.
        tokenizer: Gives their units.
        lm: Continues them.
        voice: Speaks prompt and continuation, at its own pace.
        sampling: How units are drawn.
        num_continuations: Continuations of each prompt; with more than one, outputs are numbered -0, -1, ...
        batch_size: Continuations that are written at once.
        max_s: Seconds of prompt and continuation together, at most.
        warn: Gets a sentence on each clip that cannot be used.

    Raises:
        TwistError: no clip can be used, or a prompt leaves no room for a continuation.
    """
    for group in read_in_groups(clips, tokenizer, warn):
        prompts = tokenizer.of_wavs([heard for _, heard in group])
        continued = lm.continue_batch(prompts, sampling, num_continuations, batch_size)
        for (clip, heard), prompt, continuations in zip(group, prompts, continued, strict=True):
            spoken = [_cut(voice.with_durations(prompt + more), max_s) for more in continuations]
            for number, (said, wav) in enumerate(zip(spoken, voice.batch(spoken), strict=True)):
                output = clip.output
                if num_continuations > 1:
                    output = output.with_name(f"{output.name}-{number}")
                description = {
                    "prompt": clip.name,
                    "continuation": number,
                    "num_prompt_units": min(len(prompt), len(said)),
                    "model": lm.path,
                    "sampling": asdict(sampling),
                    **_facts(said, voice),
                }
                yield Spoken(output, heard, wav, voice.sample_rate_hz, description)


def write_original(clip: Clip) -> Path:
    """Writes OUTPUT.original.wav: the recording of a clip, 16 kHz mono.

    Raises:
        TwistError: it cannot be read.
    """
    path = with_suffix(clip.output, ".original.wav")
    write_wav(path, read_clip(clip.span, clip.name), SAMPLE_RATE_HZ)
    return path


def write_wav(path: Path, wav: NDArray[np.float32], sample_rate_hz: int) -> None:
    """Writes wav [S] as 16-bit PCM, into a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, sample_rate_hz, subtype="PCM_16")


def with_suffix(output: Path, suffix: str) -> Path:
    """`output` with a suffix behind its whole name, dots and all."""
    return output.with_name(f"{output.name}{suffix}")


def _facts(units: Units, voice: Voice) -> dict[str, Any]:
    assert units.durations is not None
    return {
        "vocoder": voice.path,
        "codebook_fingerprint": units.codebook_fingerprint,
        "frame_rate_hz": units.frame_rate_hz,
        "units": units.values.tolist(),
        "durations": units.durations.tolist(),
    }


def _cut(units: Units, max_s: float | None) -> Units:
    """The units that end by `max_s`."""
    if max_s is None:
        return units
    assert units.durations is not None
    ends = np.cumsum(units.durations, dtype=np.int64)
    return units[: int(np.searchsorted(ends, max_s * units.frame_rate_hz, side="right"))]
