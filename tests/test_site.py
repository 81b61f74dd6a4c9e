"""The documentation as a site: it builds without a warning, and its reference has every command and every setting."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.__main__ import COMMANDS
from jobs.recipe import SECTIONS
from jobs.settings import config_in, settings_of

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_the_reference_has_every_command_with_its_help(site: Path) -> None:
    text = text_of(site / "reference/commands.html")
    for command in COMMANDS:
        assert f"twist {command}" in text
        assert f"usage: twist {command}" in text, f"the help of {command} is missing"


def test_the_reference_has_every_setting_with_its_meaning(site: Path) -> None:
    text = " ".join(text_of(site / "reference/settings.html").split())
    for section, kind in SECTIONS.items():
        config = config_in(kind)
        assert config is not None and section in text
        for setting in settings_of(config):
            start = re.sub(r"[`*_]", "", setting.help)[:30]
            assert setting.name in text and start in re.sub(r"[`*_]", "", text), f"{section}.{setting.name}"


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|link)[^>]* (?:src|href)=\"?(https?://[^\s\">]+)", page.read_text())
        assert not fetched, f"{page.relative_to(site)} fetches {fetched}"


def test_every_page_is_there(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    made = {Path("index.html"), Path("contributing.html"), Path("reference/commands.html")}
    assert pages | made <= {path.relative_to(site) for path in site.rglob("*.html")}
    assert not list(site.rglob("*.py"))
