from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from model.training.metrics import METRICS, MetricsFile, damaged_lines, read_metrics

if TYPE_CHECKING:
    from pathlib import Path

LINES = [{"step": step, "loss": 1.0 / step} for step in (1, 2, 3)]


@pytest.mark.parametrize(
    "bad", [b"{", b"\xff\xfe", b"[1]", b'{"step": "2"}', b"[" * 200_000], ids=["cut", "bytes", "list", "step", "deep"]
)
def test_a_damaged_line_is_named_and_left_out(bad: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = [json.dumps(line).encode() for line in LINES]
    (tmp_path / METRICS).write_bytes(b"\n".join([whole[0], bad, *whole[1:], b'{"step": 4, "lo']))
    with caplog.at_level(logging.WARNING):
        assert read_metrics(str(tmp_path)) == LINES
    assert f"line 2 of {tmp_path / METRICS} is damaged" in caplog.text
    assert len(damaged_lines(str(tmp_path))) == 1, "half a line at the end is what every killed run leaves"
    MetricsFile(str(tmp_path), 2)
    assert read_metrics(str(tmp_path)) == LINES[:2], "steps after the checkpoint's come again"
    assert damaged_lines(str(tmp_path)) == []
