"""A recipe with words and text: `twist run` aligns, packs text and shards with words; each also as a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.shards import open_dataset
from pipeline.text_shards import open_text
from tests.text_models import TEXT, write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.conftest import Twist


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("".join(f"{line} {number}\n" for number in range(20) for line in TEXT))
    return folder


@pytest.fixture
def with_text(recipe: Path, tmp_path: Path, texts: Path) -> Path:
    write_tokenizer(tmp_path / "lm")
    path = tmp_path / "with_text.yaml"
    text = f"{{tokenizer: {tmp_path}/lm, validation: 0.2, corpora: [{{path: {texts}, document: line}}]}}"
    path.write_text(f"words: {{}}\ntext: {text}\n{recipe.read_text()}")
    return path


def test_a_run_with_words_and_text_ends_with_both(
    twist: Twist, with_text: Path, demo_speech: Path, finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ("run", "--config", with_text, "--run", run, "--audio", demo_speech, "--until", "pack")
    done = twist(*command).stdout
    assert "\ntext       kept " in done
    assert " tokens in 80 documents; dropped nothing" in done
    assert twist(*command).stdout.count("already finished") == 8
    told = twist("inspect", run, "--verify").stdout
    assert "every checksum and invariant holds" in told
    assert "samples with words" in told
    assert "80 documents" in told
    text, shards = open_text(str(run / "text")), open_dataset(str(run / "shards"))
    assert text.tokenizer == shards.info["text"]["tokenizer"]
    assert sum(total["num_words"] for total in shards.info["text"]["totals"]) > 50
    # Units, splits and order are those of the run without words.
    plain = open_dataset(str(finished_run / "shards"))
    for column in ("key", "split", "num_units", "units_crc32"):
        assert shards.manifest[column].to_pylist() == plain.manifest[column].to_pylist()


def test_text_is_packed_by_itself(twist: Twist, with_text: Path, finished_copy: Path) -> None:
    done = twist("pack-text", "--config", with_text, "--run", finished_copy).stdout
    assert done.startswith("text       kept ")
    assert twist("pack-text", "--run", finished_copy).stdout.startswith("text       already finished: kept ")
    assert "tokens a document" in twist("inspect", finished_copy / "text").stdout
    dataset = open_text(str(finished_copy / "text"))
    assert dataset.token_type == np.uint16


def test_words_that_the_recipe_asks_for_come_first(twist: Twist, with_text: Path, finished_copy: Path) -> None:
    refused = twist("pack", "--config", with_text, "--run", finished_copy, status=2).stderr
    assert "words is not finished; run `twist align` on this run first" in refused
    twist("align", "--config", with_text, "--run", finished_copy)
    refused = twist("pack", "--config", with_text, "--run", finished_copy, status=2).stderr
    assert "its input tokenizer has changed since; its input words has changed since" in refused
    twist("pack", "--config", with_text, "--run", finished_copy, "--again")
    assert open_dataset(str(finished_copy / "shards")).has_words


def test_a_recipe_without_corpora_of_text_packs_none(
    twist: Twist, with_text: Path, finished_copy: Path, texts: Path
) -> None:
    content = with_text.read_text().replace(f", corpora: [{{path: {texts}, document: line}}]", "")
    with_text.write_text(content)
    refused = twist("run", "--config", with_text, "--run", finished_copy, "--until", "pack-text", status=2).stderr
    assert "--until pack-text: the recipe has no `text.corpora`, so that stage is left out" in refused
    refused = twist("pack-text", "--config", with_text, "--run", finished_copy, status=2).stderr
    assert "text.corpora names no text" in refused
