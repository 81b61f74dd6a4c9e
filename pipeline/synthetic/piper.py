"""Speech from text with a voice of Piper: an ONNX file and its JSON, wherever it comes from.

The voice was trained on phonemes as espeak-ng writes them in the International Phonetic Alphabet, one number for each
character: a start, each phoneme with a pad after it, an end. It draws no noise here, so that a text always sounds the
same; that costs some liveliness. Needs the extra `piper` (onnxruntime).

Source: rhasspy/piper's training documentation and `phoneme_id_map` in the JSON of its voices.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import TwistError
from pipeline.files import foreign_json
from pipeline.synthetic.espeak import spell_in_ipa

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

SUFFIX = ".onnx"
PAD, START, END = "_", "^", "$"
# What a voice of unknown pace is taken to speak.
WORDS_PER_MINUTE = 160


@dataclass(frozen=True, eq=False)
class PiperVoice:
    """A voice, loaded.

    Attributes:
        sample_rate_hz: Of what it speaks.
        espeak_voice: How its language is spelled in phonemes.
        ids: The numbers of each phoneme.
        length_scale: Its own pace.
        num_speakers: Of more than one, the first speaks.
    """

    session: Any
    sample_rate_hz: int
    espeak_voice: str
    ids: dict[str, list[int]]
    length_scale: float
    num_speakers: int

    def __call__(self, text: str, words_per_minute: int = WORDS_PER_MINUTE) -> tuple[NDArray[np.int16], int]:
        """Speaks a text: samples [S] and their rate in Hz. The pace is about that of `words_per_minute`."""
        phonemes = unicodedata.normalize("NFD", spell_in_ipa(text, self.espeak_voice))
        ids = phoneme_ids(phonemes, self.ids)
        pace = self.length_scale * WORDS_PER_MINUTE / words_per_minute
        given = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([0.0, pace, 0.0], np.float32),
        }
        if self.num_speakers > 1:
            given["sid"] = np.zeros(1, np.int64)
        wav = np.asarray(self.session.run(None, given)[0], np.float32).reshape(-1)
        return (np.clip(wav, -1, 1) * 32767).astype(np.int16), self.sample_rate_hz


def phoneme_ids(phonemes: Iterable[str], ids: dict[str, list[int]]) -> list[int]:
    """The numbers that a voice takes for phonemes; those that it does not know are left out."""
    spelled = [*ids[START], *ids[PAD]]
    for phoneme in phonemes:
        if phoneme in ids:
            spelled += [*ids[phoneme], *ids[PAD]]
    return [*spelled, *ids[END]]


@functools.lru_cache(maxsize=4)
def load_piper_voice(path: str) -> PiperVoice:
    """The voice of an ONNX file, beside which lies its JSON (`NAME.onnx.json`).

    Raises:
        TwistError: a file is missing or damaged, or onnxruntime is not installed.
    """
    settings = _settings_of(Path(path))
    try:
        import onnxruntime
    except ImportError as error:
        raise TwistError(
            f"the voice {path} needs onnxruntime: install the extra, pip install 'twist-pipeline[piper]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # sums do not depend on how many cores there are
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has no class of its own for a file that is no model
        raise TwistError(f"{path} cannot be loaded by onnxruntime: {error}") from error
    names = {given.name for given in session.get_inputs()}
    if not {"input", "input_lengths", "scales"} <= names <= {"input", "input_lengths", "scales", "sid"}:
        raise TwistError(f"{path} is no voice of Piper: it takes {', '.join(sorted(names))}")
    return PiperVoice(session, *settings, num_speakers=2 if "sid" in names else 1)


def _settings_of(path: Path) -> tuple[int, str, dict[str, list[int]], float]:
    described = path.with_name(path.name + ".json")
    for file in (path, described):
        if not file.is_file():
            raise TwistError(f"there is no {file}: a voice of Piper is NAME{SUFFIX} and NAME{SUFFIX}.json side by side")
    try:
        facts = foreign_json.parse(described.read_bytes())
        ids = {str(phoneme): [int(one) for one in numbers] for phoneme, numbers in facts["phoneme_id_map"].items()}
        if not {PAD, START, END} <= ids.keys() or int(facts["audio"]["sample_rate"]) < 1:
            raise KeyError(f"{PAD} {START} {END}")
        pace = float(facts.get("inference", {}).get("length_scale", 1.0))
        return int(facts["audio"]["sample_rate"]), str(facts["espeak"]["voice"]), ids, pace
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TwistError(f"{described} does not describe a voice of Piper, or is damaged: {error!r}") from error
