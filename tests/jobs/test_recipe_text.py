"""Mistakes in a recipe end in a sentence with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.recipe import SECTIONS, read_recipe
from jobs.recipe_text import DEEPEST, UsageError
from pipeline.errors import TwistError


def said_of(text: str, folder: Path, *options: str) -> str:
    """What a command says about a recipe that it refuses, without the folder's name."""
    path = folder / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TwistError) as error:
        read_recipe("run", "", tuple(SECTIONS), ["--run", "x", "--config", str(path), *options])
    return str(error.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run: x\nsegmets: {max_s: 3}\n", "mine.yaml:2: there is no section segmets; did you mean segments?"),
        ("segments:\n  min_s: 1\n  max_z: 3\n", "mine.yaml:3: there is no setting segments.max_z; did you mean max_s?"),
        (
            "pack:\n  split:\n    validaton: 0\n",
            "mine.yaml:3: there is no setting pack.split.validaton; did you mean val",
        ),
        (
            "corpora:\n- root: a\n- root: b\n  knd: mls\n",
            "mine.yaml:4: there is no setting corpora.knd; did you mean kind?",
        ),
        (
            "pack:\n  decontaminate:\n  - pth: a\n",
            "mine.yaml:3: there is no setting pack.decontaminate.pth; did you mean",
        ),
        ("zzz: 1\n", "mine.yaml:1: there is no section zzz"),
        ("language: en\n", "mine.yaml:1: language holds settings, not 'en'"),
        ("segments:\n  max_s: long\n", "mine.yaml:2: segments.max_s: it is a number, not long"),
        ("codebook:\n  num_units: 1.5\n", "mine.yaml:2: codebook.num_units: it is a whole number, not 1.5"),
        ("corpora:\n- root: a\n  kind: foldr\n", "mine.yaml:3: corpora: kind: it is one of 'auto', 'folder'"),
        ("corpora: {root: a}\n", "mine.yaml:1: corpora: it is a list, not"),
        (
            "pack:\n  split:\n    validation: some\n",
            "mine.yaml:3: pack.split.validation: a value of another type is needed",
        ),
        ("run: x\npack:\n  min_shards: 0\n", "mine.yaml:2: pack.units_per_shard and pack.min_shards must be positive"),
        ("pack: {seed: 1}\nrun: x\npack: {seed: 2}\n", "mine.yaml:3: pack is already in line 1; keep one of them"),
        ("pack:\n  seed: 1\n  seed: 1\n", "mine.yaml:3: seed is already in line 2"),
        ("", "mine.yaml is empty; a recipe has sections"),
        ("# run: x\n", "mine.yaml is empty; a recipe has sections"),
        ("- a\n", "mine.yaml:1: a recipe has sections such as `pack:`, not a list"),
        ("run: x\npack: [1\n", "mine.yaml:3: this is no YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, expected: str, tmp_path: Path) -> None:
    said = said_of(text, tmp_path)
    assert said.startswith(expected)
    assert "class" not in said and "pipeline." not in said and "\n" not in said


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)),
        "run: &x [*x]\n",
    ],
    ids=["ten thousand million", "within itself"],
)
def test_aliases_are_not_written_out_without_end(text: str, tmp_path: Path) -> None:
    assert "values with aliases written out" in said_of(text, tmp_path)


@pytest.mark.parametrize("opening", ["[", "[\n", "{a: "])
def test_endless_nesting_is_refused(opening: str, tmp_path: Path) -> None:
    assert f"nested more than {DEEPEST} deep" in said_of("corpora: " + opening * 100_000, tmp_path)


def test_a_few_aliases_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("corpora:\n- &first {root: a, language: en}\n- {<<: *first, root: b}\n")
    recipe, _ = read_recipe("manifest", "", ("corpora",), ["--run", "x", "--config", str(path)])
    assert [(corpus.root, corpus.language) for corpus in recipe.corpora] == [("a", "en"), ("b", "en")]


@pytest.mark.parametrize(
    ("option", "meant"),
    [("--segments.max_z", "--segments.max_s"), ("--pack.split.validaton=3", "--pack.split.validation")],
)
def test_an_option_that_is_not_there_is_told_with_one_that_is(option: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"; did you mean {meant}\\?"):
        read_recipe("run", "", ("segments", "pack"), ["--run", "x", option, "3"])


def test_the_mistake_of_an_option_is_not_put_down_to_the_file(tmp_path: Path) -> None:
    assert said_of("pack: {seed: 1}\n", tmp_path, "--pack.min_shards", "0").startswith("pack.units_per_shard and")
