"""Ray's cluster launcher accepts ray_cluster.yaml."""

from __future__ import annotations

from pathlib import Path

import yaml

CLUSTER = Path(__file__).resolve().parents[1] / "ray_cluster.yaml"


def test_the_launcher_accepts_it():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(CLUSTER.read_text()))
    validate_config(config)
    nodes = config["available_node_types"]
    assert nodes[config["head_node_type"]]["resources"]["CPU"] == 0, "the head must take no work"
    assert nodes["encode"]["resources"]["GPU"] >= 1
    assert "GPU" not in nodes["decode"]["resources"]
    assert sum(node["max_workers"] for name, node in nodes.items() if name != "head") <= config["max_workers"]
