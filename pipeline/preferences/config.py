"""Where preference pairs come from, and which are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from model.lm.sampling_config import SamplingConfig
from pipeline.errors import TwistError

VOICES = ("en-us+f2", "en-us+m3", "en-gb-x-rp+f4", "en-gb-scotland+m1")


@dataclass(frozen=True)
class ContinuationsConfig:
    """Pairs from the model itself: the continuations of a prompt that a text LM finds likeliest and unlikeliest.

    Args:
        asr: Folder of the ASR that hears: a model of transformers, or of faster-whisper (CTranslate2).
        text_lm: Folder of the text LM that judges: any causal LM of transformers.
        split: The part of the speech in `source` (else of the run) that prompts are taken from.
        max_items: Take so many prompts, spread over all; null: all of them.
        min_s: Shorter audio gives no prompt.
        prompt_s: Seconds of it that are the prompt.
        num_continuations: Continuations of each prompt.
        min_gap: The least difference of best and worst, in nats a token; prompts with less give no pair.
        sampling: How continuations are drawn.
        vocoder: The voice: a folder, a file or a name; by default that of the run, else the one made for the units.
    """

    asr: str | None = None
    text_lm: str | None = None
    split: Literal["train", "validation"] = "train"
    max_items: int | None = None
    min_s: float = 6.0
    prompt_s: float = 3.0
    num_continuations: int = 5
    min_gap: float = 0.1
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    vocoder: str | None = None

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("max_items", self.max_items is None or self.max_items >= 1, "at least 1, or null"),
            ("prompt_s", 0 < self.prompt_s <= self.min_s, "above 0, and at most min_s"),
            ("num_continuations", self.num_continuations >= 2, "at least 2"),
            ("min_gap", self.min_gap >= 0, "at least 0"),
        ):
            if not holds:
                raise TwistError(f"preferences.continuations.{name} is {getattr(self, name)!r}; it must be {rule}")

    def require_models(self) -> tuple[str, str]:
        """The folders of ASR and text LM.

        Raises:
            TwistError: one of them is not named.
        """
        if self.asr is None or self.text_lm is None:
            missing = "asr" if self.asr is None else "text_lm"
            raise TwistError(
                f"the model's own pairs need an ASR and a text LM: give --preferences.continuations.{missing}"
            )
        return self.asr, self.text_lm


@dataclass(frozen=True)
class PreferencesConfig:
    """Which preference pairs to make.

    Args:
        source: A .jsonl of wav files (prompt_path, chosen_path, rejected_path) or of texts (prompt_text, chosen_text,
            rejected_text), SWAG's .csv, or Parquet in SpokenSwag's layout, a file or a folder. With `continuations`: a
            corpus in any layout, or a table, that prompts are taken from; by default the run's segments.
        voices: espeak-ng's voices that say texts, one a row.
        continuations: Makes pairs from the model itself, if it names an ASR and a text LM.
        max_auto_bleu: Pairs are dropped whose prompt and chosen ending have this auto-BLEU-2 or more; null: none are. A
            pair without texts stays.
        validation_share: Share of the pairs that are held out, where the source does not say which.
        pairs_per_shard: Most pairs in a tar.
        seed: Chooses voices, wrong endings and what is held out.
    """

    source: str | None = None
    voices: tuple[str, ...] = VOICES
    continuations: ContinuationsConfig = field(default_factory=ContinuationsConfig)
    max_auto_bleu: float | None = 0.3
    validation_share: float = 0.05
    pairs_per_shard: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("voices", len(self.voices) > 0, "one voice or more"),
            ("max_auto_bleu", self.max_auto_bleu is None or 0 < self.max_auto_bleu <= 1, "above 0 and at most 1"),
            ("validation_share", 0 <= self.validation_share < 1, "0 to below 1"),
            ("pairs_per_shard", self.pairs_per_shard >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            if not holds:
                raise TwistError(f"preferences.{name} is {getattr(self, name)!r}; it must be {rule}")

    @property
    def are_own(self) -> bool:
        """Whether pairs come from the model itself."""
        return self.continuations.asr is not None or self.continuations.text_lm is not None
