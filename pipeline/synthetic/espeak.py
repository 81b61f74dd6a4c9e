"""Speech from text with libespeak-ng, which the package espeakng-loader bundles: no network, no system package.

Formant synthesis is no match for a human voice, but it speaks clear sentences in many voices and languages, hundreds of
times faster than real time, and always the same: enough for tests and for the demo corpus.

Functions and constants are those of espeak-ng 1.52, `src/include/espeak-ng/speak_lib.h`.
"""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import espeakng_loader
import numpy as np

from pipeline.errors import RunError, TwistError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_WORDS_PER_MINUTE, MAX_WORDS_PER_MINUTE = 80, 450
MAX_PITCH = 99

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_DONT_EXIT = 0x8000  # without it, missing data files end the process
_EVENT_LIST_TERMINATED, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_CHARS_UTF8 = 1
_PHONEMES_IN_IPA = 0x02
_ENDS_OF_CLAUSES = ".,;:!?"
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3
_EE_OK = 0
_LANGUAGE = re.compile(r"[A-Za-z0-9-]+")
# Breath and jitter are drawn from a generator that initialization seeds from the clock.
_NOISE_SEED = 1
# A few variants draw from the C library's generator instead, which any thread of the process may use meanwhile.
_MOST_DISTURBED = 20

# Marks of stress, tone and length within a phoneme's name; the rest is its kind.
_NOT_THE_KIND = re.compile(r"[',%=_|;:!]+")

_C_LIBRARY = ctypes.CDLL(None)
_lock = threading.Lock()  # the library keeps all of its state in global variables


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


# int callback(short *samples, int num_samples, espeak_EVENT *events); returns 0 to go on.
_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int16), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Heard:
    """A phoneme or a word, and when it is heard; it ends where the next one begins."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Speech:
    """Synthesized speech, with its phonemes and words.

    Attributes:
        wav: [S] int16; a few milliseconds of silence if the text holds nothing to say.
        sample_rate_hz: Sample rate of `wav`.
        phonemes: By espeak-ng's names, without stress and length; "" for a pause.
        words: Each named by the position of its first character in `text`, from 1; a pause belongs to the word before.
    """

    wav: NDArray[np.int16]
    sample_rate_hz: int
    phonemes: list[Heard]
    words: list[Heard]


def synthesize(text: str, voice: str, *, words_per_minute: int = 165, pitch: int = 50) -> tuple[NDArray[np.int16], int]:
    """Speaks `text` as `speak` does; returns wav [S] int16 and its sample rate in Hz."""
    speech = speak(text, voice, words_per_minute=words_per_minute, pitch=pitch)
    return speech.wav, speech.sample_rate_hz


def speak(text: str, voice: str, *, words_per_minute: int = 165, pitch: int = 50) -> Speech:
    """Speaks `text`; the samples depend on the arguments alone, not on what was spoken before or runs beside.

    Args:
        text: What to say, in the language of the voice; numbers and abbreviations are read out.
        voice: A language and, after a plus, a variant of the speaker: "de", "en-us+f3", "en-gb-scotland+m2".
        words_per_minute: Speaking rate, 80 to 450.
        pitch: Pitch of the voice relative to the variant's own, 0 to 99; 50 leaves it as it is.

    Raises:
        TwistError: an unknown voice, a rate or pitch out of range, or a library that cannot be loaded.
        RunError: other threads draw from the C library's rand() all the time, as the voice does.
    """
    if not MIN_WORDS_PER_MINUTE <= words_per_minute <= MAX_WORDS_PER_MINUTE:
        raise TwistError(
            f"espeak-ng speaks {MIN_WORDS_PER_MINUTE} to {MAX_WORDS_PER_MINUTE} words a minute, not {words_per_minute}"
        )
    if not 0 <= pitch <= MAX_PITCH:
        raise TwistError(f"espeak-ng's pitch is 0 to {MAX_PITCH}, not {pitch}")
    with _lock:
        before = None
        for _ in range(_MOST_DISTURBED):
            # Phase and flutter outlive espeak_Terminate, so each call loads the library afresh (half a millisecond).
            library = _load()
            try:
                speech, has_drawn = _speak(library, text, voice, words_per_minute, pitch)
            finally:
                _ctypes.dlclose(library._handle)
            if not has_drawn or (before is not None and np.array_equal(speech.wav, before)):
                return speech
            before = speech.wav
    raise RunError(f"other threads drew from the C library's rand() {_MOST_DISTURBED} times while {voice} spoke")


def spell_in_ipa(text: str, voice: str) -> str:
    """The phonemes of a text in the International Phonetic Alphabet, with stress, and the marks that end clauses.

    Raises:
        TwistError: an unknown voice, or a library that cannot be loaded.
    """
    with _lock:
        library = _load()
        try:
            return _spell(library, text.strip().encode(), voice)
        finally:
            _ctypes.dlclose(library._handle)


def _load() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise TwistError(f"cannot load espeak-ng: {error}; reinstall the package espeakng-loader") from error


def _initialize(library: ctypes.CDLL, data_path: str) -> int:
    """Readies the library; returns its sample rate in Hz."""
    sample_rate_hz: int = library.espeak_Initialize(
        _AUDIO_OUTPUT_SYNCHRONOUS, 0, data_path.encode(), _INITIALIZE_DONT_EXIT | _INITIALIZE_PHONEME_EVENTS
    )
    if sample_rate_hz <= 0:
        # Its buffer for paths is 160 bytes long.
        raise TwistError(
            f"espeak-ng cannot read its data in {data_path}; reinstall the package espeakng-loader, in a virtual "
            f"environment with a shorter path if this one is longer than 150 characters"
        )
    return sample_rate_hz


def _spell(library: ctypes.CDLL, text: bytes, voice: str) -> str:
    data_path = espeakng_loader.get_data_path()
    _initialize(library, data_path)
    try:
        _set_voice(library, voice, Path(data_path))
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        buffer = ctypes.create_string_buffer(text)
        start = ctypes.addressof(buffer)
        place = ctypes.c_void_p(start)
        spelled = []
        # Each call spells one clause and moves on to the next; none is left when the place is null.
        while place.value is not None:
            clause = library.espeak_TextToPhonemes(ctypes.byref(place), _CHARS_UTF8, _PHONEMES_IN_IPA)
            end = len(text) if place.value is None else place.value - start
            # The library has looked a character or two into the next clause.
            marks = [letter for letter in text[:end].decode(errors="ignore")[-3:] if letter in _ENDS_OF_CLAUSES]
            spelled.append((clause or b"").decode(errors="replace").strip() + "".join(marks[-1:]))
        return " ".join(part for part in spelled if part)
    finally:
        library.espeak_Terminate()


def _speak(library: ctypes.CDLL, text: str, voice: str, words_per_minute: int, pitch: int) -> tuple[Speech, bool]:
    """Speaks; also says whether the C library's generator has been drawn from, by this voice or another thread."""
    data_path = espeakng_loader.get_data_path()
    sample_rate_hz = _initialize(library, data_path)
    try:
        # After initialization, which seeds its own by the clock.
        library.espeak_ng_SetRandSeed(ctypes.c_long(_NOISE_SEED))
        first_draw = _seed_c_library()
        _set_voice(library, voice, Path(data_path))
        library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0)
        library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
        wav, starts_ms = _collect(library, text.encode())
        has_drawn = _C_LIBRARY.rand() != first_draw
        total_ms = 1000 * len(wav) / sample_rate_hz
        phonemes, words = (_heard(starts_ms[kind], total_ms) for kind in (_EVENT_PHONEME, _EVENT_WORD))
        return Speech(wav, sample_rate_hz, phonemes, words), has_drawn
    finally:
        library.espeak_Terminate()


