from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.language_id import classifier as language_classifier
from pipeline.audio.read import AudioError, Clip, Span, read_spans
from pipeline.corpora.manifest import make_manifest, read_recordings
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import parquet
from pipeline.language import filter as language_filter
from pipeline.language import listen as language_listen
from pipeline.language.config import AudioLanguageConfig, CorpusEvidence, LanguageConfig
from pipeline.language.decide import AudioEvidence, decide
from pipeline.language.filter import filter_languages, read_decisions
from pipeline.language.listen import Excerpts, HearLanguage, choose_windows, listen
from pipeline.records import Recording
from pipeline.stage import StageError, read_facts
from pipeline.work.cluster import ClusterConfig
from pipeline.work.plan import Chunk
from tests.language_classifiers import write_ecapa
from tests.progress import silently

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CONFIG = AudioLanguageConfig(model="scripted")


# Windows


@given(
    duration_s=st.floats(0.1, 40_000),
    regions=st.none() | st.lists(st.tuples(st.floats(-10, 4_000), st.floats(0, 500)), max_size=30),
)
def test_windows(duration_s: float, regions: list[tuple[float, float]] | None) -> None:
    activity = None if regions is None else [[on_s, on_s + length_s] for on_s, length_s in regions]
    slots = choose_windows(duration_s, activity, CONFIG)
    windows = [window for places in slots for window in places]
    assert len(slots) <= CONFIG.max_windows
    assert all(places for places in slots)
    for start_s, end_s in windows:
        assert start_s >= 0 and end_s <= duration_s + 1e-3, "outside of the recording"
        assert end_s - start_s == pytest.approx(min(CONFIG.window_s, duration_s), abs=1e-3)
    for first, second in pairwise(places[0] for places in slots):
        assert first[0] <= second[0], "not in the order of the recording"
    assert bool(slots) == (duration_s >= 0.5)


def test_how_many_windows() -> None:
    def count(duration_s: float) -> int:
        return len(choose_windows(duration_s, None, CONFIG))

    assert [count(s) for s in (0.2, 3.0, 10.0, 15.0, 25.0, 35.0, 600.0)] == [0, 1, 1, 1, 2, 3, 3]
    assert [count(s) for s in (1_500.0, 2_100.0, 9 * 3600.0)] == [5, 7, 7]


def test_windows_lie_where_there_is_speech() -> None:
    speech = [[100.0, 200.0], [1000.0, 1100.0], [3000.0, 3100.0]]
    slots = choose_windows(3600.0, speech, CONFIG)
    for (start_s, _), *_ in slots:
        assert any(on_s - 5 <= start_s + 5 <= off_s + 5 for on_s, off_s in speech), f"a window at {start_s} s"
    assert [round(places[0][0] + 5) for places in slots] == [150, 1050, 3050], "spread over the speech"
    assert choose_windows(100.0, [[200.0, 300.0]], CONFIG) == choose_windows(100.0, None, CONFIG), "activity elsewhere"


def test_windows_are_spread_evenly() -> None:
    slots = choose_windows(3600.0, None, CONFIG)
    centres_s = [places[0][0] + 5 for places in slots]
    assert centres_s == pytest.approx([3600 * (n + 0.5) / 7 for n in range(7)], abs=1e-3)
    assert all(len(places) == 2 for places in slots), "there is no second place to try"


# Hearing


