"""The code in docs/notebook.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import soundfile

from pipeline.synthetic.espeak import synthesize

PAGE = Path(__file__).resolve().parents[3] / "docs" / "notebook.md"


def test_every_code_block_of_the_page_runs(
    spoken_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    assert max(len(block.strip().splitlines()) for block in blocks) <= 6, "an example is five lines or so"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(spoken_run)
    soundfile.write(tmp_path / "clip.wav", *synthesize("The river had risen in the night.", "en-us+f2"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert soundfile.info("again.wav").samplerate == 16_000
    assert capsys.readouterr().out.count("\n") >= 6
