"""`twist evaluate resynthesis` and `generation`: from audio through units, voice and ASR to results, once."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from model.lm.speech_lm import cold_start
from model.lm.vocab import Vocabulary
from pipeline.errors import TwistError
from pipeline.evaluation.measures import GROUP
from pipeline.evaluation.speech.normalize import english_normalizer
from pipeline.evaluation.speech.text_measures import auto_bleu_gslm, self_bleu, vert
from pipeline.evaluation.speech.utterances import held_out_recordings, held_out_segments
from pipeline.evaluation.speech.word_errors import word_errors
from pipeline.synthetic import espeak
from tests.asr_models import write_ctc, write_text_lm

CODEBOOK = "hubert-tiny-25hz"
TEXTS = [
    "The little boy took his dog to the river, and sat down under a tall tree to look at the water.",
    "In the morning the old man opened the window of his house, and saw that snow had fallen at night.",
    "They walked along the road for hours, and when it got dark they had still not seen a light anywhere.",
]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A table of three sentences of two speakers, and of what cannot be used."""
    folder = tmp_path_factory.mktemp("spoken")
    rows = []
    for number, text in enumerate(TEXTS):
        samples, rate_hz = espeak.synthesize(text, "en-us+f2", words_per_minute=140)
        soundfile.write(folder / f"{number}.wav", samples, rate_hz)
        rows.append({"audio": f"{number}.wav", "text": text, "speaker": f"speaker{number % 2}"})
    soundfile.write(folder / "short.wav", samples[rate_hz:][: rate_hz // 100], rate_hz)
    (folder / "bad.wav").write_bytes(b"no audio")
    rows += [{"audio": name, "text": "a b"} for name in ("short.wav", "bad.wav", "missing.wav")]
    rows.append({"audio": "0.wav", "id": "untold"})
    (folder / "spoken.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder / "spoken.jsonl"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with an ASR, a text LM and a speech LM of random weights."""
    folder = tmp_path_factory.mktemp("models")
    write_ctc(folder / "asr")
    write_text_lm(folder / "text_lm")
    opt = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 1}
    opt |= {"model_type": "opt", "num_attention_heads": 2, "max_position_embeddings": 300}
    cold_start(opt, Vocabulary(100), seed=0).save_pretrained(folder / "lm")
    return folder


def options(name, **settings):
    return [word for key, value in settings.items() for word in (f"--evaluation.{name}.{key}", value)]


def kept(output):
    """The units, continuations, transcripts and scores of texts that a command leaves, and when each was written."""
    results = ("resynthesis.parquet", "generation.parquet")
    return {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet") if path.name not in results}


def test_resynthesis_from_audio_to_word_errors_once(twist, spoken, models, tmp_path):
    output, wavs = tmp_path / "evaluation", tmp_path / "wavs"
    command = ["evaluate", "resynthesis", "--codebook", CODEBOOK, "--output", output, "--json"]
    command += options("resynthesis", asr=models / "asr", source=spoken, wavs=wavs)
    told = json.loads(twist(*command).stdout)
    assert told["left_out"] == {"missing": 1, "no_text": 1, "too_short": 1, "unreadable": 1}
    assert told["fingerprints"].keys() == {"data", "codebook", "model", "asr", "vocoder"}
    assert told["settings"]["asr"] == told["fingerprints"]["asr"]
    assert str(models / "asr") in told["notes"][0]
    (items,) = output.glob("units-*/resynthesis.parquet")
    rows = pq.read_table(items).to_pylist()
    assert [row["said"] for row in rows] == TEXTS
    assert [row[GROUP] for row in rows] == ["speaker0", "speaker1", "speaker0"]
    normalize = english_normalizer()
    rates = {}
    for side in ("original", "resynthesized"):
        found = [word_errors(normalize(row["said"]), normalize(row[f"heard_{side}"])) for row in rows]
        rates[side] = sum(one.errors for one in found) / sum(one.num_words for one in found)
    figures = told["figures"]
    assert figures["WER"]["value"] == pytest.approx(rates["resynthesized"])
    assert figures["WER of the original"]["value"] == pytest.approx(rates["original"])
    assert figures["difference"]["value"] == pytest.approx(rates["resynthesized"] - rates["original"])
    assert figures["WER"]["num_groups"] == 2
    assert [soundfile.info(path).duration > 3 for path in sorted(wavs.iterdir())] == [True] * 3

    made = kept(output)
    assert json.loads(twist(*command).stdout) == told
    assert kept(output) == made


def test_generation_from_prompts_to_texts_once(twist, spoken, models, tmp_path):
    output = tmp_path / "evaluation"
    command = ["evaluate", "generation", "--codebook", CODEBOOK, "--checkpoint", models / "lm", "--output", output]
    command += ["--json", *options("generation", asr=models / "asr", text_lm=models / "text_lm", source=spoken)]
    command += options("generation", min_s=4, num_continuations=2, **{"sampling.seed": 3})
    told = json.loads(twist(*command).stdout)
    assert told["left_out"] == {"missing": 1, "too_short": 1, "unreadable": 1}
    wanted = {"data", "codebook", "model", "continuations", "asr", "text_lm", "vocoder"}
    assert told["fingerprints"].keys() == wanted
    assert told["settings"]["sampling"]["seed"] == 3
    (items,) = output.glob("*/generation.parquet")
    rows = pq.read_table(items).to_pylist()
    assert len(rows) == 8  # the three sentences and the one without a text, twice each
    figures = {name: figure["value"] for name, figure in told["figures"].items()}
    for scope in ("with prompt", "without prompt"):
        words = [english_normalizer()(row[f"heard {scope}"]) for row in rows]
        nats, tokens = ([row[f"{name} {scope}"] for row in rows] for name in ("nats", "num_tokens"))
        spoken_to = [(n, t) for n, t in zip(nats, tokens, strict=True) if t]
        assert figures[f"GenPPL, {scope}"] == pytest.approx(math.exp(np.mean([n / t for n, t in spoken_to])))
        assert figures[f"GenPPL of all tokens, {scope}"] == pytest.approx(math.exp(sum(nats) / sum(tokens)))
        assert figures[f"VERT, {scope}"] == pytest.approx(
            vert(self_bleu(words), [auto_bleu_gslm(text) for text in words])
        )
        takes = 64  # positions of the text LM, one of them for BOS
        num_all = [len(f"{row[f'heard {scope}']}".encode()) for row in rows]
        cut = [max(0, count - (takes - 1)) for count in num_all]
        assert [row[f"num_cut_tokens {scope}"] for row in rows] == cut
        assert [row[f"is_cut {scope}"] for row in rows] == [count > 0 for count in cut]
        num_cut = sum(count > 0 for count in cut)
        assert figures[f"longer than the text LM takes, {scope}"] == num_cut / len(rows)
        notes = [note for note in told["notes"] if note.startswith(f"Perplexities, {scope}")]
        expected = f"of {num_cut} of 8 transcripts the text LM takes the beginning alone; {sum(cut):,} tokens are not"
        assert len(notes) == (num_cut > 0)
        assert all(expected in note for note in notes)
    assert any("are not judged" in note for note in told["notes"]), "no transcript of this test is too long"
    assert figures["units of the continuation"] > 0

    made = kept(output)
    assert json.loads(twist(*command).stdout) == told
    assert kept(output) == made


def test_a_run_gives_what_it_held_out(finished_run):
    """Whole recordings, whose texts are known, and segments, which begin with speech."""
    samples = pq.read_table(finished_run / "shards/manifest.parquet").to_pylist()
    validation = {row["segment_id"]: row["speaker"] for row in samples if row["split"] == "validation"}
    segments = held_out_segments(str(finished_run), "validation")
    assert {one.item.item_id: one.speaker for one in segments} == validation
    recordings = held_out_recordings(str(finished_run), "validation")
    assert {one.item.item_id for one in recordings} == {name.rpartition("#")[0] for name in validation}
    assert all(one.text for one in recordings)
    with pytest.raises(TwistError, match="no recording in its test split"):
        held_out_recordings(str(finished_run), "test")
    with pytest.raises(TwistError, match="no speech in its test split"):
        held_out_segments(str(finished_run), "test")


def test_what_is_missing_is_told_with_its_option(twist, spoken, models, tmp_path):
    alone = ["--codebook", CODEBOOK, "--output", tmp_path, "--checkpoint", models / "lm"]
    asr = models / "asr"
    for name, given, error in (
        ("resynthesis", {}, "give --evaluation.resynthesis.asr"),
        ("resynthesis", {"asr": asr}, "give --evaluation.resynthesis.source"),
        ("resynthesis", {"asr": tmp_path, "source": spoken}, "there is no ASR"),
        ("resynthesis", {"asr": models / "text_lm", "source": spoken}, "is no ASR"),
        ("generation", {}, "give --evaluation.generation.asr"),
        ("generation", {"asr": asr}, "give --evaluation.generation.text_lm"),
        ("generation", {"asr": asr, "text_lm": tmp_path, "source": spoken}, "is no text LM"),
        ("generation", {"asr": asr, "text_lm": models / "text_lm", "source": spoken, "min_s": 60}, "a lower min_s"),
    ):
        stderr = twist("evaluate", name, *alone, *options(name, **given), status=2).stderr
        assert error in stderr, (name, given)
