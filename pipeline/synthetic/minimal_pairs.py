"""Pairs to test a speech LM on, written for this: words against non-words, sentences against ungrammatical ones.

Every text is drawn from templates by a seeded generator. They are small and say little about a language; what they are
for is to try an evaluation from end to end, and to see whether a small model has learned anything at all.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.errors import TwistError
from pipeline.synthetic.sentences import MEN, WOMEN, paragraphs

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

# Paragraphs whose words are counted: what the demo says, and how often.
NUM_PARAGRAPHS = 400
MIN_LETTERS = 5
# Draws of a rule without a new sentence after which it is used up.
MOST_DRAWS = 10_000
VOWELS = ("a", "e", "i", "o", "u", "ee", "oo", "ai", "ou")
ONSETS = (
    "b",
    "bl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "k",
    "kl",
    "m",
    "n",
    "p",
    "pl",
    "pr",
    "s",
    "sl",
    "st",
    "t",
    "tr",
    "v",
)
_WORD = re.compile(r"[a-z]+")
_PARTS = re.compile(r"[aeiou]+|[^aeiou]+")


@dataclass(frozen=True)
class WordPair:
    """A word, how often the demo's speech says it, and a non-word that differs in one sound or two."""

    word: str
    frequency: int
    non_word: str


@dataclass(frozen=True)
class SentencePair:
    """A sentence and one that breaks a rule; `type` is the kind of rule, `subtype` the rule."""

    type: str
    subtype: str
    good: str
    bad: str


def word_pairs(rng: random.Random, num_pairs: int) -> list[WordPair]:
    """Words that the demo's speech says, each with a non-word that is none of them."""
    counts: Counter[str] = Counter()
    for paragraph in islice(paragraphs("en", rng), NUM_PARAGRAPHS):
        for sentence in paragraph:
            # Names are no words to be told from non-words.
            counts.update(_WORD.findall(sentence[0].lower() + sentence[1:]))
    known = set(counts)
    words = sorted(word for word in known if len(word) >= MIN_LETTERS and word.capitalize() not in (*WOMEN, *MEN))
    chosen = sorted(rng.sample(words, min(num_pairs, len(words))))
    return [WordPair(word, counts[word], _non_word(word, known, rng)) for word in chosen]


def _non_word(word: str, known: set[str], rng: random.Random) -> str:
    parts: list[str] = _PARTS.findall(word)
    while True:
        changed = parts.copy()
        place = rng.randrange(len(changed) - 1)  # the ending stays: it often is a suffix
        changed[place] = rng.choice(VOWELS if changed[place][0] in "aeiou" else ONSETS)
        if place and rng.random() < 0.5:
            changed[0] = rng.choice(VOWELS if changed[0][0] in "aeiou" else ONSETS)
        candidate = "".join(changed)
        if candidate not in known and abs(len(candidate) - len(word)) <= 1:
            return candidate


def sentence_pairs(rng: random.Random, num_pairs: int) -> list[SentencePair]:
    """Sentences of all rules in turn, each drawn once.

    Raises:
        TwistError: the templates do not give so many.
    """
    drawn: dict[str, SentencePair] = {}
    while len(drawn) < num_pairs:
        for _ in range(MOST_DRAWS):
            pair = RULES[len(drawn) % len(RULES)](rng)
            if pair.good not in drawn:
                break
        else:
            raise TwistError(f"the templates give {len(drawn):,} sentences of all rules in turn; ask for fewer")
        drawn[pair.good] = pair
    return list(drawn.values())


PEOPLE = ("the baker", "the sailor", "the teacher", "the gardener", "the miller", "the painter", "the doctor")
PLACES = ("near the harbour", "behind the church", "at the old mill", "by the river", "in the market", "on the hill")
THINGS = ("letter", "lantern", "basket", "window", "garden", "ladder", "barrel", "candle")
STATES = ("tired", "late", "busy", "hungry", "quiet", "proud", "ready")
PARTICIPLES = (
    ("taken", "took"),
    ("written", "wrote"),
    ("broken", "broke"),
    ("stolen", "stole"),
    ("chosen", "chose"),
    ("frozen", "froze"),
)


def _agreement(rng: random.Random) -> SentencePair:
    person, place, state = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(STATES)
    start = f"{person.capitalize()}s {place}"
    return SentencePair("agreement", "subject and verb", f"{start} were {state}.", f"{start} was {state}.")


def _determiner(rng: random.Random) -> SentencePair:
    person, thing, place = rng.choice(PEOPLE), rng.choice(THINGS), rng.choice(PLACES)
    start = f"{person.capitalize()} carried these"
    return SentencePair("agreement", "determiner and noun", f"{start} {thing}s {place}.", f"{start} {thing} {place}.")


def _reflexive(rng: random.Random) -> SentencePair:
    (names, own, other) = rng.choice([(WOMEN, "herself", "himself"), (MEN, "himself", "herself")])
    start = f"{rng.choice(names)} had taught"
    end = f"to mend a {rng.choice(THINGS)} {rng.choice(PLACES)}."
    return SentencePair("anaphora", "gender", f"{start} {own} {end}", f"{start} {other} {end}")


def _participle(rng: random.Random) -> SentencePair:
    good, bad = rng.choice(PARTICIPLES)
    start = f"{rng.choice(PEOPLE).capitalize()} had"
    end = f"the {rng.choice(THINGS)} {rng.choice(PLACES)}."
    return SentencePair("irregular forms", "participle", f"{start} {good} {end}", f"{start} {bad} {end}")


def _order(rng: random.Random) -> SentencePair:
    person, thing, place = rng.choice(PEOPLE), rng.choice(THINGS), rng.choice(PLACES)
    head, noun = place.rsplit(" ", 1)
    start = f"{person.capitalize()} left the {thing}"
    return SentencePair("word order", "noun phrase", f"{start} {head} {noun}.", f"{start} {noun} {head}.")


RULES: tuple[Callable[[random.Random], SentencePair], ...] = (
    _agreement,
    _determiner,
    _reflexive,
    _participle,
    _order,
)
