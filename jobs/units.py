"""Prints the units of audio, a line of JSON for each file, or writes them.

`twist units clip.wav more/ --run RUN > units.jsonl`, or `--output FOLDER` for a pair of .npy files for each recording.
Without --run or --codebook the units are those of the small tokenizer that comes with this package.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from jobs import speech_options
from jobs.command import add_option, command
from jobs.recipe import Recipe
from model.device import Device
from pipeline.errors import TwistError
from pipeline.speaking.names import EMBEDDED_CODEBOOK


def work(recipe: Recipe, given: Namespace) -> None:
    """Tokenizes each recording.

    Raises:
        TwistError: the tokenizer is missing, or no recording can be used.
    """
    from pipeline.speaking.clips import find_clips
    from pipeline.speaking.tokenizer import Tokenizer, find_codebook
    from pipeline.speaking.write_units import as_json, tokenize_clips, write_npy

    clips = [clip for path in given.audio for clip in find_clips(path, _output(path, given.output))]
    if given.output is not None:
        _refuse_collisions([str(clip.output) for clip in clips])
    tokenizer = Tokenizer(find_codebook(given.codebook or recipe.run or EMBEDDED_CODEBOOK), given.device)
    for clip, units in tokenize_clips(clips, tokenizer, speech_options.warner("units")):
        if given.output is None:
            print(as_json(clip, units), flush=True)
        else:
            print(f"units      {' and '.join(map(str, write_npy(clip, units)))}")


def _refuse_collisions(outputs: list[str]) -> None:
    twice = [output for output, count in Counter(outputs).items() if count > 1]
    if twice:
        raise TwistError(f"two recordings would be written to {twice[0]}; write them into folders of their own")


def _output(path: str, folder: str | None) -> str:
    """Where the units of a file or folder go; the files in a folder keep their places in it."""
    name = "" if Path(path).is_dir() else Path(path).name
    return str(Path(folder or ".") / name)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("audio", nargs="+", type=str, help="Recordings of any format and rate, or folders of them.")
    add_option(
        parser,
        "output",
        type=str | None,
        help="Write NAME.units.npy and NAME.durations.npy (frames) for each recording into this folder.",
    )
    speech_options.add_codebook(parser)
    add_option(parser, "device", type=Device, default="auto", help="Where the encoder runs.")


main = command("units", __doc__, work, add_arguments=_add_arguments, needs_run=lambda _: False)


if __name__ == "__main__":
    sys.exit(main())
