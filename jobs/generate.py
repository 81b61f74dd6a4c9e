"""Continues spoken prompts: audio in, the same and what a speech LM says after it out, with its units as JSON.

The first seconds of each input become units, the model goes on with them, and the vocoder speaks both.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jsonargparse import ArgumentParser

from jobs import speech
from jobs.command import add_option, guard, quiet_transformers
from jobs.recipe import read_recipe
from model.artefacts import ARTEFACTS, resolve
from model.lm.generate import SamplingConfig, continue_units, ready_for_generation
from model.lm.speech_lm import load_speech_lm
from model.training import checkpoint
from model.vocoder.synthesizer import Utterance
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.units.encode import run_lengths

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from numpy.typing import NDArray

    from model.vocoder.synthesizer import Synthesizer

# Prompts that are read, continued and spoken before the next ones are.
PROMPTS_AT_ONCE = 64


def work(given: Namespace, run: str) -> None:
    """Continues each prompt; prints how long it took.

    Raises:
        TwistError: prompts, model and vocoder are not there or do not fit together, or no prompt can be used.
    """
    quiet_transformers()
    sampling = SamplingConfig(
        given.temperature,
        None if given.top_k == 0 else given.top_k,
        given.top_p,
        given.max_units,
        given.max_times_prompt,
        given.seed,
    )
    speech.require_one_input(given, run)
    speech.require_pictures(given)
    for name in ("prompt_duration_sec", "num_continuations", "batch_size"):
        if getattr(given, name) <= 0:
            raise TwistError(f"{name} is {getattr(given, name)}; it must be above 0")
    if given.held_out is not None:
        prompt_s = given.prompt_duration_sec
        recordings = [speech.held_out_recording(run, given.held_out, given.output_file, prompt_s, prompt_s)]
    else:
        recordings = speech.recordings_of(given.input_file, given.output_file, given.prompt_duration_sec)
    folder, run = _model(given, run)
    model, vocabulary = load_speech_lm(str(checkpoint.fetch(folder)))
    device = speech.pick_device(given.device)
    ready_for_generation(model, speech.DTYPES[given.dtype], device)
    is_official = given.twist_model_name is not None
    book = speech.official_codebook() if is_official else speech.codebook_of(run, given.codebook)
    if is_official and vocabulary.codebook_size > book.codebook_size:  # a table with rows to spare
        vocabulary = replace(vocabulary, codebook_size=book.codebook_size)
    if vocabulary.codebook_size != book.codebook_size or vocabulary.codebook_fingerprint not in (
        None,
        book.fingerprint,
    ):
        raise TwistError(
            f"{folder} speaks units of another codebook than {given.codebook or run or 'the embedded one'}: the same "
            f"numbers mean other sounds; name its run with --run, or its codebook with --codebook"
        )
    tokenizer = speech.load_tokenizer(book, given.device)
    synthesizer, vocoder_path = speech.load_synthesizer(given.vocoder, run, book, device, given.dtype)
    frame_rate_hz = float(book.facts["encoder"]["frame_rate_hz"])
    facts = {
        "model": folder,
        "vocoder": vocoder_path,
        "codebook_fingerprint": book.fingerprint,
        "frame_rate_hz": frame_rate_hz,
        "sampling": asdict(sampling),
    }

    stopwatch = speech.Stopwatch()
    num_written, audio_s = 0, 0.0
    readable = speech.read_all(recordings, tokenizer, speech.warn("generate"))
    for group in speech.in_groups(readable, PROMPTS_AT_ONCE):
        prompts = [run_lengths(units)[0] for units in tokenizer([wav for _, wav in group])]
        continued = continue_units(
            model, vocabulary, prompts, sampling, given.num_continuations, batch_size=given.batch_size
        )
        for (recording, heard), prompt, continuations in zip(group, prompts, continued, strict=True):
            spoken = _speak(synthesizer, prompt, continuations, given.max_duration_sec, frame_rate_hz)
            for number, (utterance, wav) in enumerate(spoken):
                assert utterance.durations is not None
                output = recording.output
                if given.num_continuations > 1:
                    output = output.with_name(f"{output.name}-{number}")
                description = {
                    **facts,
                    "prompt": recording.name,
                    "continuation": number,
                    "num_prompt_units": min(len(prompt), len(utterance.units)),
                    "units": utterance.units.tolist(),
                    "durations": utterance.durations.tolist(),
                }
                speech.write_speech(output, wav, synthesizer.sample_rate_hz, description)
                if given.picture:
                    speech.draw(output, heard, wav)
                num_written += 1
                audio_s += len(wav) / synthesizer.sample_rate_hz
    where = given.output_file if num_written == 1 else f"{num_written} files, {recordings[0].output.parent}"
    print(f"generate   {where}: {stopwatch.summary(audio_s)}")


def _model(given: Namespace, run: str) -> tuple[str, str]:
    """The folder of the speech LM, and the run that it is of ("": of none).

    Raises:
        TwistError: none or several are named, or an unknown one.
    """
    named = [name for name in ("twist_model_name", "checkpoint") if getattr(given, name) is not None]
    if len(named) > 1 or (run and given.twist_model_name) or not (named or run):
        raise TwistError("name one model: --twist-model-name TWIST-1.3B, or --checkpoint FOLDER, or --run FOLDER")
    if given.twist_model_name is not None:
        name = given.twist_model_name.lower()
        official = [known for known in ARTEFACTS if known.startswith("twist-")]
        if name not in official:
            names = ", ".join(ARTEFACTS[known].file_name.removesuffix(".zip") for known in official)
            raise TwistError(f"there is no published model {given.twist_model_name}, only {names}")
        return resolve(name), ""
    if given.checkpoint is None:
        return str(checkpoint.best_folder(storage.join(run, "checkpoints"))), run
    if not run and given.codebook is None:
        # RUN/checkpoints/STEP, as training writes them
        beside = Path(given.checkpoint).resolve().parent.parent
        run = str(beside) if (beside / "codebook").is_dir() else ""
    return given.checkpoint, run


def _speak(
    synthesizer: Synthesizer,
    prompt: NDArray[np.uint16],
    continuations: Sequence[NDArray[np.uint16]],
    max_s: float | None,
    frame_rate_hz: float,
) -> list[tuple[Utterance, NDArray[np.float32]]]:
    """Prompt and each continuation in one piece, as the published script does, cut at `max_s`; and its audio."""
    utterances = []
    for continuation in continuations:
        units = np.concatenate([prompt, continuation])
        durations = synthesizer.durations(units)
        if max_s is not None:
            fitting = int(np.searchsorted(np.cumsum(durations, dtype=np.int64), max_s * frame_rate_hz, side="right"))
            units, durations = units[:fitting], durations[:fitting]
        utterances.append(Utterance(units, durations))
    return list(zip(utterances, synthesizer(utterances), strict=True))


def _add_arguments(parser: ArgumentParser) -> None:
    def add(name: str, kind: Any, default: Any, text: str) -> None:
        add_option(parser, name, type=kind, default=default, help=text)

    add("input-file", str | None, None, "A recording of any format and rate, or a folder of them.")
    add("held-out", str | None, None, "Instead of it: validation or test, an utterance of that split of the run.")
    add_option(
        parser,
        "output-file",
        type=str,
        required=True,
        help="The wav file to write, its units beside it as .json; several continuations add -0, -1, ... to its name. "
        "Of a folder, the folder.",
    )
    add("twist-model-name", str | None, None, "A model of Meta's: TWIST-350M, TWIST-1.3B or TWIST-7B.")
    add("checkpoint", str | None, None, "A checkpoint's folder; the best of RUN/checkpoints unless given.")
    add(
        "codebook",
        str | None,
        None,
        "Folder of the codebook, or a name; the run's, else the embedded one unless given.",
    )
    speech.add_vocoder_option(parser)
    add("prompt-duration-sec", float, 3.0, "Seconds of the input that are the prompt.")
    add("num-continuations", int, 1, "Continuations of each prompt.")
    sampling = SamplingConfig()
    add("temperature", float, sampling.temperature, "What log-probabilities are divided by; 0: the likeliest unit.")
    add("top-k", int, sampling.top_k, "Draw among so many likeliest units; 0: all.")
    add("top-p", float | None, sampling.top_p, "Draw among the likeliest units of this much probability together.")
    add("max-units", int, sampling.max_units, "Most units of prompt and continuation together.")
    add("max-times-prompt", float, sampling.max_times_prompt, "The same, as a multiple of the prompt.")
    add("max-duration-sec", float | None, None, "Most seconds of prompt and continuation together.")
    add("seed", int, sampling.seed, "Of all that is drawn.")
    add("batch-size", int, 32, "Continuations that are written at once.")
    speech.add_picture_option(parser)
    speech.add_device_options(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def do() -> None:
        recipe, given = read_recipe("generate", __doc__, (), arguments, _add_arguments, lambda _: False)
        work(given, recipe.run)

    return guard("generate", do)


if __name__ == "__main__":
    sys.exit(main())
