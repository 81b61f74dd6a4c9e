"""Machines that leave and join the cluster during work."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults import slow_work
from tests.ray_clusters import ROOT, RayCluster, ray_cluster

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.faults]


def start(cluster: RayCluster, folder: Path, **settings: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.slow_work", str(folder), json.dumps(settings)],
        cwd=ROOT,
        env={**cluster.environment, "RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_parts(folder: Path, count: int, work: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while len(list((folder / "parts").glob("part-*"))) < count:
        assert time.monotonic() < deadline, f"{count} parts were not done in time"
        assert work.poll() is None, f"the work is over: {work.communicate()}"
        time.sleep(0.1)


def test_a_machine_that_goes_takes_nothing_with_it(tmp_path: Path) -> None:
    # Long enough for the machine's death to be noticed while there is work left.
    slow_work.write_plan(tmp_path, 40, seconds_of_audio=5.0)
    expected = slow_work.expected_outcomes(tmp_path)
    (tmp_path / "ray").mkdir()
    with ray_cluster(tmp_path / "ray", num_cpus=2) as cluster:
        second = cluster.add_machine(num_cpus=2)
        work = start(cluster, tmp_path, seconds=4.0, cpus_per_actor=0.5)
        wait_for_parts(tmp_path, 8, work)
        cluster.kill(second)
        _, errors = work.communicate(timeout=500)
        assert work.returncode == 0, errors
    assert slow_work.outcomes_of(tmp_path) == expected
    assert json.loads((tmp_path / "work.json").read_text())["dropped"] == {}, "chunks were blamed for a lost machine"


def test_a_cluster_grows_with_the_work(tmp_path: Path) -> None:
    slow_work.write_plan(tmp_path, 24, seconds_of_audio=2.0)
    expected = slow_work.expected_outcomes(tmp_path)
    (tmp_path / "ray").mkdir()
    with ray_cluster(tmp_path / "ray", num_cpus=1, growing=growing_cluster(max_workers=3)) as cluster:
        # Only the machines that join have the resource that stands for a GPU.
        work = start(cluster, tmp_path, seconds=4.0, gpus_per_actor=1.0, cpus_per_actor=0.0, max_actors=3)
        _, errors = work.communicate(timeout=500)
        assert work.returncode == 0, errors
    assert slow_work.outcomes_of(tmp_path) == expected
    workers = {path.name.split("-")[2] for path in (tmp_path / "marks").iterdir()}
    assert len(workers) >= 2, "one actor did it all: no more machines were asked for"


def growing_cluster(max_workers: int) -> dict[str, Any]:
    """Ray's own fake cloud, whose machines are further raylets on this one."""
    return {
        "cluster_name": "growing",
        "max_workers": max_workers,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "encode": {
                "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 200_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": max_workers,
            },
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "upscaling_speed": 1.0,
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
