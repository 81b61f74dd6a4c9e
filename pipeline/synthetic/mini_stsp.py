"""A small STSP of our own making: happy, sad and neutral sentences, and a voice that is higher and faster, or lower and
slower, or as always.

    FOLDER/manifest/mini/mini_asr.{train,test}.jsonl     written prompts: id, wav_path, asr, emotion, sentiment, ...
    FOLDER/manifest/mini/mini_read.{train,test}.jsonl    spoken prompts: the same without asr; what is said is neutral
    FOLDER/manifest/few_shot/{t2t,t2s,s2s,s2t}.jsonl     examples, of mini_asr's train split
    FOLDER/data/mini/<speaker>/<set>-<emotion>-<number>.wav
    FOLDER/benchmark.json                                the settings it was made with

Spoken prompts have words without a mood, so that only the voice tells it. Figures on it compare models of one demo with
each other, and with chance (a third); not with those that papers print.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import soundfile

from pipeline.synthetic.benchmark_folder import make_benchmark
from pipeline.synthetic.config import ENGLISH_VOICES, MiniStspConfig, Voice
from pipeline.synthetic.espeak import MAX_PITCH, synthesize
from pipeline.synthetic.sentences import MEN, WOMEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pipeline.progress import ReportProgress

# Raise it when the same settings start to give other bytes.
EDITION = 1


@dataclass(frozen=True)
class Mood:
    """An emotion: its sentiment, and how a voice shows it."""

    emotion: str
    sentiment: str
    pitch_change: int
    rate: float

    def voice(self, voice: Voice) -> Voice:
        """The voice in this mood."""
        pitch = min(max(voice.pitch + self.pitch_change, 0), MAX_PITCH)
        return replace(voice, pitch=pitch, words_per_minute=round(voice.words_per_minute * self.rate))


MOODS = (Mood("happy", "positive", 30, 1.25), Mood("neutral", "neutral", 0, 1.0), Mood("sad", "negative", -30, 0.75))

# {hero} is a name, {day} and {place} as below. Cut in half, either half has its mood.
SENTENCES = {
    "happy": (
        "{hero} was so glad on {day} that the whole family laughed, and it was a wonderful evening.",
        "What a lovely surprise on {day}, said {hero}, this is the best present that I ever had.",
        "It is great that you came {place}, we had so much fun and everybody loved it.",
        "{hero} smiled all {day} because the good news made everyone {place} happy and proud.",
        "I love the beautiful garden {place}, and {hero} is delighted with the sunny weather.",
        "We won, we won, cried {hero} on {day}, and the children danced with joy {place}.",
    ),
    "neutral": (
        "{hero} took the bus on {day} and then walked for ten minutes to the office {place}.",
        "The shop {place} opens at nine on {day}, and {hero} has the key to the door.",
        "{hero} put the box on the table {place} and wrote the number on a piece of paper.",
        "On {day} the train stops {place} at noon, and it leaves again after seven minutes.",
        "{hero} has a meeting {place} on {day}, and the list of names is in the second drawer.",
        "There are three chairs and a desk {place}, and {hero} measured the room on {day}.",
    ),
    "sad": (
        "{hero} cried on {day} because the old dog had died, and it was a terrible loss.",
        "I am so sorry, said {hero}, the awful accident {place} ruined everything that we had.",
        "{hero} was lonely {place} and missed the dead friend, and nobody came to help on {day}.",
        "It was a horrible {day}, they lost the house {place} and the pain would not end.",
        "Nothing is good any more, said {hero}, I failed again and I hate this sad place.",
        "The bad news came on {day}, and {hero} wept {place} with a broken heart.",
    ),
}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES = ("by the river", "at the station", "in the village", "near the church", "behind the school", "on the hill")


def write_mini_stsp(folder: Path, config: MiniStspConfig, report: ReportProgress) -> None:
    """Makes the benchmark in `folder`, unless it is there already; one configuration always gives the same bytes.

    Raises:
        TwistError: the folder holds something else, or a benchmark of other settings.
    """
    settings = {**asdict(config), "edition": EDITION}
    make_benchmark(folder, settings, lambda partial: _write(partial, config, report))


def sentences(rng: random.Random, emotion: str, count: int) -> list[str]:
    """Sentences of an emotion, all templates in turn, each another as long as there are others."""
    made: dict[str, None] = {}
    tries = 0
    while len(made) < count:
        slots = {"hero": rng.choice(WOMEN + MEN), "day": rng.choice(DAYS), "place": rng.choice(PLACES)}
        made[SENTENCES[emotion][tries % len(SENTENCES[emotion])].format(**slots)] = None
        tries += 1
    return list(made)


def _write(folder: Path, config: MiniStspConfig, report: ReportProgress) -> None:
    rng = random.Random(config.seed)
    voices = ENGLISH_VOICES[1 : 1 + config.num_voices]
    number, total = 0, 2 * len(MOODS) * (config.num_prompts + config.num_train)
    of_mood = config.num_train + config.num_prompts
    for set_name in ("mini_asr", "mini_read"):
        rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
        # Drawn at once, so that no sentence is in both splits.
        without_mood = sentences(rng, "neutral", len(MOODS) * of_mood)
        for number_of_mood, mood in enumerate(MOODS):
            said = without_mood[number_of_mood :: len(MOODS)]
            if set_name == "mini_asr":
                said = sentences(rng, mood.emotion, of_mood)
            for place, text in enumerate(said):
                split = "train" if place < config.num_train else "test"
                voice = voices[place % len(voices)]
                path = f"data/mini/{voice.speaker}/{set_name}-{mood.emotion}-{place:04d}.wav"
                _speak(folder / path, text, mood.voice(voice))
                number += 1
                row = {"id": number, "wav_path": path, "emotion": mood.emotion, "sentiment": mood.sentiment}
                row |= {"speaker": voice.speaker, "split": split}
                rows[split].append(row | ({"asr": text} if set_name == "mini_asr" else {}))
                report(number, total, "clips")
        for split, of_split in rows.items():
            _write_lines(folder / "manifest" / "mini" / f"{set_name}.{split}.jsonl", of_split)
        if set_name == "mini_asr":
            _write_shots(folder / "manifest" / "few_shot", rows["train"])


def _write_shots(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Examples of each direction: a clip's name stands for the half that its place in the example means."""
    for direction in ("t2t", "t2s", "s2s", "s2t"):
        lines = []
        for row in rows:
            words = row["asr"].split()
            halves = [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])]
            contents = [
                half if modality == "t" else row["wav_path"]
                for modality, half in zip(direction[::2], halves, strict=True)
            ]
            lines.append({"prompt": contents[0], "generation": contents[1], "sentiment": row["sentiment"]})
        _write_lines(folder / f"{direction}.jsonl", lines)


def _speak(path: Path, text: str, voice: Voice) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wav, rate_hz = synthesize(text, voice.espeak_voice, words_per_minute=voice.words_per_minute, pitch=voice.pitch)
    soundfile.write(path, wav, rate_hz)


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
