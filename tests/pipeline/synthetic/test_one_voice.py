"""Speech of one synthesized voice: the same bytes each time, as long as asked for, and a folder corpus."""

from __future__ import annotations

import csv
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from pipeline.corpora.manifest import make_manifest
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.synthetic.config import VoiceConfig
from pipeline.synthetic.corpus_folder import MARKER
from pipeline.synthetic.one_voice import write_voice_corpus

if TYPE_CHECKING:
    from pathlib import Path

SMALL = VoiceConfig(minutes=0.3)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "voice"
    write_voice_corpus(folder, SMALL)
    return folder


def metadata(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_settings_give_the_same_bytes(voice: Path, tmp_path: Path) -> None:
    write_voice_corpus(tmp_path / "again", SMALL)
    for path in voice.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), f"{path.name} differs"
    write_voice_corpus(tmp_path / "other", dataclasses.replace(SMALL, seed=1))
    assert metadata(tmp_path / "other") != metadata(voice), "the seed changes nothing"


def test_it_holds_what_it_says(voice: Path) -> None:
    duration_s = write_voice_corpus(voice, SMALL)  # finds it there
    infos = [soundfile.info(voice / row["path"]) for row in metadata(voice)]
    assert {(info.samplerate, info.channels) for info in infos} == {(16_000, 1)}
    assert duration_s == pytest.approx(sum(info.duration for info in infos))
    assert 18 <= duration_s < 18 + 30, "the last recording runs over, and no other"
    assert all(info.duration >= 4 for info in infos)
    wav, _ = soundfile.read(voice / "000000.flac")
    assert np.abs(wav).max() == pytest.approx(0.7, abs=1e-3)


def test_it_is_a_corpus(voice: Path, tmp_path: Path) -> None:
    make_manifest(str(tmp_path / "run"), [CorpusConfig(str(voice))], lambda *_: None)
    assert (tmp_path / "run" / "manifest" / "DONE").is_file()


def test_other_content_is_left_alone(voice: Path, tmp_path: Path) -> None:
    with pytest.raises(TwistError, match="made with"):
        write_voice_corpus(voice, VoiceConfig(minutes=0.3, pitch=60))
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(TwistError, match="not by a corpus of one voice"):
        write_voice_corpus(tmp_path, SMALL)
    with pytest.raises(TwistError, match="no variant"):
        write_voice_corpus(tmp_path / "new", VoiceConfig(voice="en-us+nobody"))
    assert not (tmp_path / "new").exists(), "nothing half-made is left"
    with pytest.raises(TwistError, match="minutes is above 0"):
        VoiceConfig(minutes=0)
    assert (voice / MARKER).is_file()
