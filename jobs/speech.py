"""What the commands that speak share: tokenizers and the vocoders that belong to them, recordings, and their files."""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.compute as pc
import soundfile
import torch

from jobs.command import add_option
from model.artefacts import ARTEFACTS, EMBEDDED_FOLDER, VOCODER, resolve
from model.encoder.config import EncoderConfig
from model.training import checkpoint
from model.vocoder import mel_picture
from model.vocoder.checkpoint import load_vocoder
from model.vocoder.mel_config import MelConfig
from model.vocoder.synthesizer import Synthesizer
from pipeline.audio.read import AUDIO_SUFFIXES, AudioError, Span, probe, read_spans
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.runs import CODEBOOK
from pipeline.segments.segment import read_segments
from pipeline.shards import open_dataset
from pipeline.units import codebook, codebook_import
from pipeline.units.encode import UnitEncoder, describe_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jsonargparse import ArgumentParser, Namespace
    from numpy.typing import NDArray

    from pipeline.units.codebook import Codebook

Device = Literal["auto", "cpu", "cuda"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OFFICIAL_ENCODER, OFFICIAL_LAYER, OFFICIAL_CODEBOOK = "mhubert-base-25hz", 11, "mhubert-base-25hz-km500"
EMBEDDED_CODEBOOK, EMBEDDED_VOCODER = "hubert-tiny-25hz-km100", "hifigan-tiny-25hz"


@dataclass(frozen=True)
class Recording:
    """Something to listen to, and where what is made of it goes (without a suffix)."""

    name: str
    span: Span
    output: Path


def add_device_options(parser: ArgumentParser) -> None:
    """Adds where the models run and in which precision."""
    add_option(parser, "device", type=Device, default="auto", help="Where models run; auto takes cuda if it is there.")
    add_option(parser, "dtype", type=Literal["float32", "bfloat16"], default="float32", help="In what they compute.")


def add_vocoder_option(parser: ArgumentParser) -> None:
    """Adds which vocoder speaks."""
    add_option(
        parser,
        "vocoder",
        type=str | None,
        help=f"A vocoder: a folder, a published .pt, {VOCODER} or {EMBEDDED_VOCODER}; unless given, that of "
        f"RUN/vocoder, else the one that was made for these units.",
    )


def pick_device(wanted: Device) -> torch.device:
    """The device that is asked for.

    Raises:
        TwistError: cuda is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TwistError("device is cuda, but torch sees no GPU; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def codebook_of(run: str, named: str | None) -> Codebook:
    """The codebook that is named, else that of a run, else the embedded one.

    Raises:
        TwistError: it cannot be loaded.
    """
    if named == OFFICIAL_CODEBOOK:
        return official_codebook()
    if named is not None or not run:
        return codebook.load(resolve(named or EMBEDDED_CODEBOOK))
    return codebook.load(storage.join(run, CODEBOOK))


def official_codebook() -> Codebook:
    """That of Meta's published models, with what its encoder is.

    Raises:
        TwistError: it cannot be fetched, or is not the published one.
    """
    imported = codebook_import.read(resolve(OFFICIAL_CODEBOOK), OFFICIAL_CODEBOOK)
    encoder = describe_encoder(EncoderConfig(name="hubert", path=OFFICIAL_ENCODER, layer=OFFICIAL_LAYER))
    return codebook.of_centroids(imported.centroids, codebook_import.facts_of(imported, encoder))


def load_tokenizer(book: Codebook, device: Device) -> UnitEncoder:
    """What turns audio into the units of a codebook: its encoder, as the codebook's facts tell it.

    Raises:
        TwistError: the encoder is no longer where it was, or is another one.
    """
    facts = book.facts["encoder"]
    settings: dict[str, Any] = {"name": facts["name"], "max_chunk_s": facts["max_chunk_s"], "device": device}
    if facts["name"] == "hubert":
        settings |= {"path": facts["path"], "layer": facts["layer"], "dtype": facts["dtype"]}
        settings |= {"normalize": facts["normalize"]}
    return UnitEncoder(EncoderConfig(**settings), book)


def load_synthesizer(
    named: str | None, run: str, units: Codebook | str, device: torch.device, dtype: str
) -> tuple[Synthesizer, str]:
    """The vocoder that is named, else the best of a run, else the one for these units; and its path.

    Args:
        named: A folder, a published file, or a name; None: it is looked for.
        run: A run's folder, or "".
        units: Their codebook, or its fingerprint.
        device: Where it runs.
        dtype: What it computes in.

    Raises:
        TwistError: there is none, it cannot be loaded, or it speaks other units.
    """
    path = Path(resolve(named)) if named is not None else _vocoder_for(units, run)
    vocoder, fingerprint = load_vocoder(path)
    wanted = units if isinstance(units, str) else units.fingerprint
    if fingerprint not in (None, wanted):
        raise TwistError(
            f"the vocoder {path} speaks the units of another codebook ({fingerprint}) than these ({wanted}): the same "
            f"numbers mean other sounds; name the vocoder of these units, or train one with `twist train-vocoder`"
        )
    if not isinstance(units, str) and vocoder.config.num_embeddings < units.codebook_size:
        raise TwistError(
            f"the vocoder {path} speaks {vocoder.config.num_embeddings} units, but these are of {units.codebook_size}"
        )
    return Synthesizer(vocoder.for_inference(DTYPES[dtype], device)), str(path)


def _vocoder_for(units: Codebook | str, run: str) -> Path:
    trained = storage.join(run, "vocoder") if run else ""
    if trained and checkpoint.steps(trained):
        return checkpoint.fetch(checkpoint.best_folder(trained))
    fingerprint = units if isinstance(units, str) else units.fingerprint
    embedded = EMBEDDED_FOLDER / EMBEDDED_VOCODER
    if json.loads((embedded / "config.json").read_text())["codebook_fingerprint"] == fingerprint:
        return embedded
    is_official = (
        not isinstance(units, str) and units.facts.get("imported_sha256") == ARTEFACTS[OFFICIAL_CODEBOOK].sha256
    )
    if is_official:
        return Path(resolve(VOCODER))
    raise TwistError(
        f"there is no vocoder for the units of codebook {fingerprint}: train one on their run with `twist "
        f"train-vocoder`, or name it with --vocoder"
    )


def recordings_of(input_path: str, output_path: str, max_s: float | None) -> list[Recording]:
    """The audio file of this name, or all those in the folder, each with its place under the output's.

    Args:
        input_path: A file, or a folder.
        output_path: What is made of the file; or the folder of what is made of the folder's files.
        max_s: How much of the beginning of each is taken; None: all.

    Raises:
        TwistError: there is no such file; the folder holds no audio.
    """
    path = Path(input_path)
    if not path.is_dir():
        return [Recording(input_path, Span(input_path, None, 0.0, max_s or np.inf), Path(output_path).with_suffix(""))]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise TwistError(f"{input_path} holds no audio files")
    outputs = [Path(output_path) / file.relative_to(path) for file in found]
    # Two files that differ in their suffix alone keep it, so that neither is written over.
    plain = [output.with_suffix("") for output in outputs]
    outputs = [output if plain.count(stem) > 1 else stem for output, stem in zip(outputs, plain, strict=True)]
    return [
        Recording(str(file), Span(str(file), None, 0.0, max_s or np.inf), output)
        for file, output in zip(found, outputs, strict=True)
    ]


def held_out_recording(run: str, split: str, output_path: str, min_s: float, max_s: float | None) -> Recording:
    """The first utterance of a split of a run's shards that is long enough (else the longest).

    Raises:
        TwistError: the run has no shards, or the split holds nothing.
    """
    samples = open_dataset(storage.join(run, "shards")).manifest.to_pylist()
    of_split = [row for row in samples if row["split"] == split]
    if not of_split:
        raise TwistError(f"the shards of {run} have nothing in {split}; name another split")
    long_enough = [row for row in of_split if row["duration_s"] >= min_s]
    chosen = long_enough[0] if long_enough else max(of_split, key=lambda row: float(row["duration_s"]))
    segments = read_segments(run)
    (segment,) = segments.filter(pc.equal(segments["segment_id"], chosen["segment_id"])).to_pylist()
    end_s = segment["end_s"] if max_s is None else min(segment["end_s"], segment["start_s"] + max_s)
    span = Span(segment["uri"], segment["channel"], segment["start_s"], end_s)
    return Recording(chosen["segment_id"], span, Path(output_path).with_suffix(""))


def read_all(
    recordings: Sequence[Recording], tokenizer: UnitEncoder, say: Callable[[str], None]
) -> Iterator[tuple[Recording, NDArray[np.float32]]]:
    """The audio of each recording that can be used; of one that cannot, `say` is told why in a sentence.

    Raises:
        TwistError: none can be used; of a single one, this tells why.
    """
    num_read = 0
    for recording in recordings:
        try:
            wav = _read(recording, tokenizer)
        except TwistError as error:
            if len(recordings) == 1:
                raise
            say(f"left out: {error}")
            continue
        num_read += 1
        yield recording, wav
    if not num_read:
        raise TwistError(f"none of {len(recordings)} recordings can be used")


def _read(recording: Recording, tokenizer: UnitEncoder) -> NDArray[np.float32]:
    span = recording.span
    try:
        duration_s = probe(span.uri).duration_s
        end_s = min(span.end_s, duration_s)
        (wav,) = read_spans([Span(span.uri, span.channel, span.start_s, end_s)])
    except AudioError as error:
        wav = error
    if isinstance(wav, AudioError):
        raise TwistError(f"{recording.name} cannot be used: {_in_words(wav)}")
    if tokenizer.num_frames(len(wav)) == 0:
        raise TwistError(
            f"{recording.name} is too short: {len(wav) / SAMPLE_RATE_HZ:.3f} s hold no frame of the encoder"
        )
    return wav


def _in_words(error: AudioError) -> str:
    return "it is silent" if error.reason == "silent" else f"{error.reason} ({error.detail})"


def add_picture_option(parser: ArgumentParser) -> None:
    """Adds whether to draw what was heard and what is said."""
    add_option(
        parser,
        "picture",
        action="store_true",
        help="Draw OUTPUT.png too: input and output as waveforms and mel spectrograms. Needs the extra `plots`.",
    )


def require_pictures(given: Namespace) -> None:
    """Refuses to promise pictures where matplotlib is missing.

    Raises:
        TwistError: it is.
    """
    if given.picture and not mel_picture.is_available():
        raise TwistError("pictures need matplotlib; install this project's extra `plots`")


def draw(output: Path, heard: NDArray[np.float32], said: NDArray[np.float32]) -> None:
    """Draws OUTPUT.png."""
    mel_picture.draw(output.with_name(f"{output.name}.png"), {"heard": heard, "said": said}, MelConfig())


def write_speech(output: Path, wav: NDArray[np.float32], sample_rate_hz: int, description: dict[str, Any]) -> None:
    """Writes OUTPUT.wav, and what it says as OUTPUT.json."""
    output.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(output.with_name(f"{output.name}.wav"), wav, sample_rate_hz, subtype="PCM_16")
    text = json.dumps(description)
    output.with_name(f"{output.name}.json").write_text(f"{text}\n")


class Stopwatch:
    """Wall time and audio, for the real-time factor."""

    def __init__(self) -> None:
        self._started_at_s = time.perf_counter()

    def summary(self, audio_s: float) -> str:
        """In words."""
        wall_s = time.perf_counter() - self._started_at_s
        return f"{audio_s:.1f} s of audio in {wall_s:.1f} s, real-time factor {wall_s / max(audio_s, 1e-9):.3f}"


def warn(command: str) -> Callable[[str], None]:
    """What tells a user of something that was left out."""
    return lambda words: print(f"twist {command}: {words}", file=sys.stderr)


def in_groups(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    while group := list(itertools.islice(items, size)):
        yield group


def require_one_input(given: Namespace, run: str) -> None:
    """Refuses a command line that names no input, or two.

    Raises:
        TwistError: neither or both of --input-file and --held-out are given, or the latter without a run.
    """
    if (given.input_file is None) == (given.held_out is None):
        raise TwistError("give --input-file FILE (or a folder), or --held-out SPLIT of a run")
    if given.held_out is not None and not run:
        raise TwistError("--held-out needs --run FOLDER: whose shards it is taken from")
