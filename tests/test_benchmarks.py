"""Benchmarks are run by hand; these tests only check that everything they import exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# The extra `bench`; benchmarks/loader.py and text_language.py import these when they run.
COMPARED_WITH = ("anyascii", "chatterbot_corpus", "datasets", "litdata")


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_everything_that_a_benchmark_imports_is_there(path: Path) -> None:
    importlib.import_module(f"benchmarks.{path.stem}")
    for module in sorted(_imported(path)):
        package = module.partition(".")[0]
        if package in COMPARED_WITH and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install -e .[bench]")
        assert importlib.util.find_spec(package), f"{path.name} needs {package}, which no extra installs"


def _imported(path: Path) -> set[str]:
    """All modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found
