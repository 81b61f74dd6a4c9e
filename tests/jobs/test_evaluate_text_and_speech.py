"""`twist evaluate` on a model of text and speech, from audio files to results: stories, ASR, TTS and intents."""

from __future__ import annotations

import json
import random

import pyarrow.parquet as pq
import pytest
import soundfile

from model.lm.text_lm import extend_text_lm, text_tokenizer
from model.lm.vocab import Vocabulary
from pipeline.evaluation.speech.word_errors import letter_errors
from pipeline.speaking.tokenizer import find_codebook
from pipeline.synthetic import espeak
from pipeline.synthetic.mini_stories import mini_stories
from pipeline.synthetic.stories import write_storycloze
from pipeline.work import cluster
from tests.asr_models import write_ctc
from tests.model.lm.test_text_lm import ROWS, write_text_lm
from tests.progress import silently

CODEBOOK = "hubert-tiny-25hz"
TEXTS = ("the quick brown fox", "over the lazy dog", "she sells sea shells", "by the sea shore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of random weights, an ASR, two stories, and clips with texts and labels."""
    folder = tmp_path_factory.mktemp("text-and-speech")
    fingerprint = find_codebook(CODEBOOK).fingerprint
    vocabulary = Vocabulary(100, ROWS + 2, codebook_fingerprint=fingerprint, text_size=ROWS)
    text_lm = str(write_text_lm(folder / "text-lm", "llama"))
    extend_text_lm(text_lm, vocabulary, seed=0).save_pretrained(folder / "lm")
    text_tokenizer(text_lm, vocabulary).save_pretrained(folder / "lm")
    write_ctc(folder / "asr")
    rows = []
    for number, text in enumerate((*TEXTS, "stop")):
        samples, rate_hz = espeak.synthesize(text, "en-us+f2", words_per_minute=140)
        path = str(folder / f"{number}.wav")
        soundfile.write(path, samples, rate_hz)
        rows.append({"audio": path, "text": text, "label": "sea" if "sea" in text else "land"})
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "asked.jsonl").write_text("".join(lines[:2]))
    (folder / "examples.jsonl").write_text("".join(lines[:4]))

    def speak(text):
        return espeak.synthesize(text, "en-us+f2", words_per_minute=250)

    write_storycloze(folder / "stories", mini_stories(random.Random(0), 2), speak, 0, silently)
    return folder


def test_from_audio_to_results(twist, folder, tmp_path, monkeypatch, without_ray):  # noqa: ARG001
    monkeypatch.setattr(cluster, "map_actors", lambda judge, items, _: map(judge, items))
    output = tmp_path / "evaluation"
    command = ["evaluate", "storycloze", "asr", "tts", "intent", "--json", "--checkpoint", folder / "lm"]
    command += ["--codebook", CODEBOOK, "--output", output, "--evaluation.storycloze.spoken", folder / "stories/sSC"]
    for name in ("asr", "tts", "intent"):
        command += [f"--evaluation.{name}.source", folder / "asked.jsonl", f"--evaluation.{name}.num_shots", "2"]
        command += [f"--evaluation.{name}.examples", folder / "examples.jsonl"]
    command += ["--evaluation.tts.stop", folder / "4.wav", "--evaluation.tts.asr", folder / "asr"]
    command += ["--evaluation.tts.wavs", tmp_path / "wavs", "--evaluation.tts.max_new_tokens", "40"]
    told = {one["benchmark"]: one for one in map(json.loads, twist(*command).stdout.splitlines())}
    assert told.keys() == {"ssc", "ssc-cross", "asr", "tts", "intent"}
    assert not any(one["left_out"] for one in told.values())
    stories = told["ssc-cross"]["figures"]
    assert {name.partition(",")[0] for name in stories} == {"T->T", "S->S", "T->S", "S->T"}
    assert {figure["num_items"] for figure in stories.values()} == {2}
    assert told["tts"]["fingerprints"].keys() == {"data", "codebook", "model", "asr", "vocoder"}
    assert next(iter(told["tts"]["figures"])) == "CER"
    (items,) = output.glob("*/tts.parquet")
    rows = pq.read_table(items).to_pylist()
    assert [row["said"] for row in rows] == list(TEXTS[:2])
    assert all(row["num_letters"] == len(row["said"]) for row in rows)
    wrong = sum(letter_errors(row["said"], row["heard"])[0] for row in rows)
    assert told["tts"]["figures"]["CER"]["value"] == pytest.approx(wrong / sum(map(len, TEXTS[:2])))
    wavs = sorted((tmp_path / "wavs").iterdir())
    assert len(wavs) == 2
    assert all(soundfile.info(path).duration > 0.2 for path in wavs)
    made = {path: path.stat().st_mtime_ns for path in output.rglob("part-*.parquet")}
    again = {one["benchmark"]: one for one in map(json.loads, twist(*command).stdout.splitlines())}
    assert again == told
    assert {path: path.stat().st_mtime_ns for path in output.rglob("part-*.parquet")} == made
