"""twist export: a run's units in another project's files."""

from __future__ import annotations

import json


def test_a_run_is_exported_and_told(twist, small_run, tmp_path):
    given = ("export", "--run", small_run, "--format", "slamkit", "--output", tmp_path / "out")
    stdout = twist(*given).stdout
    counts = json.loads((tmp_path / "out" / "export.json").read_text())["num_samples"]
    assert all(f"{count:,} in {split}" in stdout for split, count in counts.items())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "export.json",
        *(f"{split}.jsonl" for split in counts),
    }
    assert "holds an export already" in twist(*given, status=2).stderr


def test_shards_may_be_anywhere(twist, small_run, tmp_path):
    twist("export", "--shards", small_run / "shards", "--format", "zerospeech", "--output", tmp_path / "out")
    assert (tmp_path / "out" / "train" / "quantized_outputs.txt").is_file()


def test_what_has_no_shards_is_told(twist, tmp_path):
    given = ("export", "--format", "fairseq-km", "--output", tmp_path / "out")
    assert "holds no finished shards" in twist(*given, "--shards", tmp_path, status=2).stderr
    assert "no run is named" in twist(*given, status=2).stderr
