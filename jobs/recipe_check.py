"""Says all that is wrong in a recipe at once, each mistake with its line, and does nothing else.

Paths are not looked at: the recipe may be for another machine.
"""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from jobs.command import guard
from jobs.recipe import usage_error
from jobs.recipe_text import UsageError
from pipeline.errors import TwistError
from pipeline.files import storage
from pipeline.printable import printable


def work(given: Namespace) -> None:
    """Prints each mistake in a recipe, or that there is none.

    Raises:
        TwistError: the recipe cannot be read, or has mistakes.
    """
    from jobs.recipe_mistakes import find_mistakes

    mistakes = find_mistakes(_read(given.recipe), given.recipe)
    for line, sentence in mistakes:
        print(printable(f"{given.recipe}:{line}: {sentence}"))
    if mistakes:
        count = len(mistakes)
        raise TwistError(f"{given.recipe} has {count} mistake{'s' if count > 1 else ''}, listed above")
    print(printable(f"{given.recipe}: no mistake found"))


def _read(path: str) -> str:
    try:
        return storage.read_bytes(path).decode()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(f"there is no recipe {path}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8") from error


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv

    def read_and_work() -> None:
        parser = ArgumentParser(prog="twist recipe check", description=__doc__, exit_on_error=False)
        parser.add_argument("recipe", type=str, help="The YAML file, local or s3://, such as the one a run keeps.")
        try:
            given = parser.parse_args(list(arguments))
        except ArgumentError as error:
            raise usage_error(error, arguments, parser) from error
        work(given)

    return guard("recipe check", read_and_work)


if __name__ == "__main__":
    sys.exit(main())
