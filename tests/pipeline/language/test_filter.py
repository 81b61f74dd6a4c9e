from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iso639 import ALL_LANGUAGES

from pipeline.corpora.manifest import make_manifest, read_recordings
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import parquet, storage
from pipeline.language.config import LanguageConfig
from pipeline.language.decide import decide
from pipeline.language.filter import filter_languages, read_decisions
from pipeline.languages import ISO_639_1, is_told, normalize_code
from pipeline.records import Recording
from pipeline.stage import StageError, read_facts
from pipeline.work.cluster import ClusterConfig
from tests.progress import silently

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import WriteTone

ENGLISH = "The quick brown fox jumps over the lazy dog, and then it goes home to its family."
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und geht dann nach Hause."


def recording(language: str | None = None, text: str | None = None) -> Recording:
    return Recording("c/r", "c", "/r.wav", 3.0, 16_000, 1, language=language, text=text)


@pytest.mark.parametrize(
    ("code", "language"),
    [
        *[(code, "en") for code in ("en", "EN", "en-US", "EN_gb", "[en]", "['en']", ' "en" ', "en-Latn-US", "[en-AU]")],
        ("pt_BR", "pt"),
        ("zh-Hant", "zh"),
        ("cmn", "zh"),
        ("yue", "yue"),
        ("eng", "en"),
        ("English", "en"),
        ("iw", "he"),
        ("", ""),
        ("[]", ""),
        *[(code, "en") for code in ("English (US)", "ENGLISH", "eng_Latn", "en_US.UTF-8", "US English", "en, en-GB")],
        *[(code, "de") for code in ("ger", "deu", "German", "de-AT", "German, Austrian")],
        ("Cebuano", "ceb"),
        ("Swahili (macrolanguage)", "sw"),
        ("Swiss German", "gsw"),
        ("Norwegian Bokmål", "nb"),
        ("nan-TW", "nan"),  # Min Nan; bare, it is what a table has for no value
        *[(code, "") for code in ("und", "unknown", "N/A", "none", "null", "NaN", "-", "?", "mul", "mis", "zxx", "xx")],
        *[(code, "") for code in ("en,de", "English and French", "xyzzy", "qaa", "English Creole", "(unknown)")],
    ],
)
def test_codes(code: str, language: str) -> None:
    assert normalize_code(code) == language


def test_codes_and_names_of_all_languages_stay_what_they_are() -> None:
    for code in sorted(ISO_639_1):
        assert normalize_code(code) in (code, ""), code
    assert {code for code in ISO_639_1 if not normalize_code(code)} == {"na"}, "what a table has for no value"
    for language in ALL_LANGUAGES:
        if language.part1 and language.part1 not in ("na", "sh"):
            codes = {language.part1, language.part2b or language.part1, language.part3, language.name}
            assert len({normalize_code(code) for code in codes}) == 1, codes


@given(st.text(max_size=20))
def test_any_tag_gives_a_code_or_none(tag: str) -> None:
    code = normalize_code(tag)
    assert code in (normalize_code(code), normalize_code(f"{code}-001")), "normalizing twice changes nothing"
    assert is_told(tag) or not code


@pytest.mark.parametrize(
    ("language", "text", "keep", "found", "evidence", "reason"),
    [
        ("en", None, True, "en", "metadata", None),
        ("en-GB", GERMAN, True, "en", "metadata", None),
        ("de", ENGLISH, False, "de", "metadata", "other_language"),
        (None, ENGLISH, True, "en", "text", None),
        (None, ENGLISH.upper(), True, "en", "text", None),
        (None, GERMAN, False, "de", "text", "other_language"),
        (None, "too short", False, None, "none", "unknown_language"),
        (None, " " * 50 + "too short", False, None, "none", "unknown_language"),
        (None, None, False, None, "none", "unknown_language"),
        ("", ENGLISH, True, "en", "text", None),
        ("und", ENGLISH, True, "en", "text", None),
        ("[]", None, False, None, "none", "unknown_language"),
    ],
)
def test_chain_of_evidence(
    language: str | None, text: str | None, keep: bool, found: str | None, evidence: str, reason: str | None
) -> None:
    decision = decide(recording(language, text), LanguageConfig())
    assert (decision.keep, decision.language, decision.evidence, decision.reason) == (keep, found, evidence, reason)
    assert (decision.score is None) == (evidence == "none"), "evidence without a score"
    assert decision.score is None or (decision.score >= 0.7 if keep else decision.score < 0.1)


@pytest.mark.parametrize("unknown", ["keep", "drop"])
def test_unknown(unknown: Literal["keep", "drop"]) -> None:
    config = LanguageConfig(unknown=unknown)
    assert decide(recording(), config).keep == (unknown == "keep")
    assert not decide(recording("de"), config).keep, "what is known is not unknown"


def test_thresholds() -> None:
    text = "in being comparatively modern."
    score = decide(recording(text=text), LanguageConfig()).score
    assert score is not None
    assert decide(recording(text=text), LanguageConfig(text_keep=score - 0.01)).keep
    uncertain = decide(recording(text=text), LanguageConfig(text_keep=score + 0.01))
    assert (uncertain.keep, uncertain.language, uncertain.reason) == (False, "en", "uncertain_language")
    length = len(text.removesuffix("."))
    assert decide(recording(text=text), LanguageConfig(text_min_chars=length)).evidence == "text"
    assert decide(recording(text=text), LanguageConfig(text_min_chars=length + 1)).evidence == "none"
    german = decide(recording(text=GERMAN), LanguageConfig(languages=("de", "fr")))
    assert german.keep, "any of the wanted languages must do"


