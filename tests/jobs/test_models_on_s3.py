"""Models named by s3:// in the settings of commands: on the driver, on Ray's workers, in trainings and in speech."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from model.artefacts import EMBEDDED_FOLDER
from tests.ray_clusters import ROOT
from tests.s3_servers import FaultyProxy, moto, point_clients_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def upload(folder: Path, prefix: str) -> None:
    for path in folder.iterdir():
        boto3.client("s3").put_object(Bucket="models", Key=f"{prefix}/{path.name}", Body=path.read_bytes())


def twist(*arguments: object, status: int = 0) -> str:
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


def test_a_run_is_the_same_wherever_its_encoder_and_codebook_lie(
    store: FaultyProxy, recipe: Path, demo_speech: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").symlink_to(EMBEDDED_FOLDER)
    runs = {}
    for where in (str(tmp_path / "models"), "s3://models"):
        run = runs[where] = tmp_path / where.rpartition("/")[2] / "run" if "s3" not in where else tmp_path / "run-s3"
        run = runs[where] = tmp_path / ("run-s3" if where.startswith("s3") else "run-local")
        options = ("--encoder.name", "hubert", "--encoder.path", f"{where}/{HUBERT}", "--encoder.layer", 3)
        options += ("--codebook.path", f"{where}/{CODEBOOK}", "--codebook.num_units", 100)
        twist("run", "--config", recipe, "--audio", demo_speech, "--run", run, "--until", "tokenize", *options)
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
    moved = ("--config", recipe, "--run", of_s3, "--encoder.name", "hubert", "--encoder.layer", 3)
    told = twist("tokenize", *moved, "--encoder.path", tmp_path / "models" / HUBERT)
    assert "already finished" in told, "a run goes on where its model has moved to"


def test_a_worker_that_cannot_fetch_its_model_fails_the_command(
    store: FaultyProxy, recipe: Path, demo_speech: Path, tmp_path: Path
) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    encoder = ("--encoder.name", "hubert", "--encoder.path", f"s3://models/{HUBERT}", "--encoder.layer", 3)
    twist("run", "--config", recipe, "--audio", demo_speech, "--run", run, "--until", "segment")
    cache.write_text("a file, and no folder")
    told = twist("codebook", "--run", run, *encoder, status=1)
    assert f"cannot fetch s3://models/{HUBERT} into {cache} of " in told and "Traceback" not in told
    assert not (run / "codebook" / "DONE").exists()
    told = twist("codebook", "--run", run, *encoder[:3], "s3://models/other", *encoder[4:], status=2)
    assert "there is neither a file nor a folder s3://models/other" in told
    del store


@pytest.mark.usefixtures("store")
def test_a_training_starts_from_a_text_lm_on_s3(
    finished_copy: Path, recipe: Path, tmp_path: Path, text_lm: Callable[[Path], None]
) -> None:
    text_lm(tmp_path / "text-lm")
    upload(tmp_path / "text-lm", "text-lm")
    losses = []
    for init in (str(tmp_path / "text-lm"), "s3://models/text-lm"):
        checkpoints = tmp_path / f"checkpoints-{len(losses)}"
        options = ("--train.init", init, "--train.architecture", "null", "--checkpoints", checkpoints)
        twist("train", "--config", recipe, "--run", finished_copy, *options)
        lines = [json.loads(line) for line in (checkpoints / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("store")
def test_a_recording_is_spoken_again_with_models_on_s3(demo_speech: Path, tmp_path: Path) -> None:
    clip = next(path for path in sorted(demo_speech.rglob("*.wav")))
    wavs = []
    for where in (str(EMBEDDED_FOLDER), "s3://models"):
        out = tmp_path / f"{len(wavs)}.wav"
        files = ("--input-file", clip, "--output-file", out)
        twist("resynthesize", *files, "--codebook", f"{where}/{CODEBOOK}", "--vocoder", f"{where}/{VOICE}")
        wavs.append(out.read_bytes())
    assert wavs[0] == wavs[1]
