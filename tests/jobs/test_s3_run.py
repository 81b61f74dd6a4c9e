"""Whole runs on S3, audio and all, through a proxy that fails some requests: all as on a disk, and nothing dropped."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import boto3
import pyarrow.parquet as pq
import pytest

from pipeline.files import s3, storage
from pipeline.files.machine_cache import CACHE_VARIABLE
from pipeline.runs import STAGES, STYLE_MODEL
from pipeline.stage import DROPPED
from tests.jobs.whole_runs import commands
from tests.ray_clusters import ROOT
from tests.s3_servers import FAULTS, FaultyProxy, moto, point_clients_at, rclone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.jobs.conftest import Twist
    from tests.jobs.whole_runs import WholeRun

# Longest pause between tries where requests fail by chance: with those of a real run, a test would only wait.
PAUSE_S = 0.05


def twist_alone(url: str, *arguments: object) -> str:
    """What `twist ARGUMENTS` prints in a process of its own, as its Ray workers also need the address of the store."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "AWS_ENDPOINT_URL_S3": url},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# Waiting for retries takes a minute or two.
@pytest.mark.parametrize(
    ("kind", "share_of_faults"),
    [
        ("moto", 0.0),
        pytest.param("moto", 0.1, marks=pytest.mark.faults),
        pytest.param("moto", 0.3, marks=pytest.mark.faults),
        pytest.param("moto", 0.5, marks=pytest.mark.faults),
        pytest.param("rclone", 0.5, marks=pytest.mark.faults),
    ],
)
def test_a_run_on_s3_equals_one_on_disk(
    kind, share_of_faults, finished_run, recipe, demo_speech, tmp_path, monkeypatch
):
    (tmp_path / "buckets").mkdir()
    with (
        moto() if kind == "moto" else rclone(tmp_path / "buckets") as endpoint,
        FaultyProxy(endpoint, seed=1, share_of_faults=share_of_faults).running() as proxy,
    ):
        point_clients_at(endpoint, monkeypatch)
        client = boto3.client("s3")
        client.create_bucket(Bucket="corpora")
        client.create_bucket(Bucket="runs")
        for path in demo_speech.rglob("*"):
            if path.is_file():
                # By the name of the folder on disk, which is also the corpus's name.
                client.put_object(
                    Bucket="corpora", Key=f"speech/{path.relative_to(demo_speech)}", Body=path.read_bytes()
                )
        settings = ("--config", recipe, "--run", "s3://runs/one", "--audio", "s3://corpora/speech")
        twist_alone(proxy.url, "run", *settings)
        assert bool(proxy.met) == (share_of_faults > 0)
        assert share_of_faults < 0.3 or set(proxy.met) == set(FAULTS), "the run must meet every kind of fault"
        proxy.share_of_faults = 0.0
        again = twist_alone(proxy.url, "run", *settings)
        assert again.count("already finished") == 7, again
        verified = twist_alone(proxy.url, "inspect", "s3://runs/one", "--verify")
        assert "every checksum and invariant holds" in verified

        pages = client.get_paginator("list_objects_v2").paginate(Bucket="runs", Prefix="one/")
        names = [item["Key"] for page in pages for item in page.get("Contents", [])]
        read = {name: client.get_object(Bucket="runs", Key=name)["Body"].read() for name in names}
    files = [path for path in finished_run.rglob("*") if path.suffix in (".tar", ".parquet", ".safetensors")]
    # The manifest and the plan name the audio's location, which differs; everything else is the same.
    places = {"codebook", "units", "shards", "checkpoints"}
    compared = [path for path in files if path.relative_to(finished_run).parts[0] in places]
    assert {path.relative_to(finished_run).parts[0] for path in compared} == places
    for path in compared:
        name = f"one/{path.relative_to(finished_run)}"
        assert read[name] == path.read_bytes(), f"{name} differs"
    assert not [name for name in names if name.endswith((".tmp", "progress.json"))]


OF_THIS_PLACE = ("manifest", "language", "segments", "evaluation", STYLE_MODEL)


@contextlib.contextmanager
def failing_store(
    share_of_faults: float, speech: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FaultyProxy, str]]:
    """A store with the corpus in it, behind a proxy that this process is pointed at; and the store's own endpoint."""
    monkeypatch.setenv(CACHE_VARIABLE, str(folder / "cache"))
    monkeypatch.setattr(s3, "LONGEST_PAUSE_S", PAUSE_S)
    with moto() as endpoint, FaultyProxy(endpoint, seed=7, share_of_faults=share_of_faults).running() as proxy:
        point_clients_at(endpoint, monkeypatch)
        client = boto3.client("s3")
        for bucket in ("corpora", "runs"):
            client.create_bucket(Bucket=bucket)
        for path in (path for path in speech.rglob("*") if path.is_file()):
            client.put_object(Bucket="corpora", Key=f"speech/{path.relative_to(speech)}", Body=path.read_bytes())
        point_clients_at(proxy.url, monkeypatch)
        yield proxy, endpoint
    s3.client_of_process.cache_clear()


def drops(run: str) -> dict[str, list[tuple[str, str]]]:
    """What each stage dropped, and why."""
    found = {}
    for stage in STAGES:
        with storage.open_read(storage.join(run, stage.name, DROPPED)) as file:
            table = pq.read_table(file)
        found[stage.name] = list(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))
    return found


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("share_of_faults", [0.1, 0.3, 0.5])
@pytest.mark.faults
def test_all_that_commands_make_on_s3_equals_that_on_disk(
    share_of_faults: float,
    whole_run: WholeRun,
    demo_speech: Path,
    twist: Twist,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every stage, words, text and preferences among them, and all four trainings, in this process."""
    run = "s3://runs/one"
    with failing_store(share_of_faults, demo_speech, tmp_path, monkeypatch) as (proxy, endpoint):
        for command in commands(whole_run.recipe, run, "s3://corpora/speech"):
            twist(*command)
        figures = json.loads(twist("evaluate", "perplexity", "--run", run, "--json").stdout)["model"]
        assert set(proxy.met) == set(FAULTS), "it must meet every kind of fault"
        point_clients_at(endpoint, monkeypatch)
        assert "every checksum and invariant holds" in twist("inspect", run, "--verify").stdout
        assert drops(run) == drops(str(whole_run.run))
        found = {name: storage.read_bytes(f"{run}/{name}") for name in storage.list_files(run)}
    told = twist("evaluate", "perplexity", "--run", whole_run.run, "--json").stdout
    assert figures == json.loads(told)["model"]
    compared = [
        path.relative_to(whole_run.run)
        for path in whole_run.run.rglob("*")
        if path.suffix in (".tar", ".safetensors") or path.match("*/part-*.parquet")
    ]
    # The plan names the audio's place, which differs, and a style model is local; all else is the same.
    compared = [path for path in compared if path.parts[0] not in OF_THIS_PLACE]
    assert {path.parts[0] for path in compared} >= {
        *("words", "codebook", "units", "pitch", "style", "text", "shards", "preferences"),
        *("checkpoints", "tuned", "vocoder", "tokenizer"),
    }
    assert not [str(path) for path in compared if found.get(str(path)) != (whole_run.run / path).read_bytes()]
    assert not [name for name in found if name.endswith((".tmp", "lease.json"))]
