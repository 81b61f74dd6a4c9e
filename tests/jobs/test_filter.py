"""What `twist filter` and `twist inspect` tell of a run's languages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Twist

TEXTS = {"a.wav": "how do you know all of that", "b.wav": "[MUSIC]", "c.wav": "Maria Gonzalez 17", "d.wav": ""}


@pytest.fixture
def run(tmp_path: Path, twist: Twist) -> Path:
    """A run with a manifest of four recordings of a minute, one of which has text that tells its language."""
    (tmp_path / "corpus").mkdir()
    for name in TEXTS:
        soundfile.write(tmp_path / "corpus" / name, np.zeros(60 * 8000), 8000)
    rows = "".join(f"{name},{text}\n" for name, text in TEXTS.items())
    (tmp_path / "corpus" / "metadata.csv").write_text(f"path,text\n{rows}")
    twist("manifest", "--run", tmp_path / "run", "--audio", tmp_path / "corpus")
    return tmp_path / "run"


def test_the_summary_tells_what_is_kept_without_evidence(run: Path, twist: Twist) -> None:
    told = twist("filter", "--run", run, "--language.unknown", "keep").stdout
    assert "kept 4.0 min in 4 recordings, 3 of them (3.0 min) without evidence of their language; dropped" in told
    assert "3 recordings (0.05 h) would have been listened to; language.audio.model names a classifier" in told
    again = twist("filter", "--run", run).stdout
    assert "already finished: kept 4.0 min in 4 recordings, 3 of them (3.0 min) without evidence" in again
    assert "without evidence  3 recordings kept (3.0 min)" in twist("inspect", run / "language").stdout


def test_it_tells_nothing_of_the_kind_where_all_have_evidence(run: Path, twist: Twist) -> None:
    assert "kept 1.0 min in 1 recordings; dropped 3 unknown_language (3.0 min)" in twist("filter", "--run", run).stdout
    assert "without evidence" not in twist("inspect", run / "language").stdout
