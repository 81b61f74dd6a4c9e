"""A job of `ray job submit` runs in a folder that Ray deletes: relative paths are refused there."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jsonargparse import Namespace

    from jobs.recipe import Recipe
    from pipeline.evaluation.config import EvaluationConfig

PACKAGES = "working_dir_files"  # Ray unpacks a job's files in .../runtime_resources/working_dir_files/_ray_pkg_...
OPTIONS = ("run", "audio", "root", "shards", "checkpoints", "checkpoint", "output_file", "output", "input_file")
LISTS = ("places", "runs")
MODEL_OPTIONS = ("codebook", "vocoder")
MODELS = (
    "encoder.path",
    "codebook.path",
    "language.audio.model",
    "words.model",
    "text.tokenizer",
    "train.init",
    "pretrain.init",
    "spin.init",
    "vocoder.init",
)
"""Options and settings that name a model or its folder; only what holds a slash is a path for sure."""

# Settings of benchmarks that are paths.
DATA = (
    "folder",
    "submission",
    "spoken",
    "topic",
    "source",
    "audio",
    "alignments",
    "items",
    "speakers",
    "wavs",
)


def refuse_relative_paths(recipe: Recipe, given: Namespace, sections: Sequence[str]) -> None:
    """Checks the paths that a command with these sections uses, if it runs in the package of a submitted job.

    Raises:
        TwistError: one of them is relative.
    """
    if PACKAGES not in Path.cwd().parts:
        return
    for name, path in _paths(recipe, given, sections):
        if isinstance(path, str) and not storage.is_s3(path) and not Path(path).is_absolute():
            raise TwistError(
                f"{name} is the relative path {path}, but a submitted job runs in a folder that Ray deletes; give an "
                "absolute path that every machine sees, or s3://"
            )


def _paths(recipe: Recipe, given: Namespace, sections: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for option in OPTIONS:
        yield option, given.get(option)
    for option in LISTS:
        yield from ((option, path) for path in given.get(option) or ())
    if "evaluation" in sections:
        yield from _paths_of_data(recipe.evaluation)
    if "corpora" in sections and not given.get("audio") and not given.get("root"):
        for corpus in recipe.corpora:
            yield "corpora.root", corpus.root
    if "words" in sections and recipe.words is not None:
        for place in recipe.words.alignments:
            yield "words.alignments", place
    if "text" in sections and recipe.text is not None:
        for text in recipe.text.corpora:
            yield "text.corpora.path", text.path
    if "spin" in sections:
        phones = recipe.spin.phones
        if phones is None or isinstance(phones, str):
            yield "spin.phones", phones
        else:
            yield from ((f"spin.phones.{name}", folder) for name, folder in phones.items())
    for option in MODEL_OPTIONS:
        named = given.get(option)
        if isinstance(named, str) and "/" in named:
            yield option, named
    for name in MODELS:
        section, *keys = name.split(".")
        value: Any = getattr(recipe, section) if section in sections else None
        for key in keys:
            value = getattr(value, key, None)
        if isinstance(value, str) and "/" in value:
            yield name, value


def _paths_of_data(evaluation: EvaluationConfig) -> Iterator[tuple[str, Any]]:
    """The data that benchmarks are measured on, and where they write: all text settings but a few are paths."""
    for benchmark in fields(evaluation):
        settings = getattr(evaluation, benchmark.name)
        for field in fields(settings):
            value = getattr(settings, field.name)
            if isinstance(value, str) and field.name in DATA:
                yield f"evaluation.{benchmark.name}.{field.name}", value
