"""Models named by s3:// in the settings of commands: on the driver, on Ray's workers, in trainings and in speech."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
import yaml
from jsonargparse import Namespace
from transformers import AutoConfig, AutoModelForCausalLM

from jobs import generate
from model.artefacts import EMBEDDED_FOLDER
from pipeline.files import s3
from tests.ray_clusters import ROOT
from tests.s3_servers import FaultyProxy, moto, point_clients_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jobs.conftest import Twist

TEXT_LM = {
    "model_type": "opt",
    "vocab_size": 50,
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "max_position_embeddings": 1024,
}

HUBERT, CODEBOOK, VOICE = "hubert-tiny-25hz", "hubert-tiny-25hz-km100", "hifigan-tiny-25hz"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyProxy]:
    """A store with the embedded models; `met` are the paths that were asked for."""
    with moto() as endpoint, FaultyProxy(endpoint, seed=1, share_of_faults=0.0).running() as proxy:
        point_clients_at(endpoint, monkeypatch)
        boto3.client("s3").create_bucket(Bucket="models")
        for name in (HUBERT, CODEBOOK, VOICE):
            upload(EMBEDDED_FOLDER / name, name)
        point_clients_at(proxy.url, monkeypatch)
        proxy.refusal = lambda method, path: proxy.met.append(f"{method} {path}")
        monkeypatch.setenv("TWIST_CACHE", str(tmp_path / "cache"))
        yield proxy
        s3.client_of_process.cache_clear()


def upload(folder: Path, prefix: str) -> None:
    for path in (path for path in folder.iterdir() if path.is_file()):
        boto3.client("s3").put_object(Bucket="models", Key=f"{prefix}/{path.name}", Body=path.read_bytes())


def alone(*arguments: object, status: int = 0) -> str:
    """What `twist ARGUMENTS` says in a process of its own, whose Ray workers know where the store is."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.faults  # for its two clusters
@pytest.mark.xdist_group("faults")
def test_a_run_is_the_same_wherever_its_encoder_and_codebook_lie(
    store: FaultyProxy, twist: Twist, recipe: Path, demo_speech: Path, tmp_path: Path
) -> None:
    twist("run", "--config", recipe, "--audio", demo_speech, "--run", tmp_path / "run", "--until", "segment")
    (tmp_path / "models").symlink_to(EMBEDDED_FOLDER)
    runs = {}
    for where in (str(tmp_path / "models"), "s3://models"):
        run = runs[where] = tmp_path / ("run-s3" if where.startswith("s3") else "run-local")
        shutil.copytree(tmp_path / "run", run)
        own = run.with_suffix(".yaml")
        models = {
            "encoder": {"name": "hubert", "path": f"{where}/{HUBERT}", "layer": 3},
            "codebook": {"path": f"{where}/{CODEBOOK}", "num_units": 100},
        }
        own.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), **models}))
        alone("codebook", "--config", own, "--run", run)
        alone("tokenize", "--config", own, "--run", run)
    local, of_s3 = runs.values()
    for stage in ("codebook", "units"):
        fingerprints = [json.loads((run / stage / "stage.json").read_text())["fingerprint"] for run in (local, of_s3)]
        assert fingerprints[0] == fingerprints[1], f"{stage} depends on where the models lie"
        assert (local / stage / "DONE").read_bytes() == (of_s3 / stage / "DONE").read_bytes()
    parts = sorted(path.name for path in (local / "units").glob("part-*"))
    assert len(parts) > 1
    for name in parts:
        assert (local / "units" / name).read_bytes() == (of_s3 / "units" / name).read_bytes()
    fetched = [asked for asked in store.met if asked.startswith(f"GET /models/{HUBERT}/model.safetensors")]
    assert len(fetched) == 1, "driver and workers of one machine share a copy"
    told = alone("tokenize", "--run", of_s3, "--encoder.path", tmp_path / "models" / HUBERT)
    assert "already finished" in told, "a run goes on where its model has moved to"


@pytest.mark.usefixtures("store")
def test_an_encoder_that_cannot_be_fetched_fails_the_command(
    twist: Twist, recipe: Path, demo_speech: Path, tmp_path: Path
) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    encoder = ("--encoder.name", "hubert", "--encoder.path", f"s3://models/{HUBERT}", "--encoder.layer", 3)
    twist("run", "--config", recipe, "--audio", demo_speech, "--run", run, "--until", "segment")
    cache.write_text("a file, and no folder")
    told = twist("codebook", "--run", run, *encoder, status=1).stderr
    assert f"cannot fetch s3://models/{HUBERT} into {cache} of " in told and "Traceback" not in told
    assert not (run / "codebook" / "DONE").exists()
    told = twist("codebook", "--run", run, *encoder[:3], "s3://models/other", *encoder[4:], status=2).stderr
    assert "there is neither a file nor a folder s3://models/other" in told


@pytest.mark.usefixtures("store")
def test_a_training_starts_from_a_text_lm_on_s3(
    twist: Twist, finished_copy: Path, recipe: Path, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**TEXT_LM)).save_pretrained(tmp_path / "text-lm")
    upload(tmp_path / "text-lm", "text-lm")
    losses = []
    for init in (str(tmp_path / "text-lm"), "s3://models/text-lm"):
        checkpoints = tmp_path / f"checkpoints-{len(losses)}"
        options = ("--train.init", init, "--train.architecture", "null", "--checkpoints", checkpoints)
        twist("train", "--config", recipe, "--run", finished_copy, *options)
        lines = [json.loads(line) for line in (checkpoints / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0] == losses[1]
    upload(tmp_path / "checkpoints-1" / "00000008", "checkpoint")
    shards = ("--shards", finished_copy / "shards", "--json")
    measured = [
        twist("evaluate", "perplexity", "--checkpoint", folder, *shards).stdout
        for folder in (checkpoints / "00000008", "s3://models/checkpoint")
    ]
    local, of_s3 = ({**json.loads(text), "checkpoint": None} for text in measured)
    assert local == of_s3


@pytest.mark.usefixtures("store")
def test_a_recording_is_spoken_again_with_models_on_s3(twist: Twist, demo_speech: Path, tmp_path: Path) -> None:
    clip = next(path for path in sorted(demo_speech.rglob("*.wav")))
    wavs = []
    for where in (str(EMBEDDED_FOLDER), "s3://models"):
        out = tmp_path / f"{len(wavs)}.wav"
        files = ("--input-file", clip, "--output-file", out)
        twist("resynthesize", *files, "--codebook", f"{where}/{CODEBOOK}", "--vocoder", f"{where}/{VOICE}")
        wavs.append(out.read_bytes())
    assert wavs[0] == wavs[1]


@pytest.mark.usefixtures("store")
def test_a_checkpoint_on_s3_finds_the_codebook_of_its_run(finished_run: Path) -> None:
    upload(finished_run / "codebook", "run/codebook")
    named = "s3://models/run/checkpoints/00000008"
    given = Namespace(checkpoint=named, twist_model_name=None, codebook=None)
    assert generate._model(given, "") == (named, None, "s3://models/run")
    elsewhere = Namespace(checkpoint="s3://models/copied", twist_model_name=None, codebook=None)
    assert generate._model(elsewhere, "") == ("s3://models/copied", None, "")
