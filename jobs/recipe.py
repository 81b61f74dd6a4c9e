"""A recipe: every setting of a run in one YAML file, a section per owner; and how a command reads its own sections.

    twist segment --config recipes/demo.yaml --run runs/demo --segments.max_s 20

A recipe is checked whole, whichever command reads it, so that a mistyped key never waits for the stage that it is for.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from argparse import ArgumentError
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from jsonargparse import ArgumentParser, Namespace

from model.encoder.encoder import EncoderConfig
from model.encoder.pretrain_config import PretrainConfig
from model.lm.train_config import TrainConfig
from model.vocoder.train_config import VocoderTrainConfig
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.language.filter import LanguageConfig
from pipeline.language.same_speech import SameSpeechConfig
from pipeline.packing.pack import PackConfig
from pipeline.segments.segment import SegmentConfig
from pipeline.units.codebook_fit import CodebookConfig
from pipeline.work.cluster import ClusterConfig

SECTIONS: dict[str, type] = {
    "same_speech": SameSpeechConfig,
    "language": LanguageConfig,
    "segments": SegmentConfig,
    "encoder": EncoderConfig,
    "codebook": CodebookConfig,
    "pack": PackConfig,
    "train": TrainConfig,
    "pretrain": PretrainConfig,
    "vocoder": VocoderTrainConfig,
    "cluster": ClusterConfig,
}


@dataclass(frozen=True)
class Recipe:
    """The settings of a run."""

    run: str
    corpora: tuple[CorpusConfig, ...] = ()
    same_speech: SameSpeechConfig = field(default_factory=SameSpeechConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    pack: PackConfig = field(default_factory=PackConfig)
    train: TrainConfig | None = None
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    vocoder: VocoderTrainConfig = field(default_factory=VocoderTrainConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


# What may follow --language: any other word is the command's own.
_LANGUAGES = re.compile(r"[a-z]{2}(?:,[a-z]{2})*")


Settings = TypeVar("Settings")


class UsageError(TwistError):
    """A command line or a recipe that cannot be read."""


def read_recipe(
    command: str,
    description: str,
    sections: Sequence[str],
    argv: Sequence[str],
    add_arguments: Callable[[ArgumentParser], None] | None = None,
    needs_run: Callable[[Namespace], bool] = lambda _: True,
) -> tuple[Recipe, Namespace]:
    """Parses a command line: --config, --run, an option for each setting of `sections`, and the command's own.

    Options given on the command line override the recipe's. `--help` prints all of them and exits.

    Args:
        command: The command's name, for --help.
        description: What the command does, for --help.
        sections: The sections of a recipe that this command has options for.
        argv: The arguments after the command.
        add_arguments: Adds what this command takes beside.
        needs_run: Whether these arguments leave something to be looked for in the run's folder.

    Raises:
        UsageError: an unknown key or option, or a value that does not fit.
    """
    argv = _spell_out_languages(argv) if "language" in sections else argv
    parser = _parser(sections, prog=f"twist {command}", description=description)
    parser.add_argument("--config", type=str | None, help="The recipe, a YAML file; options given here override it.")
    if add_arguments:
        add_arguments(parser)
    try:
        given = _config_of(argv)
        if given:
            recipe = _read_file(given)
            parser.set_defaults({name: recipe[name] for name in ("run", *sections) if recipe.get(name) is not None})
        arguments = parser.parse_args(list(argv))
        made = parser.instantiate(arguments)
    except ArgumentError as error:
        raise UsageError(_sentence(error)) from error
    if not made.run and needs_run(made):
        raise UsageError("no run is named: give --run FOLDER, or `run:` in the recipe")
    run = storage.absolute(made.run) if made.run else ""
    return Recipe(**{"run": run, **{name: made[name] for name in sections if made.get(name) is not None}}), made


def read_settings(
    command: str, description: str, settings: type[Settings], argv: Sequence[str]
) -> tuple[Path, Settings]:
    """Parses the command line of a command that makes a folder of speech: that folder, and --speech.SETTING.

    Raises:
        UsageError: as `read_recipe`.
    """
    parser = ArgumentParser(prog=f"twist {command}", description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("folder", type=str, help="The folder to make.")
    parser.add_class_arguments(settings, "speech")
    try:
        given = parser.instantiate(parser.parse_args(list(argv)))
    except ArgumentError as error:
        raise UsageError(_sentence(error)) from error
    return Path(given.folder), given.speech


def _parser(sections: Sequence[str], **settings: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, **settings)  # type: ignore[arg-type]
    parser.add_argument("--run", type=str | None, help="The run's folder, local or s3://bucket/prefix.")
    for name in sections:
        if name == "corpora":
            parser.add_argument("--corpora", type=tuple[CorpusConfig, ...], default=(), help="The corpora of the run.")
        else:
            parser.add_class_arguments(SECTIONS[name], name)
    return parser


def _spell_out_languages(argv: Sequence[str]) -> list[str]:
    """`--language en,de`, or `--language en de`, as the option of the section that it is short for."""
    spelled: list[str] = []
    rest = deque(argv)
    while rest:
        argument = rest.popleft()
        name, equals, value = argument.partition("=")
        if name != "--language":
            spelled.append(argument)
            continue
        codes = [value] if equals else []
        while not equals and rest and _LANGUAGES.fullmatch(rest[0]):
            codes.append(rest.popleft())
        languages = [code for part in codes for code in part.split(",") if code]
        if not languages:
            raise UsageError("--language takes codes of languages, e.g. --language en,de")
        spelled.append(f"--language.languages={json.dumps(languages)}")
    return spelled


def _config_of(argv: Sequence[str]) -> str | None:
    for position, argument in enumerate(argv):
        if argument.startswith("--config="):
            return argument.partition("=")[2]
        if argument == "--config" and position + 1 < len(argv):
            return argv[position + 1]
    return None


def _read_file(path: str) -> Namespace:
    if not Path(path).is_file():
        raise UsageError(f"there is no recipe {path}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            recipe: Namespace = _parser(("corpora", *SECTIONS)).parse_path(path)
            return recipe
    except (ArgumentError, TypeError) as error:
        raise UsageError(f"{path}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())