@pytest.mark.parametrize(
    "wrong",
    [
        {"languages": ()},
        {"languages": ("english",)},
        {"languages": ("en", "xx")},
        {"text_keep": 1.5},
        {"audio_keep": float("nan")},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(TwistError, match=r"language\."):
        LanguageConfig(**wrong)


def test_real_texts(speech: Path) -> None:
    for language in ("de", "en", "es"):
        text = (speech / "librivox" / f"{language}.txt").read_text(encoding="utf-8")
        decision = decide(recording(text=text), LanguageConfig(languages=(language,)))
        assert decision.keep, f"{language}.txt: {decision}"
        assert decide(recording(text=text), LanguageConfig(languages=("fr",))).reason == "other_language"


def test_transcripts_in_upper_case(speech: Path) -> None:
    lines = [
        line.partition(" ")[2]
        for path in sorted((speech / "LibriSpeech").rglob("*.trans.txt"))
        for line in path.read_text().splitlines()
    ]
    assert len(lines) == 30
    for line in lines:
        assert decide(recording(text=line), LanguageConfig()).keep, line


# The stage

ROWS = [
    ("a.wav", "en-US", ""),
    ("b.wav", "de", ""),
    ("c.wav", "", ENGLISH),
    ("d.wav", "", GERMAN),
    ("e.wav", "", ""),
]


@pytest.fixture
def run(tmp_path: Path, write_tone: WriteTone) -> str:
    """A run with a manifest of five recordings of 1 to 5 seconds."""
    root = tmp_path / "corpus"
    for number, (name, _, _) in enumerate(ROWS, start=1):
        write_tone(root / name, number)
    table = "".join(f'{name},{language},"{text}"\n' for name, language, text in ROWS)
    (root / "metadata.csv").write_text(f"path,language,text\n{table}", encoding="utf-8")
    make_manifest(str(tmp_path / "run"), [CorpusConfig(str(root))], silently)
    return str(tmp_path / "run")


def test_kept_and_dropped(run: str) -> None:
    seen: list[tuple[int, int]] = []
    filter_languages(run, LanguageConfig(), ClusterConfig(), lambda done, total, *_: seen.append((done, total)))
    decisions = read_decisions(run)
    assert list(decisions) == [recording.recording_id for recording in read_recordings(run)]
    assert [decision.keep for decision in decisions.values()] == [True, False, True, False, False]
    assert decisions["corpus/d.wav"].language == "de"
    counts = read_facts(run, "language")["counts"]
    assert counts["input"]["items"] == 5
    assert counts["kept"] == {"items": 2, "hours": pytest.approx(4 / 3600)}
    assert counts["dropped"]["other_language"] == {"items": 2, "hours": pytest.approx(6 / 3600)}
    assert counts["dropped"]["unknown_language"] == {"items": 1, "hours": pytest.approx(5 / 3600)}
    assert read_facts(run, "language")["evidence"] == {"metadata": 2, "none": 1, "text": 2}
    rows = parquet.read(storage.join(run, "language", "dropped.parquet")).to_pylist()
    details = {row["id"]: row["detail"] for row in rows}
    assert details["corpus/b.wav"] == "de by metadata (wanted: 0.00)"
    assert details["corpus/d.wav"].startswith("de by text (wanted: 0.0")
    assert seen[-1] == (5, 5)


def test_what_is_kept_without_evidence_is_counted(run: str) -> None:
    filter_languages(run, LanguageConfig(unknown="keep"), ClusterConfig(), silently)
    facts = read_facts(run, "language")
    assert facts["kept_without_evidence"] == {"items": 1, "hours": pytest.approx(5 / 3600)}
    assert facts["counts"]["kept"] == {"items": 3, "hours": pytest.approx(9 / 3600)}


def test_a_second_call_does_nothing_and_other_settings_are_refused(run: str) -> None:
    filter_languages(run, LanguageConfig(), ClusterConfig(), silently)

    def fail(*_: Any) -> None:
        raise AssertionError("recordings were examined again")

    filter_languages(run, LanguageConfig(), ClusterConfig(), fail)
    with pytest.raises(StageError, match=r'languages was \["en"\], is \["en", "de"\]'):
        filter_languages(run, LanguageConfig(languages=("en", "de")), ClusterConfig(), silently)


def test_everything_dropped_is_an_error_with_advice(run: str) -> None:
    with pytest.raises(TwistError) as failure:
        filter_languages(run, LanguageConfig(languages=("fr",)), ClusterConfig(), silently)
    for part in ("2 other_language de", "2 other_language en", "1 unknown_language", "`language`", "language.unknown"):
        assert part in str(failure.value)
    with pytest.raises(StageError, match="not finished"):
        read_decisions(run)
    filter_languages(run, LanguageConfig(languages=("fr",), unknown="keep"), ClusterConfig(), silently)
    assert [decision.keep for decision in read_decisions(run).values()] == [False, False, False, False, True]


def test_the_manifest_comes_first(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="manifest is not finished; run `twist manifest`"):
        filter_languages(str(tmp_path), LanguageConfig(), ClusterConfig(), silently)
