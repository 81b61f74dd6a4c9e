"""`twist evaluate prosody`: two voices beside each other on recordings, kept and paired."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from model.pitch.checkpoint import save_pitch_model
from model.pitch.model_config import PitchModelConfig
from model.pitch.tokenizer import load_pitch_tokenizer
from model.pitch.vqvae import PitchVQVAE
from pipeline.synthetic import espeak
from pipeline.work import cluster
from tests.pipeline.speaking.test_expression import CONFIG, write_voice

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.conftest import Twist


@pytest.fixture
def in_this_process(without_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Lets units be made and clips be compared in the test's process, from copies as workers get them."""

    def map_here(function: Any, items: Any, _: object) -> Any:
        there = pickle.loads(pickle.dumps(function))
        return (there(pickle.loads(pickle.dumps(item))) for item in items)

    monkeypatch.setattr(cluster, "map_actors", map_here)


@pytest.mark.usefixtures("in_this_process")
def test_voices_are_set_beside_each_other(twist: Twist, tmp_path: Path) -> None:
    rows = []
    for number, text in enumerate(("The river had risen in the night.", "Nobody had ever seen it so high.")):
        samples, rate_hz = espeak.synthesize(text, "en-us+f2", words_per_minute=140)
        soundfile.write(tmp_path / f"{number}.wav", samples, rate_hz)
        rows.append({"audio": f"{number}.wav", "speaker": f"speaker{number}"})
    rows.append({"audio": "missing.wav"})
    (tmp_path / "table.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "pitch").mkdir()
    torch.manual_seed(0)
    save_pitch_model(PitchVQVAE(PitchModelConfig(num_codes=4, extractor="nccf")), tmp_path / "pitch")
    fingerprint = load_pitch_tokenizer(str(tmp_path / "pitch")).fingerprint
    write_voice(tmp_path / "melodic", {**CONFIG, "num_f0_tokens": 4, "model_in_dim": 16}, {"pitch": fingerprint})

    output = tmp_path / "evaluation"
    words: list[object] = ["evaluate", "prosody", "--codebook", "hubert-tiny-25hz", "--output", output, "--json"]
    words += ["--evaluation.prosody.source", tmp_path / "table.jsonl", "--evaluation.prosody.wavs", tmp_path / "wavs"]
    voices = {"plain": "hifigan-tiny-25hz", "melodic": str(tmp_path / "melodic")}
    words += ["--evaluation.prosody.voices", json.dumps(voices)]
    assert "name their model with --pitch-model" in twist(*words, status=2).stderr
    words += ["--evaluation.prosody.pitch_model", tmp_path / "pitch"]
    printed = twist(*words).stdout
    told = json.loads(printed)
    assert told["left_out"] == {"missing": 1}
    assert (
        told["notes"][0].endswith("melodic, given codes of pitch.")
        and "hifigan-tiny-25hz; melodic is" in told["notes"][0]
    )
    of_plain = [*words, "--evaluation.prosody.voices", json.dumps({"plain": "hifigan-tiny-25hz"})]
    assert "no voice takes the codes of evaluation.prosody.pitch_model" in twist(*of_plain, status=2).stderr
    figures = {name: figure["value"] for name, figure in told["figures"].items()}
    for name in ("F0 frame error", "energy correlation"):
        difference = figures[f"{name}, melodic"] - figures[f"{name}, plain"]
        assert figures[f"{name}, melodic less plain"] == pytest.approx(difference)
    assert figures["energy correlation, plain"] > 0.5, "the embedded voice is as loud as the recording, by and large"
    (items,) = output.glob("units-*/prosody.parquet")
    assert pq.read_table(items).num_rows == 2
    for voice in voices:
        assert len(list((tmp_path / "wavs" / voice).glob("*.wav"))) == 2
    made = {path: path.stat().st_mtime_ns for path in (output / "prosody").rglob("*.parquet")}
    assert len(made) == 2 and twist(*words).stdout == printed
    assert made == {path: path.stat().st_mtime_ns for path in (output / "prosody").rglob("*.parquet")}
    with_predicted = twist(*words, "--evaluation.prosody.durations", "predicted").stdout
    assert json.loads(with_predicted)["settings"]["durations"] == "predicted"
    assert (
        "give --evaluation.prosody.source"
        in twist("evaluate", "prosody", "--codebook", "hubert-tiny-25hz", "--output", output, status=2).stderr
    )
