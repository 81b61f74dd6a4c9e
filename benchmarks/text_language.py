"""How often text alone tells the language of a sentence, by its length, for 12 languages.

    python benchmarks/text_language.py [--calibration] [--quick] [--json]

Sentences are those of chatterbot-corpus (dialogues and trivia, with names, titles and formulas in them), each once.
language.text_prior, text_keep, text_drop and text_min_chars were chosen on one half of them, which --calibration
measures, after first tries on all; figures are of the other half. Each language is the wanted one in turn, with the
default settings:

    recall            share of its sentences that are kept
    no_evidence       share of its sentences that text does not judge: another kind of evidence decides
    wrongly_dropped   share of its sentences that are dropped as another language
    others_kept       share of the sentences of all other languages that are kept
    precision         recall / (recall + others_kept): what is kept, were half of the texts in that language

`chars` are those of a whole sentence, from one bound up to the next; so are `words`, in languages that have spaces
between them. Romanized sentences (Hinglish, and what anyascii makes of other scripts) are measured for English.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.resources
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from pipeline.language.config import LanguageConfig
from pipeline.language.decide import decide
from pipeline.records import Recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipeline.records import LanguageDecision

LANGUAGES = {
    "english": "en", "german": "de", "dutch": "nl", "french": "fr", "spanish": "es", "italian": "it",
    "portuguese": "pt", "turkish": "tr", "ukrainian": "uk", "persian": "fa", "japanese": "ja", "korean": "ko",
}  # fmt: skip
OTHER_SCRIPTS = {"uk", "fa", "ja", "ko"}  # what is all ASCII in their files is not in these languages
WITHOUT_SPACES = {"ja"}
ROMANIZED = ("hindi", "bengali", "russian", "ukrainian", "korean")
FROM_CHARS = (1, 10, 15, 20, 30, 45, 70, 110)
FROM_WORDS = (1, 2, 3, 4, 6, 9, 13)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", action="store_true", help="the half on which settings were chosen")
    parser.add_argument("--quick", action="store_true", help="a fifth of the sentences: seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    result = measure(is_calibration=arguments.calibration, one_in=5 if arguments.quick else 1)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in {**result["figures"], **result["ratios"]}.items():
        print(f"{name:40} {value:.6g}")


@dataclass(frozen=True)
class Judged:
    """A sentence and the decision on it, with one language wanted."""

    text: str
    language: str
    decision: LanguageDecision


def measure(*, is_calibration: bool, one_in: int) -> dict[str, Any]:
    def chosen(texts: Iterable[str]) -> list[str]:
        return [text for text in texts if is_for_calibration(text) == is_calibration][::one_in]

    sentences = {code: chosen(sentences_of(name, code)) for name, code in LANGUAGES.items()}
    figures: dict[str, float] = {f"{code}_sentences": len(texts) for code, texts in sentences.items()}
    for wanted in LANGUAGES.values():
        judged = [one for code, texts in sentences.items() for one in judge(texts, code, wanted)]
        figures |= shares(f"{wanted}_from_20_chars", wanted, [one for one in judged if len(one.text) >= 20])
        for bound, group in groups(judged, FROM_CHARS, lambda one: len(one.text)):
            figures |= shares(f"{wanted}_chars_{bound}", wanted, group)
        spaced = [one for one in judged if one.language not in WITHOUT_SPACES]
        if wanted not in WITHOUT_SPACES:
            for bound, group in groups(spaced, FROM_WORDS, lambda one: len(one.text.split())):
                figures |= shares(f"{wanted}_words_{bound}", wanted, group)
    romanized = list(judge(chosen(romanized_sentences()), "romanized", "en"))
    hinglish = list(judge(chosen(sentences_of("hinglish", "hinglish")), "hinglish", "en"))
    figures |= {"romanized_sentences": len(romanized), "hinglish_sentences": len(hinglish)}
    return {
        "ratios": {
            "english_recall": figures["en_from_20_chars_recall"],
            "english_recall_20_to_29_chars": figures["en_chars_20_recall"],
            "others_kept": figures["en_from_20_chars_others_kept"],
            "romanized_kept": kept_share(romanized),
            "hinglish_kept": kept_share(hinglish),
        },
        "figures": figures,
        "machine": machine(**{name: importlib.metadata.version(name) for name in ("py3langid", "chatterbot-corpus")}),
    }


def sentences_of(name: str, code: str) -> list[str]:
    """The different sentences in the files of a language."""
    folder = importlib.resources.files("chatterbot_corpus") / "data" / name
    texts: dict[str, None] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        for dialogue in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            lines = dialogue if isinstance(dialogue, list) else [dialogue]
            texts |= dict.fromkeys(line.strip() for line in lines if isinstance(line, str))
    return [text for text in texts if not (code in OTHER_SCRIPTS and text.isascii())]


def romanized_sentences() -> Iterator[str]:
    from anyascii import anyascii

    for name in ROMANIZED:
        for text in sentences_of(name, ""):
            if not text.isascii():
                yield anyascii(text).lower()  # it writes syllables of some scripts with capitals


def is_for_calibration(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 0


def judge(texts: Iterable[str], language: str, wanted: str) -> Iterator[Judged]:
    config = LanguageConfig(languages=(wanted,))
    for text in texts:
        recording = Recording("corpus/recording", "corpus", "recording.wav", 3.0, 16_000, 1, text=text)
        yield Judged(text, language, decide(recording, config))


def groups(
    judged: Iterable[Judged], bounds: tuple[int, ...], size: Callable[[Judged], int]
) -> Iterator[tuple[int, list[Judged]]]:
    """Yields each bound with the sentences from it up to the next one."""
    by_bound: dict[int, list[Judged]] = {bound: [] for bound in bounds}
    for one in judged:
        by_bound[max(bound for bound in bounds if bound <= max(size(one), bounds[0]))].append(one)
    yield from by_bound.items()


def shares(name: str, wanted: str, judged: Iterable[Judged]) -> dict[str, float]:
    own = [one for one in judged if one.language == wanted]
    if not own:
        return {}
    recall = kept_share(own)
    others_kept = kept_share([one for one in judged if one.language != wanted])
    figures = {
        "sentences": float(len(own)),
        "recall": recall,
        "no_evidence": sum(one.decision.evidence == "none" for one in own) / len(own),
        "wrongly_dropped": sum(one.decision.reason == "other_language" for one in own) / len(own),
        "others_kept": others_kept,
    }
    if recall:
        figures["precision"] = recall / (recall + others_kept)
    return {f"{name}_{what}": value for what, value in figures.items()}


def kept_share(judged: list[Judged]) -> float:
    return sum(one.decision.keep for one in judged) / max(1, len(judged))


if __name__ == "__main__":
    main()
