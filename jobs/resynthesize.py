"""Turns audio into units and speaks these: what a tokenizer and a vocoder keep of a recording."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser

from jobs import speech
from jobs.command import add_option, guard
from jobs.recipe import read_recipe
from model.vocoder.synthesizer import Utterance
from pipeline.units.encode import run_lengths

if TYPE_CHECKING:
    from jsonargparse import Namespace

RECORDINGS_AT_ONCE = 64


def work(given: Namespace, run: str) -> None:
    """Speaks each recording's units; prints how long it took.

    Raises:
        TwistError: tokenizer and vocoder are not there or do not fit together, or no recording can be used.
    """
    speech.require_one_input(given, run)
    speech.require_pictures(given)
    if given.held_out is not None:
        recordings = [speech.held_out_recording(run, given.held_out, given.output_file, 3.0, None)]
    else:
        recordings = speech.recordings_of(given.input_file, given.output_file, None)
    book = speech.codebook_of(run, given.codebook)
    tokenizer = speech.load_tokenizer(book, given.device)
    device = speech.pick_device(given.device)
    synthesizer, vocoder_path = speech.load_synthesizer(given.vocoder, run, book, device, given.dtype)
    stopwatch = speech.Stopwatch()
    num_written, audio_s = 0, 0.0
    readable = speech.read_all(recordings, tokenizer, speech.warn("resynthesize"))
    for group in speech.in_groups(readable, RECORDINGS_AT_ONCE):
        utterances = []
        for frames in tokenizer([wav for _, wav in group]):
            units, durations = run_lengths(frames)
            if given.durations == "predicted":
                durations = synthesizer.durations(units)
            utterances.append(Utterance(units, durations))
        for (recording, heard), utterance, wav in zip(group, utterances, synthesizer(utterances), strict=True):
            assert utterance.durations is not None
            description = {
                "input": recording.name,
                "vocoder": vocoder_path,
                "codebook_fingerprint": book.fingerprint,
                "frame_rate_hz": book.facts["encoder"]["frame_rate_hz"],
                "units": utterance.units.tolist(),
                "durations": utterance.durations.tolist(),
            }
            speech.write_speech(recording.output, wav, synthesizer.sample_rate_hz, description)
            if given.picture:
                speech.draw(recording.output, heard, wav)
            num_written += 1
            audio_s += len(wav) / synthesizer.sample_rate_hz
    where = given.output_file if num_written == 1 else f"{num_written} files in {given.output_file}"
    print(f"resynthesize {where}: {stopwatch.summary(audio_s)}")


def _add_arguments(parser: ArgumentParser) -> None:
    add_option(parser, "input-file", type=str | None, help="A recording of any format and rate, or a folder of them.")
    add_option(
        parser,
        "held-out",
        type=str | None,
        help="Instead of it: validation or test, an utterance of that split of the run.",
    )
    add_option(
        parser,
        "output-file",
        type=str,
        required=True,
        help="The wav file to write, units beside it as .json; of a folder, the folder.",
    )
    add_option(
        parser,
        "codebook",
        type=str | None,
        help=f"Folder of the codebook, or {speech.OFFICIAL_CODEBOOK}; the run's, else the embedded one unless given.",
    )
    speech.add_vocoder_option(parser)
    add_option(
        parser,
        "durations",
        type=Literal["original", "predicted"],
        default="original",
        help="Whether units last as long as in the recording, or as the vocoder predicts.",
    )
    speech.add_picture_option(parser)
    speech.add_device_options(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv

    def do() -> None:
        recipe, given = read_recipe("resynthesize", __doc__, (), arguments, _add_arguments, lambda _: False)
        work(given, recipe.run)

    return guard("resynthesize", do)


if __name__ == "__main__":
    sys.exit(main())
