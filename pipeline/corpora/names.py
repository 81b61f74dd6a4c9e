"""Finds the file that a table means, however the table writes its name, and refuses names of files elsewhere.

A name is looked for as it is written; then as Unicode puts the same letters together (macOS takes them apart), without
`./` and doubled slashes; then with slashes for backslashes and without blanks or quotes around it; then in any case. A
looser form counts only where it means one file.
"""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.corpora.source import CorpusError
from pipeline.errors import TwistError, brief
from pipeline.files import storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipeline.corpora.source import CorpusConfig


class Names:
    """Names of files, to be found by what a table writes.

    Args:
        names: Paths relative to the root.
        without_suffix: Whether a table may leave the suffix out.

    Attributes:
        found: The names that `find` has given.
    """

    def __init__(self, names: Iterable[str], without_suffix: bool = False) -> None:
        self._exact = dict.fromkeys(names)
        self.found: set[str] = set()
        self._forms = [*((form, False) for form in _FORMS), *((form, True) for form in _FORMS if without_suffix)]
        # By form, once one is needed; None where a form means several files.
        self._by_form: list[dict[str, str | None]] = []

    def __contains__(self, name: str) -> bool:
        return name in self._exact

    def __iter__(self) -> Iterator[str]:
        return iter(self._exact)

    def find(self, written: str) -> str | None:
        """The file that a table writes as `written`; None if there is none, or several that it may mean."""
        found = self._find(written)
        if found is not None:
            self.found.add(found)
        return found

    def _find(self, written: str) -> str | None:
        if written in self._exact:
            return written
        for place, (form, without_suffix) in enumerate(self._forms):
            if len(self._by_form) == place:
                self._by_form.append(self._index(form, without_suffix))
            key = form(written)
            if key in self._by_form[place]:
                return self._by_form[place][key]
        return None

    def _index(self, form: Callable[[str], str], without_suffix: bool) -> dict[str, str | None]:
        index: dict[str, str | None] = {}
        for name in self._exact:
            key = form(name[: len(name) - len(PurePosixPath(name).suffix)] if without_suffix else name)
            index[key] = None if key in index else name
        return index


def _composed(name: str) -> str:
    parts: list[str] = []
    for part in unicodedata.normalize("NFC", name).split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _plain(name: str) -> str:
    parts = name.replace("\\", "/").strip(" \t\r\n\0\"'").split("/")
    return _composed("/".join(part.strip() for part in parts))


def _in_any_case(name: str) -> str:
    return unicodedata.normalize("NFC", _plain(name).casefold())


_FORMS = (_composed, _plain, _in_any_case)


def leaves_its_folder(name: str) -> bool:
    """Whether a name, taken as a path, points outside the folder that it is relative to."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if path.is_absolute():
        return True
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def beside_table(table: str, path: str, where: str) -> str:
    """The URI of a file that a table names: relative to the table's folder and in it, or absolute, or s3://.

    Raises:
        TwistError: a relative path leaves the folder; `where` tells the place in the table.
    """
    if path.startswith(("/", "s3://")):
        return path
    if leaves_its_folder(path):
        raise TwistError(f"{where}: the path {brief(path)} leaves the folder of the table; give it as an absolute path")
    return storage.join(table.rpartition("/")[0] or ".", path)


def refuse_strangers(
    config: CorpusConfig, table: str, described: tuple[int, str], files: tuple[int, str], matched: int
) -> None:
    """Refuses a table and files that have little in common: their names do not fit, and all that is said would be lost.

    A table of more than is there is none such, nor one of less: most names on both sides must lack the other.

    Args:
        config: The corpus.
        table: What describes the files, for the error.
        described: The number of names in it, and an example.
        files: The number of files that it may describe, and an example.
        matched: How many names were found.

    Raises:
        CorpusError: more than half of the names on both sides have no match.
    """
    if min(described[0], files[0]) and matched < min(described[0], files[0]) / 2:
        raise CorpusError(
            f"{table} and the audio of corpus {config.label} do not fit: of {described[0]:,} names, e.g. "
            f"{described[1]!r}, only {matched:,} are among {files[0]:,} files, e.g. {files[1]!r}; correct the names, "
            f"or move away what does not belong there"
        )
