"""Speech from text through libespeak-ng, which the package espeakng-loader carries: no network, no system package.

Formant synthesis is no match for a human voice, but it speaks clear sentences in many voices and languages, hundreds of
times faster than they are heard, and the same ones each time: enough for tests and for the demo corpus.

Functions and constants are those of espeak-ng 1.52, `src/include/espeak-ng/speak_lib.h`.
"""

from __future__ import annotations

import _ctypes
import ctypes
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import espeakng_loader
import numpy as np

from pipeline.errors import TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_WORDS_PER_MINUTE, MAX_WORDS_PER_MINUTE = 80, 450
MAX_PITCH = 99

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000  # without it, missing data files end the process
_CHARS_UTF8 = 1
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3
_EE_OK = 0
_LANGUAGE = re.compile(r"[A-Za-z0-9-]+")
# Breath and jitter are drawn from a generator that initialization seeds from the clock.
_NOISE_SEED = 1

# int callback(short *samples, int num_samples, espeak_EVENT *events); returns 0 to go on.
_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int16), ctypes.c_int, ctypes.c_void_p)

_lock = threading.Lock()  # the library keeps all of its state in global variables


def synthesize(text: str, voice: str, *, words_per_minute: int = 165, pitch: int = 50) -> tuple[NDArray[np.int16], int]:
    """Speaks `text`; the samples depend on the arguments alone, not on what was spoken before.

    Args:
        text: What to say, in the language of the voice; numbers and abbreviations are read out.
        voice: A language and, after a plus, a variant of the speaker: "de", "en-us+f3", "en-gb-scotland+m2".
        words_per_minute: Speaking rate, 80 to 450.
        pitch: Height of the voice relative to the variant's own, 0 to 99; 50 leaves it as it is.

    Returns:
        wav [S], int16 (some milliseconds of silence if the text holds nothing to say), and its sample rate in Hz.

    Raises:
        TwistError: an unknown voice, a rate or pitch out of range, or a library that cannot be loaded.
    """
    if not MIN_WORDS_PER_MINUTE <= words_per_minute <= MAX_WORDS_PER_MINUTE:
        raise TwistError(
            f"espeak-ng speaks {MIN_WORDS_PER_MINUTE} to {MAX_WORDS_PER_MINUTE} words a minute, not {words_per_minute}"
        )
    if not 0 <= pitch <= MAX_PITCH:
        raise TwistError(f"espeak-ng's pitch is 0 to {MAX_PITCH}, not {pitch}")
    with _lock:
        # Phase and flutter outlive espeak_Terminate, so each call loads the library afresh (half a millisecond).
        library = _load()
        try:
            return _speak(library, text, voice, words_per_minute, pitch)
        finally:
            _ctypes.dlclose(library._handle)


def _load() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise TwistError(f"cannot load espeak-ng: {error}; reinstall the package espeakng-loader") from error


def _speak(
    library: ctypes.CDLL, text: str, voice: str, words_per_minute: int, pitch: int
) -> tuple[NDArray[np.int16], int]:
    data_path = espeakng_loader.get_data_path()
    sample_rate_hz: int = library.espeak_Initialize(
        _AUDIO_OUTPUT_SYNCHRONOUS, 0, data_path.encode(), _INITIALIZE_DONT_EXIT
    )
    if sample_rate_hz <= 0:
        # Its buffer for paths is 160 bytes long.
        raise TwistError(
            f"espeak-ng cannot read its data in {data_path}; reinstall the package espeakng-loader, in a virtual "
            f"environment with a shorter path if this one is longer than 150 characters"
        )
    try:
        library.espeak_ng_SetRandSeed(ctypes.c_long(_NOISE_SEED))
        ctypes.CDLL(None).srand(_NOISE_SEED)  # a few variants draw from the C library's generator instead
        _set_voice(library, voice, Path(data_path))
        library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0)
        library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
        return _collect(library, text.encode()), sample_rate_hz
    finally:
        library.espeak_Terminate()


def _set_voice(library: ctypes.CDLL, voice: str, data_path: Path) -> None:
    # The library passes over an unknown variant in silence, and parses whatever file a path-like name leads it to.
    language, plus, variant = voice.partition("+")
    variants = sorted(path.name for path in (data_path / "voices" / "!v").iterdir())
    if plus and variant not in variants:
        raise TwistError(f"voice {voice!r}: espeak-ng has no variant {variant!r}, only {', '.join(variants)}")
    if not _LANGUAGE.fullmatch(language) or library.espeak_SetVoiceByName(voice.encode()) != _EE_OK:
        raise TwistError(f"espeak-ng has no voice {voice!r}; voices are named like en-us, en-gb-scotland+m2, de or fr")


def _collect(library: ctypes.CDLL, text: bytes) -> NDArray[np.int16]:
    chunks: list[bytes] = []

    def keep(samples: ctypes._Pointer[ctypes.c_int16], num_samples: int, _events: int | None) -> int:
        if samples and num_samples > 0:
            chunks.append(ctypes.string_at(samples, num_samples * ctypes.sizeof(ctypes.c_int16)))
        return 0

    callback = _SynthCallback(keep)
    library.espeak_SetSynthCallback(callback)
    status = library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _CHARS_UTF8, None, None)
    assert status == _EE_OK, f"espeak_Synth returned {status}"
    library.espeak_Synchronize()
    return np.frombuffer(b"".join(chunks), np.int16)
