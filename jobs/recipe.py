"""A recipe: all settings of a run in one YAML file, with a section per component; and how commands read it.

    twist segment --config recipes/demo.yaml --run runs/demo --segments.max_s 20

A section that no file given by --config has is taken from the recipe that the run keeps (kept_recipe.py).
Every command checks the whole recipe, so that a mistyped key is found at once, not when its stage begins.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from jobs.help import help_text
from jobs.plain_words import in_plain_words
from jobs.recipe_text import Lines, UsageError, check_recipe_text, suggestion
from model.encoder.config import EncoderConfig
from model.encoder.pretrain_config import PretrainConfig
from model.encoder.spin_config import SpinConfig
from model.language_id.train_config import LanguageTrainConfig
from model.lm.train_config import TrainConfig
from model.pitch.train_config import PitchTrainConfig
from model.preferences.tune_config import TuneConfig
from model.style.config import StyleConfig, StyleTrainConfig
from model.vocoder.train_config import VocoderTrainConfig
from pipeline.corpora.source import CorpusConfig
from pipeline.errors import TwistError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.files import storage
from pipeline.language.config import LanguageConfig
from pipeline.language.same_speech import SameSpeechConfig
from pipeline.packing.config import PackConfig
from pipeline.pitch.config import PitchConfig
from pipeline.preferences.config import PreferencesConfig
from pipeline.runs import RECIPE
from pipeline.segments.config import SegmentConfig
from pipeline.text.config import TextConfig
from pipeline.units.config import CodebookConfig
from pipeline.words.config import WordsConfig
from pipeline.work.cluster import ClusterConfig


@dataclass(frozen=True)
class Recipe:
    """The settings of a run. `train` has no defaults: it is None if no model to train is named. `words` and `text` are
    None if no recipe has them: `twist run` then aligns nothing, and samples carry no words.

    `said` has the sections as the files give them, without defaults and without the command line's options.
    """

    run: str
    corpora: tuple[CorpusConfig, ...] = ()
    same_speech: SameSpeechConfig = field(default_factory=SameSpeechConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    words: WordsConfig | None = None
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    pitch: PitchConfig = field(default_factory=PitchConfig)
    pack: PackConfig = field(default_factory=PackConfig)
    text: TextConfig | None = None
    style: StyleConfig = field(default_factory=StyleConfig)
    train_style: StyleTrainConfig = field(default_factory=StyleTrainConfig)
    train: TrainConfig | None = None
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    spin: SpinConfig = field(default_factory=SpinConfig)
    vocoder: VocoderTrainConfig = field(default_factory=VocoderTrainConfig)
    train_pitch: PitchTrainConfig = field(default_factory=PitchTrainConfig)
    train_language: LanguageTrainConfig = field(default_factory=LanguageTrainConfig)
    preferences: PreferencesConfig = field(default_factory=PreferencesConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    said: Mapping[str, Any] = field(default_factory=dict)


def _sections() -> dict[str, type]:
    kinds: dict[str, Any] = get_type_hints(Recipe)
    del kinds["run"], kinds["said"]
    return {name: kind if name == "corpora" else (*get_args(kind), kind)[0] for name, kind in kinds.items()}


SECTIONS = _sections()
"""The sections of a recipe with their classes; `corpora` is a list of its class."""
KEYS = {name: kind for name, kind in get_type_hints(Recipe).items() if name == "run" or name in SECTIONS}
"""The keys of a recipe with their types."""


def read_recipe(
    command: str,
    description: str,
    sections: Sequence[str],
    argv: Sequence[str],
    add_arguments: Callable[[ArgumentParser], None] | None = None,
    needs_run: Callable[[Namespace], bool] = lambda _: True,
) -> tuple[Recipe, Namespace]:
    """Parses a command line: --config, --run, an option for each setting of `sections`, and the command's own.

    Options on the command line override the recipe's. `--help` and `--help-all` print them and exit.

    Args:
        command: The command's name, for --help.
        description: What the command does, for --help.
        sections: The sections of a recipe that this command has options for.
        argv: The arguments after the command.
        add_arguments: Adds the command's own arguments.
        needs_run: Whether, with these arguments, the command reads or writes the run's folder.

    Returns:
        The recipe, including the sections of the file that the command has no options for; and the command's own
        arguments.

    Raises:
        UsageError: a key or option is unknown, a value does not fit, or a run is needed and not named.
    """
    parser = _parser(sections, prog=f"twist {command}", description=description)
    parser.add_argument(
        "--config",
        type=str | None,
        help="The recipe, a YAML file; by default the run's own. Options given here override it.",
    )
    parser.add_argument("--help-all", action="help", help="Show all options, with the settings of every section.")
    if add_arguments:
        add_arguments(parser)
    try:
        _show_help(parser, sections, argv)
        path, argv = _take_option("--config", argv)
        if "language" in sections:
            argv = _spell_out_languages(argv)
        given, lines = read_file(path) if path else ({}, {})
        run_said = _take_option("--run", argv)[0] or given.get("run")
        is_help_all = "--help-all" in argv
        file = {**(read_kept(run_said) if run_said and not is_help_all else {}), **given}
        parser.set_defaults(_defaults(parser, {name: file[name] for name in ("run", *sections) if name in file}))
        made = _made(parser, parser.parse_args(list(argv)))
        others = instantiate({name: value for name, value in file.items() if name not in ("run", *sections)})
    except ArgumentError as error:
        raise usage_error(error, argv, parser) from error
    except UsageError:
        raise
    except TwistError as error:
        raise _located(error, path, given, lines) from error
    if not made.run and needs_run(made):
        raise UsageError("no run is named: give --run FOLDER, or `run:` in the recipe")
    run = storage.absolute(made.run) if made.run else ""
    said = {name: plain(_as_dicts(value)) for name, value in file.items() if name != "run"}
    return Recipe(run=run, said=said, **others, **{name: made[name] for name in sections}), made


def recipe_file(argv: Sequence[str]) -> str | None:
    """The recipe that a command line names by --config.

    Raises:
        UsageError: the option has no value.
    """
    try:
        path: str | None = _take_option("--config", argv)[0]
    except ArgumentError as error:
        raise UsageError(str(error)) from error
    return path


def has_option(name: str, argv: Sequence[str]) -> bool:
    """Whether a command line has an option; for an option that decides which others exist."""
    return _take_option(name, argv, nargs="?", without_value="")[0] is not None


def usage_error(error: Exception, argv: Sequence[str], parser: ArgumentParser) -> UsageError:
    """A parser's error about a command line as one sentence; it suggests an option for one that does not exist."""
    known = parser._option_string_actions
    given = (word.partition("=")[0] for word in argv if word.startswith("--"))
    meant = next((suggestion(word, known) for word in given if word not in known), "")
    return UsageError(_with_options(in_plain_words(error), parser) + meant)


