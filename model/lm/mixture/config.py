"""Which kinds of sequences a speech LM is trained on, in which shares, and how speech and text alternate."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Literal

from pipeline.errors import TwistError

SPEECH = "speech"
TEXT = "text"
INTERLEAVED = "interleaved"
SPEECH_TEXT = "speech_text"
TEXT_SPEECH = "text_speech"
KINDS = (SPEECH, TEXT, INTERLEAVED, SPEECH_TEXT, TEXT_SPEECH)
# Made of samples that have words.
ALIGNED_KINDS = (INTERLEAVED, SPEECH_TEXT, TEXT_SPEECH)


@dataclass(frozen=True)
class MixtureConfig:
    """Shares of the tokens that are trained on, by kind of sequence; only their ratios count.

    SpiRit-LM takes a third each of speech, text and interleaved (section 3.3); its ablations leave kinds out, or add
    pairs (section 4.1).

    Args:
        speech: [SPEECH] and the units of a sample.
        text: [TEXT] and the tokens of a document.
        interleaved: A sample with words, in turn as text and as speech; see `train.spans`.
        speech_text: [SPEECH], a sample's units, [TEXT], its text: transcription.
        text_speech: [TEXT], a sample's text, [SPEECH], its units: reading aloud.
    """

    speech: float = 0.0
    text: float = 0.0
    interleaved: float = 0.0
    speech_text: float = 0.0
    text_speech: float = 0.0

    def __post_init__(self) -> None:
        for kind, weight in asdict(self).items():
            if not 0 <= weight < math.inf:
                raise TwistError(f"train.mixture.{kind} is {weight}; it must be at least 0")
        if not self.kinds:
            raise TwistError(f"train.mixture gives no kind a weight above 0; the kinds are {', '.join(KINDS)}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that have a share, in the order of KINDS."""
        return tuple(kind for kind in KINDS if getattr(self, kind) > 0)


Rule = Literal["alternate", "random", "span", "poisson"]
# The settings that each rule reads.
READ_BY = {
    "alternate": {"text_words", "speech_words"},
    "random": {"probability"},
    "span": {"probability", "span_words"},
    "poisson": {"span_words", "speech_share"},
}


@dataclass(frozen=True)
class SpanConfig:
    """How the words of an interleaved sample are divided into spans of text and of speech.

    `alternate` is SpiRit-LM's (appendix A; which comes first is a fair coin's choice here, and a sample of two or more
    words has both). The others are slamkit's.

    Args:
        rule: alternate: spans of text and of speech in turn, each of a length drawn evenly from a range. random: each
            word is speech with a `probability`. span: each word begins with a `probability` a span of speech of
            `span_words`, which one that begins meanwhile makes longer. poisson: spans of speech of `span_words` on
            average, at random places, until a `speech_share` of the words is speech.
        text_words: Shortest and longest span of text.
        speech_words: Shortest and longest span of speech.
        probability: See the rules.
        span_words: See the rules.
        speech_share: See the rules.
    """

    rule: Rule = "alternate"
    text_words: tuple[int, int] = (10, 30)
    speech_words: tuple[int, int] = (5, 15)
    probability: float = 0.5
    span_words: int = 10
    speech_share: float = 0.3

    def __post_init__(self) -> None:
        if self.rule not in READ_BY:
            raise TwistError(f"train.spans.rule is {self.rule!r}; it must be one of {', '.join(READ_BY)}")
        for name in ("text_words", "speech_words"):
            shortest, longest = getattr(self, name)
            if not 1 <= shortest <= longest:
                raise TwistError(f"train.spans.{name} is {[shortest, longest]}; it must be 1 or more, and rising")
        for name in ("probability", "speech_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise TwistError(f"train.spans.{name} is {getattr(self, name)}; it must be from 0 to 1")
        if self.span_words < 1:
            raise TwistError(f"train.spans.span_words is {self.span_words}; it must be at least 1")
        for field in fields(self):
            is_read = field.name == "rule" or field.name in READ_BY[self.rule]
            if not is_read and getattr(self, field.name) != field.default:
                raise TwistError(f"train.spans.{field.name} means nothing to the rule {self.rule}; leave it out")
