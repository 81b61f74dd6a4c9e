"""`twist evaluate`: benchmarks of pairs on a run, from audio files to a table of results."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from transformers import AutoModelForCausalLM

import twist as notebook
from pipeline.synthetic.espeak import synthesize

NUM_PAIRS = 6


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory, demo_speech):
    """Speech against the same speech backwards."""
    folder = tmp_path_factory.mktemp("pairs")
    spoken = next(path for path in sorted(demo_speech.rglob("*.wav")) if soundfile.info(path).duration > 4)
    samples, rate_hz = soundfile.read(spoken)
    for side in ("positive", "negative"):
        (folder / side).mkdir()
    for number in range(NUM_PAIRS):
        wav = samples[number * rate_hz // 4 :][: 2 * rate_hz]
        soundfile.write(folder / "positive" / f"{number}.wav", wav, rate_hz)
        soundfile.write(folder / "negative" / f"{number}.wav", wav[::-1], rate_hz)
    (folder / "positive" / "lone.wav").write_bytes((folder / "positive" / "0.wav").read_bytes())
    (folder / "positive" / "bad.wav").write_bytes(b"no audio")
    (folder / "negative" / "bad.wav").write_bytes((folder / "negative" / "0.wav").read_bytes())
    return folder


def test_pairs_of_ones_own_from_audio_to_a_table(twist, finished_copy, pairs_folder):
    command = ("evaluate", "pairs", "--run", finished_copy, "--evaluation.pairs.source", pairs_folder)
    told = json.loads(twist(*command, "--json").stdout)
    (uri,) = (finished_copy / "evaluation").glob("*/pairs.json")
    assert json.loads(uri.read_text()) == told
    assert told["left_out"] == {"unpaired": 1, "unreadable": 1}
    items = pq.read_table(uri.with_suffix(".parquet")).to_pylist()
    assert [row["item_id"] for row in items] == [str(number) for number in range(NUM_PAIRS)]
    assert told["settings"]["scoring"] == {"bos": False, "eos": False, "repeats": False}
    assert told["figures"]["all, mean"]["value"] == pytest.approx(np.mean([row["right_mean"] for row in items]))

    # An independent computation: this project's units, plain transformers, one clip at a time.
    tokenizer = notebook.load_tokenizer(finished_copy)
    model = AutoModelForCausalLM.from_pretrained(told["subject"]).eval()
    for row in items:
        for side in ("positive", "negative"):
            units = tokenizer(pairs_folder / side / f"{row['item_id']}.wav").values
            ids = torch.from_numpy(units.astype(np.int64))[None] + model.config.offset
            with torch.inference_mode():
                nats = model(input_ids=ids, labels=ids).loss.item() * (len(units) - 1)
            assert row[f"sum_{side}"] == pytest.approx(-nats, rel=1e-4)
            assert row[f"tokens_{side}"] == len(units) - 1

    parts = {path: path.stat().st_mtime_ns for path in (finished_copy / "evaluation/units").rglob("*.parquet")}
    assert parts
    again = json.loads(twist(*command, "--json").stdout)
    assert again == told
    assert {path: path.stat().st_mtime_ns for path in (finished_copy / "evaluation/units").rglob("*.parquet")} == parts

    table = twist("evaluate", "table", finished_copy, finished_copy).stdout
    assert "pairs" in table
    assert "perplexity" in table  # which `twist run` measures
    (row,) = (
        row
        for row in json.loads(twist("evaluate", "table", finished_copy, finished_copy, "--format", "json").stdout)[
            "rows"
        ]
        if row["benchmark"] == "pairs"
    )
    assert row["differences"][1]["value"] == 0


def test_runs_are_drawn_side_by_side(twist, finished_run, tmp_path):
    pytest.importorskip("matplotlib")
    twist("evaluate", "plot", finished_run, finished_run, "--output", tmp_path / "runs.png")
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    assert "holds no training" in twist("evaluate", "plot", tmp_path, "--output", tmp_path / "x.png", status=2).stderr


def test_a_benchmark_without_data_says_which_option_names_it(twist, finished_run):
    for name, option in (("swuggy", "swuggy.folder"), ("storycloze", "storycloze.spoken"), ("pairs", "pairs.source")):
        stderr = twist("evaluate", name, "--run", finished_run, status=2).stderr
        assert f"give --evaluation.{option}" in stderr


def test_where_a_submission_lies_is_told(twist, finished_run, tmp_path):
    dev = tmp_path / "swuggy" / "lexical" / "dev"
    dev.mkdir(parents=True)
    for name, word in (("a", "wooden window"), ("b", "wooden wundoy")):
        soundfile.write(dev / f"{name}.wav", *synthesize(word, "en-us+f2"))
    (dev / "gold.csv").write_text(
        "filename,id,voice,frequency,word,phones,length,correct\na,1,v,3,w,k,3,1\nb,1,v,,n,k,3,0\n"
    )
    submitted = tmp_path / "submission"
    command = ["evaluate", "swuggy", "--run", finished_run, "--output", tmp_path / "evaluation"]
    command += ["--evaluation.swuggy.folder", tmp_path / "swuggy", "--evaluation.swuggy.submission", submitted]
    line = f"submission written: {submitted / 'lexical' / 'dev.txt'}"
    assert twist(*command).stdout.splitlines()[-1] == line
    assert len((submitted / "lexical" / "dev.txt").read_text().splitlines()) == 2
    done = twist(*command, "--json")
    assert json.loads(done.stdout)["benchmark"] == "swuggy"
    assert line in done.stderr.splitlines()


def test_nothing_to_measure_is_told(twist, tmp_path):
    stderr = twist("evaluate", "all", "--run", tmp_path, status=2).stderr
    assert "there is nothing to measure on" in stderr


def test_another_run_is_no_result(twist, finished_copy):
    shutil.rmtree(finished_copy / "evaluation")
    assert "holds no results" in twist("evaluate", "table", finished_copy, status=2).stderr


def test_perplexities_on_other_units_are_not_compared(twist, finished_copy, tmp_path):
    for folder in (finished_copy / "evaluation").iterdir():
        if not folder.name.isdigit():  # of another test's checkpoint
            shutil.rmtree(folder)
    other = shutil.copytree(finished_copy, tmp_path / "other")
    (uri,) = (other / "evaluation").glob("*/perplexity.json")
    content = json.loads(uri.read_text())
    content["fingerprints"]["data"] = "other"
    uri.write_text(json.dumps(content))
    table = json.loads(twist("evaluate", "table", finished_copy, other, "--format", "json").stdout)
    (row,) = (row for row in table["rows"] if row["benchmark"] == "perplexity")
    assert row["differences"] == [None, None]
    assert "other units" in row["reasons"][1]


def test_a_folder_without_results_is_told(twist, tmp_path):
    assert "holds no results" in twist("evaluate", "table", tmp_path, status=2).stderr


def test_what_the_model_was_not_trained_with_is_refused(twist, finished_run, pairs_folder):
    command = ("evaluate", "pairs", "--run", finished_run, "--evaluation.pairs.source", pairs_folder)
    stderr = twist(*command, "--evaluation.scoring.eos", "true", status=2).stderr
    assert "trained without an id for the start and end" in stderr
