"""Word errors of what was heard, and phrases that an ASR only repeats to itself.

The rate of a set is pooled: (substitutions + deletions + insertions) / words said, over all clips. A clip of which no
words are left after normalization has none to get wrong, but all that is heard there is inserted.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.evaluation.speech.extra import needs_extra

# Nobody says a word or a phrase so often in a row; an ASR that has lost its way does.
MANY_REPEATS = 5
PHRASE_WORDS = 10


@dataclass(frozen=True)
class WordErrors:
    """What it takes to make the words heard out of the `num_words` said."""

    substitutions: int
    deletions: int
    insertions: int
    num_words: int

    @property
    def errors(self) -> int:
        """All of them."""
        return self.substitutions + self.deletions + self.insertions


def word_errors(said: str, heard: str) -> WordErrors:
    """Counts the errors in what was heard; both texts as they are, words between spaces.

    Raises:
        TwistError: jiwer is not installed.
    """
    with needs_extra("word error rates"):
        import jiwer
    found = jiwer.process_words(said, heard)
    return WordErrors(found.substitutions, found.deletions, found.insertions, len(said.split()))


def letter_errors(said: str, heard: str) -> tuple[int, int]:
    """The letters that are wrong in what was heard, blanks among them, and the letters said.

    Raises:
        TwistError: jiwer is not installed.
    """
    with needs_extra("word error rates"):
        import jiwer
    found = jiwer.process_characters(said, heard)
    return found.substitutions + found.deletions + found.insertions, len(said)


def most_repeats(text: str) -> int:
    """How often in a row the most repeated word, or phrase of up to PHRASE_WORDS words, stands in a text."""
    words = text.split()
    most = min(len(words), 1)
    for length in range(1, PHRASE_WORDS + 1):
        run = 0  # words that are the same as those a phrase earlier
        for word, earlier in zip(words[length:], words, strict=False):
            run = run + 1 if word == earlier else 0
            most = max(most, run // length + 1)
    return most
