from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import TwistError
from pipeline.inspection.status import as_text, status
from pipeline.work.progress import STALE_AFTER_S, ProgressFile, WorkProgress

ROOT = Path(__file__).resolve().parents[3]
NOW = 1_000_000.0


@pytest.fixture
def under_way(run_copy: Path) -> str:
    """A run that is being tokenized since an hour."""
    (run_copy / "units" / "DONE").unlink()
    progress = WorkProgress(10, 5.0, begun_at=NOW - 3600)
    for _ in range(4):
        progress.add(0.5, {"decode": 1.0, "encode": 49.0}, {"silent": 1})
    progress.in_hand = {"slow-0000001": NOW - 400, "brisk-0000002": NOW - 20}
    progress.quarantined = {"bad-0000003": "ValueError: no good"}
    ProgressFile(str(run_copy / "units")).write(progress, NOW)
    return str(run_copy)


def test_what_runs_tells_rate_time_left_limit_stragglers_quarantine_and_cost(under_way):
    text = as_text(status(under_way, NOW), price_per_hour=10.0)
    for told in ("units      running, 1 h 00 min; 4 of 10 chunks", "2 h/h", "encode limits", "1 h 30 min left"):
        assert told in text
    assert "straggler slow-0000001: 0 h 07 min" in text and "brisk" not in text
    assert "quarantined bad-0000003: ValueError: no good" in text
    assert re.search(r"cost +10\.0", text)


def test_what_was_killed_does_not_run(under_way):
    told = status(under_way, NOW + 2 * STALE_AFTER_S)["units"]
    assert (told["state"], told["seconds"], told["stragglers"]) == ("stopped", 3600.0, {})


def test_a_stage_that_tells_nothing_runs_while_its_folder_is_locked(run_copy: Path) -> None:
    folder = run_copy / "shards"
    (folder / "DONE").unlink()
    code = "import sys, time\nfrom pipeline.files.folder_lock import folder_lock\nwith folder_lock(sys.argv[1]):\n"
    code += " print('locked', flush=True)\n time.sleep(600)"
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as packing:
        assert packing.stdout is not None
        packing.stdout.readline()
        now = (folder / "stage.json").stat().st_mtime + 60
        told = status(str(run_copy), now)["shards"]
        packing.kill()
    assert (told["state"], told["seconds"]) == ("running", pytest.approx(60))
    assert status(str(run_copy), now)["shards"]["state"] == "stopped"


def test_a_chunk_that_takes_long_is_told_of_before_any_is_done(run_copy: Path) -> None:
    (run_copy / "units" / "DONE").unlink()
    progress = WorkProgress(10, 5.0, begun_at=NOW - 30)
    progress.in_hand = {"first-0000000": NOW - 25}
    ProgressFile(str(run_copy / "units")).write(progress, NOW)
    text = as_text(status(str(run_copy), NOW), None)
    assert "units      running, 30 s; 0 of 10 chunks; 0.00 of 5.00 h" in text
    assert " left" not in text


def test_of_a_finished_run_nothing_runs(small_run):
    stages = status(str(small_run), NOW)
    assert {told["state"] for told in stages.values()} == {"finished"}
    assert as_text(stages, None).endswith("nothing runs")


def test_the_dashboard_asks_only_for_metrics_that_exist():
    source = (ROOT / "pipeline" / "work" / "dataflow.py").read_text()
    exported = {f"ray_{name}_total" for name in re.findall(r'Total\("(twist_\w+)"', source)}
    panels = json.loads((ROOT / "grafana_dashboard.json").read_text())["panels"]
    asked = {name for p in panels for t in p["targets"] for name in re.findall(r"ray_\w+", t["expr"])}
    assert asked == exported


def test_a_folder_without_stages_is_a_mistake(tmp_path):
    with pytest.raises(TwistError, match="is no run"):
        status(str(tmp_path), NOW)
