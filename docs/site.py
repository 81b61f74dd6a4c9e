"""What `mkdocs` adds to the pages in this folder: the front page, and the reference, which is made from the code.

on_files: index.md from README.md, contributing.md from CONTRIBUTING.md, reference/commands.md from what --help prints,
reference/settings.md from the docstrings of the configs. Nothing of it is kept in the repository.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin
from unittest import mock

import yaml
from mkdocs.structure.files import File

from jobs.__main__ import GROUPS, main
from jobs.recipe import SECTIONS, plain
from jobs.settings import MISSING, Setting, config_in, settings_of, summary_of

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Where pages link to that lie outside of docs/.
RENAMED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
COLUMNS = "100"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here."""
    pages = {
        "index.md": _moved((ROOT / "README.md").read_text("utf-8")),
        "contributing.md": _moved((ROOT / "CONTRIBUTING.md").read_text("utf-8")),
        "reference/commands.md": "\n".join(commands()),
        "reference/settings.md": "\n".join(settings()),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Leads links out of docs/ to the pages made of what they link to."""
    for name, made in RENAMED.items():
        depth = page.file.src_uri.count("/")
        markdown = markdown.replace(f"]({'../' * (depth + 1)}{name}", f"]({'../' * depth}{made}")
    return markdown


def _moved(markdown: str) -> str:
    """A page of the root, as it links from docs/."""
    for name, made in RENAMED.items():
        markdown = markdown.replace(f"]({name}", f"]({made}")
    return markdown.replace("](docs/", "](")


def commands() -> Iterator[str]:
    """A page with what --help prints for every command."""
    yield "# Commands\n"
    yield "`twist X` is also `python -m jobs.X`. Settings of a recipe, options too: [settings](settings.md).\n"
    for title, group in GROUPS.items():
        yield f"## {title[0].upper()}{title[1:]}\n"
        for name, purpose in group.items():
            yield f"### twist {name}\n\n{purpose[0].upper()}{purpose[1:]}.\n"
            yield f"```text\n{_help_of(name)}```\n"


def _help_of(command: str) -> str:
    printed = io.StringIO()
    width = mock.patch.dict(os.environ, {"COLUMNS": COLUMNS, "NO_COLOR": "1"})
    with width, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return printed.getvalue()


def settings() -> Iterator[str]:
    """A page with every setting of a recipe."""
    yield "# Settings\n"
    yield "The sections of a recipe. Each setting is an option of commands that use it, too: `--segments.max_s 20`.\n"
    yield f"| setting | default | is | meaning |\n{DASHES}\n| `run` | | text | The run's folder, local or s3://. |\n"
    for section, config in SECTIONS.items():
        yield from _config(section, config_in(config), 2)


DASHES = "| --- | --- | --- | --- |"


def _config(name: str, config: type, depth: int) -> Iterator[str]:
    yield f"{'#' * min(depth, 5)} {name}\n\n{summary_of(config)}\n"
    found = settings_of(config)
    yield "| setting | default | is | meaning |"
    yield DASHES
    for setting in found:
        yield f"| `{setting.name}` | {_default(setting)} | {_type(setting.kind)} | {_cell(setting.help)} |"
    yield ""
    for setting in found:
        if setting.config is not None:
            yield from _config(f"{name}.{setting.name}", setting.config, depth + 1)


def _default(setting: Setting) -> str:
    if setting.default is MISSING:
        return "must be given"
    if setting.config is not None and setting.default not in (None, ()):
        return "see below"
    text = yaml.safe_dump(plain(setting.default), default_flow_style=True, width=10**9)
    return f"`{text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}`"


def _type(kind: Any) -> str:
    """A type in the words of YAML."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_type, inner)))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {_type(inner[0])}" if inner[-1] is Ellipsis else f"{len(inner)} of {_type(inner[0])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "any"}
    return names.get(kind, "mapping")


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)
