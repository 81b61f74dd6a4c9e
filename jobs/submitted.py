"""A job of `ray job submit` runs in a folder that Ray deletes: relative paths are refused there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import TwistError
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jsonargparse import Namespace

    from jobs.recipe import Recipe

PACKAGES = "working_dir_files"  # Ray unpacks a job's files in .../runtime_resources/working_dir_files/_ray_pkg_...
OPTIONS = ("run", "audio", "root", "shards", "checkpoints", "checkpoint", "output_file")
MODEL_OPTIONS = ("codebook", "vocoder")
MODELS = ("encoder.path", "codebook.path", "language.audio.model", "train.init", "pretrain.init", "vocoder.init")
"""Options and settings that name a model or its folder; only what holds a slash is a path for sure."""


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
    if "corpora" in sections and not given.get("audio") and not given.get("root"):
        for corpus in recipe.corpora:
            yield "corpora.root", corpus.root
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
