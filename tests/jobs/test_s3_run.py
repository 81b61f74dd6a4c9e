"""A whole run on S3, audio and all, through a proxy that fails some requests: shards and model as those on a disk."""

from __future__ import annotations

import os
import subprocess
import sys

import boto3
import pytest

from tests.ray_clusters import ROOT
from tests.s3_servers import FAULTS, FaultyProxy, moto, point_clients_at, rclone


def twist(url: str, *arguments: object) -> str:
    """What `twist ARGUMENTS` prints in a process of its own, as its Ray workers also need the address of the store."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "AWS_ENDPOINT_URL_S3": url},
        capture_output=True,
        text=True,
        timeout=300,
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
        twist(proxy.url, "run", *settings)
        assert bool(proxy.met) == (share_of_faults > 0)
        assert share_of_faults < 0.3 or set(proxy.met) == set(FAULTS), "the run must meet every kind of fault"
        proxy.share_of_faults = 0.0
        again = twist(proxy.url, "run", *settings)
        assert again.count("already finished") == 7, again
        verified = twist(proxy.url, "inspect", "s3://runs/one", "--verify")
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
