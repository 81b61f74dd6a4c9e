"""Every setting of a recipe says what it means: recipes are commented, and the reference is made, from that."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

import docstring_parser
import pytest

from jobs.recipe import SECTIONS
from jobs.settings import config_in


def configs(kind: type) -> set[type]:
    """The config that a type is, with all within it."""
    config = config_in(kind)
    return set() if config is None else {config}.union(*map(configs, get_type_hints(config).values()))


@pytest.mark.parametrize("config", sorted(set[type]().union(*map(configs, SECTIONS.values())), key=str))
def test_every_setting_is_told(config: type) -> None:
    told = {param.arg_name for param in docstring_parser.parse(config.__doc__ or "").params if param.description}
    untold = {field.name for field in dataclasses.fields(config)} - told
    assert not untold, f"Args: of {config.__name__} says nothing of {', '.join(sorted(untold))}"
