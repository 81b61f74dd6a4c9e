"""What a person sees of names and sentences that others wrote."""

from __future__ import annotations

import pytest

from jobs.command import FAILURE, USERS_MISTAKE, guard
from jobs.progress import progress
from pipeline.errors import RunError, TwistError
from pipeline.inspection.text import as_text

HOSTILE = "a\x1b[2J\x07\u202e\ntwist: all is well"
SHOWN = "a\\x1b[2J\\x07\\u202e\\ntwist: all is well"


@pytest.mark.parametrize(
    ("error", "status"),
    [(TwistError(HOSTILE), USERS_MISTAKE), (RunError(HOSTILE), FAILURE), (OSError(HOSTILE), FAILURE)],
    ids=repr,
)
def test_a_sentence_is_one_line_that_steers_nothing(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert guard("inspect", fail) == status
    assert capsys.readouterr().err.splitlines() == [
        f"twist inspect: {SHOWN}" + ("; run the command again to go on from here" if status == FAILURE else "")
    ]


def test_progress_steers_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.progress.LINE_EVERY_S", 0.0)
    with progress("units") as report:
        report(1, 2, "chunks", HOSTILE)
    assert capsys.readouterr().err.splitlines() == [f"units      1 of 2 chunks, {SHOWN}"]


def test_inspect_steers_nothing() -> None:
    shown = as_text({"kind": "manifest", "path": HOSTILE, "violations": [HOSTILE]})
    assert shown.splitlines() == [f"{SHOWN} (manifest)", "", f"wrong: {SHOWN}"]