def _seed_c_library() -> int:
    """Seeds the C library's generator; returns what it gives first."""
    _C_LIBRARY.srand(_NOISE_SEED)
    first: int = _C_LIBRARY.rand()
    _C_LIBRARY.srand(_NOISE_SEED)
    return first


def _set_voice(library: ctypes.CDLL, voice: str, data_path: Path) -> None:
    # The library silently ignores an unknown variant, and parses any file that a path-like name leads to.
    language, plus, variant = voice.partition("+")
    variants = sorted(path.name for path in (data_path / "voices" / "!v").iterdir())
    if plus and variant not in variants:
        raise TwistError(f"voice {voice!r}: espeak-ng has no variant {variant!r}, only {', '.join(variants)}")
    if not _LANGUAGE.fullmatch(language) or library.espeak_SetVoiceByName(voice.encode()) != _EE_OK:
        raise TwistError(f"espeak-ng has no voice {voice!r}; voices are named like en-us, en-gb-scotland+m2, de or fr")


def _heard(starts_ms: list[tuple[str, int]], total_ms: float) -> list[Heard]:
    return [
        Heard(name, start_ms / 1000, end_ms / 1000)
        for (name, start_ms), (_, end_ms) in itertools.pairwise([*starts_ms, ("", total_ms)])
        if end_ms > start_ms
    ]


def _collect(library: ctypes.CDLL, text: bytes) -> tuple[NDArray[np.int16], dict[int, list[tuple[str, int]]]]:
    """The samples, and the names of phonemes and words with the milliseconds at which they begin, by kind of event."""
    chunks: list[bytes] = []
    starts_ms: dict[int, list[tuple[str, int]]] = {_EVENT_PHONEME: [], _EVENT_WORD: []}

    def keep(samples: ctypes._Pointer[ctypes.c_int16], num_samples: int, events: ctypes._Pointer[_Event]) -> int:
        if samples and num_samples > 0:
            chunks.append(ctypes.string_at(samples, num_samples * ctypes.sizeof(ctypes.c_int16)))
        index = 0
        while events and (event := events[index]).type != _EVENT_LIST_TERMINATED:
            if event.type == _EVENT_PHONEME:
                name = _NOT_THE_KIND.sub("", event.name.decode(errors="replace"))
                starts_ms[_EVENT_PHONEME].append((name, event.audio_position_ms))
            elif event.type == _EVENT_WORD:
                starts_ms[_EVENT_WORD].append((str(event.text_position), event.audio_position_ms))
            index += 1
        return 0

    callback = _SynthCallback(keep)
    library.espeak_SetSynthCallback(callback)
    status = library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _CHARS_UTF8, None, None)
    assert status == _EE_OK, f"espeak_Synth returned {status}"
    library.espeak_Synchronize()
    return np.frombuffer(b"".join(chunks), np.int16), starts_ms
