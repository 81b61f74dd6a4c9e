"""Speaks units: a JSON file of them in, audio out.

The file holds a list of units, or an object with `units`, and if need be `durations` (in frames; predicted where there
are none), `speaker`, `style` and `codebook_fingerprint`, as `twist generate` and `twist resynthesize` write it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from jsonargparse import ArgumentParser

from jobs import speech
from jobs.command import add_option, guard
from jobs.recipe import read_recipe
from model.vocoder.synthesizer import Utterance
from pipeline.errors import TwistError

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from numpy.typing import NDArray


@dataclass(frozen=True)
class _Script:
    utterance: Utterance
    codebook_fingerprint: str | None


def work(given: Namespace, run: str) -> None:
    """Speaks each file's units; prints how long it took.

    Raises:
        TwistError: a file cannot be read, or there is no vocoder for its units.
    """
    source, target = Path(given.input_file), Path(given.output_file)
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    if not files:
        raise TwistError(f"{source} holds no JSON files")
    outputs = [target / file.relative_to(source).with_suffix(".wav") for file in files] if source.is_dir() else [target]
    scripts = [_read(file) for file in files]
    fingerprints = {script.codebook_fingerprint for script in scripts} - {None}
    if len(fingerprints) > 1:
        raise TwistError(f"the files in {source} hold units of {len(fingerprints)} codebooks; speak them apart")
    units = fingerprints.pop() if fingerprints else speech.codebook_of(run, None).fingerprint
    assert units is not None
    device = speech.pick_device(given.device)
    synthesizer, _ = speech.load_synthesizer(given.vocoder, run, units, device, given.dtype)
    stopwatch = speech.Stopwatch()
    wavs = synthesizer([script.utterance for script in scripts])
    for output, wav in zip(outputs, wavs, strict=True):
        output.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(output, wav, synthesizer.sample_rate_hz, subtype="PCM_16")
    audio_s = sum(map(len, wavs)) / synthesizer.sample_rate_hz
    where = given.output_file if len(wavs) == 1 else f"{len(wavs)} files in {given.output_file}"
    print(f"speak      {where}: {stopwatch.summary(audio_s)}")


def _read(path: Path) -> _Script:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise TwistError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise TwistError(f"{path} is no JSON file: {error}") from error
    if isinstance(content, list):
        content = {"units": content}
    if not isinstance(content, dict) or not content.get("units"):
        raise TwistError(f"{path} holds no units: a list of them, or an object with `units`")
    durations = content.get("durations")
    try:
        utterance = Utterance(
            _counts(content["units"], "units"),
            None if durations is None else _counts(durations, "durations"),
            _speaker(content.get("speaker")),
            content.get("style"),
        )
    except TwistError as error:
        raise TwistError(f"{path}: {error}") from error
    return _Script(utterance, content.get("codebook_fingerprint"))


def _counts(values: Any, name: str) -> NDArray[np.uint16]:
    is_list = isinstance(values, list) and all(type(value) is int and 0 <= value < 2**16 for value in values)
    if not is_list:
        raise TwistError(f"its {name} are no list of whole numbers from 0 to 65535")
    return np.array(values, np.uint16)


def _speaker(value: Any) -> int | NDArray[np.float32] | None:
    return np.array(value, np.float32) if isinstance(value, list) else value


def _add_arguments(parser: ArgumentParser) -> None:
    add_option(parser, "input-file", type=str, required=True, help="The JSON file, or a folder of them.")
    add_option(parser, "output-file", type=str, required=True, help="The wav file to write; of a folder, the folder.")
    speech.add_vocoder_option(parser)
    speech.add_device_options(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def do() -> None:
        recipe, given = read_recipe("speak", __doc__, (), arguments, _add_arguments, lambda _: False)
        work(given, recipe.run)

    return guard("speak", do)


if __name__ == "__main__":
    sys.exit(main())
