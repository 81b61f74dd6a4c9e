"""What LibriSpeech, Libri-Light and MLS have in common: readings from LibriVox, by the ids of their readers.

A recording of LibriVox is known by its reader and the name of its file (Libri-Light keeps it, MLS names it in the URL
of each utterance), or by its reader, project and number of section (LibriSpeech's CHAPTERS.TXT).
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\d+")


def file_origin(reader: str, stem: str) -> str:
    """The recording that LibriVox published as a file of this name, without suffix."""
    return f"librivox:{reader}:{stem.lower()}"


def section_origins(reader: str, project: str, section: int | None) -> list[str] | None:
    """The recording that is this section of a project; None where that is not known."""
    if section is None or not project.isdigit():
        return None
    return [f"librivox:{reader}:project {int(project)}, section {section}"]


def section_of_title(title: str) -> int | None:
    """The number of a section by its title (`Chapter 07`, `02 - The Storm`); None where there is not exactly one."""
    numbers = _NUMBER.findall(title)
    return int(numbers[0]) if len(numbers) == 1 else None


def section_of_stem(stem: str) -> int | None:
    """The number of a section by the name of its file (`01_baum_sea_fairies_64kb`, `seafairies_01_baum_64kb`)."""
    numbers = [number for number in _NUMBER.findall(re.sub(r"_?\d+kb$", "", stem)) if len(number) < 4]
    return int(numbers[0]) if len(numbers) == 1 else None
