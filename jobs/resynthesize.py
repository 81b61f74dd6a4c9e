"""Turns audio into units and speaks them, to hear what the tokenizer and vocoder keep of a recording."""

from __future__ import annotations

import sys
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from jobs import speech_options
from jobs.command import add_option, command
from jobs.recipe import Recipe
from pipeline.speaking.names import EMBEDDED_CODEBOOK


def work(recipe: Recipe, given: Namespace) -> None:
    """Resynthesizes each recording and prints how long it took.

    Raises:
        TwistError: the tokenizer or vocoder is missing, they do not fit together, or no recording can be used.
    """
    from pipeline.speaking.clips import find_clips, held_out_clip
    from pipeline.speaking.code_models import load_code_models
    from pipeline.speaking.expression import Expression
    from pipeline.speaking.spoken import resynthesize_clips, write_original
    from pipeline.speaking.tokenizer import Tokenizer, find_codebook

    run = recipe.run
    speech_options.require_one_input(given, run)
    speech_options.require_matplotlib(given)
    if given.held_out is not None:
        clips = [held_out_clip(run, given.held_out, given.output_file)]
    else:
        clips = find_clips(given.input_file, given.output_file)
    book = find_codebook(given.codebook or run or EMBEDDED_CODEBOOK)
    tokenizer = Tokenizer(book, given.device)
    voice = speech_options.voice_for(book, given, run)
    stopwatch = speech_options.Stopwatch()
    num_written, audio_s = 0, 0.0
    for spoken in resynthesize_clips(
        clips,
        tokenizer,
        voice,
        predict_durations=given.durations == "predicted",
        warn=speech_options.warner("resynthesize"),
        expression=Expression(load_code_models(given.pitch_model, given.style_model, given.device)),
    ):
        spoken.write(picture=given.picture)
        num_written += 1
        audio_s += spoken.duration_s
    where = given.output_file if num_written == 1 else f"{num_written} files in {given.output_file}"
    print(f"resynthesize {where}: {stopwatch.summary(audio_s)}")
    if given.held_out is not None:
        print(f"original     {write_original(clips[0])}")


def _add_arguments(parser: ArgumentParser) -> None:
    speech_options.add_input(parser)
    speech_options.add_codebook(parser)
    speech_options.add_voice(parser)
    speech_options.add_code_models(parser)
    add_option(
        parser,
        "durations",
        type=Literal["original", "predicted"],
        default="original",
        help="Whether units last as long as in the recording, or as the vocoder predicts.",
    )
    speech_options.add_picture(parser)
    speech_options.add_device(parser)


main = command("resynthesize", __doc__, work, add_arguments=_add_arguments, needs_run=lambda _: False)


if __name__ == "__main__":
    sys.exit(main())
