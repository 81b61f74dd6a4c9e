"""ray_cluster.yaml: Ray's launcher accepts it, opens nothing to the world, and sends neither data nor models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws import config as launcher
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cluster() -> dict[str, Any]:
    config: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()))
    return config


def test_the_launcher_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(cluster)
    nodes = cluster["available_node_types"]
    assert nodes[cluster["head_node_type"]]["resources"]["CPU"] == 0, "the head must take no work"
    assert nodes["encode"]["resources"]["GPU"] >= 1
    assert "GPU" not in nodes["decode"]["resources"]
    assert sum(node["max_workers"] for name, node in nodes.items() if name != "head") <= cluster["max_workers"]


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An account of Amazon's with a network and no security groups of anyone's."""
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        yield boto3.client("ec2")


def ranges_that_reach_ssh(account: Any) -> set[str]:
    rules = (rule for group in account.describe_security_groups()["SecurityGroups"] for rule in group["IpPermissions"])
    return {ip["CidrIp"] for rule in rules if rule.get("FromPort") in (22, -1, None) for ip in rule["IpRanges"]}


def test_the_launcher_opens_no_port_to_the_world(cluster: dict[str, Any], account: Any) -> None:
    subnet = account.describe_subnets()["Subnets"][0]["SubnetId"]
    for node in cluster["available_node_types"].values():
        node["node_config"]["SubnetIds"] = [subnet]
    launcher._configure_security_group(cluster)
    assert ranges_that_reach_ssh(account) == set()
    groups = {tuple(node["node_config"]["SecurityGroupIds"]) for node in cluster["available_node_types"].values()}
    assert groups == {("sg-YOUR-GROUP",)}, "all machines are in the one group that the user is told to make"

    del cluster["available_node_types"]["decode"]["node_config"]["SecurityGroupIds"]
    launcher._configure_security_group(cluster)
    assert ranges_that_reach_ssh(account) == {"0.0.0.0/0"}, "then the file's comment is no longer true"


def test_what_is_sent_to_the_machines_is_what_they_install(cluster: dict[str, Any], tmp_path: Path) -> None:
    sent = [Path(local) for local in cluster["file_mounts"].values() if not local.startswith("~")]
    left_out = [ROOT / name for name in (".git", ".venv", "data", "models", "runs")]
    for local in sent:
        path = (ROOT / local).resolve()
        assert path.exists(), f"{local} is not there"
        assert not any(other == path or path in other.parents for other in left_out), f"{local} holds too much"
        (tmp_path / "twist").mkdir(exist_ok=True)
        (tmp_path / "twist" / path.name).symlink_to(path)
    # As the machines' pip does it, without the packages that it depends on.
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w"]
    done = subprocess.run(
        [*wheel, tmp_path, tmp_path / "twist"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("twist_pipeline-*.whl"))


def test_the_head_is_reached_through_ssh_alone(cluster: dict[str, Any]) -> None:
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    starts = [line for line in starts if "ray start" in line]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
