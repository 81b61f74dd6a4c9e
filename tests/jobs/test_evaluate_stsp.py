"""`twist evaluate stsp`: a tiny model of text and units on the mini set, in all directions, once."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model.artefacts import resolve
from model.lm.speech_lm import cold_start
from model.lm.text_lm import extend_text_lm, text_tokenizer
from model.lm.text_tokenizer import TextTokenizer
from model.lm.vocab import Vocabulary
from pipeline.evaluation.sentiment import stsp
from pipeline.evaluation.sentiment.answers import with_room
from pipeline.evaluation.sentiment.predictions import score_predictions
from pipeline.evaluation.sentiment.records import read_records
from pipeline.speaking.code_models import load_code_models
from pipeline.speaking.expressive import StreamTokenizer
from pipeline.speaking.speech_lm import load_lm
from pipeline.speaking.tokenizer import load_tokenizer
from pipeline.synthetic.config import MiniStspConfig
from pipeline.synthetic.mini_stsp import write_mini_stsp
from pipeline.work import cluster
from tests.classifier_models import write_speech_classifier, write_text_classifier
from tests.progress import silently
from tests.text_models import write_tokenizer

if TYPE_CHECKING:
    from model.lm.parts import Part
    from tests.jobs.conftest import Twist

CODEBOOK = "hubert-tiny-25hz"
FINGERPRINT = json.loads(Path(resolve("hubert-tiny-25hz-km100"), "codebook.json").read_text())["fingerprint"]
LLAMA: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 330,
    "max_position_embeddings": 1024,
    "initializer_range": 0.5,  # so that what is said depends on the prompt
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini set with classifiers, a checkpoint of a model of text and the embedded units, and one of units alone."""
    folder = tmp_path_factory.mktemp("stsp")
    write_mini_stsp(folder / "mini", MiniStspConfig(num_prompts=2, num_train=2, num_voices=1), silently)
    texts = [json.loads(line)["asr"] for line in (folder / "mini/manifest/mini/mini_asr.train.jsonl").open()]
    write_text_classifier(folder / "mini/model/text_classifier", texts)
    write_speech_classifier(folder / "mini/model/speech_classifier")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LLAMA)).save_pretrained(folder / "text-lm")
    write_tokenizer(folder / "text-lm")
    vocabulary = Vocabulary(100, 332, codebook_fingerprint=FINGERPRINT, text_size=330)
    extend_text_lm(str(folder / "text-lm"), vocabulary, seed=0).save_pretrained(folder / "checkpoint")
    text_tokenizer(str(folder / "text-lm"), vocabulary).save_pretrained(folder / "checkpoint")
    cold_start({"model_type": "llama", **LLAMA}, Vocabulary(100), seed=0).save_pretrained(folder / "units-alone")
    return folder


def command(folder: Path, output: Path, *more: object) -> list[object]:
    words = ["evaluate", "stsp", "--checkpoint", folder / "checkpoint", "--codebook", CODEBOOK, "--output", output]
    words += ["--json", "--evaluation.stsp.folder", folder / "mini", "--evaluation.stsp.num_runs", 2]
    words += [
        "--cluster.max_actors",
        1,
        "--evaluation.stsp.max_new_speech_tokens",
        20,
        "--evaluation.stsp.max_new_text_tokens",
        8,
    ]
    return [*words, *more]


def results(printed: str) -> dict[str, dict[str, Any]]:
    return {told["benchmark"]: told for told in map(json.loads, printed.splitlines())}


