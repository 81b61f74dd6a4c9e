"""The Grafana dashboard's questions, put to a Prometheus that watches a run."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from tests.ray_clusters import BIN, ROOT, free_ports, ray_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMETHEUS = shutil.which("prometheus")
STARTING_TAKES_AT_MOST_S = 60.0
# The last figures are exported, and fetched, after so long.
FETCHED_WITHIN_S = 30.0
PANELS = json.loads((ROOT / "grafana_dashboard.json").read_text())["panels"]
QUESTIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


@contextlib.contextmanager
def prometheus(folder: Path, watched: str) -> Iterator[str]:
    """A Prometheus that fetches from `watched` every second; gives its address."""
    assert PROMETHEUS is not None
    config = {
        "scrape_configs": [{"job_name": "ray", "scrape_interval": "1s", "static_configs": [{"targets": [watched]}]}]
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{free_ports(1)[0]}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        server = subprocess.Popen([PROMETHEUS, *options, f"--web.listen-address={address}"], stderr=log)
    try:
        wait_until_ready(address, folder / "prometheus.log")
        yield address
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(address: str, log: Path) -> None:
    deadline = time.monotonic() + STARTING_TAKES_AT_MOST_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).close()
            return
        time.sleep(0.2)
    raise AssertionError(f"Prometheus did not start:\n{log.read_text()}")


def answers(address: str, question: str, begun: float) -> list[dict[str, Any]]:
    """What Grafana draws: the curves of a question, a point a second since `begun`."""
    asked = urllib.parse.urlencode({"query": question, "start": begun, "end": time.time(), "step": "1s"})
    with urllib.request.urlopen(f"http://{address}/api/v1/query_range?{asked}", timeout=30) as answer:
        told = json.load(answer)
    assert told["status"] == "success", told
    curves: list[dict[str, Any]] = told["data"]["result"]
    return curves


@pytest.mark.skipif(PROMETHEUS is None, reason="there is no prometheus on the PATH")
@pytest.mark.faults
@pytest.mark.xdist_group("faults")
def test_each_panel_draws_a_run(
    recipe: Path, demo_speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    audio = Path(shutil.copytree(demo_speech, tmp_path / "audio"))
    soundfile.write(audio / "silent.wav", np.zeros(5 * 16_000), 16_000)  # to be dropped
    (tmp_path / "ray").mkdir()
    begun = time.time()
    with (
        ray_cluster(tmp_path / "ray", num_cpus=3, with_dashboard=True) as cluster,
        prometheus(tmp_path, cluster.metrics) as address,
    ):
        command: list[str | Path] = [BIN / "python", "-m", "jobs.run", "--config", recipe, "--audio", audio]
        command += ["--run", tmp_path / "run", "--until", "tokenize"]
        environment = {**cluster.environment, "RAY_ADDRESS": cluster.address}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        drawn = drawn_at_last(address, begun)
    chunks = {curve["metric"]["processor"]: float(curve["values"][-1][1]) for curve in drawn[QUESTIONS[0]]}
    for processor, name in (("FindSpeech", "segments"), ("Tokenize", "units")):
        stage = json.loads((tmp_path / "run" / name / "stage.json").read_text())
        assert chunks[processor] == stage["work"]["num_chunks"], name


def drawn_at_last(address: str, begun: float) -> dict[str, list[dict[str, Any]]]:
    """The curves of each question, once none is silent."""
    deadline = time.monotonic() + FETCHED_WITHIN_S
    while True:
        drawn = {question: answers(address, question, begun) for question in QUESTIONS}
        silent = [question for question, curves in drawn.items() if not curves]
        if not silent:
            return drawn
        assert time.monotonic() < deadline, f"no answer to {silent}"
        time.sleep(1.0)
