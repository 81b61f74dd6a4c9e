"""`twist report` on a finished run, as a user gives it."""

from __future__ import annotations


def test_a_report_lies_in_its_run_and_opens_at_the_index(twist, finished_copy):
    done = twist("report", finished_copy)
    index = finished_copy / "report" / "index.html"
    assert done.stdout == f"report     {index}\n"
    assert "Overview" in index.read_text()
    assert "Validation perplexity" in (finished_copy / "report" / "training.html").read_text()


def test_a_report_can_lie_elsewhere_and_compare_runs(twist, finished_run, finished_copy, tmp_path):
    twist(
        "report", finished_run, "--output", tmp_path / "pages", "--compare", finished_copy, "--no-audio", "--clips", 1
    )
    assert not list(tmp_path.rglob("*.flac"))
    training = (tmp_path / "pages" / "training.html").read_text()
    assert str(finished_run) in training or finished_run.name in training
    assert training.count('<th scope="row">') == 2


def test_a_folder_that_is_no_run_is_a_mistake(twist, tmp_path):
    done = twist("report", tmp_path, status=2)
    assert "no finished manifest" in done.stderr
