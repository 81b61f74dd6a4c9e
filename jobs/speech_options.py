"""Options shared by the commands that speak."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Literal

from jobs.command import add_option
from model.device import Device
from pipeline.errors import TwistError
from pipeline.printable import printable
from pipeline.speaking.names import FITTED_ON, VOICES

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonargparse import ArgumentParser, Namespace

    from pipeline.speaking.voice import Voice
    from pipeline.units.codebook import Codebook


def add_input(parser: ArgumentParser) -> None:
    """Adds --input-file, --held-out and --output-file."""
    add_option(parser, "input-file", type=str | None, help="A recording of any format and rate, or a folder of them.")
    add_option(
        parser,
        "held-out",
        type=str | None,
        help="In place of --input-file: validation or test, an utterance of that split of the run. The recording is "
        "written beside the output, as OUTPUT.original.wav.",
    )
    add_option(
        parser,
        "output-file",
        type=str,
        required=True,
        help="The wav file to write, with its units beside it as .json; for a folder of recordings, a folder.",
    )


def require_one_input(given: Namespace, run: str) -> None:
    """Refuses a command line with no input or with two.

    Raises:
        TwistError: neither or both of --input-file and --held-out are given, or --held-out without a run.
    """
    if (given.input_file is None) == (given.held_out is None):
        raise TwistError("give --input-file FILE (or a folder), or --held-out SPLIT of a run")
    if given.held_out is not None and not run:
        raise TwistError("--held-out needs --run FOLDER: whose shards it is taken from")


def add_codebook(parser: ArgumentParser) -> None:
    """Adds --codebook."""
    add_option(
        parser,
        "codebook",
        type=str | None,
        help=f"The codebook: a folder, or one of {', '.join(FITTED_ON)}. Default: that of --run, else the embedded "
        f"one.",
    )


def add_voice(parser: ArgumentParser) -> None:
    """Adds --vocoder, --speaker and --style."""
    add_option(
        parser,
        "vocoder",
        type=str | None,
        help=f"The vocoder: a folder, a published .pt, or one of {', '.join(VOICES)}. Default: the best of "
        f"RUN/vocoder, else the one made for these units.",
    )
    for name in ("speaker", "style"):
        text = f"The {name}, for vocoders of several: a number, or a name in the {name}s.txt beside the vocoder."
        add_option(parser, name, type=int | str | None, help=text)


def add_code_models(parser: ArgumentParser) -> None:
    """Adds --pitch-model and --style-model."""
    text = "The model of pitch, for a vocoder that takes its codes: a folder of `twist train-pitch`, or of SpiRit-LM's."
    add_option(parser, "pitch-model", type=str | None, help=text)
    text = "The same of style: a folder of `twist train-style`, or of SpiRit-LM's."
    add_option(parser, "style-model", type=str | None, help=text)


def voice_for(units: Codebook | str, given: Namespace, run: str) -> Voice:
    """The voice that --vocoder, --speaker and --style choose for the units of a codebook, or of its fingerprint.

    Raises:
        TwistError: as `pipeline.speaking.voice.voice_for`.
    """
    from pipeline.speaking import voice

    return voice.voice_for(
        units,
        named=given.vocoder,
        run=run,
        device=given.device,
        dtype=given.dtype,
        speaker=given.speaker,
        style=given.style,
    )


def add_device(parser: ArgumentParser) -> None:
    """Adds --device and --dtype."""
    add_option(parser, "device", type=Device, default="auto", help="Where models run; auto is cuda where there is one.")
    add_option(parser, "dtype", type=Literal["float32", "bfloat16"], default="float32", help="What they compute in.")


def add_picture(parser: ArgumentParser) -> None:
    """Adds --picture."""
    add_option(
        parser,
        "picture",
        action="store_true",
        help="Draw OUTPUT.png too: input and output as waveforms and mel spectrograms. Needs the extra `plots`.",
    )


def require_matplotlib(given: Namespace) -> None:
    """Refuses --picture if matplotlib is missing.

    Raises:
        TwistError: matplotlib is not installed.
    """
    from model.vocoder import mel_picture

    if given.picture and not mel_picture.is_available():
        raise TwistError("pictures need matplotlib; install this project's extra `plots`")


def warner(command: str) -> Callable[[str], None]:
    """A function that prints a warning to the user, for inputs that were left out."""
    return lambda sentence: print(printable(f"twist {command}: {sentence}"), file=sys.stderr)


class Stopwatch:
    """Times a command, for its real-time factor."""

    def __init__(self) -> None:
        self._started_at_s = time.perf_counter()

    def summary(self, audio_s: float) -> str:
        """Seconds of audio made, seconds that this took, and the real-time factor; of text alone, what it took."""
        wall_s = time.perf_counter() - self._started_at_s
        if audio_s == 0:
            return f"no audio, in {wall_s:.1f} s"
        return f"{audio_s:.1f} s of audio in {wall_s:.1f} s, real-time factor {wall_s / audio_s:.3f}"
