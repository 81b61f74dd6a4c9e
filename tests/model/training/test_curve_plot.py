from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.training.curve_plot import draw_curve


def write_metrics(folder: Path, num_steps: int) -> None:
    mean = {"nats_per_unit": 2.0, "perplexity": 7.4, "num_targets": 10}
    validation = {"mean": mean, "corpora": {"librispeech": mean, "voxpopuli": mean}}
    lines = [{"step": 0, "validation": validation}]
    lines += [{"step": step, "loss": 3.0 - step / 10, "tokens": 100 * step} for step in range(1, num_steps + 1)]
    lines.append({"step": num_steps, "validation": validation})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_metrics(tmp_path, num_steps=5)
    assert draw_curve(str(tmp_path)) == str(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw_curve(str(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []
