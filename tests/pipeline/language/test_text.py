from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TwistError
from pipeline.language.config import CorpusEvidence, LanguageConfig
from pipeline.language.content import telling_words
from pipeline.language.decide import AudioEvidence, decide
from pipeline.language.text import text_probabilities, with_prior
from pipeline.records import Recording

ENGLISH = "the boats came in before the storm"
GERMAN = "die Boote kamen noch vor dem Sturm"
TEXTS = [
    ENGLISH,
    GERMAN,
    ENGLISH.upper(),
    "so they said",
    "Maria Gonzalez and Jean Dubois",
    "昨日は友達と映画を見ました",
]
REMARKS = ["[MUSIC]", "(laughs)", "{cough}", "<unk>", "<i>", "</i>", "&nbsp;", "[[speaks French]]", "*sighs*", "♪ la ♪"]
CONFIG = LanguageConfig()


def recording(text: str | None, description: str | None = None, corpus: str = "c") -> Recording:
    return Recording("c/r", corpus, "/r.wav", 3.0, 16_000, 1, text=text, description=description)


@given(st.sampled_from(TEXTS), st.lists(st.tuples(st.integers(0, 12), st.sampled_from(REMARKS)), max_size=8))
def test_markup_and_remarks_change_no_decision(text: str, remarks: list[tuple[int, str]]) -> None:
    words = text.split()
    for place, remark in remarks:
        words.insert(place, remark)
    assert decide(recording(" ".join(words)), CONFIG) == decide(recording(text), CONFIG)


@given(
    st.sampled_from(TEXTS), st.sampled_from(["17", "2024-11-26", "track01.mp3", "AB-1234", "http://a.org/x", "#tag"])
)
def test_numbers_and_codes_change_no_decision(text: str, code: str) -> None:
    assert decide(recording(f"{code} {text} {code}"), CONFIG) == decide(recording(text), CONFIG)


@given(st.text(max_size=200), st.integers(0, 60))
def test_any_text_has_words_that_tell_or_none(text: str, min_chars: int) -> None:
    words = telling_words(text, min_chars)
    assert words is None or (words and words == telling_words(words, min_chars)), (
        "what is left of a text is left of itself"
    )
    decision = decide(recording(text), CONFIG)
    assert not (decision.reason == "other_language" and decision.language == "en")


@given(
    st.dictionaries(st.sampled_from(["en", "de", "fr", "xh"]), st.floats(0.01, 1), min_size=2), st.floats(0.01, 0.99)
)
def test_a_prior_keeps_probabilities_probabilities(weights: dict[str, float], prior: float) -> None:
    probabilities = {code: weight / sum(weights.values()) for code, weight in weights.items()}
    weighted = with_prior(probabilities, ["en"], prior)
    assert math.isclose(sum(weighted.values()), 1.0)
    others = [code for code in weighted if code != "en"]
    assert sorted(others, key=weighted.__getitem__) == sorted(others, key=probabilities.__getitem__)
    even = with_prior(dict.fromkeys(weights, 1 / len(weights)), ["en"], prior)
    assert even.get("en", prior) == pytest.approx(prior), "a text that says nothing leaves the prior"


@given(st.sampled_from(TEXTS), st.floats(0.01, 0.98), st.floats(0.001, 0.01))
def test_more_prior_never_makes_english_less_likely(text: str, prior: float, more: float) -> None:
    low, high = (decide(recording(text), LanguageConfig(text_prior=value)) for value in (prior, prior + more))
    assert (low.score is None) == (high.score is None)
    assert low.score is None or high.score is None or low.score <= high.score


@pytest.mark.parametrize(
    "text",
    [
        "Maria Gonzalez, Jean-Pierre Dubois",
        "Leonardo da Vinci, Vincent van Gogh",
        "The Shawshank Redemption",
        "Episode 12 - Dr. Jane Smith",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14",
        "12:30:15 - 12:45:10, 26.11.2026",
        "uh um hmm mm-hmm uh-huh okay oh um",
        "yeah yeah yeah yeah yeah yeah yeah",
        "la la la la la la la la la la la",
        "[MUSIC] [APPLAUSE] [the audience sings along with them]",
        "(speaking in a foreign language)",
        "&lt;unk&gt; &lt;unk&gt; &lt;unk&gt; &lt;unk&gt;",
        "♪ ♪ ♪ ♪ ♪ ♪ ♪ ♪ ♪ ♪ ♪ ♪",
        "AB-1234 XK-99 IMG_2034.JPG track01.mp3",
        "https://example.org/watch?v=abcdefghijk",
        "asdf qwer zxcv uiop hjkl",
        "a b c d e f g h i j k l m n o p",
        "........................",
        "they said so",
        "",
    ],
)
def test_what_cannot_tell_is_no_evidence(text: str) -> None:
    decision = decide(recording(text), CONFIG)
    assert (decision.evidence, decision.language, decision.reason) == ("none", None, "unknown_language")
    assert decide(recording(text), LanguageConfig(unknown="keep")).keep
    heard = decide(recording(text), CONFIG, AudioEvidence({"en": 0.9, "de": 0.1}, 3))
    assert (heard.keep, heard.evidence) == (True, "audio")
    described = decide(recording(text, description=GERMAN), CONFIG)
    assert (described.language, described.evidence) == ("de", "text"), "title and description are the next text"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("how do you know that", "en"),
        ("[MUSIC] so where did you put it? (laughs)", "en"),
        ("HOW DO YOU KNOW THAT", "en"),
        ("Then Maria Gonzalez said that it was over", "en"),
        ("woher weißt du das denn", "de"),
        ("comment est-ce que tu le sais", "fr"),
        ("откуда ты это знаешь", "ru"),
        ("どうしてそれを知っているの", "ja"),
        ("2020年に東京へ引っ越しました", "ja"),
        ("그걸 어떻게 알았어요", "ko"),
        ("तुम्हें यह कैसे पता चला", "hi"),
    ],
)
def test_short_sentences_tell(text: str, language: str) -> None:
    decision = decide(recording(text), CONFIG)
    assert (decision.language, decision.evidence, decision.keep) == (language, "text", language == "en")


def test_the_likeliest_language_is_never_called_another_one() -> None:
    undecided = decide(recording(None), CONFIG, AudioEvidence({"en": 0.3, "de": 0.25, "fr": 0.25, "es": 0.2}, 3))
    assert (undecided.keep, undecided.language, undecided.reason) == (False, "en", "uncertain_language")


def test_text_says_nothing_against_a_language_that_its_classifier_does_not_know() -> None:
    assert "ak" not in text_probabilities(GERMAN)
    assert decide(recording(GERMAN), LanguageConfig(languages=("ak",))).evidence == "none"
    both = LanguageConfig(languages=("ak", "en"))
    assert decide(recording(GERMAN), both).evidence == "none"
    assert decide(recording(ENGLISH), both).keep


def test_a_corpus_states_its_prior() -> None:
    text = "heuristic algorithmic logic"
    assert decide(recording(text), CONFIG).reason == "uncertain_language"
    config = LanguageConfig(corpora={"english": CorpusEvidence(text_prior=0.9)})
    assert decide(recording(text, corpus="english"), config).keep
    assert not decide(recording(GERMAN, corpus="english"), config).keep
    assert decide(recording(text, corpus="other"), config) == decide(recording(text), CONFIG)


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_prior_that_makes_no_sense(prior: float) -> None:
    with pytest.raises(TwistError, match=r"language\.text_prior is a probability above 0 and below 1"):
        LanguageConfig(text_prior=prior)
    with pytest.raises(TwistError, match=r"language\.corpora\.text_prior"):
        CorpusEvidence(text_prior=prior)


def test_hours_of_text_are_not_all_read() -> None:
    for text in (ENGLISH, "x" * 10_000, "昨日は友達と映画を見ました"):
        words = telling_words(f"[MUSIC] {text} " * 2_000, 15)
        assert words is not None and 3_900 < len(words) <= 4_000
        assert words == telling_words(f"{text} " * 2_000, 15)


def test_brackets_that_are_never_closed_end_soon() -> None:
    for text in ("(" * 200_000, "[" * 200_000, "<1" * 100_000, "*1" * 100_000):
        assert telling_words(text, 15) is None
