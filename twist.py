"""Speech units in Python: a tokenizer, a voice, a speech language model and a dataset, in a line each.

    import twist

    tokenizer = twist.load_tokenizer("hubert-tiny-25hz")    # or a run, or a codebook's folder
    units = tokenizer("clip.wav")                            # values, durations, times
    voice = twist.load_voice("runs/demo")
    wav, sample_rate_hz = voice(units)
    lm = twist.load_lm("runs/demo")                          # or a checkpoint, or TWIST-1.3B
    lm.score(units).mean
    (continuation,) = lm.continue_(units)
    dataset = twist.open_dataset("runs/demo")                # or a folder of shards

docs/notebook.md shows each at work. Everything here lives in `pipeline.speaking`; it is imported at first use, so that
`import twist` itself takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.lm.sampling_config import SamplingConfig
    from pipeline.errors import TwistError
    from pipeline.shards import Sample
    from pipeline.speaking.dataset import SpeechDataset, open_dataset
    from pipeline.speaking.speech_lm import Score, SpeechLM, load_lm
    from pipeline.speaking.tokenizer import Tokenizer, load_tokenizer
    from pipeline.speaking.units import Units
    from pipeline.speaking.voice import Voice, load_voice

_HOME = {
    "SamplingConfig": "model.lm.sampling_config",
    "Sample": "pipeline.shards",
    "Score": "pipeline.speaking.speech_lm",
    "SpeechDataset": "pipeline.speaking.dataset",
    "SpeechLM": "pipeline.speaking.speech_lm",
    "Tokenizer": "pipeline.speaking.tokenizer",
    "TwistError": "pipeline.errors",
    "Units": "pipeline.speaking.units",
    "Voice": "pipeline.speaking.voice",
    "load_lm": "pipeline.speaking.speech_lm",
    "load_tokenizer": "pipeline.speaking.tokenizer",
    "load_voice": "pipeline.speaking.voice",
    "open_dataset": "pipeline.speaking.dataset",
}

__all__ = [
    "Sample",
    "SamplingConfig",
    "Score",
    "SpeechDataset",
    "SpeechLM",
    "Tokenizer",
    "TwistError",
    "Units",
    "Voice",
    "load_lm",
    "load_tokenizer",
    "load_voice",
    "open_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
