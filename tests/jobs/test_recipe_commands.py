"""`twist recipe`: a new recipe passes the check, the check finds every mistake, and each setting's origin is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from jobs.recipe import Recipe, read_recipe
from jobs.recipe_mistakes import find_mistakes
from jobs.recipe_new import LMS, LmName, new_recipe
from pipeline.corpora.source import Kind

if TYPE_CHECKING:
    from tests.jobs.conftest import Twist

RECIPES = Path(__file__).parents[2] / "recipes"


def read(path: Path) -> Recipe:
    return read_recipe("run", "", (), ["--config", str(path)])[0]


def text_of(kind: Kind, lm: LmName) -> str:
    return "\n".join([*new_recipe(kind, lm, f"data/{kind}"), ""])


@pytest.mark.parametrize(
    ("kind", "lm"), [*((kind, "opt-350m") for kind in get_args(Kind)), *(("folder", lm) for lm in LMS)]
)
def test_a_new_recipe_passes_the_check_and_names_the_corpus(kind: Kind, lm: LmName, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text_of(kind, lm))
    assert find_mistakes(path.read_text(), str(path)) == []
    recipe = read(path)
    assert [(corpus.kind, corpus.root) for corpus in recipe.corpora] == [(kind, f"data/{kind}")]
    assert recipe.train is not None


@pytest.mark.parametrize("lm", LMS)
def test_a_new_recipe_trains_as_the_shipped_one_of_its_name(lm: LmName, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text_of("librispeech", lm))
    shipped = RECIPES / ("demo.yaml" if lm == "small" else f"twist_{lm.replace('-', '_')}.yaml")
    mine, theirs = read(path), read(shipped)
    assert mine.train == theirs.train
    data = theirs if lm == "small" else read(RECIPES / "twist_opt_350m.yaml")
    for section in ("segments", "encoder", "codebook", "pack"):
        assert getattr(mine, section) == getattr(data, section), section


@pytest.mark.parametrize("lm", ["opt-350m", "small"])
def test_every_setting_in_a_comment_may_be_put_in_force_and_is_the_default(lm: LmName, tmp_path: Path) -> None:
    text = text_of("librispeech", lm)
    in_force = re.sub(r"^# (\w+:)$", r"\1", re.sub(r"^#((?:  )+\w+:)", r"\1", text, flags=re.M), flags=re.M)
    assert in_force.count("\n") == text.count("\n") and in_force != text
    paths = tmp_path / "plain.yaml", tmp_path / "in_force.yaml"
    for path, content in zip(paths, (text, in_force), strict=True):
        path.write_text(content)
    plain, full = map(read, paths)
    assert find_mistakes(in_force, "mine.yaml") == []
    sections = set(vars(plain)) - {"said"}
    assert {name: getattr(plain, name) for name in sections} == {name: getattr(full, name) for name in sections}


def test_the_command_prints_a_recipe(twist: Twist, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(twist("recipe", "new", "--for", "mls", "--lm", "opt-125m", "--root", "s3://lab/mls").stdout)
    assert "no mistake found" in twist("recipe", "check", path).stdout
    assert "root: s3://lab/mls" in path.read_text()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_check_finds_nothing_in_the_shipped_recipes(path: Path) -> None:
    assert find_mistakes(path.read_text(), path.name) == []


MANY = """\
run: x
segmets: {max_s: 3}
segments:
  min_s: 30
  max_s: 20
  max_z: 3
corpora:
- root: a
  kind: foldr
- kind: mls
- root: b
  name: a b
pack:
  seed: abc
  seed: 1
  split: {validation: 2}
  degenerate: {max_unit_share: -1}
  min_shards: 0
language: en
train:
  init: 5
  num_steps: lots
