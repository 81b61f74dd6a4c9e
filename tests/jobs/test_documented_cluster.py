"""The commands for a cluster, as docs/cluster.md and ray_cluster.yaml have them, run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from tests.ray_clusters import BIN, ROOT, STARTING_TAKES_AT_MOST_S, ray_cluster
from tests.s3_servers import moto, point_clients_at

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKET, RECIPE = "lab", "recipes/twist_opt_350m.yaml"
# Stands in for the launcher, which would start machines; all else goes to Ray.
RAY = """\
#!/bin/sh
case "$1" in
    up|dashboard|down) echo "ray $*" >> "$LAUNCHED" ;;
    *) exec {ray} "$@" ;;
esac
"""


def in_the_page() -> str:
    """The block that begins with the token."""
    blocks = re.findall(r"^```\n(.*?)^```$", (ROOT / "docs/cluster.md").read_text(), re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if block.startswith("ray get-auth-token"))


def in_the_file() -> str:
    """The comment's lines from the token on that are indented."""
    comment = re.findall(r"^#   (.*)$", (ROOT / "ray_cluster.yaml").read_text(), re.MULTILINE)
    return "\n".join([*comment, ""])


def test_page_and_file_have_the_same_commands() -> None:
    assert in_the_page() == in_the_file()


@pytest.mark.faults
@pytest.mark.xdist_group("faults")
def test_the_documented_commands_make_shards(
    finished_run: Path,
    shard_files: Callable[[Path], dict[str, bytes]],
    recipe: Path,
    demo_speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkout = copy_of_checkout(tmp_path / "checkout", recipe)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ray").write_text(RAY.format(ray=BIN / "ray"))
    (tmp_path / "bin/ray").chmod(0o755)
    (tmp_path / "ray").mkdir()
    with moto() as endpoint:
        point_clients_at(endpoint, monkeypatch)
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        for path in (path for path in demo_speech.rglob("*") if path.is_file()):
            client.put_object(Bucket=BUCKET, Key=f"LibriSpeech/{path.relative_to(demo_speech)}", Body=path.read_bytes())
        with ray_cluster(tmp_path / "ray", num_cpus=3, num_gpus=1, with_dashboard=True) as cluster:
            token = tmp_path / "ray/.ray/auth_token"
            before = token.read_text()
            commands = in_the_page()
            for placeholder, value in {
                "YOUR-BUCKET": BUCKET,
                "http://localhost:8265": cluster.dashboard,
                "ray get-auth-token --generate": "ray get-auth-token",  # the cluster is up already, and has one
            }.items():
                assert placeholder in commands
                commands = commands.replace(placeholder, value)
            environment = {
                **cluster.environment,
                "PATH": f"{tmp_path / 'bin'}:{cluster.environment['PATH']}",
                "LAUNCHED": str(tmp_path / "launched"),
            }
            del environment["PYTHONPATH"]  # the job has the code from the checkout that was submitted
            wait_for_job_agent(cluster.dashboard, environment)
            done = subprocess.run(
                ["bash", "-euc", commands],
                cwd=checkout,
                env=environment,
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert token.read_text() == before and token.stat().st_mode & 0o077 == 0
        assert re.search("^shards ", done.stdout, re.MULTILINE), done.stdout
        launched = (tmp_path / "launched").read_text().splitlines()
        assert sorted(launched) == [f"ray {command} ray_cluster.yaml" for command in ("dashboard", "down", "up")]
        run, prefix = tmp_path / "run", "runs/twist_opt_350m/"
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        for name in (item["Key"] for page in pages for item in page["Contents"]):
            path = run / name.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(client.get_object(Bucket=BUCKET, Key=name)["Body"].read())
    assert not (run / "train").exists(), "the documented command ends with the shards"
    assert {name for name in shard_files(run) if name.endswith(".tar")} == {
        name for name in shard_files(finished_run) if name.endswith(".tar")
    }
    assert not (checkout / "runs").exists()


def copy_of_checkout(folder: Path, recipe: Path) -> Path:
    """The code as a user has it after the README's steps, with audio and a model that do not fit into a job.

    The recipe is a small one in place of the one that needs Meta's files.
    """
    folder.mkdir()
    for name in ("pipeline", "model", "jobs", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", "ray_cluster.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(recipe, folder / RECIPE)
    for name in ("data/LibriSpeech/long.flac", "models/opt-350m/model.safetensors", ".venv/lib/torch.so"):
        (folder / name).parent.mkdir(parents=True)
        with (folder / name).open("wb") as file:
            file.truncate(200_000_000)
    return folder


def wait_for_job_agent(dashboard: str, environment: dict[str, str]) -> None:
    """Waits until jobs can be submitted: the dashboard is up before."""
    probe = [BIN / "ray", "job", "submit", "--address", dashboard, "--", "true"]
    deadline = time.monotonic() + STARTING_TAKES_AT_MOST_S
    while True:
        done = subprocess.run(probe, env=environment, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stderr
        time.sleep(1.0)
