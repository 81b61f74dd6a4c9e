"""Speakers and styles by name, from the files that lie beside a published vocoder."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import TwistError
from pipeline.speaking.voice_names import VoiceNames


def test_names_are_numbers_by_their_line(tmp_path):
    (tmp_path / "speakers.txt").write_text("lj\nex01\nvctk_p225\n")
    (tmp_path / "styles.txt").write_text("read-default\nconv-happy\n")
    for vocoder in (tmp_path, tmp_path / "generator.pt"):
        names = VoiceNames.beside(vocoder)
        assert names.speaker("ex01") == 1
        assert names.style("conv-happy") == 1


def test_numbers_vectors_and_nothing_stay_as_they_are():
    names = VoiceNames(("a",), ("b",))
    assert names.speaker(7) == 7
    assert names.speaker(None) is names.style(None) is None
    vector = np.zeros(3, np.float32)
    assert names.speaker(vector) is vector


def test_an_unknown_name_is_told_with_those_that_are_known(tmp_path):
    with pytest.raises(TwistError, match="no speaker 'c'; it knows a, b"):
        VoiceNames(("a", "b")).speaker("c")
    with pytest.raises(TwistError, match=r"no style 'happy'; no styles\.txt lies beside it: give a number"):
        VoiceNames.beside(tmp_path).style("happy")
