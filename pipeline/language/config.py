"""Settings of the language filter: the languages that stay, and how much evidence each decision needs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pipeline.errors import TwistError
from pipeline.languages import ISO_639_1


@dataclass(frozen=True)
class AudioLanguageConfig:
    """How recordings are listened to.

    Args:
        model: Whisper (multilingual), MMS-LID or SpeechBrain's ECAPA for VoxLingua107: a folder (local or s3://), or a
            name on the Hugging Face hub. Or the embedded language-tiny, or a folder of `twist train-language`: these
            are weak evidence, decide only where neither tags nor text say what is spoken, and keep what they are
            unsure of. Without a model nothing is listened to.
        required: Whether the command fails if the model cannot be found; otherwise it continues without, and says so.
        window_s: Seconds of audio that are classified at a time.
        min_windows: Minimum number of windows per recording, if it is long enough for them.
        max_windows: Maximum number of windows per recording.
        one_window_every_s: Within these bounds, one window per this many seconds of speech, or of the recording if the
            corpus does not say where speech is.
        min_speech_s: Seconds of speech that a window must hold, or half of the window if that is less.
        speech_threshold: Probability above which audio counts as speech.
        work_unit_minutes: Minutes of windows that one worker takes at a time.
    """

    model: str | None = None
    required: bool = True
    window_s: float = 10.0
    min_windows: int = 3
    max_windows: int = 7
    one_window_every_s: float = 300.0
    min_speech_s: float = 3.0
    speech_threshold: float = 0.5
    work_unit_minutes: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_windows <= self.max_windows:
            raise TwistError("language.audio needs 1 <= min_windows <= max_windows")
        if not (0 < self.min_speech_s <= self.window_s and self.one_window_every_s > 0 and self.work_unit_minutes > 0):
            raise TwistError(
                "language.audio needs 0 < min_speech_s <= window_s, one_window_every_s > 0 and work_unit_minutes > 0"
            )
        if not 0 < self.speech_threshold < 1:
            raise TwistError(f"language.audio.speech_threshold is a probability, not {self.speech_threshold}")


@dataclass(frozen=True)
class CorpusEvidence:
    """Settings of LanguageConfig that differ for one corpus.

    Args:
        metadata_trust: Trust in the corpus' tags, from 0 to 1; by default it depends on where the tag comes from.
        metadata_keep: Trust from which a tag for a wanted language decides alone.
        metadata_enough: Trust from which a tag is enough if there is no other evidence; below that, quarantine.
        text_prior: Probability that a text is in a wanted language, before it is read.
        text_min_chars: Shortest text that counts as evidence, in characters of its words without remarks, numbers and
            codes.
        text_keep: Probability of the wanted languages from which text keeps a recording.
        text_drop: Probability below which text drops it; in between, quarantine.
        audio_keep: Probability of the wanted languages from which audio keeps a recording.
        audio_drop: Probability below which audio drops it; in between, quarantine.
        listen: Which recordings are listened to: needed, always or never.
    """

    metadata_trust: float | None = None
    metadata_keep: float | None = None
    metadata_enough: float | None = None
    text_prior: float | None = None
    text_min_chars: int | None = None
    text_keep: float | None = None
    text_drop: float | None = None
    audio_keep: float | None = None
    audio_drop: float | None = None
    listen: Literal["needed", "always", "never"] | None = None

    def __post_init__(self) -> None:
        _check_thresholds("language.corpora", self)


@dataclass(frozen=True)
class LanguageConfig:
    """Which languages stay, and how much evidence that takes.

    Args:
        languages: ISO 639-1 codes of the languages that stay.
        unknown: Whether a recording without any evidence stays.
        metadata_keep: Trust from which a corpus' tag for a wanted language decides alone.
        metadata_enough: Trust from which a tag is enough if there is no other evidence; below that, quarantine.
        text_prior: Probability that a text is in a wanted language, before it is read.
        text_min_chars: Shortest text that counts as evidence, in characters of its words without remarks, numbers and
            codes.
        text_keep: Probability of the wanted languages from which text keeps a recording.
        text_drop: Probability below which text drops it; in between, quarantine.
        audio_keep: Probability of the wanted languages from which audio keeps a recording.
        audio_drop: Probability below which audio drops it; in between, quarantine.
        listen: Which recordings are listened to. needed: those that metadata and text leave in doubt, and those whose
            tag cannot be trusted; always: all but those tagged with another language; never: none.
        audio: The classifier, and the windows that it listens to.
        corpora: Settings that differ for single corpora, by the corpus' name.
    """

    languages: tuple[str, ...] = ("en",)
    unknown: Literal["keep", "drop"] = "drop"
    metadata_keep: float = 0.9
    metadata_enough: float = 0.6
    text_prior: float = 0.15
    text_min_chars: int = 15
    text_keep: float = 0.7
    text_drop: float = 0.1
    audio_keep: float = 0.7
    audio_drop: float = 0.5
    listen: Literal["needed", "always", "never"] = "needed"
    audio: AudioLanguageConfig = field(default_factory=AudioLanguageConfig)
    corpora: dict[str, CorpusEvidence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.languages:
            raise TwistError("language.languages is empty; name at least one, e.g. [en]")
        if unknown := set(self.languages) - ISO_639_1:
            raise TwistError(f"language.languages: {sorted(unknown)} are no ISO 639-1 codes of languages known here")
        _check_thresholds("language", self)
        for corpus in self.corpora:
            _check_thresholds(f"language.corpora.{corpus}", self.of_corpus(corpus))

    def of_corpus(self, corpus: str) -> Rules:
        """The settings for one corpus: its own if given, else the general ones."""
        own = self.corpora.get(corpus, CorpusEvidence())
        rules: dict[str, Any] = {field.name: getattr(own, field.name, None) for field in fields(Rules)}
        for name, value in rules.items():
            if value is None and name != "metadata_trust":
                rules[name] = getattr(self, name)
        return Rules(**rules)


@dataclass(frozen=True)
class Rules:
    """The settings in force for one corpus; see LanguageConfig and CorpusEvidence."""

    languages: tuple[str, ...]
    unknown: Literal["keep", "drop"]
    metadata_trust: float | None
    metadata_keep: float
    metadata_enough: float
    text_prior: float
    text_min_chars: int
    text_keep: float
    text_drop: float
    audio_keep: float
    audio_drop: float
    listen: Literal["needed", "always", "never"]

    def thresholds(self, evidence: Literal["text", "audio"]) -> tuple[float, float]:
        """(keep, drop): probabilities from which text or audio keeps a recording, and below which it drops one."""
        return (self.text_keep, self.text_drop) if evidence == "text" else (self.audio_keep, self.audio_drop)


def _check_thresholds(where: str, config: Any) -> None:
    for name in ("metadata_trust", *(f"{what}_{which}" for what in ("text", "audio") for which in ("keep", "drop"))):
        value = getattr(config, name, None)
        if value is not None and not 0 <= value <= 1:
            raise TwistError(f"{where}.{name} is a probability, not {value}")
    prior = getattr(config, "text_prior", None)
    if prior is not None and not 0 < prior < 1:
        raise TwistError(
            f"{where}.text_prior is a probability above 0 and below 1, not {prior}; a corpus whose language is "
            "certain can state its `language`"
        )
    for name in ("metadata_keep", "metadata_enough"):
        value = getattr(config, name, None)
        if value is not None and not value >= 0:  # above 1: never
            raise TwistError(f"{where}.{name} is a trust from 0 to 1, or more for never, not {value}")
    for what in ("text", "audio"):
        keep, drop = getattr(config, f"{what}_keep"), getattr(config, f"{what}_drop")
        if keep is not None and drop is not None and drop > keep:
            raise TwistError(f"{where}: {what}_drop {drop} must not be above {what}_keep {keep}")
