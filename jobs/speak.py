"""Speaks the units in a JSON file.

The file has a list of units, or an object with `units` and optionally `durations` (in frames; otherwise predicted),
`speaker`, `style`, `codes` (of pitch and style) and `codebook_fingerprint`, as written by `twist generate` and
`twist resynthesize`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from jobs import speech_options
from jobs.command import add_option, command
from jobs.recipe import Recipe
from pipeline.errors import TwistError
from pipeline.speaking.names import EMBEDDED_CODEBOOK


def work(recipe: Recipe, given: Namespace) -> None:
    """Speaks each file's units and prints how long it took.

    Raises:
        TwistError: a file cannot be read, or there is no vocoder for its units.
    """
    from pipeline.speaking.script import read_script
    from pipeline.speaking.spoken import write_wav
    from pipeline.speaking.tokenizer import find_codebook

    run = recipe.run
    source, target = Path(given.input_file), Path(given.output_file)
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    if not files:
        raise TwistError(f"{source} holds no JSON files")
    outputs = [target / file.relative_to(source).with_suffix(".wav") for file in files] if source.is_dir() else [target]
    scripts = [read_script(file) for file in files]
    fingerprints = {found for script in scripts if (found := script.units.codebook_fingerprint) is not None}
    if len(fingerprints) > 1:
        raise TwistError(f"the files in {source} hold units of {len(fingerprints)} codebooks; speak them apart")
    units = fingerprints.pop() if fingerprints else find_codebook(run or EMBEDDED_CODEBOOK).fingerprint
    voice = speech_options.voice_for(units, given, run)
    stopwatch = speech_options.Stopwatch()
    wavs = voice.batch(
        [script.units for script in scripts],
        [script.speaker for script in scripts],
        [script.style for script in scripts],
        [script.codes for script in scripts],
    )
    for output, wav in zip(outputs, wavs, strict=True):
        write_wav(output, wav, voice.sample_rate_hz)
    audio_s = sum(map(len, wavs)) / voice.sample_rate_hz
    where = given.output_file if len(wavs) == 1 else f"{len(wavs)} files in {given.output_file}"
    print(f"speak      {where}: {stopwatch.summary(audio_s)}")


def _add_arguments(parser: ArgumentParser) -> None:
    add_option(parser, "input-file", type=str, required=True, help="The JSON file, or a folder of them.")
    add_option(parser, "output-file", type=str, required=True, help="The wav file to write; for a folder, a folder.")
    speech_options.add_voice(parser)
    speech_options.add_device(parser)


main = command("speak", __doc__, work, add_arguments=_add_arguments, needs_run=lambda _: False)


if __name__ == "__main__":
    sys.exit(main())
