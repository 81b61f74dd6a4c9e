"""The decision on one recording's language, from its metadata, its text and what a classifier heard.

The evidence is weighed in this order:

1. metadata: the tag that the corpus gives (TWIST, section 3.1, filters by this alone). A tag for another language drops
   the recording. A tag for a wanted language decides if it can be trusted: the tag of a podcast's show, of an
   interpreter's channel, of an unchecked clip, or a folder's name is not enough while there is a classifier to listen
   with.
2. text: py3langid's verdict on the transcript, else on title and description, if their words are enough to tell
   (content.py).
3. audio: a classifier's verdict on windows of speech, if the tag cannot be trusted or nothing has decided yet.

Text and audio have two thresholds each. Recordings in between are in quarantine: dropped as `uncertain_language`.

A classifier that was trained on little, as the embedded one, is weaker evidence than any of these. It decides where
nothing else says what is spoken, is marked `audio:embedded`, has thresholds of its own, and drops only what it is sure
is in another language: what it is unsure of stays, without a language.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipeline.language.content import telling_words
from pipeline.language.text import text_probabilities, with_prior
from pipeline.languages import normalize_code
from pipeline.records import EMBEDDED_EVIDENCE, LANGUAGE_SOURCES, LanguageDecision

if TYPE_CHECKING:
    from pipeline.language.config import LanguageConfig, Rules
    from pipeline.records import Recording

# Trust in a tag, by its source (records.LANGUAGE_SOURCES).
TRUST = {
    "corpus": 1.0, "recording": 1.0, "folder": 1.0, "recipe": 1.0,
    "show": 0.7, "channel": 0.7, "folder_name": 0.7,
    "unchecked": 0.5,
}  # fmt: skip
assert TRUST.keys() == set(LANGUAGE_SOURCES)
# Probability from which such a classifier's guess at another language is told.
LANGUAGE_TOLD_FROM = 0.5


@dataclass(frozen=True)
class AudioEvidence:
    """A classifier's verdict on one recording.

    Attributes:
        probabilities: Mean probability over the windows, by language; empty if nothing could be classified.
        num_windows: Number of windows that were classified.
        failure: Why none was classified; None if some were.
    """

    probabilities: dict[str, float] = field(default_factory=dict)
    num_windows: int = 0
    failure: str | None = None


@dataclass(frozen=True)
class WeakRule:
    """How a classifier that was trained on little decides; see model/language_id/calibration.py.

    Attributes:
        wanted: The one language that it tells from all others.
        other_below: Probability of it below which a recording is in another language, and is dropped.
        wanted_from: Probability from which it is in the wanted one. Between the two it stays without a language.
        trained_on: What the classifier was trained on, in words.
    """

    wanted: str
    other_below: float
    wanted_from: float
    trained_on: str


class Metadata(NamedTuple):
    """The columns of the manifest from which a recording's language can be told, as in Recording."""

    recording_id: str
    language: str | None
    language_source: str | None
    text: str | None
    description: str | None


def decide(
    recording: Recording, config: LanguageConfig, audio: AudioEvidence | None = None, weak: WeakRule | None = None
) -> LanguageDecision:
    """Decides whether a recording stays.

    Args:
        recording: A row of the manifest.
        config: The wanted languages and the thresholds.
        audio: The classifier's verdict. If there is none, or it is empty, metadata and text alone decide.
        weak: The classifier's own rule, if it is one that was trained on little.
    """
    rules = config.of_corpus(recording.corpus)
    metadata = Metadata(*(getattr(recording, name) for name in Metadata._fields))
    decision, is_final = by_metadata_and_text(metadata, rules, weak)
    return decision if is_final else by_audio(decision, audio, rules, weak)


def by_metadata_and_text(
    recording: Metadata, rules: Rules, weak: WeakRule | None = None
) -> tuple[LanguageDecision, bool]:
    """Decides without audio; also returns whether that is final, i.e. audio may not change it."""
    decision, is_final = _by_metadata_and_text(recording, rules)
    return decision, is_final or (weak is not None and decision.evidence != "none")


