"""The main job as a data engineer starts it: `ray job submit` to a running cluster."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.ray_clusters import BIN, ROOT, STARTING_TAKES_AT_MOST_S, RayCluster, ray_cluster

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.faults]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A one-machine Ray cluster with its dashboard."""
    with ray_cluster(tmp_path_factory.mktemp("ray"), num_cpus=3, with_dashboard=True) as cluster:
        yield cluster


def submit_job(command: list[object], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Submits a job and waits for it, retrying at first: the dashboard is up before its job agent."""
    deadline = time.monotonic() + STARTING_TAKES_AT_MOST_S
    while True:
        done = subprocess.run(
            [*map(str, command)], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1.0)


def test_a_submitted_job_tokenizes_like_a_command(
    cluster, finished_run, shard_files, twist, recipe, demo_speech, tmp_path
):
    environment = cluster.environment
    run = tmp_path / "run"
    twist("manifest", "--config", recipe, "--run", run, "--audio", demo_speech)
    for command in ("filter", "segment", "codebook"):
        twist(command, "--config", recipe, "--run", run)
    submit = [BIN / "ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", ROOT, "--"]
    tokenize = ["python", "-m", "jobs.tokenize", "--config", recipe, "--run", run]
    done = submit_job(submit + tokenize, environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "units " in done.stdout, "the driver's summary line did not reach the one who submitted"
    twist("pack", "--config", recipe, "--run", run)
    assert shard_files(run) == shard_files(finished_run)

    refused = submit_job([*submit, *tokenize, "--encoder.max_chunk_s", 5], environment)
    assert refused.returncode != 0, "a job that fails must fail the one who submitted it"
    assert "max_chunk_s was 100.0, is 5.0" in refused.stdout + refused.stderr
