"""Stores and mounts that become unreachable, and the effects of a broken disk or a changed corpus."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import pytest

from pipeline.files import parquet
from tests.ray_clusters import ROOT
from tests.s3_servers import FaultyProxy, moto, point_clients_at

GONE_FOR_S, UNMOUNTED_FOR_S = 20.0, 8.0


def parts_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "units").glob("part-*.parquet")}


@pytest.mark.faults
def test_a_store_that_is_gone_for_a_while(finished_run, recipe, demo_speech, monkeypatch):
    """The store goes down as soon as the first parts are written."""
    run = "s3://runs/one"
    with moto() as endpoint, FaultyProxy(endpoint, seed=2, share_of_faults=0.0).running() as proxy:
        point_clients_at(endpoint, monkeypatch)
        environment = {**os.environ, "AWS_ENDPOINT_URL_S3": proxy.url}
        client = boto3.client("s3")
        client.create_bucket(Bucket="runs")

        def committed() -> list[str]:
            listed = client.list_objects_v2(Bucket="runs", Prefix="one/units/part-").get("Contents", [])
            return [item["Key"] for item in listed]

        command = [sys.executable, "-m", "jobs.run", "--config", recipe, "--run", run, "--audio", demo_speech]
        work = subprocess.Popen(
            [*map(str, command), "--until", "tokenize"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 200
        while not committed() and work.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        proxy.is_down = True
        before = len(committed())
        back = threading.Timer(GONE_FOR_S, lambda: setattr(proxy, "is_down", False))
        back.start()
        _, errors = work.communicate(timeout=280)
        back.join()
        assert work.returncode == 0, errors
        names = committed()
        assert before < len(names), "all was done before the store went away"
        read = {name: client.get_object(Bucket="runs", Key=name)["Body"].read() for name in names}
        everything = client.list_objects_v2(Bucket="runs")["Contents"]
        uploads = client.list_multipart_uploads(Bucket="runs").get("Uploads", [])
    assert {Path(name).name: content for name, content in read.items()} == parts_of(finished_run)
    assert not uploads and not [item["Key"] for item in everything if item["Key"].endswith(".tmp")]


@pytest.mark.faults
def test_a_mount_that_goes_away_for_a_while(finished_run, recipe, demo_speech, tmp_path):
    """As soon as the first parts are written, the corpus' mount point is an empty folder."""
    corpus, run = tmp_path / demo_speech.name, tmp_path / "run"
    corpus.mkdir()
    mount = ["mount", "--bind", demo_speech, corpus]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        command = [sys.executable, "-m", "jobs.run", "--config", recipe, "--run", run, "--audio", corpus]
        work = subprocess.Popen(
            [*command, "--until", "tokenize"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 200
        while not parts_of(run) and work.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        subprocess.run(["umount", "--lazy", corpus], check=True)
        before = len(parts_of(run))
        time.sleep(UNMOUNTED_FOR_S)
        subprocess.run(mount, check=True)
        _, errors = work.communicate(timeout=280)
        assert work.returncode == 0, errors
        assert before < len(parts_of(run)), "all was done before the mount went away"
        assert parts_of(run) == parts_of(finished_run)
    finally:
        subprocess.run(["umount", "--lazy", corpus], check=False)


def test_parts_that_a_broken_disk_left_are_made_again(finished_run, finished_copy, twist, recipe, caplog):
    run = finished_copy
    (run / "units" / "DONE").unlink()
    first, second, third, *_ = sorted((run / "units").glob("part-*"))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:300])
    content = bytearray(third.read_bytes())
    content[len(content) // 3] ^= 16
    third.write_bytes(content)
    with pytest.raises(parquet.DamagedFileError):
        parquet.read(str(third))
    twist("tokenize", "--config", recipe, "--run", run)
    assert "done once more" in caplog.text
    assert parts_of(run) == parts_of(finished_run)


def test_a_manifest_that_changed_is_not_mixed_with_what_was_made_of_the_old_one(
    finished_copy, twist, recipe, demo_speech, tmp_path
):
    speech = Path(shutil.copytree(demo_speech, tmp_path / "speech"))
    run = finished_copy
    (run / "units" / "DONE").unlink()
    sorted((run / "units").glob("part-*"))[0].unlink()
    before = parts_of(run)
    for stage in ("manifest", "language", "segments"):
        shutil.rmtree(run / stage)
    next(path for path in sorted(speech.rglob("*")) if path.suffix in (".flac", ".wav", ".ogg", ".mp3")).unlink()
    twist("manifest", "--config", recipe, "--run", run, "--audio", speech)
    for command in ("filter", "segment"):
        twist(command, "--config", recipe, "--run", run)
    refused = twist("codebook", "--config", recipe, "--run", run, status=2).stderr
    assert "its input segments has changed since" in refused and "Traceback" not in refused
    refused = twist("tokenize", "--config", recipe, "--run", run, status=2).stderr
    assert "its input segments has changed since" in refused and "Traceback" not in refused
    assert parts_of(run) == before, "parts of the old plan were touched"
