"""Continues spoken prompts: writes each prompt followed by what a speech LM says next, with the units as JSON.

The first seconds of each input become units, the model continues them, and the vocoder speaks both parts. A model of
text and speech continues prompts of both: --prompt or --prompts.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from jobs import mixed_prompts, speech_options
from jobs.command import add_option, command, quiet_transformers
from jobs.recipe import Recipe
from model.lm.sampling_config import SamplingConfig
from model.official_files import ARTEFACTS
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.runs import CODEBOOK
from pipeline.speaking.names import EMBEDDED_CODEBOOK, OFFICIAL_CODEBOOK, OFFICIAL_MODELS

if TYPE_CHECKING:
    from pipeline.speaking.tokenizer import Tokenizer


def work(recipe: Recipe, given: Namespace) -> None:
    """Continues each prompt; prints how long it took.

    Raises:
        TwistError: a prompt, model or vocoder is missing, they do not fit together, or no prompt can be used.
    """
    from pipeline.speaking.clips import find_clips, held_out_clip
    from pipeline.speaking.speech_lm import load_lm
    from pipeline.speaking.spoken import continue_clips, write_original
    from pipeline.speaking.tokenizer import Tokenizer, find_codebook

    run = recipe.run
    quiet_transformers()
    _refuse_empty(given)
    if mixed_prompts.are_given(given):
        mixed_prompts.continue_(given, recipe, _sampling(given), *_model(given, run))
        return
    speech_options.require_one_input(given, run)
    speech_options.require_matplotlib(given)
    prompt_s = given.prompt_duration_sec
    if given.held_out is not None:
        original = held_out_clip(run, given.held_out, given.output_file, prompt_s)
        end_s = min(original.span.end_s, original.span.start_s + prompt_s)
        clips = [replace(original, span=replace(original.span, end_s=end_s))]
    else:
        clips = find_clips(given.input_file, given.output_file, prompt_s)
    source, codebook, run = _model(given, run)
    lm = load_lm(source, given.device, given.dtype)
    book = find_codebook(codebook or run or EMBEDDED_CODEBOOK)
    lm.require_codebook(book, codebook or run or "the embedded one")
    tokenizer = Tokenizer(book, given.device)
    voice = speech_options.voice_for(book, given, run)
    sampling = _sampling(given, _pause_units(given.pauses_of, tokenizer))

    stopwatch = speech_options.Stopwatch()
    num_written, audio_s = 0, 0.0
    for spoken in continue_clips(
        clips,
        tokenizer,
        lm,
        voice,
        sampling,
        num_continuations=given.num_continuations,
        batch_size=given.batch_size,
        max_s=given.max_duration_sec,
        warn=speech_options.warner("generate"),
    ):
        spoken.write(picture=given.picture)
        num_written += 1
        audio_s += spoken.duration_s
    where = given.output_file if num_written == 1 else f"{num_written} files, {clips[0].output.parent}"
    print(f"generate   {where}: {stopwatch.summary(audio_s)}")
    if given.held_out is not None:
        print(f"original   {write_original(original)}")


def _refuse_empty(given: Namespace) -> None:
    """Refuses a command line by which nothing is to be done.

    Raises:
        TwistError: a number is 0 or less.
    """
    for name in ("prompt_duration_sec", "num_continuations", "batch_size"):
        if getattr(given, name) <= 0:
            raise TwistError(f"{name} is {getattr(given, name)}; it must be above 0")
    _sampling(given)


def _sampling(given: Namespace, pause_units: tuple[int, ...] = ()) -> SamplingConfig:
    """The sampling settings of the command line.

    Raises:
        TwistError: a setting is out of range.
    """
    return SamplingConfig(
        temperature=given.temperature,
        top_k=None if given.top_k == 0 else given.top_k,
        top_p=given.top_p,
        max_units=given.max_units,
        max_times_prompt=given.max_times_prompt,
        seed=given.seed,
        repetition_penalty=given.repetition_penalty,
        no_repeat_ngram=given.no_repeat_ngram,
        min_s=given.min_continuation_sec,
        max_s=given.max_continuation_sec,
        pause_units=pause_units,
        ranked=given.ranked,
    )


def _pause_units(recordings: str | None, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The units that are pauses in a recording, or in those of a folder; none if none is named.

    Raises:
        TwistError: there is no such file, or there are no pauses in it.
    """
    from pipeline.speaking.clips import find_clips

    if recordings is None:
        return ()
    found = tokenizer.pause_units([clip.name for clip in find_clips(recordings, "")])
    if not found:
        raise TwistError(
            f"no unit stands for pauses in {recordings}; give --pauses-of a minute of speech with little noise"
        )
    return found


