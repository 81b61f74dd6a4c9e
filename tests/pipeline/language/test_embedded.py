"""Weak evidence by sound: a classifier that was trained on little decides where nothing else does, and only if sure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

import model.language_id.classifier as language_classifier
from jobs.command import summary
from pipeline.audio.read import Span, read_spans
from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.language.config import AudioLanguageConfig, CorpusEvidence, LanguageConfig
from pipeline.language.decide import AudioEvidence, WeakRule, decide
from pipeline.language.filter import filter_languages, read_decisions
from pipeline.records import EMBEDDED_EVIDENCE, Recording
from pipeline.stage import read_facts
from pipeline.work.cluster import ClusterConfig
from tests.language_classifiers import write_pooled_classifier
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RULE = WeakRule("en", 0.2, 0.8, "little")
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und geht dann nach Hause."


def recording(language: str | None = None, text: str | None = None, source: str = "show") -> Recording:
    return Recording(
        "c/r", "c", "/r.wav", 30.0, 16_000, 1,
        language=language, language_source=source if language else None, text=text,
    )  # fmt: skip


def heard(english: float) -> AudioEvidence:
    return AudioEvidence({"en": english, "de": 0.9 * (1 - english), "fr": 0.1 * (1 - english)}, 3)


@given(st.floats(0, 1))
def test_only_what_is_surely_another_language_is_dropped(english: float) -> None:
    decision = decide(recording(), LanguageConfig(unknown="drop"), heard(english), RULE)
    assert decision.evidence == EMBEDDED_EVIDENCE and decision.score == english
    assert decision.keep == (english >= RULE.other_below)
    assert (decision.language == "en") == (english >= RULE.wanted_from)
    if RULE.other_below <= english < RULE.wanted_from:
        assert (decision.keep, decision.language, decision.reason) == (True, None, None), "what is unsure stays"


def test_the_other_language_is_told_where_it_is_sure() -> None:
    told = decide(recording(), LanguageConfig(), heard(0.01), RULE)
    assert (told.keep, told.language, told.reason) == (False, "de", "other_language")
    unsure = AudioEvidence({"en": 0.1, "de": 0.3, "fr": 0.3, "it": 0.3}, 2)
    assert decide(recording(), LanguageConfig(), unsure, RULE).language is None


@pytest.mark.parametrize(
    ("tag", "text", "evidence"), [("en", None, "metadata"), (None, GERMAN, "text"), ("de", None, "metadata")]
)
def test_it_overrules_neither_tags_nor_text(tag: str | None, text: str | None, evidence: str) -> None:
    config = LanguageConfig()
    for english in (0.0, 0.5, 1.0):
        decision = decide(recording(tag, text), config, heard(english), RULE)
        assert decision.evidence == evidence and decision == decide(recording(tag, text), config)


def test_where_nothing_was_heard_unknown_decides() -> None:
    for unknown, keep in (("keep", True), ("drop", False)):
        config = LanguageConfig(unknown=unknown)  # type: ignore[arg-type]
        decision = decide(recording(), config, AudioEvidence(failure="no_speech"), RULE)
        assert (decision.keep, decision.evidence) == (keep, "none")


# The stage


class Scripted:
    """A classifier that tells a clip's language by its first sample."""

    labels = ("en", "de", "fr")

    def __call__(self, wavs: Sequence[torch.Tensor]) -> torch.Tensor:
        english = torch.tensor([float(wav.abs().max()) for wav in wavs])
        return torch.stack([english, 0.75 * (1 - english), 0.25 * (1 - english)], dim=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pooled_classifier(tmp_path / "weak")
    return tmp_path / "weak"


@pytest.fixture
def run(tmp_path: Path, speech: Path) -> str:
    """A folder that says nothing about languages: speech at three levels, and silence."""
    (wav,) = read_spans([Span(str(speech / "librivox" / "en.mp3"), None, 2.0, 12.0)])
    assert isinstance(wav, np.ndarray)
    (tmp_path / "audio").mkdir()
    for name, peak in (("english", 0.95), ("other", 0.05), ("unsure", 0.5), ("silence", 0.0)):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", wav / np.abs(wav).max() * peak, 16_000)
    make_manifest(str(tmp_path / "run"), [CorpusConfig(str(tmp_path / "audio"), "folder", name="audio")], silently)
    return str(tmp_path / "run")


@pytest.mark.usefixtures("without_ray")
def test_evidence_is_marked_and_accounted_for(run: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_classifier, "load_language_classifier", lambda _: Scripted())
    config = LanguageConfig(unknown="keep", audio=AudioLanguageConfig(model=str(folder)))
    filter_languages(run, config, ClusterConfig(), silently)
    decisions = {id.rpartition("/")[2]: decision for id, decision in read_decisions(run).items()}
    told = {name: (one.keep, one.language, one.evidence) for name, one in decisions.items()}
    assert told == {
        "english.wav": (True, "en", EMBEDDED_EVIDENCE),
        "other.wav": (False, "de", EMBEDDED_EVIDENCE),
        "unsure.wav": (True, None, EMBEDDED_EVIDENCE),
        "silence.wav": (True, None, "none"),
    }
    facts = read_facts(run, "language")
    assert facts["kept_unsure"]["items"] == facts["kept_without_evidence"]["items"] == 1
    assert facts["audio_evidence"]["trained_on"] == "nothing, its weights are random"
    counts = facts["counts"]
    assert counts["kept"]["items"] + counts["dropped"]["other_language"]["items"] == counts["input"]["items"] == 4
    (dropped,) = parquet.read(f"{run}/language/dropped.parquet").to_pylist()
    assert dropped["detail"] == "de by audio:embedded (wanted: 0.05, 1 windows)"
    line = summary("language", facts)
    assert "in a language that audio leaves unsure" in line
    assert "without evidence of their language" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"languages": ("de",)}, "tells en from all other languages, and no more; with language.languages de"),
        ({"languages": ("en", "de")}, "name another classifier, or none"),
        ({"listen": "always"}, "too little to overrule"),
        ({"corpora": {"audio": CorpusEvidence(listen="always")}}, "too little to overrule"),
        ({"audio_drop": 0.3}, "language.audio_drop is not for .* thresholds of its own"),
        ({"corpora": {"audio": CorpusEvidence(audio_keep=0.9)}}, "language.audio_keep is not for"),
    ],
)
def test_what_it_cannot_do_is_refused(run: str, folder: Path, settings: dict[str, object], message: str) -> None:
    config = LanguageConfig(audio=AudioLanguageConfig(model=str(folder)), **settings)  # type: ignore[arg-type]
    with pytest.raises(TwistError, match=message):
        filter_languages(run, config, ClusterConfig(), silently)
