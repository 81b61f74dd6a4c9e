"""Settings of the synthetic corpora: how much speech to make, and in which voices."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import TwistError


@dataclass(frozen=True)
class Voice:
    """A speaker: an espeak-ng voice, its rate and its pitch."""

    speaker: str
    language: str
    espeak_voice: str
    words_per_minute: int
    pitch: int


# The first one reads the long recording, the others take turns.
ENGLISH_VOICES = (
    Voice("agnes", "en", "en-gb-x-rp+f2", 160, 50),
    Voice("barnaby", "en", "en-us+m1", 165, 40),
    Voice("colleen", "en", "en-gb-scotland+f3", 175, 60),
    Voice("desmond", "en", "en-029+m7", 170, 45),
    Voice("evelyn", "en", "en-us+f1", 150, 75),
    Voice("fergus", "en", "en-gb-scotland+m2", 145, 30),
    Voice("gloria", "en", "en-us-nyc+f5", 185, 55),
    Voice("howard", "en", "en-gb-x-gbcwmd+m3", 155, 65),
    Voice("imogen", "en", "en+f4", 165, 35),
    Voice("jerome", "en", "en-us-nyc+m4", 180, 20),
    Voice("kezia", "en", "en-029+f2", 160, 80),
    Voice("leopold", "en", "en-gb-x-gbclan+m6", 140, 50),
)
OTHER_VOICES = (
    Voice("matthias", "de", "de+m3", 155, 45),
    Voice("noemie", "fr", "fr+f2", 160, 55),
    Voice("octavio", "es", "es+m1", 165, 50),
)


@dataclass(frozen=True)
class DemoCorpusConfig:
    """Size of the demo corpus.

    Args:
        minutes: Length of all recordings together, in minutes; a very short corpus runs over, since each voice
            speaks for at least 5 s.
        num_english_voices: Number of English speakers, 2 to 12.
        seed: Chooses sentences, lengths and pauses.
    """

    minutes: float = 40.0
    num_english_voices: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.minutes < math.inf:
            raise TwistError(f"minutes is at least 1 and finite, not {self.minutes}")
        if not 2 <= self.num_english_voices <= len(ENGLISH_VOICES):
            raise TwistError(f"num_english_voices is 2 to {len(ENGLISH_VOICES)}, not {self.num_english_voices}")


@dataclass(frozen=True)
class DemoTextConfig:
    """Size of the demo's text.

    Args:
        num_paragraphs: Paragraphs, of 5 to 9 sentences each.
        num_tokens: Tokens of the tokenizer, 256 bytes and the end of a text among them.
        seed: Chooses the sentences; the demo's speech has that of seed 0.
    """

    num_paragraphs: int = 600
    num_tokens: int = 1024
    seed: int = 1

    def __post_init__(self) -> None:
        if self.num_paragraphs < 1:
            raise TwistError(f"num_paragraphs is at least 1, not {self.num_paragraphs}")
        if self.num_tokens <= 256:
            raise TwistError(f"num_tokens is at least 257, the bytes and the end of a text; not {self.num_tokens}")


@dataclass(frozen=True)
class VoicesConfig:
    """Size of the corpus of many voices.

    Args:
        hours: Length of all training recordings together, in hours.
        test_sentences: Sentences that every test speaker says.
        seed: Chooses voices, sentences, rooms and noise.
    """

    hours: float = 12.0
    test_sentences: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.hours < math.inf:
            raise TwistError(f"hours is above 0 and finite, not {self.hours}")
        if not 2 <= self.test_sentences <= 200:
            raise TwistError(f"test_sentences is 2 to 200, not {self.test_sentences}")


@dataclass(frozen=True)
class LanguagesConfig:
    """Size of the corpus of many languages.

    Args:
        minutes: Length of each language but English, in minutes; the last recording runs over.
        english_minutes: Length of English.
        seed: Chooses voices, sentences and pauses.
    """

    minutes: float = 5.0
    english_minutes: float = 75.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("minutes", "english_minutes"):
            if not 0 < getattr(self, name) < math.inf:
                raise TwistError(f"{name} is above 0 and finite, not {getattr(self, name)}")


@dataclass(frozen=True)
class VoiceConfig:
    """Voice and size of the corpus of one voice.

    Args:
        minutes: Length of all recordings together, in minutes; the last one runs over.
        voice: espeak-ng's name of the voice.
        words_per_minute: Speaking rate.
        pitch: Pitch of the voice, 0 to 99.
        seed: Chooses sentences and pauses.
    """

    minutes: float = 60.0
    voice: str = "en-us+f2"
    words_per_minute: int = 150
    pitch: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise TwistError(f"minutes is above 0 and finite, not {self.minutes}")


@dataclass(frozen=True)
class PrimerConfig:
    """Voice and size of the primer.

    Args:
        num_sentences: Sentences, of 5 to 10 words each, no two alike; at most 20,000.
        voice: espeak-ng's name of the voice.
        words_per_minute: Speaking rate.
        seed: Chooses the sentences.
    """

    num_sentences: int = 1500
    voice: str = "en-us+f2"
    words_per_minute: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_sentences <= 20_000:
            raise TwistError(f"num_sentences is 1 to 20000, not {self.num_sentences}")


@dataclass(frozen=True)
class PrimerTextConfig:
    """Size of the primer's text.

    Args:
        num_sentences: Sentences, one a line; at most 20,000.
        num_tokens: Tokens of the tokenizer, 256 bytes and the end of a text among them.
        seed: Chooses the sentences; the speech has those of seed 0.
    """

    num_sentences: int = 3000
    num_tokens: int = 512
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.num_sentences <= 20_000:
            raise TwistError(f"num_sentences is 1 to 20000, not {self.num_sentences}")
        if self.num_tokens <= 256:
            raise TwistError(f"num_tokens is at least 257, the bytes and the end of a text; not {self.num_tokens}")


@dataclass(frozen=True)
class MiniBenchmarkConfig:
    """Size of the small benchmark.

    Args:
        num_words: Pairs of a word and a non-word, each in every voice.
        num_sentences: Pairs of a sentence and one that breaks a rule, each in every voice.
        num_stories: Stories, in one voice.
        num_voices: Number of voices, 1 to 11.
        seed: Chooses words, sentences, names and the endings of other stories.
        piper: Path of a voice of Piper (NAME.onnx, beside NAME.onnx.json) that says all, in place of espeak-ng's
            voices; num_voices is 1 then.
    """

    num_words: int = 60
    num_sentences: int = 60
    num_stories: int = 24
    num_voices: int = 2
    seed: int = 0
    piper: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_words", "num_sentences", "num_stories"):
            if not 2 <= getattr(self, name) <= 1000:
                raise TwistError(f"{name} is 2 to 1000, not {getattr(self, name)}")
        if not 1 <= self.num_voices < len(ENGLISH_VOICES):
            raise TwistError(f"num_voices is 1 to {len(ENGLISH_VOICES) - 1}, not {self.num_voices}")
        if self.piper is not None and self.num_voices != 1:
            raise TwistError(f"piper is one voice: give num_voices 1, not {self.num_voices}")


@dataclass(frozen=True)
class MiniStspConfig:
    """Size of the small benchmark of moods.

    Args:
        num_prompts: Prompts of each emotion, happy, sad and neutral, in either of the two sets.
        num_train: Clips with texts of each emotion in the split `train`, of which some are the examples of few shots.
        num_voices: Number of voices, 1 to 11; each has prompts in every emotion.
        seed: Chooses sentences and names.
    """

    num_prompts: int = 20
    num_train: int = 40
    num_voices: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_train"):
            if not 1 <= getattr(self, name) <= 500:
                raise TwistError(f"{name} is 1 to 500, not {getattr(self, name)}")
        if not 1 <= self.num_voices < len(ENGLISH_VOICES):
            raise TwistError(f"num_voices is 1 to {len(ENGLISH_VOICES) - 1}, not {self.num_voices}")


@dataclass(frozen=True)
class StoriesConfig:
    """Stories to speak as Spoken StoryCloze.

    Args:
        stories: The stories: a CSV, TSV or JSONL file with StoryCloze's columns.
        voice: espeak-ng's name of the voice, or the path of a voice of Piper (NAME.onnx, beside NAME.onnx.json).
        words_per_minute: Speaking rate; a voice of Piper speaks about so fast.
        seed: Chooses the endings of other stories for tSC.
    """

    stories: str
    voice: str = "en-us+f2"
    words_per_minute: int = 160
    seed: int = 0