"""


def test_all_mistakes_are_told_at_once_each_with_its_line(twist: Twist, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MANY)
    done = twist("recipe", "check", path, status=2)
    lines = [line.removeprefix(f"{path}:") for line in done.stdout.splitlines()]
    for line, expected in zip(
        lines,
        [
            "2: there is no section segmets; did you mean segments?",
            "4: segments need 0 < min_s < max_s",
            "6: there is no setting segments.max_z; did you mean max_s?",
            "9: corpora.kind: it is one of 'auto'",
            "10: this is missing: corpora.root",
            "12: corpus name 'a b' must be",
            "14: pack.seed: it is a whole number, not abc",
            "15: seed is already in line 14",
            "16: pack.split.validation and pack.split.test",
            "17: pack.degenerate.max_unit_share is -1.0",
            "18: pack.units_per_shard and pack.min_shards",
            "19: language holds settings, not 'en'",
            "21: train.init: a value of another type is needed",
            "22: train.num_steps: it is a whole number, not lots",
        ],
        strict=True,
    ):
        assert line.startswith(expected)
    assert done.stderr.endswith("has 14 mistakes, listed above\n")
    assert "class" not in done.stdout and "pipeline." not in done.stdout


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        ("{speech: 0}", "train.mixture gives no kind a weight above 0"),
        ("{interleved: 1, speech: 1}", "there is no setting train.mixture.interleved; did you mean interleaved?"),
        ("{speech: many}", "train.mixture.speech"),
    ],
)
def test_a_mistake_within_a_setting_is_told_once(mixture: str, expected: str) -> None:
    """Not as one of its value too, nor what the other settings would lack without it."""
    text = f"train:\n  architecture: {{model_type: opt}}\n  tokenizer: somewhere\n  mixture: {mixture}\n"
    (mistake,) = find_mistakes(text, "mine.yaml")
    assert expected in mistake.sentence
    assert mistake.line == 4


def test_a_mixture_of_nothing_is_one_sentence_to_a_command(twist: Twist, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("train:\n  architecture: {model_type: opt}\n  tokenizer: somewhere\n  mixture: {speech: 0}\n")
    for options in (["--config", str(path)], ["--train.init", "somewhere", "--train.mixture.speech", "0"]):
        error = twist("train", "--run", str(tmp_path / "run"), *options, status=2).stderr
        assert "train.mixture gives no kind a weight above 0" in error
        assert "Traceback" not in error


def test_other_commands_tell_the_first_and_how_many_more(twist: Twist, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MANY)
    error = twist("segment", "--config", path, status=2).stderr
    assert f"{path}:2: there is no section segmets" in error
    assert f"(3 more: twist recipe check {path})" in error


@pytest.mark.parametrize(("text", "expected"), [(None, "there is no recipe"), ("", "is empty"), ("a: [", "no YAML")])
def test_what_is_no_recipe_is_refused(text: str | None, expected: str, twist: Twist, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    assert expected in twist("recipe", "check", path, status=2).stderr


def shown(text: str) -> dict[str, tuple[str, str]]:
    """Value and origin of each setting."""
    rows = (re.split(r" {2,}", line) for line in text.splitlines())
    return {name: (value, origin) for name, value, origin in rows}


def test_each_setting_is_shown_with_its_origin(twist: Twist, finished_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("corpora:\n- root: a\n- {root: b, kind: mls}\nsegments:\n  min_s: 3\n  max_s: 9\n")
    words = ("--run", finished_run, "--segments.max_s", 20, "--language", "de")
    rows = shown(twist("recipe", "show", path, *words).stdout)
    kept = (finished_run / "recipe.yaml").read_text().splitlines()
    assert rows["run"] == (str(finished_run), "command line")
    assert rows["corpora[0].root"] == ("a", f"{path}:2")
    assert rows["corpora[1].kind"] == ("mls", f"{path}:3")
    assert rows["corpora[1].language"] == ("null", "default")
    assert rows["segments.min_s"] == ("3.0", f"{path}:5")
    assert rows["segments.max_s"] == ("20.0", "command line")
    assert rows["segments.max_pause_s"] == ("1.0", "default"), "the file's section stands for the run's"
    assert rows["language.languages"] == ("[de]", "command line")
    value, origin = rows["codebook.num_units"]
    line = int(origin.removeprefix(f"{finished_run}/recipe.yaml:"))
    assert (value, kept[line - 1].strip()) == ("20", "num_units: 20")


def test_shown_settings_are_those_of_the_recipe(twist: Twist) -> None:
    rows = shown(twist("recipe", "show", RECIPES / "twist_opt_350m.yaml").stdout)
    recipe = read(RECIPES / "twist_opt_350m.yaml")
    assert recipe.train is not None
    assert float(rows["train.peak_lr"][0]) == recipe.train.peak_lr
    assert rows["words"] == ("null", "default")
    assert {name.partition(".")[0].partition("[")[0] for name in rows} == set(vars(recipe)) - {"said"}
