"""What hears: an ASR model in a folder, of transformers or of CTranslate2 (faster-whisper).

Decoding is plain, so that it can be repeated: English, greedy, no second try at a higher temperature where the model is
unsure, no text of earlier audio as context, no timestamps, and no silence left out by the ASR's own means. Audio longer
than Whisper's window is heard in pieces of that length.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from model.device import pick_device
from model.foreign_config import architectures_of, read_content
from model.training import checkpoint
from model.weights_file import refuse_not_finite
from pipeline.errors import TwistError
from pipeline.evaluation.speech.extra import needs_extra
from pipeline.evaluation.speech.stored_model import StoredModel, loading
from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from model.device import Device

Kind = Literal["transformers", "faster-whisper"]
# Of the classes that transformers' pipeline takes for speech recognition; a text model has no preprocessor beside it.
ENDS_OF_CLASSES = ("ForCTC", "ForConditionalGeneration", "ForSpeechToText", "ForRNNT", "ForTDT", "EncoderDecoderModel")
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
# Files that CTranslate2's converter leaves out unless it is told to copy them.
COPY_FILES = (
    "copy it from the model that was converted, as ct2-transformers-converter does with --copy_files tokenizer.json "
    "preprocessor_config.json"
)
TASK = "automatic-speech-recognition"
WINDOW_S = 30.0
# Samples; models for CTC need some to hear anything. What is shorter gets silence behind it.
SHORTEST = SAMPLE_RATE_HZ // 10


@dataclass(frozen=True)
class Asr(StoredModel):
    """An ASR model, loaded when it is first to hear something; `kind` says by which library."""

    kind: Kind

    @property
    def settings(self) -> dict[str, Any]:
        """What a result says about it: all that changes a transcript, wherever the model lies."""
        return {
            "asr": self.fingerprint,
            "asr_library": self.kind,
            "asr_dtype": "float32",
            "language": "en",
            "beam_size": 1,
            "temperature": 0.0,
            "timestamps": False,
            "condition_on_previous_text": False,
            "window_s": WINDOW_S,
        }

    def __call__(self, wav: NDArray[np.float32]) -> str:
        """What is said in wav [S] at 16 kHz; "" if nothing.

        Raises:
            TwistError: the model cannot be loaded.
        """
        window = int(WINDOW_S * SAMPLE_RATE_HZ)
        pieces = (wav[start : start + window] for start in range(0, len(wav), window))
        texts = [self._hear(np.pad(piece, (0, max(0, SHORTEST - len(piece))))) for piece in pieces]
        return " ".join(text for text in texts if text)

    @functools.cached_property
    def _hear(self) -> Callable[[NDArray[np.float32]], str]:
        load = _load_faster_whisper if self.kind == "faster-whisper" else _load_transformers
        return load(self.folder, self.device)


def find_asr(source: str, device: Device = "auto") -> Asr:
    """The ASR in a folder, local or s3://; it is not loaded yet.

    Raises:
        TwistError: there is no such folder, or no ASR in it.
    """
    if not storage.has_files(source):
        raise TwistError(f"there is no ASR {source}: give a folder with a model of transformers or faster-whisper")
    return Asr(storage.absolute(source), device, _kind_of(checkpoint.fetch(source), source))


def _kind_of(folder: Path, source: str) -> Kind:
    if (folder / "model.bin").is_file() and any(folder.glob("vocabulary.*")):
        if not (folder / "tokenizer.json").is_file():  # faster-whisper would fetch one from the network
            raise TwistError(f"{source} lacks tokenizer.json: {COPY_FILES}")
        return "faster-whisper"
    config = folder / "config.json"
    try:
        architectures = architectures_of(read_content(folder)) if config.is_file() else []
    except ValueError as error:
        raise TwistError(f"{folder} is no ASR: {error}") from error
    is_speech_model = any(name.endswith(ENDS_OF_CLASSES) for name in architectures)
    if is_speech_model and any((folder / name).is_file() for name in PREPROCESSORS):
        return "transformers"
    raise TwistError(
        f"{source} is no ASR: neither one of transformers (config.json of a model that takes speech to text, and "
        f"{PREPROCESSORS[0]}), nor one of faster-whisper (model.bin, vocabulary.* and tokenizer.json)"
    )


def _load_faster_whisper(folder: Path, device: Device) -> Callable[[NDArray[np.float32]], str]:
    with needs_extra(f"the ASR in {folder}"):
        from faster_whisper import WhisperModel
    place = pick_device(device).type
    with loading(f"{folder} cannot be loaded by faster-whisper", folder):
        model = WhisperModel(str(folder), device=place, compute_type="float32", local_files_only=True)
    num_bands, rate_hz = len(model.feature_extractor.mel_filters), model.feature_extractor.sampling_rate
    if num_bands != model.model.n_mels:  # large-v3 has 128, and all others the 80 that are taken where nothing is told
        raise TwistError(
            f"{folder} hears {model.model.n_mels} mel bands, but its preprocessor_config.json, or the default where "
            f"there is none, has {num_bands}: {COPY_FILES}"
        )
    _require_rate(folder, rate_hz)

    def hear(wav: NDArray[np.float32]) -> str:
        segments, _ = model.transcribe(
            wav,
            language="en",
            beam_size=1,
            best_of=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        return " ".join(text for segment in segments if (text := segment.text.strip()))

    return hear


def _load_transformers(folder: Path, device: Device) -> Callable[[NDArray[np.float32]], str]:
    from transformers import pipeline

    with loading(f"{folder} cannot be loaded as an ASR by transformers", folder):
        transcribe = pipeline(TASK, model=str(folder), device=pick_device(device), trust_remote_code=False)
        config: Any = getattr(transcribe.model, "generation_config", None)
        if getattr(config, "return_timestamps", False):  # a folder's own wish, which the pipeline has taken over
            config.return_timestamps = False
            parts = {"tokenizer": transcribe.tokenizer, "feature_extractor": transcribe.feature_extractor}
            transcribe = pipeline(TASK, model=transcribe.model, device=transcribe.device, **parts)
    if transcribe.feature_extractor is None or transcribe.tokenizer is None:
        raise TwistError(f"{folder} lacks the files of its feature extractor or of its tokenizer")
    _require_rate(folder, transcribe.feature_extractor.sampling_rate)
    refuse_not_finite(transcribe.model.state_dict(), folder)
    transcribe.model.float()  # whatever it was stored in
    given: dict[str, Any] = {}
    if transcribe.type != "ctc":
        given["generate_kwargs"] = {"num_beams": 1, "do_sample": False}
        if getattr(transcribe.model.generation_config, "is_multilingual", False):
            given["generate_kwargs"] |= {"language": "en", "task": "transcribe"}

    def hear(wav: NDArray[np.float32]) -> str:
        heard = transcribe({"raw": wav.copy(), "sampling_rate": SAMPLE_RATE_HZ}, **given)
        return str(heard["text"]).strip()

    return hear


def _require_rate(folder: Path, rate_hz: int) -> None:
    if rate_hz != SAMPLE_RATE_HZ:
        raise TwistError(f"{folder} hears audio of {rate_hz} Hz; all audio here has {SAMPLE_RATE_HZ} Hz")
