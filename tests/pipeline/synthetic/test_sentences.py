from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from pipeline.synthetic.sentences import ENDINGS, HE, MEN, MIDDLES, OPENINGS, PHRASES, SENTENCES, SHE, WOMEN, paragraphs


def _sentences(language: str, num_paragraphs: int, seed: int = 0) -> list[str]:
    return [
        sentence for lines in islice(paragraphs(language, random.Random(seed)), num_paragraphs) for sentence in lines
    ]


@pytest.mark.parametrize("language", ["en", *SENTENCES])
def test_a_seed_chooses_the_sentences(language: str) -> None:
    assert _sentences(language, 5, seed=1) == _sentences(language, 5, seed=1), "the same seed gave other sentences"
    assert _sentences(language, 5, seed=1) != _sentences(language, 5, seed=2), "another seed gave the same sentences"


def test_english_sentences_are_well_formed_and_never_repeated() -> None:
    sentences = _sentences("en", 1000)
    assert len(set(sentences)) == len(sentences), "an English sentence came twice"
    for sentence in sentences:
        assert re.fullmatch(r"[A-Z][A-Za-z ,:']+[.?]", sentence), f"not a plain sentence: {sentence!r}"
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiouh]|  ", sentence), (
            f"wrong article or spacing: {sentence!r}"
        )


def test_english_vocabulary_is_rich() -> None:
    words = {word for sentence in _sentences("en", 1000) for word in re.findall(r"[a-z']+", sentence.lower())}
    assert len(words) > 800, f"only {len(words)} different words"


@pytest.mark.parametrize("pronouns", [SHE, HE])
def test_every_slot_can_be_filled_and_every_phrase_is_used(pronouns: dict[str, str]) -> None:
    templates = [*OPENINGS, *MIDDLES, *ENDINGS, *(phrase for phrases in PHRASES.values() for phrase in phrases)]
    slots = {slot for template in templates for slot in re.findall(r"\{(.*?)\}", template)}
    assert slots == {"hero", *pronouns, *PHRASES}, "templates and phrases do not name the same slots"


@pytest.mark.parametrize("phrases", [OPENINGS, MIDDLES, ENDINGS, WOMEN, MEN, *PHRASES.values(), *SENTENCES.values()])
def test_no_phrase_is_listed_twice(phrases: tuple[str, ...]) -> None:
    assert len(set(phrases)) == len(phrases)


@pytest.mark.parametrize("language", SENTENCES)
def test_other_languages_say_everything_before_they_repeat(language: str) -> None:
    total = len(SENTENCES[language])
    assert total >= 25
    sentences = _sentences(language, 20)
    assert set(sentences[:total]) == set(SENTENCES[language]), "a sentence was repeated before all were said"
    assert set(sentences[total : 2 * total]) == set(SENTENCES[language]), "the second round lacks sentences"