def _by_metadata_and_text(recording: Metadata, rules: Rules) -> tuple[LanguageDecision, bool]:
    never, always = rules.listen == "never", rules.listen == "always"
    id = recording.recording_id
    tag = normalize_code(recording.language or "")
    tagged: LanguageDecision | None = None
    if tag:  # not so for `unknown`, several languages, or what no language is called
        trust = rules.metadata_trust
        if trust is None:
            trust = TRUST[recording.language_source or "recording"]
        if tag not in rules.languages:
            return LanguageDecision(id, False, tag, round(1 - trust, 6), "metadata", "other_language"), True
        is_enough = trust >= rules.metadata_enough
        tagged = LanguageDecision(id, is_enough, tag, trust, "metadata", None if is_enough else "uncertain_language")
        if trust >= rules.metadata_keep:
            return tagged, not always
    if by_text := _by_text(recording, rules):
        # Text about a recording does not make up for a tag that cannot be trusted.
        is_sure = by_text.reason == "other_language" or (by_text.keep and tagged is None)
        return by_text, never or (is_sure and not always)
    if tagged:
        return tagged, never
    keep = rules.unknown == "keep"
    return LanguageDecision(id, keep, None, None, "none", None if keep else "unknown_language"), never


def by_audio(
    before: LanguageDecision, audio: AudioEvidence | None, rules: Rules, weak: WeakRule | None = None
) -> LanguageDecision:
    """Decides by audio; returns the earlier decision `before` if nothing could be classified."""
    if audio is None or not audio.probabilities:
        return before
    if weak is not None:
        return _judge_weak(before.recording_id, audio.probabilities, weak)
    return _judge(before.recording_id, audio.probabilities, "audio", rules)


def describe(decision: LanguageDecision, audio: AudioEvidence | None) -> str:
    """The detail of a drop: the language, the evidence for it, and the probability of the wanted languages."""
    if decision.evidence == EMBEDDED_EVIDENCE and audio is not None:
        what = decision.language or "another language"
        return f"{what} by {EMBEDDED_EVIDENCE} (wanted: {decision.score:.2f}, {audio.num_windows} windows)"
    if decision.language is None:
        return "neither metadata nor text nor audio says what is spoken"
    windows = f", {audio.num_windows} windows" if audio and decision.evidence == "audio" else ""
    not_heard = f"; not heard: {audio.failure}" if audio and audio.failure else ""
    return f"{decision.language} by {decision.evidence} (wanted: {decision.score:.2f}{windows}{not_heard})"


def _by_text(recording: Metadata, rules: Rules) -> LanguageDecision | None:
    """The decision by transcript, else by title and description; None where they do not tell the language."""
    for text in (recording.text, recording.description):
        words = telling_words(text or "", rules.text_min_chars)
        probabilities = text_probabilities(words) if words else {}
        if probabilities:
            weighted = with_prior(probabilities, rules.languages, rules.text_prior)
            decision = _judge(recording.recording_id, weighted, "text", rules)
            # What a classifier does not know it takes for other languages.
            return decision if decision.keep or probabilities.keys() >= set(rules.languages) else None
    return None


def _judge_weak(recording_id: str, probabilities: dict[str, float], rule: WeakRule) -> LanguageDecision:
    """Drops what is surely in another language; keeps the rest, with its language where that is sure."""
    score = probabilities.get(rule.wanted, 0.0)
    if score >= rule.other_below:
        language = rule.wanted if score >= rule.wanted_from else None
        return LanguageDecision(recording_id, True, language, score, EMBEDDED_EVIDENCE, None)
    others = {language: share for language, share in probabilities.items() if language != rule.wanted}
    likeliest = max(others, key=lambda language: (others[language], language), default=None)
    is_told = likeliest is not None and others[likeliest] >= LANGUAGE_TOLD_FROM
    return LanguageDecision(
        recording_id, False, likeliest if is_told else None, score, EMBEDDED_EVIDENCE, "other_language"
    )


def _judge(
    recording_id: str, probabilities: dict[str, float], evidence: Literal["text", "audio"], rules: Rules
) -> LanguageDecision:
    """Compares the summed probability of the wanted languages with the two thresholds of this kind of evidence."""
    keep_from, drop_below = rules.thresholds(evidence)
    score = min(1.0, sum(probabilities.get(language, 0.0) for language in dict.fromkeys(rules.languages)))
    likeliest = max(probabilities, key=lambda language: (probabilities[language], language))
    reason = None
    if score < drop_below and likeliest not in rules.languages:
        reason = "other_language"
    elif score < keep_from:
        reason = "uncertain_language"
    elif likeliest not in rules.languages:  # the wanted languages are likelier only taken together
        likeliest = max(rules.languages, key=lambda language: (probabilities.get(language, 0.0), language))
    return LanguageDecision(recording_id, reason is None, likeliest, score, evidence, reason)
