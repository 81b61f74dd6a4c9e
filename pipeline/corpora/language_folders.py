"""Which folders of a plain folder of audio are named after the language that is spoken in them.

A code with its region (`pt-BR`) tells by itself. A name (`german`), which may be a person's as well (Swati, Chad),
tells where a folder beside it is named after another language. A mere code (`de`, `it`, `eng`), which may be a word or
somebody's initials, tells where all folders beside it are named so, and of more than one language. Below a folder that
says that they are languages, all of these tell.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.languages import ISO_639_1, is_told, normalize_code

if TYPE_CHECKING:
    from collections.abc import Iterable

_ABOVE_LANGUAGES = re.compile(r"by[-_ ]?lang(uage)?|languages?|langs?|locales?", re.IGNORECASE)
_MERE_CODE = re.compile(r"[A-Za-z]{2,3}|[a-z]{2,3}[-_][a-z]{2}")
_CODE_WITH_REGION = re.compile(r"[a-z]{2,3}[-_](?:[A-Z]{2}|[0-9]{3}|[A-Z][a-z]{3})")
# `my_recordings` is no Burmese.
_BEGINS_AS_A_CODE = re.compile(r"[A-Za-z]{2,3}(?![A-Za-z])")


def languages_of_folders(names: Iterable[str]) -> dict[str, str]:
    """The language of each folder that has one, by its path; files with a path through several have none.

    Args:
        names: Paths of the audio files, relative to the root.
    """
    below: dict[str, set[str]] = {}
    for folder in {name.rpartition("/")[0] for name in names}:
        path = folder
        while path:
            above, _, own = path.rpartition("/")
            below.setdefault(above, set()).add(own)
            path = above
    told: dict[str, str] = {}
    for above, folders in below.items():
        languages = {own: language for own in folders if (language := _language(own))}
        are_said = bool(_ABOVE_LANGUAGES.fullmatch(above.rpartition("/")[2]))
        are_several = are_said or len(set(languages.values())) > 1
        are_all = are_said or (are_several and all(own in languages or not is_told(own) for own in folders))
        for own, language in languages.items():
            if _CODE_WITH_REGION.fullmatch(own) or (are_all if _MERE_CODE.fullmatch(own) else are_several):
                told[f"{above}/{own}" if above else own] = language
    return told


def language_of(name: str, languages: dict[str, str]) -> str | None:
    """The language of a file by the folders that it lies in; None if they name none, or several.

    Args:
        name: Its path relative to the root.
        languages: As `languages_of_folders` gives them.
    """
    places = [place for place, letter in enumerate(name) if letter == "/"]
    told = {languages[name[:place]] for place in places if name[:place] in languages}
    return told.pop() if len(told) == 1 else None


def _language(folder: str) -> str | None:
    """The code of two letters of the language after which a folder is named."""
    is_code = _MERE_CODE.fullmatch(folder) or _CODE_WITH_REGION.fullmatch(folder)
    if _BEGINS_AS_A_CODE.match(folder) and not is_code:
        return None
    code = normalize_code(folder)
    return code if code in ISO_639_1 else None