def kept(output: Path) -> dict[Path, int]:
    """All that is made on the way to results, and when."""
    paths = (path for name in ("units", "stsp", "sentiments") for path in (output / name).rglob("*.parquet"))
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.fixture
def in_this_process(without_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Lets units be made and classifiers judge in the test's process, from copies as workers get them."""

    def map_here(function: Any, items: Any, _: object) -> Any:
        there = pickle.loads(pickle.dumps(function))
        return (there(pickle.loads(pickle.dumps(item))) for item in items)

    monkeypatch.setattr(cluster, "map_actors", map_here)


@pytest.mark.usefixtures("in_this_process")
def test_all_directions_from_prompts_to_predictions_once(twist: Twist, folder: Path, tmp_path: Path) -> None:
    words = command(folder, tmp_path / "evaluation", "--evaluation.stsp.predictions", tmp_path / "predictions")
    words += ["--evaluation.stsp.wavs", tmp_path / "wavs"]
    printed = twist(*words).stdout
    told = results(printed)
    assert list(told) == ["stsp_t2t", "stsp_t2s", "stsp_s2s", "stsp_s2t"]
    for name, result in told.items():
        rows = pq.read_table(next((tmp_path / "evaluation").glob(f"*/{name}.parquet"))).to_pylist()
        assert len(rows) == 2 * 6, "two runs of two prompts of three sentiments"
        assert not result["left_out"]
        right = np.mean([row["predicted"] == row["sentiment"] for row in rows])
        assert result["figures"]["accuracy"]["value"] == pytest.approx(right)
        assert {row["set"] for row in rows} == {"mini_asr" if name[5] == "t" else "mini_read"}
        assert result["fingerprints"].keys() >= {"answers", "text_classifier", "speech_classifier"}
        assert ("vocoder" in result["fingerprints"]) == name.endswith("s")
        assert any("our own making" in note for note in result["notes"])
        (set_name,) = {row["set"] for row in rows}
        scores = [
            score_predictions(
                str(folder / f"mini/manifest/mini/{set_name}.test.jsonl"),
                str(tmp_path / f"predictions/{name}.{set_name}.{run}.jsonl"),
            ).share
            for run in range(2)
        ]
        assert np.mean(scores) == pytest.approx(right), "the exported predictions score as ours"
        answers = [row["text"] for row in rows]
        assert all(answers) if name.endswith("t") else not any(answers)
    lines = [json.loads(line) for line in (tmp_path / "predictions/stsp_s2s.mini_read.1.jsonl").open()]
    for line in lines:
        assert 0 < soundfile.info(line["generation"]).duration < 20
    runs = [
        [json.loads(line)["generation"] for line in (tmp_path / f"predictions/stsp_t2t.mini_asr.{run}.jsonl").open()]
        for run in range(2)
    ]
    assert runs[0] != runs[1], "runs draw by seeds of their own"

    made = kept(tmp_path / "evaluation")
    assert twist(*words).stdout == printed
    assert kept(tmp_path / "evaluation") == made


@pytest.fixture(scope="module")
def expressive(folder: Path) -> Path:
    """A checkpoint of a model that says the embedded models' pitch and style, too."""
    models = load_code_models("pitch-tiny", "style-tiny-25hz", "cpu")
    pitch, style = models["pitch"], models["style"]
    vocabulary = Vocabulary(
        100, 332, codebook_fingerprint=FINGERPRINT, text_size=330, num_pitch=pitch.num_codes, num_style=style.num_codes,
        pitch_offset=432, pitch_fingerprint=pitch.fingerprint, style_fingerprint=style.fingerprint,
    )  # fmt: skip
    extend_text_lm(str(folder / "text-lm"), vocabulary, seed=0).save_pretrained(folder / "expressive")
    text_tokenizer(str(folder / "text-lm"), vocabulary).save_pretrained(folder / "expressive")
    return folder / "expressive"


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("shots", [0, 3])
def test_an_expressive_model_hears_and_says_pitch_and_style(
    twist: Twist, folder: Path, expressive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shots: int
) -> None:
    asked: list[tuple[Part, ...]] = []

    def with_room_seen(prompts: Any, *more: Any) -> Any:
        asked.extend(prompts.values())
        return with_room(prompts, *more)

    monkeypatch.setattr(stsp, "with_room", with_room_seen)
    words = command(folder, tmp_path, "--checkpoint", expressive, "--evaluation.stsp.vocoder", "hifigan-tiny-25hz")
    words += ["--pitch.model", "pitch-tiny", "--style.model", "style-tiny-25hz", "--evaluation.stsp.directions"]
    words += ["[s2s, s2t]", "--evaluation.stsp.num_runs", 1, "--evaluation.stsp.shots", shots]
    told = results(twist(*words).stdout)
    assert all(result["figures"]["accuracy"]["num_items"] == 6 for result in told.values())
    lm = load_lm(str(expressive), "cpu")
    models = load_code_models("pitch-tiny", "style-tiny-25hz", "cpu")
    tokenizer = StreamTokenizer(load_tokenizer(CODEBOOK), models["pitch"], models["style"], lm.vocabulary)
    of_set = read_records(str(folder / "mini"), "speech", "test", ["mini_read"])
    heard = tokenizer.values([one.content for records in of_set.values() for one in records])
    questions = [prompt[-1].values.tolist() for prompt in asked[: len(heard)]]
    assert sorted(questions) == sorted(values.tolist() for values in heard), "as `twist generate` hears them"
    assert {len(prompt) > 1 for prompt in asked} == {shots > 0}
    answers = pa.concat_tables(pq.read_table(path) for path in (tmp_path / "stsp").rglob("*.parquet"))
    said = {value for units in answers["units"].to_pylist() for value in units or ()}
    assert min(said) < 100 <= max(said), "it says units and codes"


@pytest.mark.usefixtures("in_this_process")
def test_examples_are_shown_and_results_have_names_of_their_own(twist: Twist, folder: Path, tmp_path: Path) -> None:
    few = ["--evaluation.stsp.shots", 3, "--evaluation.stsp.max_items", 2, "--evaluation.stsp.num_runs", 1]
    told = results(twist(*command(folder, tmp_path, *few)).stdout)
    assert list(told) == ["stsp_t2t_3shot", "stsp_t2s_3shot", "stsp_s2s_3shot", "stsp_s2t_3shot"]
    for name, result in told.items():
        assert result["figures"]["accuracy"]["num_items"] == 2, name
        assert result["settings"]["shots"] == 3


@pytest.mark.usefixtures("in_this_process")
def test_prompts_without_room_for_an_answer_are_named(twist: Twist, folder: Path, tmp_path: Path) -> None:
    prompts = [json.loads(line)["asr"] for line in (folder / "mini/manifest/mini/mini_asr.test.jsonl").open()]
    lengths = sorted(len(tokens) + 1 for tokens in TextTokenizer(str(folder / "checkpoint")).encode(prompts))
    assert lengths[0] < lengths[-1]
    room = 1024 - (lengths[0] + lengths[-1]) // 2
    few = ["--evaluation.stsp.directions", "[t2t]", "--evaluation.stsp.max_new_text_tokens", room]
    few += ["--evaluation.stsp.num_runs", 1, "--evaluation.stsp.num_tries", 1]
    told = results(twist(*command(folder, tmp_path, *few)).stdout)["stsp_t2t"]
    assert told["left_out"].keys() == {"too_long"} and 0 < told["left_out"]["too_long"] < 6
    assert told["figures"]["accuracy"]["num_items"] + told["left_out"]["too_long"] == 6


def test_what_is_missing_is_told_with_its_option(twist: Twist, folder: Path, tmp_path: Path) -> None:
    alone = ["evaluate", "stsp", "--codebook", CODEBOOK, "--output", tmp_path]
    mixed, units_alone = ["--checkpoint", folder / "checkpoint"], ["--checkpoint", folder / "units-alone"]
    data = ["--evaluation.stsp.folder", folder / "mini"]
    reader = ["--evaluation.stsp.text_classifier", folder / "mini/model/text_classifier"]
    for given, error in (
        (mixed, "give --evaluation.stsp.folder"),
        ([*mixed, "--evaluation.stsp.folder", tmp_path, *reader], "give --evaluation.stsp.speech_classifier"),
        ([*mixed, "--evaluation.stsp.folder", tmp_path], "give --evaluation.stsp.text_classifier"),
        ([*units_alone, *data], "is a model of units alone"),
        ([*mixed, *data, "--evaluation.stsp.split", "dev"], "no set of text in the split dev"),
        ([*mixed, *data, "--evaluation.stsp.shots", 9], "9 shots need 3 negative examples, but there are 2"),
        ([*mixed, *data, "--evaluation.stsp.num_runs", 0], "num_runs is 0; it must be at least 1"),
        ([*mixed, *data, "--evaluation.stsp.directions", "[t2x]"], "t2x"),
    ):
        assert error in twist(*alone, *given, status=2).stderr, given


def test_predictions_of_others_are_scored(twist: Twist, tmp_path: Path) -> None:
    (tmp_path / "ref.jsonl").write_text('{"id": 1, "emotion": "angry"}\n{"id": 2, "emotion": "neutral"}\n')
    (tmp_path / "pred.jsonl").write_text('{"id": "1", "pred": "angry"}\n{"id": "2", "pred": "neutral"}\n')
    files = (tmp_path / "ref.jsonl", tmp_path / "pred.jsonl")
    assert "50.00%: 1 of 2 right by sentiment" in twist("evaluate", "stsp-score", *files).stdout
    told = json.loads(twist("evaluate", "stsp-score", *files, "--label", "emotion", "--json").stdout)
    assert told == {"label": "emotion", "accuracy": 1.0, "num_right": 2, "num_records": 2}
    assert "there is no file" in twist("evaluate", "stsp-score", tmp_path / "x", tmp_path / "y", status=2).stderr
