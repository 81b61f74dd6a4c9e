"""Origins of the readings from LibriVox that LibriSpeech, Libri-Light and MLS share.

A LibriVox recording is identified by its reader and its file name (Libri-Light keeps it, MLS names it in the URL of
each utterance), or by its reader, project and section number (LibriSpeech's CHAPTERS.TXT).
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\d+")


def file_origin(reader: str, stem: str) -> str:
    """The origin of a recording by the name, without suffix, of the file that LibriVox published."""
    return f"librivox:{reader}:{stem.lower()}"


def section_origins(reader: str, project: str, section: int | None) -> list[str] | None:
    """The origin of a section of a project, as a list of one; None if the section or project is unknown."""
    if section is None or not project.isdigit():
        return None
    return [f"librivox:{reader}:project {int(project)}, section {section}"]


def section_of_title(title: str) -> int | None:
    """The section number in a title (`Chapter 07`, `02 - The Storm`); None unless it holds exactly one number."""
    numbers = _NUMBER.findall(title)
    return int(numbers[0]) if len(numbers) == 1 else None


def section_of_stem(stem: str) -> int | None:
    """The section number in a file name (`01_baum_sea_fairies_64kb`, `seafairies_01_baum_64kb`).

    None unless the name holds exactly one number of up to three digits, apart from the bit rate.
    """
    numbers = [number for number in _NUMBER.findall(re.sub(r"_?\d+kb$", "", stem)) if len(number) < 4]
    return int(numbers[0]) if len(numbers) == 1 else None
