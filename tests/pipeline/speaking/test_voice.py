"""Units in, audio out: which voice belongs to which units, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.artefacts import ARTEFACTS
from pipeline.errors import TwistError
from pipeline.speaking import voice as voices
from pipeline.speaking.units import Units
from pipeline.speaking.voice import Voice, load_voice, voice_for
from pipeline.units import codebook

UNITS = Units(np.array([3, 7, 3, 99], np.uint16), np.array([4, 10, 2, 6], np.uint16))


@pytest.fixture(scope="module")
def voice() -> Voice:
    return load_voice("hifigan-tiny-25hz", device="cpu")


def test_units_last_as_long_as_their_durations_say(voice: Voice) -> None:
    wav, sample_rate_hz = voice(UNITS)
    assert (len(wav), sample_rate_hz) == (22 * 640, 16_000)
    (batched, cut) = voice.batch([UNITS, UNITS[:2]])
    np.testing.assert_array_equal(batched, wav)
    assert len(cut) == 14 * 640


def test_durations_are_predicted_where_there_are_none(voice: Voice) -> None:
    bare = Units(UNITS.values)
    predicted = voice.with_durations(bare)
    assert predicted.durations is not None
    np.testing.assert_array_equal(voice(bare)[0], voice(predicted)[0])


def test_a_run_without_a_vocoder_has_the_one_made_for_its_units(spoken_run: Path, voice: Voice) -> None:
    of_run = load_voice(spoken_run, device="cpu")
    assert of_run.path == voice.path
    np.testing.assert_array_equal(of_run(UNITS)[0], voice(UNITS)[0])


def test_units_that_the_voice_does_not_speak_are_refused(voice: Voice, small_run: Path) -> None:
    with pytest.raises(TwistError, match=r"from codebook other, but this voice speaks those of"):
        voice(Units(UNITS.values, codebook_fingerprint="other"))
    with pytest.raises(TwistError, match="unit 100 is not one of the 100"):
        voice(Units(np.array([100], np.uint16)))
    with pytest.raises(TwistError, match="takes no speaker"):
        voice(UNITS, speaker=0)
    with pytest.raises(TwistError, match="no vocoder for the units"):
        load_voice(small_run)


def test_the_official_vocoder_belongs_to_the_official_codebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "resolve", lambda name: f"/cache/{name}")
    facts = {"fingerprint": "x", "imported_sha256": ARTEFACTS["mhubert-base-25hz-km500"].sha256}
    official = codebook.Codebook({"centroids": np.zeros((500, 4), np.float32)}, facts)
    with pytest.raises(TwistError, match=r"/cache/config\.json"):
        voice_for(official)
    other = codebook.Codebook({"centroids": np.zeros((500, 4), np.float32)}, {**facts, "imported_sha256": "0"})
    with pytest.raises(TwistError, match="no vocoder for the units"):
        voice_for(other)


def ctc_book(num_units: int) -> codebook.Codebook:
    """A CTC quantizer of so many units, the blank among them, whose units the embedded vocoder speaks."""
    shapes = {"0": (8, 4), "2": (8, 8), "4": (num_units, 8)}
    weights = {f"{layer}.weight": np.zeros(shape, np.float32) for layer, shape in shapes.items()}
    weights |= {f"{layer}.bias": np.zeros(shape[0], np.float32) for layer, shape in shapes.items()}
    return codebook.Codebook(weights, {"fingerprint": load_voice("hifigan-tiny-25hz", "cpu").codebook_fingerprint})


def test_a_voice_of_one_unit_less_speaks_those_of_a_ctc_quantizer(voice: Voice) -> None:
    """As Meta's: 501 units, 500 that are said. A blank is the unit before it, and nothing but blanks is nothing."""
    of_ctc = voice_for(ctc_book(101), device="cpu")
    np.testing.assert_array_equal(of_ctc(UNITS)[0], voice(UNITS)[0])
    with_blanks = Units(np.array([100, 3, 100, 100, 7], np.uint16), np.array([1, 2, 3, 1, 4], np.uint16))
    as_said = Units(np.array([3, 3, 3, 3, 7], np.uint16), with_blanks.durations)
    np.testing.assert_array_equal(of_ctc(with_blanks)[0], voice(as_said)[0])
    predicted = of_ctc.with_durations(Units(with_blanks.values))
    np.testing.assert_array_equal(predicted.values, with_blanks.values)
    np.testing.assert_array_equal(predicted.durations, voice.with_durations(Units(as_said.values)).durations)
    nothing = Units(np.array([100], np.uint16))
    assert len(of_ctc(nothing)[0]) == 0
    assert len(of_ctc.with_durations(nothing)) == 1
    with pytest.raises(TwistError, match="speaks 100 units, but these are of 102"):
        voice_for(ctc_book(102), device="cpu")
