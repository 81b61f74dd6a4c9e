from __future__ import annotations

import json


def test_a_finished_run_says_so_and_what_it_cost(twist, finished_run):
    printed = twist("status", finished_run, "--price-per-hour", "12").stdout
    assert "nothing runs" in printed and "cost" in printed
    stages = json.loads(twist("status", finished_run, "--json").stdout)
    assert stages["units"]["state"] == "finished"


def test_mistakes(twist, tmp_path):
    assert "is no run" in twist("status", tmp_path, status=2).stderr
    assert "--price-per-hour" in twist("status", tmp_path, "--json", "--price-per-hour", "1", status=2).stderr
