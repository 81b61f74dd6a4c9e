"""Which benchmarks a run is measured on: their data, and how they are scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from model.lm.sampling_config import SamplingConfig
from model.lm.scoring_config import ScoringConfig
from pipeline.errors import TwistError
from pipeline.files import storage


@dataclass(frozen=True)
class Slm21Config:
    """sWUGGY or sBLIMP of the ZeroSpeech 2021 challenge (sLM21).

    Args:
        folder: The data set: a folder with lexical/ and syntactic/, or slamkit's folder of numbered pairs.
        split: The part to measure on.
        submission: Folder in which to write the scores as ZeroSpeech wants them; none by default.
    """

    folder: str | None = None
    split: Literal["dev", "test"] = "dev"
    submission: str | None = None


@dataclass(frozen=True)
class StoryClozeConfig:
    """Spoken StoryCloze: a story that ends as it should, against one that does not.

    Args:
        spoken: Folder of sSC: pairs with a wrong ending about the same things.
        topic: Folder of tSC: pairs with the ending of another story.
        cross: For models of text and speech: a JSONL file of contexts with a right and a wrong ending, as text, as
            audio, or as both; or slamkit's folder of <name>_mutual.wav, _correct and _incorrect.
    """

    spoken: str | None = None
    topic: str | None = None
    cross: str | None = None


@dataclass(frozen=True)
class FolderConfig:
    """A benchmark that is one folder.

    Args:
        folder: The data set.
    """

    folder: str | None = None


@dataclass(frozen=True)
class PairsConfig:
    """Any pairs of audio files of which the first should be likelier.

    Args:
        source: A folder with positive/ and negative/, of equal file names; or a CSV or TSV with columns positive and
            negative, and perhaps id and group.
        name: What results call it.
    """

    source: str | None = None
    name: str = "pairs"

    def __post_init__(self) -> None:
        _require_file_name("pairs", self.name)


@dataclass(frozen=True)
class MatchingConfig:
    """Which text belongs to which speech, for models of text and speech.

    Args:
        max_items: Take so many of the run's held-out samples with words, spread over all; null: all of them.
    """

    max_items: int | None = 2000

    def __post_init__(self) -> None:
        _require_positive("matching", self, "max_items")


@dataclass(frozen=True)
class ChoicesConfig:
    """Questions in text with several answers to choose from (MMLU's layout), for models of text and speech.

    Args:
        questions: JSONL file: {"question": "...", "choices": ["...", ...], "answer": 2, "subject": "..."} a line.
        examples: The same, of which the first of each subject are shown before its questions: MMLU's dev.
        num_shots: How many are shown.
        name: What results call it.
    """

    questions: str | None = None
    examples: str | None = None
    num_shots: int = 5
    name: str = "choices"

    def __post_init__(self) -> None:
        if self.num_shots < 0:
            raise TwistError(f"evaluation.choices.num_shots is {self.num_shots}; it must be at least 0")
        _require_file_name("choices", self.name)


Condition = Literal["triphone-within", "phoneme-within", "phoneme-any"]


@dataclass(frozen=True)
class UnitsConfig:
    """Units themselves: what they say of phones and of speakers, and how many bits they take.

    Args:
        audio: Folder of audio files.
        alignments: The phones in these: a folder of .TextGrid, .lab or .ctm files, or one file. Names are those of the
            audio.
        tier: The tier of TextGrids that has the phones.
        speakers: Table (.csv or .tsv) with columns file, speaker and gender, or speaker and gender. Without it, the
            folders in `audio` are the speakers.
        items: An .item file of Libri-Light, whose tokens ABX takes in place of those in the alignments.
        items_span: Whether a token in the item file reaches over the phones beside it, as in Libri-Light's, or not.
        conditions: What ABX compares: phones with those beside them or alone; with the same phones beside them or any.
            Empty: no ABX.
        frame_rule: Which frames a token has: all whose middle lies in it, or one less, as Libri-Light's scorer has it.
        features: Whether ABX is also measured on the encoder's features, before they become units.
        max_tokens: Tokens of a phone by a speaker in a context that ABX takes, at most.
        max_x_speakers: Speakers with whom ABX across speakers compares a phone of a speaker in a context, at most.
    """

    audio: str | None = None
    alignments: str | None = None
    tier: str = "phones"
    speakers: str | None = None
    items: str | None = None
    items_span: Literal["triphone", "phoneme"] = "triphone"
    conditions: tuple[Condition, ...] = ("triphone-within", "phoneme-within", "phoneme-any")
    frame_rule: Literal["inclusive", "libri-light"] = "inclusive"
    features: bool = False
    max_tokens: int = 10
    max_x_speakers: int = 5

    def __post_init__(self) -> None:
        if self.max_tokens < 2 or self.max_x_speakers < 1:
            raise TwistError("evaluation.units: ABX needs max_tokens of at least 2, and max_x_speakers of at least 1")
        if self.features and not (self.alignments or self.items):
            raise TwistError("evaluation.units.features are for ABX, which needs `alignments` or `items`")


@dataclass(frozen=True)
class ResynthesisConfig:
    """How many words are lost on the way through units and voice.

    Args:
        asr: Folder of the ASR that hears: a model of transformers, or of faster-whisper (CTranslate2).
        source: The speech and its texts: a corpus in any layout, or a table (.jsonl, .csv, .tsv) with columns audio and
            text, and perhaps speaker. By default the run's recordings in `split`.
        split: The part of it that is taken; audio that is of no split is taken too.
        max_items: Take so many recordings, spread over all; all of them by default.
        durations: Whether units last as long as in the recording, or as the voice predicts.
        vocoder: The voice: a folder, a file or a name; by default that of the run, else the one made for the units.
        wavs: Folder in which to write what was spoken, to listen to; none by default.
    """

    asr: str | None = None
    source: str | None = None
    split: Literal["validation", "test"] = "validation"
    max_items: int | None = None
    durations: Literal["original", "predicted"] = "original"
    vocoder: str | None = None
    wavs: str | None = None

    def __post_init__(self) -> None:
        if self.max_items is not None and self.max_items < 1:
            raise TwistError(f"evaluation.resynthesis.max_items is {self.max_items}; it must be at least 1")
        _require_local("resynthesis", self.wavs)


@dataclass(frozen=True)
class GenerationConfig:
    """How likely and how varied the words are with which a speech LM goes on.

    Args:
        asr: Folder of the ASR that hears: a model of transformers, or of faster-whisper (CTranslate2).
        text_lm: Folder of the text LM whose perplexity is told: any causal LM of transformers.
        source: The speech that prompts are taken from: a corpus in any layout, or a table (.jsonl, .csv, .tsv) with a
            column audio, and perhaps speaker. By default the run's segments in `split`.
        split: The part of it that is taken; audio that is of no split is taken too.
        max_items: Take so many prompts, spread over all; null: all of them.
        min_s: Shorter audio gives no prompt.
        prompt_s: Seconds of it that are the prompt.
        num_continuations: Continuations of each prompt.
        sampling: How they are drawn.
        vocoder: The voice: a folder, a file or a name; by default that of the run, else the one made for the units.
        wavs: Folder in which to write what was spoken, to listen to; none by default.
    """

    asr: str | None = None
    text_lm: str | None = None
    source: str | None = None
    split: Literal["validation", "test"] = "validation"
    max_items: int | None = 1000
    min_s: float = 6.0
    prompt_s: float = 3.0
    num_continuations: int = 1
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    vocoder: str | None = None
    wavs: str | None = None

    def __post_init__(self) -> None:
        if self.max_items is not None and self.max_items < 1:
            raise TwistError(f"evaluation.generation.max_items is {self.max_items}; it must be at least 1, or null")
        if not 0 < self.prompt_s <= self.min_s:
            raise TwistError(
                f"evaluation.generation.prompt_s is {self.prompt_s}; it must be above 0, and at most min_s "
                f"({self.min_s})"
            )
        if self.num_continuations < 1:
            raise TwistError(
                f"evaluation.generation.num_continuations is {self.num_continuations}; it must be at least 1"
            )
        _require_local("generation", self.wavs)


@dataclass(frozen=True)
class AsrConfig:
    """Speech written down by a model of text and speech that is shown how.

    Args:
        source: The speech and its texts: a corpus in any layout, or a table (.jsonl, .csv, .tsv) with columns audio and
            text, and perhaps speaker. By default the run's recordings in `split`.
        split: The part of it that is taken; audio that is of no split is taken too.
        max_items: Take so many recordings, spread over all; all of them by default.
        examples: JSONL to draw examples from, {"audio": "clip.wav", "text": "..."} a line.
        num_shots: Examples that are shown before each clip.
        seed: Of their draw.
        max_new_tokens: Tokens of a transcript, at most.
    """

    source: str | None = None
    split: Literal["validation", "test"] = "validation"
    max_items: int | None = None
    examples: str | None = None
    num_shots: int = 10
    seed: int = 0
    max_new_tokens: int = 100

    def __post_init__(self) -> None:
        _require_positive("asr", self, "max_items", "num_shots", "max_new_tokens")


@dataclass(frozen=True)
class TtsConfig:
    """Texts read aloud by a model of text and speech that is shown how.

    Args:
        source: The texts: a corpus in any layout, or a table (.jsonl, .csv, .tsv) with columns audio and text, and
            perhaps speaker. By default those of the run's recordings in `split`.
        split: The part of it that is taken; what is of no split is taken too.
        max_items: Take so many texts, spread over all; all of them by default.
        examples: JSONL to draw examples from, {"audio": "clip.wav", "text": "..."} a line.
        stop: A recording of the word "stop", which ends each clip that is shown.
        asr: Folder of the ASR that hears: a model of transformers, or of faster-whisper (CTranslate2).
        num_shots: Examples that are shown before each text.
        seed: Of their draw.
        max_new_tokens: Units of a clip, at most.
        sampling: How units are drawn; its lengths and pauses are not looked at.
        vocoder: The voice: a folder, a file or a name; by default that of the run, else the one made for the units.
        wavs: Folder in which to write what was spoken, to listen to; none by default.
    """

    source: str | None = None
    split: Literal["validation", "test"] = "validation"
    max_items: int | None = None
    examples: str | None = None
    stop: str | None = None
    asr: str | None = None
    num_shots: int = 10
    seed: int = 0
    max_new_tokens: int = 300
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    vocoder: str | None = None
    wavs: str | None = None

    def __post_init__(self) -> None:
        _require_positive("tts", self, "max_items", "num_shots", "max_new_tokens")
        _require_local("tts", self.wavs)


@dataclass(frozen=True)
class IntentConfig:
    """Intents named by a model of text and speech that is shown how.

    Args:
        source: JSONL of what is to be classified, {"audio": "clip.wav", "text": "...", "label": "..."} a line.
        examples: The same, to draw examples from, all labels alike.
        modality: Whether clips are classified, or texts.
        num_shots: Examples that are shown before each.
        seed: Of their draw.
        max_new_tokens: Tokens of an answer, at most.
    """

    source: str | None = None
    examples: str | None = None
    modality: Literal["speech", "text"] = "speech"
    num_shots: int = 30
    seed: int = 0
    max_new_tokens: int = 20

    def __post_init__(self) -> None:
        _require_positive("intent", self, "num_shots", "max_new_tokens")


@dataclass(frozen=True)
class StspConfig:
    """Whether a model of text and speech goes on in the mood of its prompt (STSP: Speech-Text Sentiment Preservation).

    Args:
        folder: The data set: a folder with manifest/, data/ and perhaps model/, as its archive has them.
        directions: What is measured, a result each: t2t, t2s, s2s, s2t (text or speech, to text or speech).
        shots: Examples that are shown before each prompt, as many of each sentiment; 0: none.
        split: The part of the data set to measure on: train, dev or test.
        text_sets: The sets whose transcripts are prompts; by default those whose names end with `_asr`, as published.
        speech_sets: The sets whose recordings are prompts; by default all others.
        max_items: Take so many prompts of each set, spread over all; null: all of them.
        text_classifier: Folder of what tells the sentiment of texts: any model of transformers that classifies
            sequences. By default FOLDER/model/text_classifier.
        speech_classifier: The same for speech. By default FOLDER/model/speech_classifier.
        labels: The sentiment that a classifier's label means (positive, neutral or negative), where its name does not
            say.
        num_runs: Runs, of which the mean is told, each with a seed and examples of its own.
        num_tries: How often an answer is drawn, at most, until there is any text or unit in it.
        max_new_text_tokens: Tokens of an answer in text, at most.
        max_new_speech_tokens: Tokens of an answer in speech, at most.
        sampling: How answers are drawn; its lengths and pauses are for units alone, and not looked at here.
        batch_size: Answers that are written at once.
        vocoder: The voice: a folder, a file or a name; by default that of the run, else the one made for the units.
        predictions: Folder in which to write the predictions as the benchmark's own scorer takes them; none by default.
        wavs: Folder in which to write what was spoken, to listen to; none by default.
    """

    folder: str | None = None
    directions: tuple[Literal["t2t", "t2s", "s2s", "s2t"], ...] = ("t2t", "t2s", "s2s", "s2t")
    shots: int = 0
    split: Literal["train", "dev", "test"] = "test"
    text_sets: tuple[str, ...] | None = None
    speech_sets: tuple[str, ...] | None = None
    max_items: int | None = None
    text_classifier: str | None = None
    speech_classifier: str | None = None
    labels: dict[str, Literal["positive", "neutral", "negative"]] = field(default_factory=dict)
    num_runs: int = 3
    num_tries: int = 3
    max_new_text_tokens: int = 50
    max_new_speech_tokens: int = 300
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(top_p=0.95))
    batch_size: int = 32
    vocoder: str | None = None
    predictions: str | None = None
    wavs: str | None = None

    def __post_init__(self) -> None:
        at_least = {"shots": 0, "num_runs": 1, "num_tries": 1, "batch_size": 1}
        at_least |= {"max_new_text_tokens": 1, "max_new_speech_tokens": 1}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise TwistError(f"evaluation.stsp.{name} is {getattr(self, name)}; it must be at least {least}")
        if self.max_items is not None and self.max_items < 1:
            raise TwistError(f"evaluation.stsp.max_items is {self.max_items}; it must be at least 1, or null")
        for name in ("directions", "text_sets", "speech_sets"):
            if getattr(self, name) is not None and not getattr(self, name):
                raise TwistError(f"evaluation.stsp.{name} is empty; name one at least, or leave it out")
        _require_local("stsp", self.wavs)


@dataclass(frozen=True)
class ProsodyConfig:
    """How much of the melody, loudness and pace of recordings is in what voices say from their units.

    Args:
        source: The speech: a corpus in any layout, or a table (.jsonl, .csv, .tsv) with a column audio, and perhaps
            speaker. By default the run's segments in `split`.
        split: The part of it that is taken; audio that is of no split is taken too.
        max_items: Take so many recordings, spread over all; null: all of them.
        voices: The voices by a name for each: a folder, a file or a name; those behind the first are compared with it.
            By default that of the run, else the one made for the units.
        pitch_model: The model of pitch of the voices that take its codes: a folder, or an embedded one's name.
        style_model: That of style, likewise.
        durations: Whether units last as long as in the recording, or as the voice predicts.
        wavs: Folder in which to write what was spoken, a folder a voice; none by default.
    """

    source: str | None = None
    split: Literal["validation", "test"] = "validation"
    max_items: int | None = 200
    voices: dict[str, str] = field(default_factory=dict)
    pitch_model: str | None = None
    style_model: str | None = None
    durations: Literal["original", "predicted"] = "original"
    wavs: str | None = None

    def __post_init__(self) -> None:
        if self.max_items is not None and self.max_items < 1:
            raise TwistError(f"evaluation.prosody.max_items is {self.max_items}; it must be at least 1, or null")
        _require_local("prosody", self.wavs)


def _require_positive(benchmark: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise TwistError(f"evaluation.{benchmark}.{name} is {value}; it must be at least 1")


def _require_file_name(benchmark: str, name: str) -> None:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise TwistError(f"evaluation.{benchmark}.name names a file: letters, digits, - and _, not {name!r}")


def _require_local(benchmark: str, wavs: str | None) -> None:
    if wavs is not None and storage.is_s3(wavs):
        raise TwistError(f"evaluation.{benchmark}.wavs is {wavs}; it must be a folder on this machine")


@dataclass(frozen=True)
class EvaluationConfig:
    """What to measure a speech LM and its units on, and how.

    Args:
        swuggy: Words against non-words.
        sblimp: Grammatical sentences against others.
        storycloze: Stories against stories with another ending.
        salmon: Acoustic consistency and alignment.
        pairs: Pairs of your own.
        matching: Which text belongs to which speech.
        choices: Questions in text with several answers.
        units: The units alone.
        resynthesis: Word error rate of speech that is spoken again from its units.
        asr: Word error rate of speech that a model of text and speech writes down.
        tts: Word and letter error rate of texts that it reads aloud.
        intent: Intents that it names.
        generation: What a text LM makes of the words of continuations, and how they repeat themselves.
        stsp: Whether the mood of a prompt is kept.
        prosody: What of the prosody of recordings is in what voices say again.
        scoring: What of a sequence is scored.
    """

    swuggy: Slm21Config = field(default_factory=Slm21Config)
    sblimp: Slm21Config = field(default_factory=Slm21Config)
    storycloze: StoryClozeConfig = field(default_factory=StoryClozeConfig)
    salmon: FolderConfig = field(default_factory=FolderConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    choices: ChoicesConfig = field(default_factory=ChoicesConfig)
    units: UnitsConfig = field(default_factory=UnitsConfig)
    resynthesis: ResynthesisConfig = field(default_factory=ResynthesisConfig)
    asr: AsrConfig = field(default_factory=AsrConfig)
    tts: TtsConfig = field(default_factory=TtsConfig)
    intent: IntentConfig = field(default_factory=IntentConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    stsp: StspConfig = field(default_factory=StspConfig)
    prosody: ProsodyConfig = field(default_factory=ProsodyConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