def kept_uri(run: str) -> str:
    """The file in which a run keeps its recipe."""
    return storage.join(run, RECIPE)


def kept_text(run: str) -> str | None:
    """The recipe that a run keeps; None if it keeps none."""
    try:
        return storage.read_bytes(kept_uri(run)).decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        if storage.is_s3(run):
            raise
        return None  # the command itself says what it cannot read or write
    except UnicodeDecodeError as error:
        raise TwistError(f"{kept_uri(run)} is damaged ({error}); delete it, and give the recipe by --config") from error


def plain(settings: Any) -> Any:
    """Settings as YAML has them: dicts, lists and scalars."""
    if is_dataclass(settings) and not isinstance(settings, type):
        settings = asdict(settings)
    if isinstance(settings, dict):
        return {str(name): plain(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple | set | frozenset):
        return [plain(value) for value in settings]
    return settings


def _parser(sections: Sequence[str], **settings: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, **settings)  # type: ignore[arg-type]
    parser.add_argument("--run", type=str | None, help="The run's folder, local or s3://bucket/prefix.")
    for name in sections:
        if name == "corpora":
            corpora = parser.add_argument_group("The corpora of the run")
            corpora.add_argument(
                "--corpora", type=SECTIONS[name], default=(), help="A list of corpora (docs/corpora.md)."
            )
        else:
            parser.add_class_arguments(SECTIONS[name], name)
    return parser


def _show_help(parser: ArgumentParser, sections: Sequence[str], argv: Sequence[str]) -> None:
    """Prints the help and exits, if it is asked for."""
    argv = ["--help" if word == "-h" else word for word in argv]
    asked, _ = _take_option("--help", argv, nargs="?", without_value="")
    if asked is not None:
        print(help_text(parser, sections, asked), end="")
        parser.exit()


def _take_option(
    name: str, argv: Sequence[str], nargs: str | None = None, without_value: str | None = None
) -> tuple[Any, list[str]]:
    """Splits off one option: its value (None if not given), and the other arguments.

    Raises:
        ArgumentError: it has no value, and `nargs` does not allow that.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(name, dest="value", nargs=nargs, const=without_value)
    found, rest = parser.parse_known_args(list(argv))
    return found.value, rest


def _spell_out_languages(argv: Sequence[str]) -> list[str]:
    """Replaces `--language en,de`, or `--language en de`, by the option of the section that it is short for."""
    words, rest = _take_option("--language", argv, nargs="*")
    if words is None:
        return rest
    languages = [code for word in words for code in word.split(",") if code]
    if not languages:
        raise UsageError("--language takes codes of languages, e.g. --language en,de")
    return [*rest, f"--language.languages={json.dumps(languages)}"]


def read_file(path: str) -> tuple[dict[str, Any], Lines]:
    """The sections of a recipe as the file gives them, without defaults; and the line of each setting."""
    if not Path(path).is_file():
        raise UsageError(f"there is no recipe {path}")
    try:
        return parse_text(Path(path).read_text("utf-8"), path)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8") from error


def parse_text(text: str, where: str) -> tuple[dict[str, Any], Lines]:
    """The sections that a recipe's text gives, without defaults; and the line of each setting.

    Raises:
        UsageError: it has a mistake.
    """
    lines = check_recipe_text(text, where, KEYS)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            said = _parser(tuple(SECTIONS)).parse_string(text, defaults=False)
    except (ArgumentError, TypeError) as error:
        keys = re.findall(r'Parser key "([^"]*)"', str(error))
        line = lines.get(".".join(keys)) or (lines.get(keys[0]) if keys else None)
        raise UsageError(f"{where}{f':{line}' if line else ''}: {in_plain_words(error)}") from error
    return {name: value for name, value in vars(said).items() if value is not None}, lines


def _located(error: TwistError, path: str | None, given: dict[str, Any], lines: Lines) -> TwistError:
    """The error with the line of the file's section that causes it, if one does by itself."""
    for name, value in given.items():
        try:
            if name != "run":
                instantiate({name: value})
        except TwistError as of_section:
            if str(of_section) == str(error):
                return UsageError(f"{path}:{lines[name]}: {error}")
    return error


def read_kept(run: str) -> dict[str, Any]:
    """The sections of the recipe that a run keeps; none if it keeps no recipe."""
    text = kept_text(run)
    if text is None:
        return {}
    try:
        kept, _ = parse_text(text, kept_uri(run))
    except UsageError as error:
        raise UsageError(f"{error}; mend it, or delete it and give --config") from error
    return {name: value for name, value in kept.items() if name != "run"}


def _defaults(parser: ArgumentParser, said: dict[str, Any]) -> dict[str, Any]:
    """What a file says by option: `train.max_units`; of settings that may be left out together, as one mapping."""
    options = {action.dest for action in parser._actions if not action.dest.endswith(".help")}
    found: dict[str, Any] = {}
    for name, value in said.items():
        is_group = any(option.startswith(f"{name}.") for option in options)
        if isinstance(value, Namespace) and is_group:
            found |= _defaults(parser, {f"{name}.{part}": of_part for part, of_part in vars(value).items()})
        else:
            found[name] = _as_dicts(value) if isinstance(value, Namespace) else value
    return found


def _as_dicts(value: Any) -> Any:
    if isinstance(value, Namespace):
        return {name: _as_dicts(part) for name, part in vars(value).items()}
    if isinstance(value, dict):
        return {name: _as_dicts(part) for name, part in value.items()}
    return [_as_dicts(part) for part in value] if isinstance(value, list | tuple) else value


def instantiate(sections: dict[str, Any]) -> dict[str, Any]:
    """Builds the settings of these sections of a file."""
    train = sections.get("train")
    if train is not None and train.get("init") is None and train.get("architecture") is None:
        # The recipe may leave the model to the command line of `twist train`.
        sections = {name: value for name, value in sections.items() if name != "train"}
    said = Namespace(sections)  # type: ignore[no-untyped-call]
    return dict(vars(_made(_parser(tuple(sections)), said)))


def _made(parser: ArgumentParser, settings: Namespace) -> Namespace:
    """The configs of parsed settings.

    Of one that may be left out the parser tells what a config refuses as a value of no type, with no way to tell which.
    """
    try:
        made: Namespace = parser.instantiate(settings)
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, TwistError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None
    return made


def _with_options(sentence: str, parser: ArgumentParser) -> str:
    """The parser's sentence on missing arguments with options as they are written: --output-file for output_file."""
    start, required, names = sentence.partition("arguments are required: ")
    options = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    return start + required + ", ".join(options.get(name, name) for name in names.split(", "))
