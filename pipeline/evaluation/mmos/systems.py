"""What is compared: the originals, the same from their units, and what each model makes of their beginnings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.training import checkpoint
from model.weights_file import fingerprint_of_folder
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.runs import CODEBOOK
from pipeline.speaking.clips import Clip
from pipeline.speaking.names import OFFICIAL_CODEBOOK, OFFICIAL_MODELS
from pipeline.speaking.speech_lm import load_lm
from pipeline.speaking.spoken import continue_clips, resynthesize_clips
from pipeline.speaking.tokenizer import Tokenizer, find_codebook
from pipeline.speaking.voice import voice_for
from pipeline.speaking.wav import read_clip
from pipeline.units.codebook import FACTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from model.device import Device
    from model.lm.sampling_config import SamplingConfig
    from pipeline.evaluation.mmos.recordings import Drawn
    from pipeline.speaking.speech_lm import SpeechLM
    from pipeline.speaking.voice import Voice

ORIGINAL, RESYNTHESIS, ANCHOR = "original", "resynthesis", "anchor"
BATCH_SIZE = 32


@dataclass(frozen=True)
class Model:
    """A speech LM of a study.

    Attributes:
        name: What tables call it.
        source: A run, a checkpoint's folder or a published name.
        codebook: What its units come from: a run, a codebook's folder or a name.
        run: The run that codebook and vocoder belong to; "" if none.
    """

    name: str
    source: str
    codebook: str
    run: str

    def __post_init__(self) -> None:
        if self.name in (ORIGINAL, RESYNTHESIS, ANCHOR):
            raise TwistError(f"a model cannot be called {self.name!r}, as something else of the study is")


def find_model(name: str, source: str, codebook: str | None) -> Model:
    """A model with its codebook: the one that is named, else that of its run.

    Raises:
        TwistError: it is a checkpoint outside a run, and no codebook is named.
    """
    if source.lower() in OFFICIAL_MODELS:
        return Model(name, source, OFFICIAL_CODEBOOK, "")
    folder = storage.absolute(source).rstrip("/")
    for run in (folder, folder.rpartition("/")[0].rpartition("/")[0]):  # RUN, or RUN/checkpoints/STEP
        if storage.exists(storage.join(run, CODEBOOK, FACTS)):
            return Model(name, source, codebook or run, run)
    if codebook is None:
        raise TwistError(f"{source} is neither a run nor a checkpoint in one; name its codebook with --codebook")
    return Model(name, source, codebook, "")


class Speaker:
    """A model of a study, loaded with its tokenizer and voice.

    Args:
        model: Which.
        vocoder: Its voice; None: that of its run, else the one made for its units.
        device: Where all three run.

    Raises:
        TwistError: one of them is missing, or they do not fit together.
    """

    def __init__(self, model: Model, vocoder: str | None, device: Device) -> None:
        book = find_codebook(model.codebook)
        self.model = model
        self._lm: SpeechLM = load_lm(model.source, device)
        self._lm.require_codebook(book, model.codebook)
        self._tokenizer = Tokenizer(book, device)
        self._voice: Voice = voice_for(book, named=vocoder, run=model.run, device=device)

    def describe(self) -> dict[str, Any]:
        """What a study's description says of it."""
        return {
            **asdict(self.model),
            "model_fingerprint": fingerprint_of_folder(checkpoint.fetch(self._lm.path)),
            "codebook_fingerprint": self._tokenizer.codebook.fingerprint,
            "vocoder": self._voice.path,
        }

    def continuations(
        self, drawn: Sequence[Drawn], prompt_s: float, max_s: float, sampling: SamplingConfig
    ) -> Iterator[tuple[NDArray[Any], int]]:
        """Each recording's first `prompt_s`, continued up to `max_s` in all: wav [S] and its rate.

        Raises:
            TwistError: a recording cannot be used.
        """
        num_units = math.ceil(max_s * self._tokenizer.frame_rate_hz) + 1
        # As many units as could be needed if each lasted one frame: what is beyond `max_s` is cut.
        sampling = replace(sampling, max_units=num_units, max_times_prompt=float(num_units))
        prompts = [_clip(one, prompt_s) for one in drawn]
        for spoken in continue_clips(
            prompts,
            self._tokenizer,
            self._lm,
            self._voice,
            sampling,
            num_continuations=1,
            batch_size=BATCH_SIZE,
            max_s=max_s,
            warn=_refuse,
        ):
            yield spoken.wav, spoken.sample_rate_hz

    def resyntheses(self, drawn: Sequence[Drawn]) -> Iterator[tuple[NDArray[Any], int]]:
        """Each recording from its units: wav [S] and its rate.

        Raises:
            TwistError: a recording cannot be used.
        """
        clips = [_clip(one) for one in drawn]
        for spoken in resynthesize_clips(clips, self._tokenizer, self._voice, predict_durations=False, warn=_refuse):
            yield spoken.wav, spoken.sample_rate_hz


def originals(drawn: Sequence[Drawn]) -> Iterator[tuple[NDArray[Any], int]]:
    """Each recording as it is: wav [S] and its rate."""
    for one in drawn:
        yield read_clip(one.span, one.recording_id), SAMPLE_RATE_HZ


def _clip(drawn: Drawn, max_s: float = math.inf) -> Clip:
    end_s = min(drawn.span.end_s, drawn.span.start_s + max_s)
    return Clip(drawn.recording_id, replace(drawn.span, end_s=end_s), Path(drawn.recording_id))


def _refuse(sentence: str) -> None:
    raise TwistError(f"a recording that was drawn cannot be used by all systems ({sentence}); move it away")
