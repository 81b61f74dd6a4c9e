"""What --help prints for a command that reads a recipe: its own options, and the settings of a section where asked."""

from __future__ import annotations

import argparse
import copy
import re
from typing import TYPE_CHECKING

from jobs.recipe_text import UsageError, suggestion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jsonargparse import ArgumentParser
    from jsonargparse._core import ArgumentGroup

SETTINGS = "settings, each also a key of the recipe (--help SECTION lists one section, --help-all all)"


def help_text(parser: ArgumentParser, sections: Sequence[str], asked: str) -> str:
    """The help of a command.

    Args:
        parser: The command's parser.
        sections: The sections of a recipe that it has options for.
        asked: One of these sections; or nothing, for the command's own options and a line per section.

    Raises:
        UsageError: the command has no such section.
    """
    if asked and asked not in sections:
        known = f"; it has {', '.join(sections)}" if sections else ""
        raise UsageError(f"the command has no section {asked}{suggestion(asked, sections) or known}")
    groups = {section: _groups_of(parser, section) for section in sections}
    narrowed = copy.copy(parser)
    if asked:
        narrowed._action_groups = groups[asked]
        narrowed.usage, narrowed.description = argparse.SUPPRESS, None
        return narrowed.format_help()
    of_sections = [group for section in groups.values() for group in section]
    narrowed._action_groups = [group for group in parser._action_groups if group not in of_sections]
    narrowed._actions = [action for group in narrowed._action_groups for action in group._group_actions]
    text = narrowed.format_help()
    if not sections:
        return text
    width = max(map(len, sections))
    lines = [f"  --{name}.*{' ' * (width - len(name))}  {_title(groups[name])}" for name in sections]
    return "\n".join([f"{text}\n{SETTINGS}:", *lines, ""])


def _groups_of(parser: ArgumentParser, section: str) -> list[ArgumentGroup]:
    return [
        group
        for group in parser._action_groups
        if any(action.dest.partition(".")[0] == section for action in group._group_actions)
    ]


def _title(groups: Sequence[ArgumentGroup]) -> str:
    """The first sentence of what a section's config says of itself."""
    return re.split(r"\.\s", groups[0].title or "")[0]