class Scripted:
    """A classifier that tells a clip's language by its loudness."""

    labels = ("eng", "de", "iw")

    def __init__(self) -> None:
        self.heard: list[NDArray[np.float32]] = []
        self.scale = 1.0

    def __call__(self, wavs: Sequence[torch.Tensor]) -> torch.Tensor:
        self.heard += [wav.numpy() for wav in wavs]
        english = torch.tensor([self.scale * min(1.0, float(wav.abs().max())) for wav in wavs])
        return torch.stack([english, 0.75 * (1 - english), 0.25 * (1 - english)], dim=1)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Replaces every model that a config names."""
    classifier = Scripted()
    monkeypatch.setattr(language_classifier, "load_language_classifier", lambda _: classifier)
    monkeypatch.setattr(language_classifier, "find_language_classifier", lambda _: (None, "scripted"))
    monkeypatch.setattr(language_classifier, "fingerprint_of_classifier", lambda _: "scripted")
    return classifier


def speech_of(speech: Path, language: str) -> NDArray[np.float32]:
    """Ten seconds of recorded speech at a peak of 1."""
    path = next(iter(sorted((speech / "librivox").glob(f"{language}.mp3"))))
    (wav,) = read_spans([Span(str(path), None, 2.0, 12.0)])
    assert not isinstance(wav, AudioError)
    return wav / np.abs(wav).max()


def unit_of(*slots: str) -> Chunk:
    return Chunk("u", slots, tuple(Span("x", None, 0.0, 10.0) for _ in slots))


def rows_of(process: HearLanguage, unit: Chunk, wavs: Sequence[Any]) -> dict[str, dict[str, Any]]:
    return {
        row["recording_id"]: row
        for row in process(unit, [Clip(wav) if isinstance(wav, np.ndarray) else wav for wav in wavs]).to_pylist()
    }


def test_the_mean_of_the_windows_that_hold_speech(speech: Path, scripted: Scripted) -> None:
    english, silence = speech_of(speech, "en"), np.zeros(160_000, np.float32)
    unit = unit_of("a#0", "a#0", "a#1", "a#1", "a#2", "b#0", "c#0", "d#0", "e#0", "e#1")
    broken = AudioError("undecodable", "broken")
    wavs = [
        english, 0.2 * english,  # the second place is not needed
        silence, 0.5 * english,  # here it is
        silence,
        0.25 * english,
        silence,
        broken,
        broken, 0.75 * english,
    ]  # fmt: skip
    rows = rows_of(HearLanguage(CONFIG), unit, wavs)
    assert list(rows) == ["a", "b", "c", "d", "e"]
    told = {id: dict(zip(row["languages"], row["probabilities"], strict=True)) for id, row in rows.items()}
    assert told["a"] == pytest.approx({"en": 0.75, "de": 0.1875, "he": 0.0625}, abs=1e-3)
    assert told["b"]["de"] == pytest.approx(0.75 * 0.75, abs=1e-3)
    assert [row["num_windows"] for row in rows.values()] == [2, 1, 0, 0, 1]
    assert [row["drop_reason"] for row in rows.values()] == [None, None, "no_speech", "undecodable", None]
    assert len(scripted.heard) == 4, "more was classified than windows with speech"


@pytest.mark.usefixtures("scripted")
def test_short_recordings_need_less_speech(speech: Path) -> None:
    english = speech_of(speech, "en")
    silent_but_a_word = np.zeros(160_000, np.float32)
    silent_but_a_word[:16_000] = english[:16_000]
    rows = rows_of(HearLanguage(CONFIG), unit_of("a#0", "b#0"), [english[:24_000], silent_but_a_word])
    assert rows["a"]["num_windows"] == 1, "of 1.5 s three quarters of a second are enough"
    assert rows["b"]["drop_reason"] == "no_speech", "a second in ten is not"


def test_the_same_units_whatever_else_is_in_them(speech: Path, tmp_path: Path) -> None:
    """Real speech in several languages through a real model: alone, and with others of other lengths."""
    write_ecapa(tmp_path / "ecapa")
    process = HearLanguage(AudioLanguageConfig(model=str(tmp_path / "ecapa")))
    paths = sorted(path for path in (speech / "languages").rglob("*.*") if path.is_file())
    wavs: list[NDArray[np.float32]] = []
    for path in paths[:8]:
        (wav,) = read_spans([Span(str(path), None, 0.0, 3.0 + len(wavs) % 2)])
        assert not isinstance(wav, AudioError)
        wavs.append(wav)
    together = rows_of(process, unit_of(*(f"r{n}#0" for n in range(len(wavs)))), wavs)
    heard = 0
    for number, wav in enumerate(wavs):
        alone = rows_of(process, unit_of(f"r{number}#0"), [wav])[f"r{number}"]
        assert alone["num_windows"] == together[f"r{number}"]["num_windows"]
        assert alone["probabilities"] == pytest.approx(together[f"r{number}"]["probabilities"], abs=2e-4)
        heard += alone["num_windows"]
    assert heard >= 6, "speech was taken for none"


# The chain


def recording(
    language: str | None = None, source: str = "show", text: str | None = None, corpus: str = "c", **more: Any
) -> Recording:
    source_of_tag = source if language else None
    return Recording(
        f"{corpus}/r", corpus, "/r.wav", 60.0, None, None, None, language, None, None, text, None, source_of_tag, **more
    )


ENGLISH = "The quick brown fox jumps over the lazy dog, and then it goes home to its family."
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und geht dann nach Hause."
VAGUE = "in being comparatively modern."


def heard_as(**probabilities: float) -> AudioEvidence:
    return AudioEvidence(probabilities, 3)


@pytest.mark.parametrize(
    ("tag", "source", "text", "heard", "outcome"),
    [
        # A trusted tag decides, whatever the other evidence.
        ("en", "corpus", GERMAN, heard_as(de=1.0), (True, "en", "metadata", None)),
        ("de", "corpus", ENGLISH, heard_as(en=1.0), (False, "de", "metadata", "other_language")),
        # Text does not confirm an untrusted tag; audio decides.
        ("en", "show", None, heard_as(en=0.9, de=0.1), (True, "en", "audio", None)),
        ("en", "show", ENGLISH, heard_as(en=0.1, de=0.9), (False, "de", "audio", "other_language")),
        ("en", "channel", None, heard_as(en=0.6, de=0.4), (False, "en", "audio", "uncertain_language")),
        ("en", "unchecked", ENGLISH, heard_as(en=0.8), (True, "en", "audio", None)),
        ("en", "show", GERMAN, heard_as(en=1.0), (False, "de", "text", "other_language")),
        ("['de']", "show", None, heard_as(en=1.0), (False, "de", "metadata", "other_language")),
        # Without audio evidence, metadata and text decide.
        ("en", "show", None, None, (True, "en", "metadata", None)),
        ("en", "show", None, AudioEvidence(failure="no_speech"), (True, "en", "metadata", None)),
        ("en", "channel", ENGLISH, None, (True, "en", "text", None)),
        ("en", "unchecked", None, None, (False, "en", "metadata", "uncertain_language")),
        # Without a tag, text decides if it is sure; otherwise, or without text, audio does.
        (None, "", ENGLISH, heard_as(de=1.0), (True, "en", "text", None)),
        (None, "", VAGUE, heard_as(en=1.0), (True, "en", "audio", None)),
        (None, "", "short", heard_as(en=1.0), (True, "en", "audio", None)),
        (None, "", None, heard_as(fr=1.0), (False, "fr", "audio", "other_language")),
        (None, "", None, None, (False, None, "none", "unknown_language")),
    ],
)
def test_chain(
    tag: str | None, source: str, text: str | None, heard: AudioEvidence | None, outcome: tuple[Any, ...]
) -> None:
    config = LanguageConfig(text_keep=0.99, text_drop=0.05)
    decision = decide(recording(tag, source, text), config, heard)
    assert (decision.keep, decision.language, decision.evidence, decision.reason) == outcome


def test_description_is_text_too() -> None:
    assert decide(recording(text="short", description=GERMAN), LanguageConfig()).evidence == "text"
    decision = decide(recording(text=ENGLISH, description=GERMAN), LanguageConfig())
    assert decision.keep, "what is said counts before what is said about it"


def test_several_languages_share_their_probability() -> None:
    config = LanguageConfig(languages=("en", "de"))
    decision = decide(recording(), config, heard_as(en=0.3, de=0.35, fr=0.35))
    assert (decision.keep and decision.score == pytest.approx(0.65 + 0.0)) or decision.reason == "uncertain_language"
    decision = decide(recording(), config, heard_as(en=0.36, de=0.38, fr=0.26))
    assert (decision.keep, decision.language, decision.score) == (True, "de", pytest.approx(0.74))
    likeliest = decide(recording(), config, heard_as(en=0.35, de=0.36, fr=0.37))
    assert likeliest.language in ("en", "de"), "together the wanted ones are likelier"


def test_a_corpus_may_have_rules_of_its_own() -> None:
    config = LanguageConfig(
        corpora={
            "lenient": CorpusEvidence(audio_keep=0.4, audio_drop=0.2),
            "distrusted": CorpusEvidence(metadata_trust=0.3),
            "trusted": CorpusEvidence(metadata_trust=1.0),
            "always": CorpusEvidence(listen="always"),
            "never": CorpusEvidence(listen="never"),
        }
    )
    unsure = heard_as(en=0.45, de=0.55)
    assert decide(recording("en", corpus="lenient"), config, unsure).keep
    assert decide(recording("en", corpus="c"), config, unsure).reason == "other_language"
    assert decide(recording("en", "corpus", corpus="distrusted"), config).reason == "uncertain_language"
    assert decide(recording("en", corpus="trusted"), config, heard_as(de=1.0)).evidence == "metadata"
    assert decide(recording("en", "corpus", corpus="always"), config, heard_as(de=1.0)).reason == "other_language"
    assert decide(recording("en", corpus="never"), config, heard_as(de=1.0)).evidence == "metadata"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"audio_keep": 0.4}, "audio_drop 0.5 must not be above audio_keep 0.4"),
        ({"text_drop": 1.5}, "text_drop is a probability"),
        ({"metadata_keep": -1.0}, "metadata_keep is a trust"),
        ({"corpora": {"c": CorpusEvidence(audio_drop=0.9)}}, r"corpora\.c: audio_drop 0\.9 must not"),
    ],
)
def test_thresholds_that_make_no_sense(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TwistError, match=message):
        LanguageConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"min_windows": 8}, {"min_speech_s": 11.0}, {"speech_threshold": 1.0}, {"window_s": 0.0}]
)
def test_windows_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(TwistError, match=r"language\.audio"):
        AudioLanguageConfig(**wrong)


# The stage


@pytest.fixture
def run(corpus_tree: Callable[[str], Path], tmp_path: Path) -> str:
    """A manifest of podcasts (tags of shows) and of sessions (tags of channels, a floor without)."""
    kinds = ("spotify", "voxpopuli")
    corpora = [CorpusConfig(str(corpus_tree(kind)), kind, folders=("podcasts-audio", "raw_audios")) for kind in kinds]  # type: ignore[arg-type]
    make_manifest(str(tmp_path / "run"), corpora, silently)
    return str(tmp_path / "run")


@pytest.mark.usefixtures("scripted", "without_ray")
def test_it_listens_to_what_is_in_doubt(run: str) -> None:
    config = LanguageConfig(audio=CONFIG, audio_keep=0.1, audio_drop=0.05)
    filter_languages(run, config, ClusterConfig(), silently)
    decisions = read_decisions(run)
    evidence = {id.partition("/")[2]: (d.evidence, d.keep) for id, d in decisions.items()}
    assert evidence["show_0aBcD/episode1"] == ("audio", True)
    assert evidence["show_2iJkL/episode4"] == ("metadata", False), "tagged as German"
    assert evidence["20180206-0900-PLENARY_en"] == ("audio", True)
    assert evidence["20180206-0900-PLENARY_original"] == ("audio", True), "the floor has no tag"
    assert evidence["20190115-0900-PLENARY_de"] == ("metadata", False)
    facts = read_facts(run, "language")
    assert facts["audio_evidence"] == {"available": True, "unheard": {"items": 0, "hours": 0.0}}
    groups = {(row["corpus"], row["decision"], row["evidence"]): row["items"] for row in facts["by_evidence"]}
    assert groups["spotify", "keep", "audio"] == 3
    assert groups["voxpopuli", "drop: other_language", "metadata"] == 1
    hours = sum(row["hours"] for row in facts["by_evidence"])
    assert hours == pytest.approx(facts["counts"]["input"]["hours"])


def test_without_a_model_it_says_so(run: str) -> None:
    filter_languages(run, LanguageConfig(), ClusterConfig(), silently)
    facts = read_facts(run, "language")
    assert facts["audio_evidence"]["available"] is False
    assert facts["audio_evidence"]["unheard"]["items"] == 7
    kept = {id.partition("/")[2] for id, decision in read_decisions(run).items() if decision.keep}
    assert "20180206-0900-PLENARY_original" not in kept, "of which nothing is known"
    assert {"show_0aBcD/episode1", "20180206-0900-PLENARY_en"} <= kept


def spoken_in(recording: Recording) -> str:
    return recording.recording_id.split("/")[1].removeprefix("set of ")


class ByFolder:
    """A classifier that knows each window of the recordings in set of <code>/, and how sure it is to be of it."""

    labels = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pt", "zh")

    def __init__(self, recordings: Sequence[Recording], sure: float) -> None:
        self.languages: dict[bytes, str] = {}
        self.sure = sure
        for recording in recordings:
            windows = [w for places in choose_windows(recording.duration_s, None, CONFIG) for w in places]
            for wav in read_spans([Span(recording.uri, None, *window) for window in windows]):
                assert not isinstance(wav, AudioError)
                self.languages[wav.tobytes()] = spoken_in(recording)

    def __call__(self, wavs: Sequence[torch.Tensor]) -> torch.Tensor:
        told = torch.full((len(wavs), len(self.labels)), (1 - self.sure) / (len(self.labels) - 1))
        for row, wav in enumerate(wavs):
            told[row, self.labels.index(self.languages[wav.numpy().tobytes()])] = self.sure
        return told


@pytest.mark.usefixtures("scripted", "without_ray")
@pytest.mark.parametrize(
    ("wanted", "sure", "decision"),
    [(("en",), 0.9, "keep"), (("de", "es"), 0.9, "keep"), (("en",), 0.6, "quarantine"), (("en",), 0.4, "quarantine")],
)
def test_recorded_speech_in_eleven_languages(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: tuple[str, ...], sure: float, decision: str
) -> None:
    run = str(tmp_path)
    clips = tmp_path / "clips"
    clips.mkdir()
    for folder in (speech / "languages").iterdir():  # by a name that tells no language
        (clips / f"set of {folder.name}").symlink_to(folder)
    # One recording states its language, so that something is kept whatever is heard.
    make_manifest(
        run,
        [CorpusConfig(str(clips), "folder", "languages"), CorpusConfig(str(speech / "LJSpeech"), "ljspeech")],
        silently,
    )
    recordings = [recording for recording in read_recordings(run) if recording.corpus == "languages"]
    monkeypatch.setattr(language_classifier, "load_language_classifier", lambda _: ByFolder(recordings, sure))
    filter_languages(run, LanguageConfig(languages=(*wanted, "en"), audio=CONFIG), ClusterConfig(), silently)
    decisions = read_decisions(run)
    for recording in recordings:
        told = decisions[recording.recording_id]
        spoken = spoken_in(recording)
        assert (told.evidence, told.language) == ("audio", spoken)
        expected = decision if spoken in (*wanted, "en") else "drop"
        reasons = {"keep": None, "quarantine": "uncertain_language", "drop": "other_language"}
        assert told.reason == reasons[expected], recording.recording_id
    parts = [parquet.read(str(path)) for path in sorted((tmp_path / "language" / "audio").glob("*.parquet"))]
    windows = {row["recording_id"]: row["num_windows"] for part in parts for row in part.to_pylist()}
    long = [recording.recording_id for recording in recordings if recording.duration_s > 60]
    assert long and all(windows[id] == 3 for id in long)
    assert all(windows[r.recording_id] == 1 for r in recordings if r.duration_s < 10)


@pytest.mark.usefixtures("without_ray")
def test_quarantine_and_the_least_certain(run: str, scripted: Scripted) -> None:
    scripted.scale = 0.5
    config = LanguageConfig(audio=CONFIG, audio_keep=0.999, audio_drop=0.0, unknown="keep")
    with pytest.raises(TwistError, match=r"no recording is left .*uncertain_language"):
        filter_languages(run, config, ClusterConfig(), silently)
    heard = len(scripted.heard)
    other = LanguageConfig(
        audio=CONFIG, audio_keep=0.999, audio_drop=0.0, corpora={"spotify": CorpusEvidence(listen="never")}
    )
    second = f"{run}/../second"
    make_manifest(second, [CorpusConfig(**c) for c in _corpora(run)], silently)
    filter_languages(second, other, ClusterConfig(), silently)
    facts = read_facts(second, "language")
    groups = {(row["corpus"], row["decision"], row["evidence"]): row["items"] for row in facts["by_evidence"]}
    assert groups["voxpopuli", "quarantine", "audio"] == 4
    assert groups["spotify", "keep", "text"] == 3
    least = facts["least_certain"]
    assert [row["decision"] for row in least[:4]] == ["quarantine"] * 4
    rows = parquet.read(f"{second}/language/dropped.parquet").to_pylist()
    uncertain = [row for row in rows if row["reason"] == "uncertain_language"]
    assert len(uncertain) == 4 and all("by audio (wanted: 0." in row["detail"] for row in uncertain)
    assert len(scripted.heard) > heard


def _corpora(run: str) -> list[dict[str, Any]]:
    return [{**c, "folders": tuple(c["folders"])} for c in read_facts(run, "manifest")["config"]["corpora"]]


@pytest.mark.usefixtures("scripted", "without_ray")
def test_interrupted_it_goes_on_where_it_was(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LanguageConfig(audio=CONFIG, audio_keep=0.1, audio_drop=0.05)
    make_manifest(f"{run}-2", [CorpusConfig(**c) for c in _corpora(run)], silently)
    filter_languages(f"{run}-2", config, ClusterConfig(), silently)

    def die(*_: object) -> None:
        raise ConnectionError("the bucket is gone")

    with monkeypatch.context() as patch:
        patch.setattr(language_filter, "_write_decisions", die)
        with pytest.raises(ConnectionError):
            filter_languages(run, config, ClusterConfig(), silently)
    with monkeypatch.context() as patch:
        patch.setattr(language_filter, "_collect_evidence", die)  # all evidence exists already
        filter_languages(run, config, ClusterConfig(), silently)
    for name in ("decisions.parquet", "dropped.parquet"):
        assert parquet.read(f"{run}/language/{name}") == parquet.read(f"{run}-2/language/{name}")
    with pytest.raises(StageError, match=r"audio_keep was 0\.1, is 0\.2"):
        filter_languages(run, LanguageConfig(audio=CONFIG, audio_keep=0.2, audio_drop=0.05), ClusterConfig(), silently)


def test_a_model_that_is_not_there(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(TwistError, match="there is no folder some/model"):
        filter_languages(run, LanguageConfig(audio=AudioLanguageConfig(model="some/model")), ClusterConfig(), silently)
    filter_languages(
        run, LanguageConfig(audio=AudioLanguageConfig(model="some/model", required=False)), ClusterConfig(), silently
    )
    assert read_facts(run, "language")["audio_evidence"]["available"] is False


def test_rules_for_no_corpus(run: str) -> None:
    with pytest.raises(TwistError, match=r"language\.corpora names 'spotfy', which is none of the corpora"):
        filter_languages(run, LanguageConfig(corpora={"spotfy": CorpusEvidence()}), ClusterConfig(), silently)


def test_units_quarantined_are_told(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_fail(plan: Any, parts: str, *arguments: Any) -> None:
        quarantine = arguments[2]
        for unit in plan:
            parquet.write(
                f"{parts}/part-{unit.name}.parquet", quarantine(unit, AudioError("quarantined", "three times"))
            )

    monkeypatch.setattr(language_listen.dataflow, "run_chunks", all_fail)
    recordings = [r for r in read_recordings(run) if r.recording_id.endswith(("_en", "episode1"))]
    excerpts = [
        Excerpts(r.recording_id, r.corpus, r.uri, r.channel, choose_windows(r.duration_s, r.voice_activity, CONFIG))
        for r in recordings
    ]
    told = list(listen(f"{run}/language", excerpts, CONFIG, ClusterConfig(), silently)[1])
    assert [id for id, _ in told] == [recording.recording_id for recording in recordings]
    assert {heard.failure for _, heard in told} == {"quarantined"}


def test_a_run_goes_on_where_its_classifier_has_moved_to(tmp_path: Path) -> None:
    def settings_of(model: str | None, classifier: str | None) -> dict[str, Any]:
        return language_filter._audio_settings(AudioLanguageConfig(model=model), classifier)

    assert settings_of(str(tmp_path), "its fingerprint") == settings_of("s3://models/whisper", "its fingerprint")
    assert settings_of("openai/whisper-tiny", "its fingerprint")["model"] == "openai/whisper-tiny"
    assert settings_of(str(tmp_path), None)["model"] == str(tmp_path), "it was not found, and nothing was heard"