def _model(given: Namespace, run: str) -> tuple[str, str | None, str]:
    """Finds the model that the command line names.

    Returns:
        The speech LM (a published name, or a checkpoint's or run's folder), the codebook named for it if any, and the
        run that both belong to ("" if none).

    Raises:
        TwistError: no model is named, or several, or an unknown one.
    """
    named = [name for name in ("twist_model_name", "checkpoint") if getattr(given, name) is not None]
    if len(named) > 1 or (run and given.twist_model_name) or not (named or run):
        raise TwistError("name one model: --twist-model-name TWIST-1.3B, or --checkpoint FOLDER, or --run FOLDER")
    if given.twist_model_name is not None:
        if given.twist_model_name.lower() not in OFFICIAL_MODELS:
            names = ", ".join(ARTEFACTS[known].file_name.removesuffix(".zip") for known in OFFICIAL_MODELS)
            raise TwistError(f"there is no published model {given.twist_model_name}, only {names}")
        return given.twist_model_name, OFFICIAL_CODEBOOK, ""
    if not run and given.codebook is None:
        # RUN/checkpoints/STEP, as training writes them
        from pipeline.units.codebook import FACTS

        above = storage.absolute(given.checkpoint).rstrip("/").rsplit("/", 2)[0]
        run = above if storage.exists(storage.join(above, CODEBOOK, FACTS)) else ""
    return given.checkpoint or run, given.codebook, run


def _add_arguments(parser: ArgumentParser) -> None:
    def add(name: str, kind: Any, default: Any, text: str) -> None:
        add_option(parser, name, type=kind, default=default, help=text)

    speech_options.add_input(parser)
    add("twist-model-name", str | None, None, "A model of Meta's: TWIST-350M, TWIST-1.3B or TWIST-7B.")
    add("checkpoint", str | None, None, "A checkpoint's folder. Default: the best of RUN/checkpoints.")
    mixed_prompts.add_options(parser)
    speech_options.add_codebook(parser)
    speech_options.add_voice(parser)
    add("prompt-duration-sec", float, 3.0, "Seconds of the input that are the prompt.")
    add("num-continuations", int, 1, "Continuations of each prompt; several add -0, -1, ... to the output's name.")
    sampling = SamplingConfig()
    add("temperature", float, sampling.temperature, "What log-probabilities are divided by; 0: the likeliest unit.")
    add("top-k", int, sampling.top_k, "Draw among this many likeliest units; 0: all.")
    add("top-p", float | None, sampling.top_p, "Draw among the likeliest units that have this probability together.")
    add("max-units", int, sampling.max_units, "Units of prompt and continuation together, at most.")
    add("max-times-prompt", float, sampling.max_times_prompt, "The same, as a multiple of the prompt.")
    add("max-duration-sec", float | None, None, "Seconds of prompt and continuation together, at most.")
    add("repetition-penalty", float, sampling.repetition_penalty, "Above 1: units that were said become less likely.")
    add("no-repeat-ngram", int | None, sampling.no_repeat_ngram, "No sequence of so many units comes twice.")
    pace = "of the continuation alone, at the pace of its prompt"
    add("min-continuation-sec", float | None, sampling.min_s, f"Seconds {pace}, at least, as --max-units allows.")
    add("max-continuation-sec", float | None, sampling.max_s, f"Seconds {pace}, at most.")
    text = "A recording, or a folder of them, with pauses: with the first of their units a continuation ends."
    add("pauses-of", str | None, None, text)
    add_option(parser, "ranked", action="store_true", help="Number several continuations from the likeliest on.")
    add("seed", int, sampling.seed, "Seed of all draws.")
    add("batch-size", int, 32, "Continuations that are written at once.")
    speech_options.add_picture(parser)
    speech_options.add_device(parser)


main = command("generate", __doc__, work, add_arguments=_add_arguments, needs_run=lambda _: False)


if __name__ == "__main__":
    sys.exit(main())
