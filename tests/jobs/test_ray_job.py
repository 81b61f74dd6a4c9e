"""The main job as a data engineer starts it: `ray job submit` to a cluster that is already there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# One process makes the finished run for all tests that look at it.
pytestmark = pytest.mark.xdist_group("finished_run")
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STARTING_TAKES_AT_MOST_S = 90.0


def free_ports(count: int) -> list[int]:
    """Ports above those that Ray gives to its workers and below those that the kernel hands out."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A one-machine Ray cluster with its dashboard: the address for jobs, and the environment to reach it with."""
    # All that has a fixed port otherwise, which a cluster of another test may hold.
    port, dashboard_port, agent_port, agent_grpc_port, metrics_port = free_ports(5)
    home = tmp_path_factory.mktemp("ray")
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        # Ray refuses strangers by a token, which it keeps below the home folder.
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
    }
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    command = [BIN / "ray", "start", "--head", "--block", "--port", port, "--dashboard-port", dashboard_port]
    command += ["--dashboard-agent-listen-port", agent_port, "--dashboard-agent-grpc-port", agent_grpc_port]
    command += ["--metrics-export-port", metrics_port]
    command += ["--num-cpus", 3, "--object-store-memory", 500_000_000, "--disable-usage-stats"]
    log = (home / "ray.log").open("w+")
    head = subprocess.Popen([*map(str, command)], env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + STARTING_TAKES_AT_MOST_S
        while head.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", dashboard_port)) == 0:
                    break
            time.sleep(0.5)
        else:
            log.seek(0)
            pytest.fail(f"the Ray cluster did not start:\n{log.read()}")
        yield f"http://127.0.0.1:{dashboard_port}", environment
    finally:
        head.terminate()
        head.wait(timeout=60)
        log.close()


def submit_job(command: list[object], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Submits and waits; the first time perhaps more than once, as the dashboard is up before what runs its jobs."""
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
    address, environment = cluster
    run = tmp_path / "run"
    twist("manifest", "--config", recipe, "--run", run, "--audio", demo_speech)
    for command in ("filter", "segment", "codebook"):
        twist(command, "--config", recipe, "--run", run)
    submit = [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ROOT, "--"]
    tokenize = ["python", "-m", "jobs.tokenize", "--config", recipe, "--run", run]
    done = submit_job(submit + tokenize, environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "units " in done.stdout, "the driver's summary line did not reach the one who submitted"
    twist("pack", "--config", recipe, "--run", run)
    assert shard_files(run) == shard_files(finished_run)

    refused = submit_job([*submit, *tokenize, "--encoder.max_chunk_s", 5], environment)
    assert refused.returncode != 0, "a job that fails must fail the one who submitted it"
    assert "max_chunk_s was 100.0, is 5.0" in refused.stdout + refused.stderr
