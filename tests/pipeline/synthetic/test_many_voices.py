"""Synthesized voices: the same bytes each time, test voices and sentences apart from training's, phonemes in time."""

from __future__ import annotations

import csv
import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.errors import TwistError
from pipeline.synthetic.config import VoicesConfig
from pipeline.synthetic.corpus_folder import MARKER
from pipeline.synthetic.many_voices import PAUSE_S, PHONEMES, TEST_VARIANTS, prose, write_voices_corpus

if TYPE_CHECKING:
    from pathlib import Path

SMALL = VoicesConfig(hours=0.02, test_sentences=2)


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "voices"
    summary = write_voices_corpus(folder, SMALL)
    assert summary == dataclasses.replace(summary, num_test_recordings=2 * len(TEST_VARIANTS))
    return folder


def metadata(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_settings_give_the_same_bytes(voices: Path, tmp_path: Path) -> None:
    write_voices_corpus(tmp_path / "again", SMALL)
    paths = sorted(path.relative_to(voices) for path in voices.rglob("*") if path.is_file())
    assert paths == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    for path in paths:
        assert (voices / path).read_bytes() == (tmp_path / "again" / path).read_bytes(), f"{path} differs"
    write_voices_corpus(tmp_path / "other", dataclasses.replace(SMALL, seed=1))
    assert metadata(tmp_path / "other" / "train") != metadata(voices / "train"), "the seed changes nothing"


def test_it_holds_what_it_says(voices: Path) -> None:
    summary = json.loads((voices / MARKER).read_text())["summary"]
    for split in ("train", "test"):
        rows = metadata(voices / split)
        assert {row["path"] for row in rows} == {
            str(path.relative_to(voices / split)) for path in (voices / split).rglob("*.flac")
        }
        infos = [soundfile.info(voices / split / row["path"]) for row in rows]
        assert {(info.samplerate, info.channels) for info in infos} == {(16_000, 1)}
        assert summary[f"{split}_hours"] == pytest.approx(sum(info.duration for info in infos) / 3600)
        assert all(row["speaker"] == row["path"].partition("/")[0] for row in rows)
    assert summary["train_hours"] == pytest.approx(SMALL.hours, rel=0.3)


def test_test_voices_and_sentences_are_not_trained_on(voices: Path) -> None:
    train, test = (metadata(voices / split) for split in ("train", "test"))
    assert not {row["speaker"] for row in train} & {row["speaker"] for row in test}
    told = {row["text"] for row in test}
    assert len(told) == SMALL.test_sentences and told <= set(prose())
    for row in train:
        assert not any(sentence in row["text"] for sentence in told), f"{row['path']} says a sentence of the test"


def test_phonemes_and_words_fill_the_recording(voices: Path) -> None:
    for row in pq.read_table(voices / "test" / PHONEMES).to_pylist():
        wav, rate_hz = soundfile.read(voices / "test" / row["path"])
        for heard in (row["phonemes"], row["words"]):
            starts, ends = ([one[name] for one in heard] for name in ("start_s", "end_s"))
            assert starts[1:] == ends[:-1], f"{row['path']}: a gap, or two at once"
            assert starts[0] >= 0 and ends[-1] == pytest.approx(len(wav) / rate_hz, abs=1e-3)
        pauses = [one for one in row["phonemes"] if not one["name"] and one["end_s"] - one["start_s"] > 0.1]
        for pause in pauses:
            middle = wav[round((pause["start_s"] + 0.04) * rate_hz) : round((pause["end_s"] - 0.04) * rate_hz)]
            assert np.abs(middle).max(initial=0) < 0.1 * np.abs(wav).max(), f"{row['path']}: {pause} is not silent"
        assert len(row["words"]) >= 3


def test_phonemes_of_training_lie_where_the_sound_is(voices: Path) -> None:
    rows = pq.read_table(voices / "train" / PHONEMES).to_pylist()
    assert [row["path"] for row in rows] == [row["path"] for row in metadata(voices / "train")]
    for row in rows:
        wav, rate_hz = soundfile.read(voices / "train" / row["path"])
        starts, ends = ([one[name] for one in row["phonemes"]] for name in ("start_s", "end_s"))
        gaps = [start - end for start, end in zip(starts[1:], ends[:-1], strict=True)]
        between = [gap for gap in gaps if gap > 1e-3]
        assert all(PAUSE_S[0] - 1e-3 <= gap <= PAUSE_S[1] + 1e-3 for gap in between), f"{row['path']}: {between}"
        assert min(gaps) > -1e-3 and PAUSE_S[0] <= len(wav) / rate_hz - ends[-1] + 1e-3 <= PAUSE_S[1] + 2e-3
        said = [one for one in row["phonemes"] if one["name"]]
        loud = [np.abs(wav[round(one["start_s"] * rate_hz) : round(one["end_s"] * rate_hz)]).mean() for one in said]
        for place in np.flatnonzero(np.array(gaps) > 1e-3):
            pause = wav[round((ends[place] + 0.02) * rate_hz) : round((starts[place + 1] - 0.02) * rate_hz)]
            assert np.abs(pause).mean() < 0.7 * np.mean(loud), f"{row['path']}: speech in a pause"


def test_a_finished_folder_is_found_and_another_is_refused(voices: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in voices.rglob("*")}
    write_voices_corpus(voices, SMALL)
    assert {path: path.stat().st_mtime_ns for path in voices.rglob("*")} == before
    with pytest.raises(TwistError, match="holds a corpus of voices made with"):
        write_voices_corpus(voices, dataclasses.replace(SMALL, hours=1.0))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TwistError, match="not by a corpus of voices"):
        write_voices_corpus(tmp_path, SMALL)


@pytest.mark.parametrize("changes", [{"hours": 0.0}, {"hours": float("inf")}, {"test_sentences": 1}])
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(TwistError, match=next(iter(changes))):
        dataclasses.replace(SMALL, **changes)
