"""The small benchmark of moods: its reader reads it, and voices have the moods that they are said to have."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from pipeline.errors import TwistError
from pipeline.evaluation.sentiment.records import read_records, read_shots
from pipeline.synthetic.config import MiniStspConfig
from pipeline.synthetic.mini_stsp import SENTENCES, sentences, write_mini_stsp
from tests.progress import silently

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SMALL = MiniStspConfig(num_prompts=2, num_train=4, num_voices=2)


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stsp") / "mini"
    write_mini_stsp(folder, SMALL, silently)
    return folder


def test_sentences_are_all_different() -> None:
    for emotion in SENTENCES:
        made = sentences(random.Random(0), emotion, 400)
        assert len(set(made)) == 400
        assert all("{" not in text and len(text.split()) >= 10 for text in made)


def test_the_reader_of_the_real_one_reads_it(mini: Path) -> None:
    written, spoken = (read_records(str(mini), modality, "test") for modality in ("text", "speech"))  # type: ignore[arg-type]
    assert list(written) == ["mini_asr"] and list(spoken) == ["mini_read"]
    for records in (written["mini_asr"], spoken["mini_read"]):
        assert sorted(one.sentiment for one in records) == ["negative"] * 2 + ["neutral"] * 2 + ["positive"] * 2
    assert all(soundfile.info(one.content).duration > 1 for one in spoken["mini_read"])
    for direction in ("t2t", "t2s", "s2s", "s2t"):
        shots = read_shots(str(mini), direction)  # type: ignore[arg-type]
        assert len(shots) == 3 * 4
    both = zip(read_shots(str(mini), "t2t"), read_shots(str(mini), "s2t"), strict=True)
    texts = {row["asr"] for row in lines(mini, "mini_asr.train")}
    assert {f"{one.prompt} {one.generation}" for one, _ in both} == texts


def test_no_sentence_is_in_both_splits(mini: Path) -> None:
    train, test = ({row["asr"] for row in lines(mini, f"mini_asr.{split}")} for split in ("train", "test"))
    assert not train & test


def test_happy_voices_are_higher_and_faster_and_sad_ones_lower_and_slower(mini: Path) -> None:
    rows = lines(mini, "mini_asr.train")
    for speaker in {row["speaker"] for row in rows}:
        pitches_hz, rates = {}, {}
        for mood in ("sad", "neutral", "happy"):
            clips = [row for row in rows if row["speaker"] == speaker and row["emotion"] == mood]
            wavs = [soundfile.read(mini / row["wav_path"]) for row in clips]
            pitches_hz[mood] = np.mean([pitch_hz(wav, rate_hz) for wav, rate_hz in wavs])
            letters = sum(len(row["asr"]) for row in clips)
            rates[mood] = letters / sum(len(wav) / rate_hz for wav, rate_hz in wavs)
        assert pitches_hz["sad"] < pitches_hz["neutral"] < pitches_hz["happy"], pitches_hz
        assert rates["sad"] < rates["neutral"] < rates["happy"], rates


def test_one_configuration_gives_the_same_bytes_and_others_are_refused(mini: Path, tmp_path: Path) -> None:
    write_mini_stsp(tmp_path / "again", SMALL, silently)
    for path in sorted(mini.rglob("*.*")):
        assert (tmp_path / "again" / path.relative_to(mini)).read_bytes() == path.read_bytes(), path
    write_mini_stsp(mini, SMALL, silently)
    with pytest.raises(TwistError, match="name another folder"):
        write_mini_stsp(mini, MiniStspConfig(num_prompts=3, num_train=4), silently)
    with pytest.raises(TwistError, match="num_prompts is 1 to 500"):
        MiniStspConfig(num_prompts=0)


def lines(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "manifest" / "mini" / f"{name}.jsonl").open()]


def pitch_hz(wav: NDArray[np.float64], rate_hz: int) -> float:
    """The median pitch of the louder frames, by autocorrelation."""
    frames = np.lib.stride_tricks.sliding_window_view(wav, rate_hz // 20)[:: rate_hz // 50]
    loud = frames[frames.std(axis=1) > np.quantile(frames.std(axis=1), 0.6)]
    spectra = np.abs(np.fft.rfft(loud - loud.mean(axis=1, keepdims=True), 2 * loud.shape[1])) ** 2
    correlation = np.fft.irfft(spectra)[:, : loud.shape[1]]
    shortest, longest = rate_hz // 400, rate_hz // 60
    return float(np.median(rate_hz / (shortest + correlation[:, shortest:longest].argmax(axis=1))))
