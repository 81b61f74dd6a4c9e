"""Commands that make a folder of one of several kinds: `twist make-speech KIND FOLDER`, `twist make-benchmark ...`."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import ArgumentParser

from jobs.command import guard
from jobs.recipe import usage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jobs.command import Main


class Maker(NamedTuple):
    """What makes a folder of one kind, and the class of its settings."""

    make: Callable[[Path, Any], None]
    settings: type


def command_of(name: str, description: str | None, kinds: Mapping[str, Maker], group: str = "speech") -> Main:
    """Makes the `main` of such a command.

    Args:
        name: What follows `twist`.
        description: What the command does, for --help.
        kinds: What makes each kind; its docstring is the kind's help.
        group: What stands before the names of settings: `--speech.minutes`.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        arguments = sys.argv[1:] if argv is None else argv

        def read_and_make() -> None:
            parser, made = _parser(name, description, kinds, group)
            try:
                given = parser.instantiate(parser.parse_args(list(arguments)))
            except ArgumentError as error:
                of_kind = next((made[word] for word in arguments if word in made), parser)
                raise usage_error(error, arguments, of_kind) from error
            settings = given[given.kind]
            kinds[given.kind].make(Path(settings.folder), settings[group])

        return guard(name, read_and_make)

    return main


def _parser(
    name: str, description: str | None, kinds: Mapping[str, Maker], group: str
) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The command's parser, and that of each kind."""
    parser = ArgumentParser(prog=f"twist {name}", description=description, exit_on_error=False, allow_abbrev=False)
    subcommands = parser.add_subcommands(dest="kind")
    of_kinds = {}
    for kind, maker in kinds.items():
        help = maker.make.__doc__
        of_kind = ArgumentParser(description=help, exit_on_error=False, allow_abbrev=False)
        of_kind.add_argument("folder", type=str, help="The folder to make.")
        of_kind.add_class_arguments(maker.settings, group)
        subcommands.add_subcommand(kind, of_kind, help=help)
        of_kinds[kind] = of_kind
    return parser, of_kinds
