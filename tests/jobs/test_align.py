"""`twist align` on a run of the demo's speech, which brings the times of its words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.words.parts import part_uris, read_part

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.conftest import Twist


def test_words_are_found_told_and_verified(twist: Twist, finished_copy: Path) -> None:
    assert not (finished_copy / "words").exists(), "`twist run` aligned words that the recipe does not ask for"
    assert twist("align", "--run", finished_copy).stdout.startswith("words      kept ")
    assert twist("align", "--run", finished_copy).stdout.startswith("words      already finished: kept ")
    rows = [row for uri in part_uris(str(finished_copy)) for row in read_part(uri).to_pylist()]
    assert {row["source"] for row in rows} <= {"corpus", None} and any(row["words"] for row in rows)
    told = twist("inspect", finished_copy, "--verify").stdout
    assert "every checksum and invariant holds" in told and "times from" in told
    assert "words: {source: auto" in (finished_copy / "recipe.yaml").read_text().replace("words:\n  ", "words: {")


def test_a_recipe_can_ask_for_words(twist: Twist, finished_copy: Path, recipe: Path, tmp_path: Path) -> None:
    with_words = tmp_path / "words.yaml"
    with_words.write_text(f"words: {{source: files}}\n{recipe.read_text()}")
    done = twist("run", "--config", with_words, "--run", finished_copy, "--until", "align").stdout
    assert done.splitlines()[-1].startswith("words      kept "), done
